#include "daemon/device_worker/cuda_memory.h"

#include <sys/resource.h>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <numeric>
#include <string>

namespace sluice::device_worker {

using ipc::Errc;
using ipc::fail;

namespace {

// The version whose functions are asked for; newer drivers have them all.
constexpr unsigned kDriverVersion = 12000;

// A driver function, or null where the driver does not have it.
template <class Function>
Function* find(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  if (cudaGetDriverEntryPointByVersion(name, &found, kDriverVersion, cudaEnableDefault, &result) !=
          cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<Function*>(found);
}

struct Driver {
  decltype(&cuGetErrorName) error_name = find<decltype(cuGetErrorName)>("cuGetErrorName");
  decltype(&cuMemGetAllocationGranularity) granularity =
      find<decltype(cuMemGetAllocationGranularity)>("cuMemGetAllocationGranularity");
  decltype(&cuMemCreate) create = find<decltype(cuMemCreate)>("cuMemCreate");
  decltype(&cuMemRelease) release = find<decltype(cuMemRelease)>("cuMemRelease");
  decltype(&cuMemExportToShareableHandle) to_fd =
      find<decltype(cuMemExportToShareableHandle)>("cuMemExportToShareableHandle");
  decltype(&cuMemImportFromShareableHandle) from_fd =
      find<decltype(cuMemImportFromShareableHandle)>("cuMemImportFromShareableHandle");
  decltype(&cuMemAddressReserve) reserve =
      find<decltype(cuMemAddressReserve)>("cuMemAddressReserve");
  decltype(&cuMemAddressFree) unreserve = find<decltype(cuMemAddressFree)>("cuMemAddressFree");
  decltype(&cuMemMap) map = find<decltype(cuMemMap)>("cuMemMap");
  decltype(&cuMemUnmap) unmap = find<decltype(cuMemUnmap)>("cuMemUnmap");
  decltype(&cuMemSetAccess) set_access = find<decltype(cuMemSetAccess)>("cuMemSetAccess");

  bool complete() const {
    return error_name != nullptr && granularity != nullptr && create != nullptr &&
           release != nullptr && to_fd != nullptr && from_fd != nullptr && reserve != nullptr &&
           unreserve != nullptr && map != nullptr && unmap != nullptr && set_access != nullptr;
  }
};

const Driver& driver() {
  static const Driver found;
  return found;
}

std::unexpected<ipc::Error> failed(CUresult result, const char* what,
                                   Errc otherwise = Errc::io_error) {
  const char* name = nullptr;
  (void)driver().error_name(result, &name);
  return fail(result == CUDA_ERROR_OUT_OF_MEMORY ? Errc::no_memory : otherwise,
              std::string(what) + ": " +
                  (name != nullptr ? name : std::to_string(static_cast<int>(result))));
}

CUmemAllocationProp properties_of(int device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

// An allocation of the driver, given up with its owner; descriptors and mappings keep the memory.
class Allocation {
 public:
  explicit Allocation(CUmemGenericAllocationHandle handle) : handle_(handle) {}
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  ~Allocation() { (void)driver().release(handle_); }

  CUmemGenericAllocationHandle handle() const { return handle_; }

 private:
  CUmemGenericAllocationHandle handle_;
};

ipc::Result<std::uintptr_t> reserve_addresses(std::uint64_t bytes) {
  CUdeviceptr address = 0;
  if (const CUresult reserved = driver().reserve(&address, bytes, 0, 0, 0);
      reserved != CUDA_SUCCESS) {
    return failed(reserved, "reserving addresses of the GPU");
  }
  return static_cast<std::uintptr_t>(address);
}

// Maps at reserved addresses, readable and writable.
ipc::Status map_at(std::uintptr_t address, int device, const Allocation& allocation,
                   std::uint64_t bytes) {
  if (const CUresult mapped = driver().map(address, bytes, 0, allocation.handle(), 0);
      mapped != CUDA_SUCCESS) {
    return failed(mapped, "mapping memory of the GPU");
  }
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = device;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  if (const CUresult allowed = driver().set_access(address, bytes, &access, 1);
      allowed != CUDA_SUCCESS) {
    (void)driver().unmap(address, bytes);
    return failed(allowed, "access to memory of the GPU");
  }
  return {};
}

ipc::Result<std::uintptr_t> map_allocation(int device, const Allocation& allocation,
                                           std::uint64_t bytes) {
  auto address = reserve_addresses(bytes);
  if (!address) return address;
  if (auto mapped = map_at(*address, device, allocation, bytes); !mapped) {
    (void)driver().unreserve(*address, bytes);
    return std::unexpected(std::move(mapped.error()));
  }
  return address;
}

// An allocation behind a descriptor, which stays the caller's.
ipc::Result<CUmemGenericAllocationHandle> import_allocation(const ipc::Fd& memory) {
  CUmemGenericAllocationHandle handle{};
  // The interface takes the number of a descriptor as a pointer.
  const auto number = static_cast<std::uintptr_t>(memory.get());
  if (const CUresult imported = driver().from_fd(
          &handle, reinterpret_cast<void*>(number),  // NOLINT(performance-no-int-to-ptr)
          CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
      imported != CUDA_SUCCESS) {
    return failed(imported, "a descriptor that should be memory of this GPU",
                  Errc::invalid_argument);
  }
  return handle;
}

}  // namespace

ipc::Error cuda_error(int status, const char* what) {
  const auto error = static_cast<cudaError_t>(status);
  return {error == cudaErrorMemoryAllocation ? Errc::no_memory : Errc::io_error,
          std::string(what) + ": " + cudaGetErrorString(error)};
}

ipc::Result<std::uint64_t> allocation_granularity(int device) {
  if (!driver().complete()) {
    return fail(Errc::not_supported,
                "the driver has no virtual memory management; install one for CUDA 13");
  }
  const CUmemAllocationProp properties = properties_of(device);
  std::size_t bytes = 0;
  if (const CUresult result =
          driver().granularity(&bytes, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
      result != CUDA_SUCCESS) {
    return failed(result, "the granularity of allocations");
  }
  return bytes;
}

ipc::Status zero_device_memory(void* address, std::uint64_t bytes) {
  if (const cudaError_t status = cudaMemset(address, 0, bytes); status != cudaSuccess) {
    return std::unexpected(cuda_error(status, "zeroing memory of the GPU"));
  }
  // The call above may return before the GPU is done.
  if (const cudaError_t status = cudaDeviceSynchronize(); status != cudaSuccess) {
    return std::unexpected(cuda_error(status, "zeroing memory of the GPU"));
  }
  return {};
}

ipc::Result<ipc::Fd> allocate_device_memory(int device, std::uint64_t bytes) {
  const CUmemAllocationProp properties = properties_of(device);
  CUmemGenericAllocationHandle handle{};
  if (const CUresult created = driver().create(&handle, bytes, &properties, 0);
      created != CUDA_SUCCESS) {
    return failed(created, ("allocating " + std::to_string(bytes) + " bytes of HBM").c_str());
  }
  const Allocation allocation(handle);
  int fd = -1;
  if (const CUresult exported =
          driver().to_fd(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
      exported != CUDA_SUCCESS) {
    return failed(exported, "a descriptor for memory of the GPU");
  }
  ipc::Fd memory(fd);
  auto address = map_allocation(device, allocation, bytes);
  if (!address) return std::unexpected(std::move(address.error()));
  const ipc::Status zeroed = zero_device_memory(reinterpret_cast<void*>(*address), bytes);
  (void)driver().unmap(*address, bytes);
  (void)driver().unreserve(*address, bytes);
  if (!zeroed) return std::unexpected(zeroed.error());
  return memory;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) (void)cudaFree(data_);
}

ipc::Result<DeviceBuffer> DeviceBuffer::make(std::uint64_t bytes, const char* what) {
  DeviceBuffer buffer;
  if (const cudaError_t status = cudaMalloc(&buffer.data_, bytes); status != cudaSuccess) {
    return std::unexpected(cuda_error(status, what));
  }
  return buffer;
}

ipc::Result<DeviceBuffer> DeviceBuffer::make_zeroed(std::uint64_t bytes, const char* what) {
  auto buffer = make(bytes, what);
  if (!buffer) return buffer;
  if (auto zeroed = zero_device_memory(buffer->data(), bytes); !zeroed) {
    return std::unexpected(std::move(zeroed.error()));
  }
  return buffer;
}

ipc::Result<DeviceMapping> DeviceMapping::map(int device, const ipc::Fd& memory,
                                              std::uint64_t bytes) {
  auto handle = import_allocation(memory);
  if (!handle) return std::unexpected(std::move(handle.error()));
  const Allocation allocation(*handle);
  auto address = map_allocation(device, allocation, bytes);
  if (!address) return std::unexpected(std::move(address.error()));
  return DeviceMapping(*address, bytes);
}

DeviceMapping::~DeviceMapping() {
  if (address_ == 0) return;
  (void)driver().unmap(address_, bytes_);
  (void)driver().unreserve(address_, bytes_);
}

ipc::Result<DeviceRange> DeviceRange::reserve(int device, std::uint64_t bytes) {
  auto address = reserve_addresses(bytes);
  if (!address) return std::unexpected(std::move(address.error()));
  DeviceRange range;
  range.device_ = device;
  range.address_ = *address;
  range.bytes_ = bytes;
  return range;
}

ipc::Status DeviceRange::append(const ipc::Fd& memory, std::uint64_t bytes) {
  const std::uint64_t used = std::accumulate(pieces_.begin(), pieces_.end(), std::uint64_t{0});
  if (bytes > bytes_ - used) {
    return fail(Errc::invalid_argument, "more memory than addresses were reserved for");
  }
  auto handle = import_allocation(memory);
  if (!handle) return std::unexpected(std::move(handle.error()));
  const Allocation allocation(*handle);
  if (auto mapped = map_at(address_ + used, device_, allocation, bytes); !mapped) return mapped;
  pieces_.push_back(bytes);
  return {};
}

DeviceRange::~DeviceRange() {
  if (address_ == 0) return;
  std::uintptr_t at = address_;
  for (const std::uint64_t bytes : pieces_) {
    (void)driver().unmap(at, bytes);
    at += bytes;
  }
  (void)driver().unreserve(address_, bytes_);
}

namespace {

// What the operating system lets this process pin, and how to raise it.
std::string pin_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return "RLIMIT_MEMLOCK is unlimited: the node, or the GPU's driver, has no more";
  }
  return "RLIMIT_MEMLOCK is " + std::to_string(limit.rlim_cur) +
         " bytes: raise it for sluiced (LimitMEMLOCK= of its unit, or ulimit -l)";
}

}  // namespace

ipc::Error pin_error(int status, const char* what, std::uint64_t bytes, std::uint64_t beside) {
  const auto error = static_cast<cudaError_t>(status);
  if (error != cudaErrorMemoryAllocation && error != cudaErrorOperatingSystem &&
      error != cudaErrorNotPermitted) {
    return cuda_error(status, (std::string("pinning ") + what).c_str());
  }
  (void)cudaGetLastError();
  return {Errc::limit_reached, "the device worker cannot pin " + std::to_string(bytes) +
                                   " bytes for " + what + " beside the " + std::to_string(beside) +
                                   " that it has pinned (" + cudaGetErrorString(error) + "); " +
                                   pin_limit()};
}

ipc::Result<PinnedMapping> PinnedMapping::map(const ipc::Fd& memory, std::uint64_t bytes,
                                              const char* what) {
  auto mapped = ipc::Mapping::map(memory.get(), 0, bytes, ipc::Access::read_write, what);
  if (!mapped) return std::unexpected(std::move(mapped.error()));
  PinnedMapping pinned;
  if (const cudaError_t status = cudaHostRegister(mapped->data(), bytes, cudaHostRegisterMapped);
      status != cudaSuccess) {
    return std::unexpected(pin_error(status, what, bytes, 0));
  }
  pinned.memory_ = std::move(*mapped);
  if (const cudaError_t status =
          cudaHostGetDevicePointer(&pinned.device_, pinned.memory_.data(), 0);
      status != cudaSuccess) {
    return std::unexpected(cuda_error(status, (std::string("addresses for ") + what).c_str()));
  }
  return pinned;
}

PinnedMapping::~PinnedMapping() {
  if (memory_) (void)cudaHostUnregister(memory_.data());
}

}  // namespace sluice::device_worker
