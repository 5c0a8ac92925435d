#include "tests/gpu/kills/hbm.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

namespace sluice::test::kills {

namespace {

using ipc::Errc;
using ipc::fail;

ipc::Result<std::uint64_t> ask_by_process() {
  int ends[2];
  if (pipe(ends) != 0) return ipc::fail_errno("pipe");
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    std::size_t free = 0;
    std::size_t total = 0;
    const bool known = cudaMemGetInfo(&free, &total) == cudaSuccess;
    const std::uint64_t used = total - free;
    _exit(known && write(ends[1], &used, sizeof used) == sizeof used ? 0 : 1);
  }
  close(ends[1]);
  std::uint64_t used = 0;
  const bool told = child > 0 && read(ends[0], &used, sizeof used) == sizeof used;
  close(ends[0]);
  if (child > 0) waitpid(child, nullptr, 0);
  if (told) return used;
  return fail(Errc::io_error, "a process that asks for the GPU's free memory failed");
}

}  // namespace

bool make_context() { return cudaFree(nullptr) == cudaSuccess; }

HbmMeter::HbmMeter(const std::string& uuid) {
  void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return;
  const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
  const auto by_uuid =
      reinterpret_cast<int (*)(const char*, void**)>(dlsym(library, "nvmlDeviceGetHandleByUUID"));
  get_memory_ = reinterpret_cast<GetMemory>(dlsym(library, "nvmlDeviceGetMemoryInfo"));
  if (init == nullptr || by_uuid == nullptr || get_memory_ == nullptr) return;
  void* device = nullptr;
  Memory memory{};
  if (init() == 0 && by_uuid(uuid.c_str(), &device) == 0 && get_memory_(device, &memory) == 0) {
    device_ = device;
  }
}

ipc::Result<std::uint64_t> HbmMeter::used() const {
  if (device_ == nullptr) return ask_by_process();
  Memory memory{};
  if (const int status = get_memory_(device_, &memory); status != 0) {
    return fail(Errc::io_error, "nvmlDeviceGetMemoryInfo returns " + std::to_string(status));
  }
  return memory.used;
}

}  // namespace sluice::test::kills
