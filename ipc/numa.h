// Which of the machine's NUMA nodes the memory of a file comes from.
//
// Plain system calls: libnuma is not needed. Thread-safety: any thread.
#pragma once

#include <cstdint>

#include "ipc/error.h"

namespace sluice::ipc {

inline constexpr std::uint32_t kMaxNumaNodes = 1024;  // as Linux at most is built for

// From now on pages of a memfd of `bytes` are taken from this node while it has any left, and
// elsewhere then; by whomever they are taken, and also after they were given back. Those that are
// there stay where they are. Errors: invalid_argument (no such node), not_supported (the kernel has
// no NUMA, or a sandbox forbids mbind), io_error.
Status prefer_numa_node(int fd, std::uint64_t bytes, std::uint32_t node);

}  // namespace sluice::ipc
