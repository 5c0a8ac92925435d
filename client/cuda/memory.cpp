#include "client/cuda/memory.h"

#include <sys/resource.h>

#include <string>

namespace sluice::client::internal::cuda {

using ipc::Errc;
using ipc::fail;

namespace {

std::string mebibytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

// Which limit an operator can raise when memory cannot be pinned.
std::string pin_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    return "this process may lock " + mebibytes(limit.rlim_cur) +
           " (RLIMIT_MEMLOCK): raise it (ulimit -l, LimitMEMLOCK= of systemd, --ulimit memlock=-1 "
           "of a container), or give the cache less DRAM";
  }
  return "RLIMIT_MEMLOCK is unlimited here, so the limit is that of the memory cgroup or of the "
         "node's free memory: raise it, or give the cache less DRAM";
}

}  // namespace

// ---- DeviceBuffer

ipc::Result<DeviceBuffer> DeviceBuffer::make(std::size_t bytes) {
  void* data = nullptr;
  if (auto ok = check(cudaMalloc(&data, bytes), "allocating device memory"); !ok) {
    return std::unexpected(ok.error());
  }
  DeviceBuffer buffer;
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

ipc::Result<DeviceBuffer> DeviceBuffer::make_zeroed(std::size_t bytes, cudaStream_t stream) {
  auto buffer = make(bytes);
  if (!buffer) return buffer;
  for (const cudaError_t status :
       {cudaMemsetAsync(buffer->data(), 0, bytes, stream), cudaStreamSynchronize(stream)}) {
    if (auto ok = check(status, "zeroing device memory"); !ok) return std::unexpected(ok.error());
  }
  return buffer;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) (void)cudaFree(data_);
}

// ---- StagingBuffer

ipc::Result<StagingBuffer> StagingBuffer::make(std::size_t bytes) {
  void* data = nullptr;
  if (auto ok = check(cudaHostAlloc(&data, bytes, cudaHostAllocPortable),
                      "allocating pinned memory for copies");
      !ok) {
    return std::unexpected(ok.error());
  }
  StagingBuffer buffer;
  buffer.data_ = static_cast<std::byte*>(data);
  return buffer;
}

StagingBuffer::~StagingBuffer() {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
}

// ---- OwnStream

ipc::Result<OwnStream> OwnStream::make(Priority priority) {
  constexpr const char* kWhat = "creating a stream";
  int least = 0;
  int greatest = 0;
  if (auto ok = check(cudaDeviceGetStreamPriorityRange(&least, &greatest), kWhat); !ok) {
    return std::unexpected(ok.error());
  }
  const int value = priority == Priority::least      ? least
                    : priority == Priority::greatest ? greatest
                                                     : 0;
  OwnStream stream;
  if (auto ok =
          check(cudaStreamCreateWithPriority(&stream.stream_, cudaStreamNonBlocking, value), kWhat);
      !ok) {
    return std::unexpected(ok.error());
  }
  return stream;
}

OwnStream::~OwnStream() {
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

// ---- OwnEvent

ipc::Result<OwnEvent> OwnEvent::make() {
  OwnEvent event;
  if (auto ok = check(cudaEventCreateWithFlags(&event.event_, cudaEventDisableTiming),
                      "creating an event");
      !ok) {
    return std::unexpected(ok.error());
  }
  return event;
}

OwnEvent::~OwnEvent() {
  if (event_ != nullptr) (void)cudaEventDestroy(event_);
}

ipc::Status OwnEvent::record(cudaStream_t stream) {
  return check(cudaEventRecord(event_, stream), "recording an event");
}

ipc::Result<bool> OwnEvent::passed() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) {
    (void)cudaGetLastError();  // or the next launch would report it
    return false;
  }
  if (auto ok = check(status, "asking an event"); !ok) return std::unexpected(ok.error());
  return true;
}

ipc::Status OwnEvent::wait() const {
  return check(cudaEventSynchronize(event_), "waiting for an event");
}

