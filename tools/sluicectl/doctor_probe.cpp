#include "tools/sluicectl/doctor_probe.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "ipc/fd.h"
#include "ipc/memfd.h"

namespace sluice::tools::doctor {
namespace {

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

constexpr unsigned kRingEntries = 4;

int error_of(const ipc::Fd& fd) { return fd ? 0 : errno; }

}  // namespace

int try_pidfd() {
  return error_of(ipc::Fd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))));
}

int try_sealed_memfd() {
  errno = 0;
  const auto memory = ipc::create_memfd("sluice-doctor", 4096, ipc::Populate::yes);
  if (memory) return 0;
  return errno != 0 ? errno : EIO;
}

int try_huge_page() {
  errno = 0;
  const auto memory = ipc::create_memfd("sluice-doctor", ipc::kHugePageBytes, ipc::Populate::yes,
                                        ipc::HugePages::require);
  if (memory) return 0;
  return errno != 0 ? errno : EIO;
}

int try_io_uring() {
  io_uring_params parameters{};
  return error_of(
      ipc::Fd(static_cast<int>(::syscall(SYS_io_uring_setup, kRingEntries, &parameters))));
}

}  // namespace sluice::tools::doctor
