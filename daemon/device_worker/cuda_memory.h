// Memory of the current GPU behind file descriptors: CUDA's virtual memory management, found in the
// driver at run time, so that the program starts where there is none.
//
// A descriptor keeps its memory, with or without a process that has a context; its mappings are
// addresses of the GPU in this process.
//
// Thread-safety: one thread, with the device current.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/mapping.h"

namespace sluice::device_worker {

// Errors: not_supported (the driver has no such function), as the calls below.
ipc::Result<std::uint64_t> allocation_granularity(int device);

// Zeroed memory of `bytes`, a multiple of the granularity. Errors: no_memory, io_error.
ipc::Result<ipc::Fd> allocate_device_memory(int device, std::uint64_t bytes);

// Writes zeros and waits until they are there.
ipc::Status zero_device_memory(void* address, std::uint64_t bytes);

// Memory of the GPU for this process alone.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceBuffer();

  // `what` it is, for errors. Errors: no_memory, io_error.
  static ipc::Result<DeviceBuffer> make(std::uint64_t bytes, const char* what);
  // The same, zeroed when it returns.
  static ipc::Result<DeviceBuffer> make_zeroed(std::uint64_t bytes, const char* what);

  void* data() const { return data_; }
  template <class T>
  T* at(std::size_t offset = 0) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(data_) + offset);
  }

 private:
  void* data_ = nullptr;
};

class DeviceMapping {
 public:
  DeviceMapping() = default;
  DeviceMapping(DeviceMapping&& other) noexcept
      : address_(std::exchange(other.address_, 0)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMapping& operator=(DeviceMapping&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMapping();

  // Maps all of a descriptor's memory, readable and writable. Errors: invalid_argument (it is not
  // memory of this GPU, or smaller), no_memory, io_error.
  static ipc::Result<DeviceMapping> map(int device, const ipc::Fd& memory, std::uint64_t bytes);

  void* data() const { return reinterpret_cast<void*>(address_); }

 private:
  DeviceMapping(std::uintptr_t address, std::uint64_t bytes) : address_(address), bytes_(bytes) {}

  std::uintptr_t address_ = 0;
  std::uint64_t bytes_ = 0;
};

// Addresses of the GPU, into which allocations are mapped one after another.
class DeviceRange {
 public:
  DeviceRange() = default;
  DeviceRange(DeviceRange&& other) noexcept { *this = std::move(other); }
  DeviceRange& operator=(DeviceRange&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    pieces_.swap(other.pieces_);
    return *this;
  }
  ~DeviceRange();

  // `bytes`: a multiple of the granularity. Errors: no_memory, io_error.
  static ipc::Result<DeviceRange> reserve(int device, std::uint64_t bytes);
  // Maps all of a descriptor's memory, `bytes`, behind what is mapped already. Errors: as
  // DeviceMapping::map.
  ipc::Status append(const ipc::Fd& memory, std::uint64_t bytes);

  void* data() const { return reinterpret_cast<void*>(address_); }

 private:
  int device_ = 0;
  std::uintptr_t address_ = 0;
  std::uint64_t bytes_ = 0;
  std::vector<std::uint64_t> pieces_;  // their sizes, from the start of the range
};

// Memory of the node that the GPU can use, pinned.
class PinnedMapping {
 public:
  PinnedMapping() = default;
  PinnedMapping(PinnedMapping&& other) noexcept
      : memory_(std::move(other.memory_)), device_(std::exchange(other.device_, nullptr)) {}
  PinnedMapping& operator=(PinnedMapping&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(device_, other.device_);
    return *this;
  }
  ~PinnedMapping();

  // `what` it is, for errors. Errors: no_memory, limit_reached, io_error.
  static ipc::Result<PinnedMapping> map(const ipc::Fd& memory, std::uint64_t bytes,
                                        const char* what);

  void* on_device() const { return device_; }
  std::byte* on_host() const { return memory_.data(); }

 private:
  ipc::Mapping memory_;
  void* device_ = nullptr;
};

// What a failed cudaHostRegister of `what` comes to, beside so many bytes that are pinned:
// limit_reached, which names the limit to raise, or as cuda_error().
ipc::Error pin_error(int status, const char* what, std::uint64_t bytes, std::uint64_t beside);

// What a failed call of the runtime comes to: no_memory, or io_error.
ipc::Error cuda_error(int status, const char* what);

}  // namespace sluice::device_worker
