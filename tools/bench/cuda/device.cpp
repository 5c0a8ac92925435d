#include "tools/bench/cuda/device.h"

namespace sluice::tools::cuda {

using ipc::Errc;
using ipc::fail;

ipc::Status check(int status, const std::string& what) {
  const auto error = static_cast<cudaError_t>(status);
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  return fail(error == cudaErrorMemoryAllocation ? Errc::no_memory : Errc::io_error,
              what + ": CUDA: " + cudaGetErrorString(error));
}

ipc::Status zero(void* data, std::size_t bytes, const std::string& what) {
  for (const cudaError_t status :
       {cudaDeviceSynchronize(), cudaMemset(data, 0, bytes), cudaDeviceSynchronize()}) {
    if (auto ok = check(status, what); !ok) return ok;
  }
  return {};
}

ipc::Status upload(void* data, const void* from, std::size_t bytes, const std::string& what) {
  for (const cudaError_t status :
       {cudaDeviceSynchronize(), cudaMemcpy(data, from, bytes, cudaMemcpyHostToDevice),
        cudaDeviceSynchronize()}) {
    if (auto ok = check(status, what); !ok) return ok;
  }
  return {};
}

ipc::Result<Stream> Stream::make(int priority) {
  cudaStream_t raw = nullptr;
  if (auto ok = check(cudaStreamCreateWithPriority(&raw, cudaStreamNonBlocking, priority),
                      "cudaStreamCreate");
      !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  Stream stream;
  stream.raw_.reset(raw);
  return stream;
}

ipc::Result<Event> Event::make() {
  cudaEvent_t raw = nullptr;
  if (auto ok = check(cudaEventCreate(&raw), "cudaEventCreate"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  Event event;
  event.raw_.reset(raw);
  return event;
}

ipc::Result<double> microseconds(const Event& from, const Event& to) {
  constexpr double kUsPerMs = 1000;
  float ms = 0;
  if (auto ok = check(cudaEventElapsedTime(&ms, from.get(), to.get()), "cudaEventElapsedTime");
      !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  return ms * kUsPerMs;
}

ipc::Result<Graph> Graph::capture(const Stream& stream,
                                  const std::function<ipc::Status()>& enqueue) {
  if (auto ok = check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
                      "cudaStreamBeginCapture");
      !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  auto enqueued = enqueue();
  cudaGraph_t captured = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream.get(), &captured);
  if (!enqueued) {
    if (captured != nullptr) (void)cudaGraphDestroy(captured);
    (void)cudaGetLastError();
    return std::unexpected(std::move(enqueued.error()));
  }
  if (auto ok = check(ended, "cudaStreamEndCapture"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  cudaGraphExec_t raw = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&raw, captured, 0);
  (void)cudaGraphDestroy(captured);
  if (auto ok = check(made, "cudaGraphInstantiate"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  Graph graph;
  graph.raw_.reset(raw);
  // The first replay would pay for it.
  if (auto ok = check(cudaGraphUpload(raw, stream.get()), "cudaGraphUpload"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  return graph;
}

ipc::Result<Series> time_graph(const Stream& stream, const Graph& graph, std::size_t launches,
                               double seconds) {
  auto begin = Event::make();
  if (!begin) return std::unexpected(std::move(begin.error()));
  auto end = Event::make();
  if (!end) return std::unexpected(std::move(end.error()));
  Series series;
  const Stopwatch watch;
  for (std::size_t i = 0; i < kMostRounds; ++i) {
    if (series.rounds() >= kLeastRepeats && watch.seconds() >= seconds) break;
    if (auto ok = begin->record(stream); !ok) return std::unexpected(std::move(ok.error()));
    if (auto ok = graph.launch(stream); !ok) return std::unexpected(std::move(ok.error()));
    if (auto ok = end->record(stream); !ok) return std::unexpected(std::move(ok.error()));
    if (auto ok = stream.wait("replaying a graph"); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    auto us = microseconds(*begin, *end);
    if (!us) return std::unexpected(std::move(us.error()));
    if (i >= kWarmRepeats) series.add(*us / static_cast<double>(launches));
  }
  return series;
}

}  // namespace sluice::tools::cuda
