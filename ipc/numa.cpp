#include "ipc/numa.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

namespace sluice::ipc {
namespace {

constexpr std::uint32_t kWordBits = 8 * sizeof(unsigned long);
using NodeMask = std::array<unsigned long, kMaxNumaNodes / kWordBits>;

}  // namespace

Status prefer_numa_node(int fd, std::uint64_t bytes, std::uint32_t node) {
  const std::string what = "memory from NUMA node " + std::to_string(node);
  if (node >= kMaxNumaNodes) return fail(Errc::invalid_argument, what + ": there is no such node");
  // The policy is set by way of a mapping, and is the file's.
  void* const mapped = mmap(nullptr, bytes, PROT_NONE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) return fail_errno("mapping " + what);
  NodeMask mask{};
  mask[node / kWordBits] = 1UL << (node % kWordBits);
  // The kernel takes one bit less than it is told.
  const long set =
      syscall(SYS_mbind, mapped, bytes, MPOL_PREFERRED, mask.data(), kMaxNumaNodes + 1, 0);
  const int error = errno;
  munmap(mapped, bytes);
  if (set == 0) return {};
  if (error == EINVAL) return fail(Errc::invalid_argument, what + ": there is no such node");
  if (error == ENOSYS || error == EPERM) {
    return fail(Errc::not_supported,
                what + ": " + (error == EPERM ? "mbind is forbidden here" : "the kernel has none"));
  }
  errno = error;
  return fail_errno("mbind for " + what);
}

}  // namespace sluice::ipc
