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

// Creates `bytes` of zeroed memory, sealed against shrinking, growing and further seals. `name`
// shows in /proc/<pid>/maps. Errors: invalid_argument (0 bytes), no_memory (the node or the memory
// cgroup has not enough; with Populate::yes nothing is taken then), limit_reached (no free
// descriptor), io_error.
Result<Fd> create_memfd(const char* name, std::uint64_t bytes, Populate populate);

// Takes the memory of `bytes` of a memfd from `offset`, as Populate::yes does for all of it.
// Errors: no_memory, io_error; some of it may have been taken then.
Status populate_memfd(int fd, const char* name, std::uint64_t offset, std::uint64_t bytes);

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
