// Memory of a device and memory that it can use, as owners.
//
// The context of the memory is current where one is made and where it goes.
//
// Thread-safety: as a vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "client/cuda/driver.h"
#include "ipc/error.h"

namespace sluice::client::internal::cuda {

// cudaMalloc.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  // Errors: no_memory, io_error.
  static ipc::Result<DeviceBuffer> make(std::size_t bytes);
  // The same, zeroed when it returns.
  static ipc::Result<DeviceBuffer> make_zeroed(std::size_t bytes, cudaStream_t stream);

  template <class T>
  T* at(std::size_t offset = 0) const {
    return reinterpret_cast<T*>(data_ + offset);
  }
  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Pinned memory of the host, for copies that do not wait (cudaHostAlloc).
class StagingBuffer {
 public:
  StagingBuffer() = default;
  StagingBuffer(StagingBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  StagingBuffer& operator=(StagingBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~StagingBuffer();

  // Errors: no_memory, io_error.
  static ipc::Result<StagingBuffer> make(std::size_t bytes);

  template <class T>
  T* at(std::size_t offset = 0) const {
    return reinterpret_cast<T*>(data_ + offset);
  }

 private:
  std::byte* data_ = nullptr;
};

enum class Priority : std::uint8_t { normal, least, greatest };

// A stream that does not wait for the legacy default stream.
class OwnStream {
 public:
  OwnStream() = default;
  OwnStream(OwnStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  OwnStream& operator=(OwnStream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~OwnStream();

  static ipc::Result<OwnStream> make(Priority priority = Priority::normal);
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Tells when a stream has passed a place.
class OwnEvent {
 public:
  OwnEvent() = default;
  OwnEvent(OwnEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  OwnEvent& operator=(OwnEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~OwnEvent();

  static ipc::Result<OwnEvent> make();
  ipc::Status record(cudaStream_t stream);
  // Whether the place is passed; also if there was none yet.
  ipc::Result<bool> passed() const;
  ipc::Status wait() const;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Registers memory of this process with the device, readable at the same address.
class Registration {
 public:
  Registration() = default;
  Registration(Registration&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Registration& operator=(Registration&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Registration();

  // `what` is told beside what this process has registered already. Errors: limit_reached (the text
  // names the limit), io_error.
  static ipc::Result<Registration> make(std::byte* data, std::size_t bytes, const std::string& what,
                                        std::uint64_t registered_before);

 private:
  std::byte* data_ = nullptr;
};

// A range of device addresses, into which allocations of other processes are mapped.
class VirtualRange {
 public:
  VirtualRange() = default;
  VirtualRange(VirtualRange&& other) noexcept;
  VirtualRange& operator=(VirtualRange&& other) noexcept;
  ~VirtualRange();

  // Errors: no_memory, io_error.
  static ipc::Result<VirtualRange> reserve(const Context& context, std::uint64_t bytes);
  // Imports the allocation behind `fd` and maps all of it, `bytes`, at `offset`. Sizes and offsets
  // are multiples of the device's granularity. Errors: no_memory, io_error.
  ipc::Status map(std::uint64_t offset, int fd, std::uint64_t bytes, const char* what);

  std::byte* data() const { return reinterpret_cast<std::byte*>(base_); }

 private:
  struct Piece {
    std::uint64_t offset;
    std::uint64_t bytes;
  };
  const Driver* driver_ = nullptr;
  std::int32_t ordinal_ = 0;
  CUdeviceptr base_ = 0;
  std::uint64_t bytes_ = 0;
  std::vector<Piece> pieces_;
};

}  // namespace sluice::client::internal::cuda
