// Memory for the lists of plans, and CUDA's errors as the library's.
//
// Thread-safety: as a pointer.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>

#include "client/sluice.hpp"

namespace sluice::test::engines {

inline client::Status check_cuda(int status, const char* what) {
  if (status == cudaSuccess) return {};
  return std::unexpected(client::Error{
      SLUICE_IO_ERROR,
      std::string(what) + ": " + cudaGetErrorString(static_cast<cudaError_t>(status))});
}

// Memory that both sides can use, so that a plan's lists need no copies.
template <class T>
class MappedArray {
 public:
  client::Status make(std::size_t count) {
    void* memory = nullptr;
    if (auto ok = check_cuda(cudaHostAlloc(&memory, count * sizeof(T), cudaHostAllocMapped),
                             "memory for a plan");
        !ok) {
      return ok;
    }
    data_.reset(static_cast<T*>(memory));
    return {};
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* memory) const { (void)cudaFreeHost(memory); }
  };
  std::unique_ptr<T, Free> data_;
};

// Memory of the device, zeroed.
template <class T>
class DeviceArray {
 public:
  client::Status make(std::size_t count) {
    void* memory = nullptr;
    if (auto ok = check_cuda(cudaMalloc(&memory, count * sizeof(T)), "device memory"); !ok) {
      return ok;
    }
    data_.reset(static_cast<T*>(memory));
    return check_cuda(cudaMemset(memory, 0, count * sizeof(T)), "device memory");
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* memory) const { (void)cudaFree(memory); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace sluice::test::engines
