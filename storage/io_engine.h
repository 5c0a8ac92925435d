// How the block store reads and writes files: asynchronous requests against registered files.
//
// Two implementations: io_uring, and a thread pool for places that forbid io_uring (many
// containers). A third, in tests, stands in front of one of these and fails on command. The store
// is the same above all of them, so an engine promises little: a request that it took is answered
// once, in any order, with what the system call would have returned. In particular a read or a
// write may be short, and only a `sync` makes writes that were answered before it was submitted
// durable. The caller sees to it that writes and discards in flight do not overlap each other.
//
// A request is in flight from the submit() that took it until the reap() that gives its answer.
//
// Thread-safety: one thread at a time, but wake(), which any thread may call. A thread that has
// submitted lives until its requests are answered.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "ipc/error.h"

namespace sluice::storage {

using ipc::Errc;
using ipc::Error;
using ipc::Result;
using ipc::Status;

// Offset, length and address of what O_DIRECT transfers are multiples of this.
inline constexpr std::uint64_t kIoAlign = 4096;
// Bound of the depth that an engine may be asked for.
inline constexpr std::uint32_t kMaxIoDepth = 4096;
// Bound of the bytes of a read or a write.
inline constexpr std::uint64_t kMaxIoBytes = (std::uint64_t{1} << 31) - 4096;
// Files that an engine has registered at the same time.
inline constexpr std::uint32_t kMaxIoFiles = 4096;
// Pieces of memory that an engine has registered at the same time.
inline constexpr std::uint32_t kMaxIoMemories = 16384;
// A longer wait for answers is cut to this.
inline constexpr std::chrono::microseconds kMaxReapWait = std::chrono::hours(1);

// A file's place among those that an engine has registered.
struct IoFile {
  std::uint32_t index = 0;
  friend bool operator==(IoFile, IoFile) = default;
};

enum class IoOp : std::uint8_t {
  read,
  write,
  sync,     // data, and what of the metadata is needed to read it (fdatasync)
  discard,  // gives the blocks of [offset, offset + length) back to the file system; it reads as 0
};

struct IoRequest {
  IoOp op = IoOp::read;
  IoFile file;
  std::uint64_t offset = 0;
  std::byte* memory = nullptr;  // of read and write; stays valid until the answer
  std::uint64_t length = 0;     // of read and write at most kMaxIoBytes
  std::uint64_t tag = 0;        // the caller's; comes back with the answer
};

struct IoAnswer {
  std::uint64_t tag = 0;
  std::int64_t result = 0;  // bytes (0 for sync and discard), or -errno
};

class IoEngine {
 public:
  // Waits until nothing that has begun touches memory or files any more; gives no answers.
  virtual ~IoEngine() = default;

  // "io_uring" or "threads": said in logs and by `sluicectl doctor`.
  virtual std::string_view name() const = 0;
  // Requests that may be in flight.
  virtual std::uint32_t depth() const = 0;

  // The engine uses the descriptor, which the caller keeps open until unregister_file.
  // Errors: limit_reached, io_error.
  virtual Result<IoFile> register_file(int fd) = 0;
  // Nothing of the file is in flight.
  virtual void unregister_file(IoFile file) = 0;

  // Tells the engine of memory that many requests will lie in, so that it may pin it once. Only a
  // hint: a request may lie anywhere, and a failure (memlock limit) only costs time. The memory
  // stays mapped, and its pages what they are (no MADV_REMOVE), until unregister_memory(the same
  // address), which does nothing for memory that is not registered. Nothing in it is in flight
  // then.
  virtual Status register_memory(std::span<std::byte> memory) = 0;
  virtual void unregister_memory(const std::byte* memory) = 0;

  // Takes the first requests of the list, as many as depth() allows, and begins them. How many.
  virtual std::size_t submit(std::span<const IoRequest> requests) = 0;

  // Answers, as many as are there and fit. Waits up to `timeout` for the first one, or for wake().
  virtual std::size_t reap(std::span<IoAnswer> answers, std::chrono::microseconds timeout) = 0;

  // A reap() that waits, or else the next one, returns at once.
  virtual void wake() = 0;
};

enum class IoKind : std::uint8_t { automatic, io_uring, threads };

// An engine with room for `depth` requests in flight, 1 to kMaxIoDepth. automatic: io_uring if the
// kernel lets us, else threads; `why` then says what the kernel answered. Errors: not_supported
// (io_uring asked for and forbidden), invalid_argument (depth), io_error.
Result<std::unique_ptr<IoEngine>> make_io_engine(IoKind kind, std::uint32_t depth,
                                                 std::string* why = nullptr);

}  // namespace sluice::storage
