// Anonymous memory behind a descriptor whose size can never change: session memory, extents,
// tables.
//
// The seals are what makes it safe to map memory that another process also holds: a mapping of a
// file that somebody truncates ends in SIGBUS. A holder can still punch holes; the bytes then read
// as zero.
#pragma once

#include <cstdint>

#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::ipc {

enum class Populate : bool {
  no = false,
  // Takes the memory now, so that a node without memory says so here and not by SIGBUS at the first
  // touch.
  yes = true,
};

enum class HugePages : std::uint8_t {
  never,
  attempt,  // where the kernel gives them, 4 KiB pages elsewhere
  require,  // or no_memory; a last piece of less than kHugePageBytes always has 4 KiB pages
};

inline constexpr std::uint64_t kHugePageBytes = std::uint64_t{2} << 20;

// Creates `bytes` of zeroed memory, sealed against shrinking, growing and further seals. `name`
// shows in /proc/<pid>/maps. Errors: invalid_argument (0 bytes), no_memory (the node or the memory
// cgroup has not enough; with Populate::yes nothing is taken then), limit_reached (no free
// descriptor), io_error.
Result<Fd> create_memfd(const char* name, std::uint64_t bytes, Populate populate,
                        HugePages huge_pages = HugePages::never);

// Takes the memory of `bytes` of a memfd from `offset`, which have none (Populate::no, or vacated).
//
// Huge pages are made by MADV_COLLAPSE (Linux 6.1), for which one page in each 2 MiB is enough. It
// needs no setting of the node (shmem_enabled may say "never"), and takes memory four times as fast
// as fallocate does in 4 KiB pages (17 against 4 GB/s). `offset` is a multiple of kHugePageBytes
// where they are wanted. Errors: no_memory, io_error; some of it may have been taken then.
Status populate_memfd(int fd, const char* name, std::uint64_t offset, std::uint64_t bytes,
                      HugePages huge_pages = HugePages::never);

// Gives the memory of this range back to the node, whoever maps it: holders read zeros, and take
// memory anew if they write. Errors: io_error.
Status vacate_memfd(int fd, const char* name, std::uint64_t offset, std::uint64_t bytes);

// That a descriptor from a peer really is memory of exactly `bytes` that cannot shrink. `what`
// names it in the error. Errors: peer_violation.
Status check_memfd(int fd, std::uint64_t bytes, const char* what);

// Bytes that this process could still take: the least of what the node and each memory cgroup above
// it have left, not counting swap. An estimate; others take memory at the same time.
std::uint64_t available_memory_bytes();

}  // namespace sluice::ipc
