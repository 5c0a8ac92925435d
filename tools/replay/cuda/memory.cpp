#include "tools/replay/cuda/memory.h"

#include <string>

namespace sluice::tools::cuda {

client::Status check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return {};
  return std::unexpected(
      client::Error{SLUICE_IO_ERROR, std::string(what) + ": CUDA: " + cudaGetErrorString(status)});
}

client::Status PairedBuffer::resize(std::size_t bytes) {
  void* pinned = nullptr;
  if (auto s = check(cudaHostAlloc(&pinned, bytes, cudaHostAllocDefault), "pinned memory"); !s) {
    return s;
  }
  host_.reset(static_cast<std::byte*>(pinned));
  void* device = nullptr;
  if (auto s = check(cudaMalloc(&device, bytes), "device memory"); !s) return s;
  device_.reset(static_cast<std::byte*>(device));
  bytes_ = bytes;
  return {};
}

client::Status PairedBuffer::to_device(std::size_t offset, std::size_t bytes,
                                       cudaStream_t stream) const {
  return check(cudaMemcpyAsync(device<std::byte>(offset), host<std::byte>(offset), bytes,
                               cudaMemcpyHostToDevice, stream),
               "a copy to the device");
}

client::Status PairedBuffer::to_host(std::size_t offset, std::size_t bytes,
                                     cudaStream_t stream) const {
  return check(cudaMemcpyAsync(host<std::byte>(offset), device<std::byte>(offset), bytes,
                               cudaMemcpyDeviceToHost, stream),
               "a copy from the device");
}

}  // namespace sluice::tools::cuda
