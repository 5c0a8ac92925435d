// The matrix work of a layer of an 8B model: by cuBLAS, or a stand-in that reads as many bytes.
//
// At the batches of decode the time of this work is that of reading the weights. cuBLAS is loaded
// at run time, since it is too large to be carried along. All layers share one set of weights,
// which no L2 holds, and inputs are not those of the layer before: only time is asked for.
//
// Thread-safety: one thread, device 0 current.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "ipc/error.h"
#include "tools/bench/cuda/device.h"
#include "tools/bench/decode.h"

namespace sluice::tools::cuda {

inline constexpr std::uint32_t kMatrixHidden = 4096;
inline constexpr std::uint32_t kMatrixQkv = 6144;    // 32 + 2 * 8 heads of 128
inline constexpr std::uint32_t kMatrixFeed = 14336;  // of the feed-forward part
inline constexpr std::uint64_t kMatrixWeights =      // of a layer
    std::uint64_t{kMatrixHidden} * (kMatrixQkv + kMatrixHidden + 3 * kMatrixFeed);
inline constexpr std::uint64_t kMatrixWeightBytes = kMatrixWeights * 2;

class Matrix {
 public:
  // For batches up to `most_sequences`. Errors: not_found where cuBLAS was chosen and is not there.
  static ipc::Result<Matrix> make(MatrixChoice choice, std::uint32_t most_sequences);
  Matrix(Matrix&&) noexcept;
  Matrix& operator=(Matrix&&) noexcept;
  ~Matrix();

  // "cuBLAS 13.0.2", or what stands in for it and why.
  const std::string& how() const;
  bool is_cublas() const;
  // Queries, keys and values: before attention. May be captured, as the others.
  ipc::Status enqueue_before(std::uint32_t sequences, const Stream& stream);
  // Output, gate, up and down: after attention.
  ipc::Status enqueue_after(std::uint32_t sequences, const Stream& stream);

 private:
  struct State;
  explicit Matrix(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sluice::tools::cuda
