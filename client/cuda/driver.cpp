#include "client/cuda/driver.h"

#include <utility>

#include "kernels/cuda/failure.h"

namespace sluice::client::internal::cuda {

using ipc::Errc;
using ipc::fail;

namespace {

// The driver interface that the code is written against: that of CUDA 12.0.
constexpr unsigned kDriverApi = 12'000;

template <class Function>
bool look_up(const char* name, Function& out) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(name, &entry, kDriverApi, cudaEnableDefault, &found);
  out = reinterpret_cast<Function>(entry);
  return status == cudaSuccess && found == cudaDriverEntryPointSuccess && entry != nullptr;
}

ipc::Result<Driver> load() {
  Driver driver;
  const bool whole =
      look_up("cuDeviceGet", driver.device_get) &&
      look_up("cuDevicePrimaryCtxRetain", driver.primary_retain) &&
      look_up("cuDevicePrimaryCtxRelease", driver.primary_release) &&
      look_up("cuCtxPushCurrent", driver.push_current) &&
      look_up("cuCtxPopCurrent", driver.pop_current) &&
      look_up("cuMemAddressReserve", driver.reserve) &&
      look_up("cuMemAddressFree", driver.free_addresses) &&
      look_up("cuMemImportFromShareableHandle", driver.import_fd) &&
      look_up("cuMemMap", driver.map) && look_up("cuMemSetAccess", driver.set_access) &&
      look_up("cuMemUnmap", driver.unmap) && look_up("cuMemRelease", driver.release) &&
      look_up("cuGetErrorString", driver.error_string);
  if (whole) return driver;
  return fail(Errc::not_supported,
              "the CUDA driver of this machine lacks functions for virtual memory; install one for "
              "CUDA 12 or newer");
}

std::unexpected<ipc::Error> failed(int status, std::string text) {
  using kernels::cuda::Failure;
  switch (kernels::cuda::failure_of(status)) {
    case Failure::memory:
      return fail(Errc::no_memory, std::move(text));
    case Failure::context:
      return fail(Errc::context_lost,
                  std::move(text) +
                      "; the CUDA context of this process is lost, by a kernel of its own or by an "
                      "error of the GPU: end the process and start it anew");
    case Failure::device:
      return fail(Errc::device_lost,
                  std::move(text) + "; ask `sluicectl status` and nvidia-smi what the GPU has");
    default:
      return fail(Errc::io_error, std::move(text));
  }
}

}  // namespace

ipc::Status check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return {};
  // What a failed call left must not be taken for the error of a later launch.
  (void)cudaGetLastError();
  return failed(status, std::string(what) + ": CUDA: " + cudaGetErrorString(status) + " (" +
                            cudaGetErrorName(status) + ")");
}

ipc::Result<const Driver*> Driver::get() {
  static const ipc::Result<Driver> driver = load();
  if (!driver) return std::unexpected(driver.error());
  return &*driver;
}

ipc::Status Driver::check(CUresult status, const char* what) const {
  if (status == CUDA_SUCCESS) return {};
  const char* words = nullptr;
  if (error_string(status, &words) != CUDA_SUCCESS || words == nullptr) words = "unknown error";
  return failed(static_cast<int>(status), std::string(what) + ": CUDA driver: " + words + " (" +
                                              std::to_string(static_cast<int>(status)) + ")");
}

ipc::Result<Context> Context::open(std::int32_t ordinal) {
  auto driver = Driver::get();
  if (!driver) return std::unexpected(driver.error());
  // By the runtime, so that it keeps the context as long as the process lives: kernels that it has
  // loaded would not survive the context.
  if (auto ok = cuda::check(cudaInitDevice(ordinal, 0, 0), "making a CUDA context"); !ok) {
    return std::unexpected(ok.error());
  }
  Context context;
  context.ordinal_ = ordinal;
  if (auto ok = (*driver)->check((*driver)->device_get(&context.device_, ordinal),
                                 "opening the CUDA device");
      !ok) {
    return std::unexpected(ok.error());
  }
  if (auto ok = (*driver)->check((*driver)->primary_retain(&context.context_, context.device_),
                                 "making a CUDA context");
      !ok) {
    return std::unexpected(ok.error());
  }
  context.driver_ = *driver;
  return context;
}

Context::Context(Context&& other) noexcept
    : driver_(std::exchange(other.driver_, nullptr)),
      device_(other.device_),
      context_(std::exchange(other.context_, nullptr)),
      ordinal_(other.ordinal_) {}

Context& Context::operator=(Context&& other) noexcept {
  std::swap(driver_, other.driver_);
  std::swap(device_, other.device_);
  std::swap(context_, other.context_);
  std::swap(ordinal_, other.ordinal_);
  return *this;
}

Context::~Context() {
  if (driver_ != nullptr) (void)driver_->primary_release(device_);
}

Current::Current(const Context& context) : driver_(context.driver()) {
  (void)driver_.push_current(context.handle());
}

Current::~Current() {
  CUcontext popped = nullptr;
  (void)driver_.pop_current(&popped);
}

CurrentBesideCaptures::CurrentBesideCaptures(const Context& context) : Current(context) {
  (void)cudaThreadExchangeStreamCaptureMode(&mode_);
}

CurrentBesideCaptures::~CurrentBesideCaptures() {
  (void)cudaThreadExchangeStreamCaptureMode(&mode_);
}

}  // namespace sluice::client::internal::cuda
