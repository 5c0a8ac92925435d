#include "tools/bench/cuda/decode_loop.h"

#include <string>
#include <utility>
#include <vector>

#include "tools/bench/decode_words.h"
#include "tools/common/interrupt.h"

namespace sluice::tools::cuda {
namespace {

using ipc::Errc;
using ipc::fail;

// Enqueued ahead of the GPU, which never waits for a launch then.
constexpr std::uint32_t kStepsAhead = 4;
constexpr std::uint32_t kPairs = 16;  // of a sequence and a head, per layer
constexpr double kRepeatSeconds = 0.3;
constexpr std::uint64_t kNumbersPerPage = kDecodePageBytes / sizeof(std::uint16_t);

ipc::Result<DeviceArray<std::uint16_t>> make_queries(std::uint32_t sequences) {
  const std::uint64_t numbers = std::uint64_t{sequences} * kDecodeQueryHeads * kDecodeHeadDim;
  const std::uint64_t pages = (numbers + kNumbersPerPage - 1) / kNumbersPerPage;
  auto queries = DeviceArray<std::uint16_t>::make(pages * kNumbersPerPage, "queries");
  if (!queries) return queries;
  for (const int status : {fill_pages(queries->data(), pages, kFirstQueryPage, nullptr),
                           int{cudaDeviceSynchronize()}}) {
    if (auto ok = check(status, "filling queries"); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
  }
  return queries;
}

}  // namespace

ipc::Result<DecodeLoop> DecodeLoop::make(KvHome& home, Matrix& matrix, const Stream& stream) {
  DecodeLoop loop(home, matrix, stream);
  int sms = 0;
  if (auto ok = check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0),
                      "cudaDeviceGetAttribute of the SMs");
      !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  const std::uint32_t sequences = loop.sequences();
  loop.splits_ = attention_splits(sequences, static_cast<unsigned>(sms));
  auto queries = make_queries(sequences);
  if (!queries) return std::unexpected(std::move(queries.error()));
  loop.queries_ = std::move(*queries);
  auto partials = DeviceArray<float>::make(attention_partials(sequences, loop.splits_),
                                           "partial results of attention");
  if (!partials) return std::unexpected(std::move(partials.error()));
  loop.partials_ = std::move(*partials);
  auto out = DeviceArray<std::uint16_t>::make(
      std::size_t{sequences} * kDecodeQueryHeads * kDecodeHeadDim, "results of attention");
  if (!out) return std::unexpected(std::move(out.error()));
  loop.out_ = std::move(*out);
  auto found = DeviceArray<DecodeFound>::make(1, "what a comparison found");
  if (!found) return std::unexpected(std::move(found.error()));
  loop.found_ = std::move(*found);
  return loop;
}

Attention DecodeLoop::attention(std::uint32_t layer) const {
  Attention one;
  one.queries = queries_.data();
  one.pages = home_.pages();
  one.slots = home_.slots(layer);
  one.counts = home_.lists().counts(layer);
  one.sequences = sequences();
  one.capacity = home_.lists().places().capacity;
  one.splits = splits_;
  one.partials = partials_.data();
  one.out = out_.data();
  return one;
}

ipc::Status DecodeLoop::enqueue_layer(const LoopParts& parts, std::uint32_t layer) {
  if (parts.matrix) {
    if (auto ok = matrix_.enqueue_before(sequences(), stream_); !ok) return ok;
  }
  if (parts.resolve) {
    if (auto ok = home_.enqueue_resolve(layer); !ok) return ok;
  }
  // Behind the resolve, which needs the link more.
  if (parts.forecast && layer + 1 < home_.lists().places().layers) {
    if (auto ok = home_.enqueue_forecast(layer + 1); !ok) return ok;
  }
  if (parts.attention) {
    if (auto ok = check(attend(attention(layer), stream_.get()), "launching attention"); !ok) {
      return ok;
    }
  }
  return parts.matrix ? matrix_.enqueue_after(sequences(), stream_) : ipc::Status{};
}

ipc::Status DecodeLoop::enqueue(const LoopParts& parts) {
  for (std::uint32_t layer = 0; layer < home_.lists().places().layers; ++layer) {
    if (auto ok = enqueue_layer(parts, layer); !ok) return ok;
  }
  return parts.forecast ? home_.enqueue_join() : ipc::Status{};
}

ipc::Result<Graph> DecodeLoop::capture(const LoopParts& parts) {
  return Graph::capture(stream_, [&] { return enqueue(parts); });
}

ipc::Status DecodeLoop::enqueue_step(const Graph& graph, std::uint32_t step, const Event& begin,
                                     const Event& end) {
  if (auto ok = home_.lists().enqueue(step, stream_); !ok) return ok;
  if (auto ok = begin.record(stream_); !ok) return ok;
  if (auto ok = graph.launch(stream_); !ok) return ok;
  if (auto ok = end.record(stream_); !ok) return ok;
  return home_.enqueue_tally();
}

ipc::Result<Series> DecodeLoop::run(const Graph& graph, std::uint32_t first, std::uint32_t count) {
  std::vector<Event> begins, ends;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (interrupted()) {
      (void)stream_.wait("decode steps");
      return fail(Errc::shutting_down, "interrupted");
    }
    if (i >= kStepsAhead) {
      if (auto ok = check(cudaEventSynchronize(ends[i - kStepsAhead].get()), "a decode step");
          !ok) {
        return std::unexpected(std::move(ok.error()));
      }
    }
    for (std::vector<Event>* const events : {&begins, &ends}) {
      auto event = Event::make();
      if (!event) return std::unexpected(std::move(event.error()));
      events->push_back(std::move(*event));
    }
    if (auto ok = enqueue_step(graph, first + i, begins[i], ends[i]); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
  }
  if (auto ok = stream_.wait("decode steps"); !ok) return std::unexpected(std::move(ok.error()));
  Series times;
  for (std::uint32_t i = 0; i < count; ++i) {
    auto us = microseconds(begins[i], ends[i]);
    if (!us) return std::unexpected(std::move(us.error()));
    times.add(*us);
  }
  return times;
}

ipc::Result<double> DecodeLoop::repeat(const Graph& graph) {
  auto times = time_graph(stream_, graph, 1, kRepeatSeconds);
  if (!times) return std::unexpected(std::move(times.error()));
  return times->median();
}

ipc::Status DecodeLoop::verify(std::uint32_t step) {
  if (auto ok = found_.clear("clearing a comparison"); !ok) return ok;
  if (auto ok = home_.lists().enqueue(step, stream_); !ok) return ok;
  for (std::uint32_t layer = 0; layer < home_.lists().places().layers; ++layer) {
    if (auto ok = enqueue_layer({.matrix = true, .resolve = true, .attention = true}, layer); !ok)
      return ok;
    const Attention done = attention(layer);
    const KnownPages known = home_.known(layer);
    const std::uint32_t seed = (step * home_.lists().places().layers + layer) * kPairs;
    for (const int status :
         {verify_pages(done, known, home_.slot_limit(), found_.data(), stream_.get()),
          verify_attention(done, known, kPairs, seed, found_.data(), stream_.get())}) {
      if (auto ok = check(status, "comparing a step"); !ok) return ok;
    }
  }
  auto found = found_.first("comparing a step");
  if (!found) return std::unexpected(std::move(found.error()));
  if (found->wrong_words == 0 && found->wrong_outputs == 0 && found->outputs != 0) return {};
  return fail(Errc::internal, "step " + std::to_string(step) + ": " +
                                  std::to_string(found->wrong_words) + " words of pages and " +
                                  std::to_string(found->wrong_outputs) + " of " +
                                  std::to_string(found->outputs) +
                                  " numbers of attention are wrong: nothing is reported");
}

}  // namespace sluice::tools::cuda