// ---- Registration

ipc::Result<Registration> Registration::make(std::byte* data, std::size_t bytes,
                                             const std::string& what,
                                             std::uint64_t registered_before) {
  const cudaError_t status =
      cudaHostRegister(data, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped);
  if (auto ok = check(status, ("cudaHostRegister of " + what).c_str()); !ok) {
    ipc::Error error = ok.error();
    // The driver says "out of memory", or that the operating system refused, when it may pin no
    // more; both have the same remedy.
    if (status == cudaErrorMemoryAllocation || status == cudaErrorOperatingSystem ||
        status == cudaErrorNotPermitted) {
      error.code = Errc::limit_reached;
      error.text += "; " + mebibytes(bytes) + " more than the " + mebibytes(registered_before) +
                    " that this cache has pinned here; " + pin_limit();
    }
    return std::unexpected(std::move(error));
  }
  Registration registration;
  registration.data_ = data;
  void* device = nullptr;
  if (auto ok = check(cudaHostGetDevicePointer(&device, data, 0), "the device's address of memory");
      !ok) {
    return std::unexpected(ok.error());
  }
  if (device != data) {
    return fail(Errc::not_supported,
                "the device sees " + what + " at another address than this process");
  }
  return registration;
}

Registration::~Registration() {
  if (data_ != nullptr) (void)cudaHostUnregister(data_);
}

// ---- VirtualRange

ipc::Result<VirtualRange> VirtualRange::reserve(const Context& context, std::uint64_t bytes) {
  VirtualRange range;
  const Driver& driver = context.driver();
  if (auto ok =
          driver.check(driver.reserve(&range.base_, bytes, 0, 0, 0), "reserving device addresses");
      !ok) {
    return std::unexpected(ok.error());
  }
  range.driver_ = &driver;
  range.ordinal_ = context.ordinal();
  range.bytes_ = bytes;
  return range;
}

ipc::Status VirtualRange::map(std::uint64_t offset, int fd, std::uint64_t bytes, const char* what) {
  if (offset > bytes_ || bytes > bytes_ - offset) {
    return fail(Errc::invalid_argument, std::string(what) + " lies outside of its range");
  }
  const std::string trying = std::string("importing ") + what;
  CUmemGenericAllocationHandle handle = 0;
  void* const os_handle = reinterpret_cast<void*>(static_cast<std::uintptr_t>(fd));
  if (auto ok = driver_->check(
          driver_->import_fd(&handle, os_handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
          trying.c_str());
      !ok) {
    return ok;
  }
  auto mapped = driver_->check(driver_->map(base_ + offset, bytes, 0, handle, 0), trying.c_str());
  (void)driver_->release(handle);  // the mapping keeps the memory
  if (!mapped) return mapped;
  pieces_.push_back({offset, bytes});
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = ordinal_;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return driver_->check(driver_->set_access(base_ + offset, bytes, &access, 1), trying.c_str());
}

VirtualRange::VirtualRange(VirtualRange&& other) noexcept
    : driver_(std::exchange(other.driver_, nullptr)),
      ordinal_(other.ordinal_),
      base_(other.base_),
      bytes_(other.bytes_),
      pieces_(std::move(other.pieces_)) {}

VirtualRange& VirtualRange::operator=(VirtualRange&& other) noexcept {
  std::swap(driver_, other.driver_);
  std::swap(ordinal_, other.ordinal_);
  std::swap(base_, other.base_);
  std::swap(bytes_, other.bytes_);
  std::swap(pieces_, other.pieces_);
  return *this;
}

VirtualRange::~VirtualRange() {
  if (driver_ == nullptr) return;
  for (const Piece& piece : pieces_) (void)driver_->unmap(base_ + piece.offset, piece.bytes);
  (void)driver_->free_addresses(base_, bytes_);
}

}  // namespace sluice::client::internal::cuda
