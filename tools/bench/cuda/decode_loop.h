// The steps of `sluice-bench decode`: captured once as a CUDA graph, and replayed with other lists.
//
// A layer is: queries, keys and values by the matrix work; the resolve of its pages; a forecast for
// the layer after it, beside the rest; attention over the slots; the other matrix work.
//
// Thread-safety: one thread, device 0 current.
#pragma once

#include <cstdint>

#include "tools/bench/cuda/decode_kernels.h"
#include "tools/bench/cuda/decode_matrix.h"
#include "tools/bench/cuda/kv_home.h"
#include "tools/bench/measure.h"

namespace sluice::tools::cuda {

struct LoopParts {
  bool matrix = false;
  bool resolve = false;
  bool forecast = false;
  bool attention = false;
};

class DecodeLoop {
 public:
  // All outlive it.
  static ipc::Result<DecodeLoop> make(KvHome& home, Matrix& matrix, const Stream& stream);

  ipc::Result<Graph> capture(const LoopParts& parts);
  // Steps [first, first + count) of the home's lists, one after the other: microseconds of each.
  // Errors: also shutting_down after an interrupt; nothing is in flight then.
  ipc::Result<Series> run(const Graph& graph, std::uint32_t first, std::uint32_t count);
  // The same step again and again: the median. A step was run before it.
  ipc::Result<double> repeat(const Graph& graph);
  // Runs a step without a graph, which also loads all that a capture must not load, and compares
  // all bytes, and attention for some pairs in each layer. Errors: internal, when something is
  // wrong.
  ipc::Status verify(std::uint32_t step);

 private:
  DecodeLoop(KvHome& home, Matrix& matrix, const Stream& stream)
      : home_(home), matrix_(matrix), stream_(stream) {}
  ipc::Status enqueue(const LoopParts& parts);
  ipc::Status enqueue_layer(const LoopParts& parts, std::uint32_t layer);
  ipc::Status enqueue_step(const Graph& graph, std::uint32_t step, const Event& begin,
                           const Event& end);
  Attention attention(std::uint32_t layer) const;
  std::uint32_t sequences() const { return home_.lists().places().sequences; }

  KvHome& home_;
  Matrix& matrix_;
  const Stream& stream_;
  std::uint32_t splits_ = 1;
  DeviceArray<std::uint16_t> queries_;
  DeviceArray<float> partials_;
  DeviceArray<std::uint16_t> out_;
  DeviceArray<DecodeFound> found_;
};

}  // namespace sluice::tools::cuda
