// Device and pinned memory of a replay engine, as owners, and CUDA's errors as those of libsluice.
//
// Thread-safety: as a vector, with the device current.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>

#include "client/sluice.hpp"

namespace sluice::tools::cuda {

client::Status check(cudaError_t status, const char* what);

struct FreeDevice {
  void operator()(std::byte* data) const { (void)cudaFree(data); }
};
struct FreePinned {
  void operator()(std::byte* data) const { (void)cudaFreeHost(data); }
};

// The same layout in pinned memory and on the device.
class PairedBuffer {
 public:
  // What was there is lost.
  client::Status resize(std::size_t bytes);
  std::size_t size() const { return bytes_; }

  template <class T>
  T* host(std::size_t offset = 0) const {
    return reinterpret_cast<T*>(host_.get() + offset);
  }
  template <class T>
  T* device(std::size_t offset = 0) const {
    return reinterpret_cast<T*>(device_.get() + offset);
  }

  // Enqueue copies of a part.
  client::Status to_device(std::size_t offset, std::size_t bytes, cudaStream_t stream) const;
  client::Status to_host(std::size_t offset, std::size_t bytes, cudaStream_t stream) const;

 private:
  std::unique_ptr<std::byte, FreePinned> host_;
  std::unique_ptr<std::byte, FreeDevice> device_;
  std::size_t bytes_ = 0;
};

}  // namespace sluice::tools::cuda
