// CUDA as the library uses it: functions of the driver, looked up at run time so that programs
// start where there is none, errors in words, and the device that is current.
//
// Thread-safety: any thread.
#pragma once

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "ipc/error.h"

namespace sluice::client::internal::cuda {

// `what` says what was tried. Errors: no_memory; context_lost, device_lost
// (kernels::cuda::Failure); else io_error.
ipc::Status check(cudaError_t status, const char* what);

struct Driver {
  PFN_cuDeviceGet_v2000 device_get = nullptr;
  PFN_cuDevicePrimaryCtxRetain_v7000 primary_retain = nullptr;
  PFN_cuDevicePrimaryCtxRelease_v11000 primary_release = nullptr;
  PFN_cuCtxPushCurrent_v4000 push_current = nullptr;
  PFN_cuCtxPopCurrent_v4000 pop_current = nullptr;
  PFN_cuMemAddressReserve_v10020 reserve = nullptr;
  PFN_cuMemAddressFree_v10020 free_addresses = nullptr;
  PFN_cuMemImportFromShareableHandle_v10020 import_fd = nullptr;
  PFN_cuMemMap_v10020 map = nullptr;
  PFN_cuMemSetAccess_v10020 set_access = nullptr;
  PFN_cuMemUnmap_v10020 unmap = nullptr;
  PFN_cuMemRelease_v10020 release = nullptr;
  PFN_cuGetErrorString_v6000 error_string = nullptr;

  // Loaded once. Errors: not_supported (no driver, or one that is too old).
  static ipc::Result<const Driver*> get();

  ipc::Status check(CUresult status, const char* what) const;
};

// The primary context of a device, the one that the runtime and every framework use.
class Context {
 public:
  // Makes the context if the process has none yet: some 500 MiB of HBM, and some 100 ms.
  static ipc::Result<Context> open(std::int32_t ordinal);
  Context() = default;
  Context(Context&& other) noexcept;
  Context& operator=(Context&& other) noexcept;
  ~Context();

  std::int32_t ordinal() const { return ordinal_; }
  const Driver& driver() const { return *driver_; }
  CUcontext handle() const { return context_; }

 private:
  const Driver* driver_ = nullptr;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  std::int32_t ordinal_ = 0;
};

// Makes a context current in the calling thread for a scope; cheap. The one before comes back,
// without a context on a device that the caller never used.
class Current {
 public:
  explicit Current(const Context& context);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const Driver& driver_;
};

// As Current, and calls of this thread that allocate, free, register or wait do not spoil a stream
// capture that another thread has under way in global mode, as frameworks do.
class CurrentBesideCaptures : public Current {
 public:
  explicit CurrentBesideCaptures(const Context& context);
  ~CurrentBesideCaptures();

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace sluice::client::internal::cuda
