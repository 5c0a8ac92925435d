// The client's allocator over the request memory of its session: where the bytes of a request, and
// room for its reply, lie until the completion was read.
//
// First fit over a sorted list of free ranges, which is as short as there are holes; neighbours are
// joined when a piece is given back. The list is in private memory: what the daemon reads is never
// trusted to be free, and what it writes never to be a list.
//
// Thread-safety: all calls from any thread. The allocator outlives its pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "ipc/error.h"

namespace sluice::ipc {

inline constexpr std::uint32_t kRequestAlignment = 64;

class RequestMemory;

// A piece of request memory, given back when its owner goes. Aligned to kRequestAlignment.
class RequestPiece {
 public:
  RequestPiece() = default;
  RequestPiece(RequestPiece&& other) noexcept { swap(other); }
  RequestPiece& operator=(RequestPiece&& other) noexcept {
    RequestPiece(std::move(other)).swap(*this);
    return *this;
  }
  ~RequestPiece();

  std::uint32_t offset() const { return offset_; }  // bytes from the start of the request memory
  std::uint32_t size() const { return size_; }      // bytes that were asked for
  std::span<std::byte> bytes() const { return {data_, size_}; }
  explicit operator bool() const { return owner_ != nullptr; }

 private:
  friend class RequestMemory;
  void swap(RequestPiece& other) noexcept;

  RequestMemory* owner_ = nullptr;
  std::byte* data_ = nullptr;
  std::uint32_t offset_ = 0;
  std::uint32_t size_ = 0;
};

class RequestMemory {
 public:
  // `memory`: SessionMemory::request_memory().
  explicit RequestMemory(std::span<std::byte> memory);

  // Errors: list_too_long (more than the whole memory: it can never fit), busy (not now: read
  // completions and try again), invalid_argument (0 bytes).
  Result<RequestPiece> allocate(std::size_t bytes);

  std::size_t capacity() const { return memory_.size(); }
  std::size_t free_bytes() const;

 private:
  friend class RequestPiece;
  struct Range {
    std::uint32_t offset, bytes;
  };
  void give_back(Range range);

  std::span<std::byte> memory_;
  mutable std::mutex mutex_;  // private memory
  std::vector<Range> free_;   // sorted by offset; no two touch
};

}  // namespace sluice::ipc
