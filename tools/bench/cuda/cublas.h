// The few functions of cuBLAS that are used, looked up at run time.
//
// Thread-safety: one thread, device 0 current.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "ipc/error.h"
#include "tools/bench/cuda/device.h"

namespace sluice::tools::cuda {

class Cublas {
 public:
  // Errors: not_found, in the words of the loader; io_error.
  static ipc::Result<Cublas> load();

  std::string version() const;
  // Work is enqueued in `stream`, and uses `workspace`, so that nothing is allocated in a capture.
  ipc::Status use(const Stream& stream, void* workspace, std::size_t bytes);
  // out[columns][rows] = inputs[columns][depth] x weights[rows][depth], all bf16, sums in f32.
  ipc::Status multiply(std::uint32_t rows, std::uint32_t columns, std::uint32_t depth,
                       const void* weights, const void* inputs, void* out);

 private:
  struct Library;
  explicit Cublas(std::shared_ptr<Library> library) : library_(std::move(library)) {}
  std::shared_ptr<Library> library_;
};

}  // namespace sluice::tools::cuda
