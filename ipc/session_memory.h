// The memory that one session and the daemon share: [header page][submission ring][completion ring]
// [request memory], each part starting on a page of 4 KiB.
//
// Both ends compute the places from the two numbers of Welcome, kept in private memory; nothing is
// read from the header page but the rings' cursors and a number for operators. The daemon creates
// it sealed and populated; the client checks size and seals before it maps.
//
// Thread-safety: const after it is made; for the rings see ring.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/mapping.h"
#include "ipc/ring.h"
#include "ipc/wire_generated.h"

namespace sluice::ipc {

static_assert(sizeof(wire::Submission) == 56 && sizeof(wire::Completion) == 32);

using SubmissionProducer = RingProducer<wire::Submission>;  // client
using SubmissionConsumer = RingConsumer<wire::Submission>;  // daemon
using CompletionProducer = RingProducer<wire::Completion>;  // daemon
using CompletionConsumer = RingConsumer<wire::Completion>;  // client

inline constexpr std::uint64_t kMinRequestBytes = 4096;
inline constexpr std::uint64_t kMaxRequestBytes = std::uint64_t{1} << 30;  // offsets are u32

// Places in bytes from the start of the memory.
struct SessionLayout {
  std::uint32_t ring_capacity = 0;  // descriptors in each ring
  std::uint64_t request_bytes = 0;
  std::uint64_t submissions_offset = 0;
  std::uint64_t completions_offset = 0;
  std::uint64_t request_offset = 0;
  std::uint64_t memory_bytes = 0;  // of the whole

  friend bool operator==(const SessionLayout&, const SessionLayout&) = default;
};

// Errors: invalid_argument (a capacity that is no power of two or out of range, request_bytes out
// of range or no multiple of 4 KiB).
Result<SessionLayout> session_layout(std::uint32_t ring_capacity, std::uint64_t request_bytes);

class SessionMemory {
 public:
  SessionMemory() = default;

  // Daemon: new memory. Errors: those of session_layout, create_memfd and Mapping::map.
  static Result<SessionMemory> create(std::uint32_t ring_capacity, std::uint64_t request_bytes);

  // Client: maps the descriptor and the numbers of Welcome. Errors: invalid_argument,
  // peer_violation (size or seals are not as promised), no_memory, io_error.
  static Result<SessionMemory> attach(Fd fd, std::uint32_t ring_capacity,
                                      std::uint64_t request_bytes);

  RingView submission_ring() const;
  RingView completion_ring() const;
  std::span<std::byte> request_memory() const;

  // Bytes of the node's memory that the client has registered with GPUs, as it says: for operators.
  void tell_pinned(std::uint64_t bytes) const;
  std::uint64_t told_pinned() const;

  const SessionLayout& layout() const { return layout_; }
  const Fd& fd() const { return fd_; }

 private:
  static Result<SessionMemory> map(Fd fd, const SessionLayout& layout);

  SessionLayout layout_;
  Fd fd_;
  Mapping mapping_;
};

}  // namespace sluice::ipc
