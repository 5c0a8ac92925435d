// CUDA of sluice-bench: owners, errors in words, and graphs that are timed.
//
// Thread-safety: one thread, device 0 current.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ipc/error.h"
#include "tools/bench/measure.h"

namespace sluice::tools::cuda {

// Errors: no_memory, io_error; `what` is what was tried.
ipc::Status check(int status, const std::string& what);

// Wait for the device before and after.
ipc::Status zero(void* data, std::size_t bytes, const std::string& what);
ipc::Status upload(void* data, const void* from, std::size_t bytes, const std::string& what);

template <class T>
class DeviceArray {
 public:
  static ipc::Result<DeviceArray> make(std::size_t count, const char* what) {
    DeviceArray array;
    void* data = nullptr;
    const std::size_t bytes = (count == 0 ? 1 : count) * sizeof(T);
    if (auto ok = check(cudaMalloc(&data, bytes),
                        std::string("cudaMalloc of ") + what + ", " + std::to_string(bytes) + " B");
        !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    array.data_.reset(static_cast<T*>(data));
    array.count_ = count;
    if (auto ok = zero(data, bytes, std::string("cudaMemset of ") + what); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    return array;
  }
  static ipc::Result<DeviceArray> of(const std::vector<T>& values, const char* what) {
    auto array = make(values.size(), what);
    if (!array) return array;
    if (auto ok = array->set(values, what); !ok) return std::unexpected(std::move(ok.error()));
    return array;
  }

  T* data() const { return data_.get(); }
  std::size_t size() const { return count_; }
  // These wait for the device: streams of ours are not ordered with the default stream, where
  // copies of pageable memory and memsets run.
  ipc::Status set(const std::vector<T>& values, const char* what) {
    return upload(data(), values.data(), values.size() * sizeof(T),
                  std::string("cudaMemcpy of ") + what);
  }
  ipc::Result<T> first(const char* what) const {
    T value{};
    if (auto ok = check(cudaDeviceSynchronize(), what); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    if (auto ok = check(cudaMemcpy(&value, data(), sizeof value, cudaMemcpyDeviceToHost), what);
        !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    return value;
  }
  ipc::Status clear(const char* what) { return zero(data(), count_ * sizeof(T), what); }

 private:
  struct Free {
    void operator()(T* data) const { (void)cudaFree(data); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t count_ = 0;
};

class Stream {
 public:
  // `priority`: 0 is the least, less is more; beyond what the device has is the most it has.
  static ipc::Result<Stream> make(int priority = 0);
  cudaStream_t get() const { return raw_.get(); }
  ipc::Status wait(const std::string& what) const {
    return check(cudaStreamSynchronize(get()), what);
  }

 private:
  struct Destroy {
    void operator()(cudaStream_t stream) const { (void)cudaStreamDestroy(stream); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroy> raw_;
};

class Event {
 public:
  static ipc::Result<Event> make();
  cudaEvent_t get() const { return raw_.get(); }
  ipc::Status record(const Stream& stream) const {
    return check(cudaEventRecord(get(), stream.get()), "cudaEventRecord");
  }

 private:
  struct Destroy {
    void operator()(cudaEvent_t event) const { (void)cudaEventDestroy(event); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy> raw_;
};

// Of two events that have passed.
ipc::Result<double> microseconds(const Event& from, const Event& to);

class Graph {
 public:
  // `enqueue` works in `stream`. Errors: its own, and those of the capture.
  static ipc::Result<Graph> capture(const Stream& stream,
                                    const std::function<ipc::Status()>& enqueue);
  cudaGraphExec_t get() const { return raw_.get(); }
  ipc::Status launch(const Stream& stream) const {
    return check(cudaGraphLaunch(get(), stream.get()), "cudaGraphLaunch");
  }

 private:
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const { (void)cudaGraphExecDestroy(graph); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy> raw_;
};

inline constexpr std::size_t kLeastRepeats = 5;
inline constexpr std::size_t kWarmRepeats = 2;

// Replays for `seconds`, at least kLeastRepeats times and kWarmRepeats before that: microseconds of
// one of `launches` that the graph holds.
ipc::Result<Series> time_graph(const Stream& stream, const Graph& graph, std::size_t launches,
                               double seconds);

}  // namespace sluice::tools::cuda
