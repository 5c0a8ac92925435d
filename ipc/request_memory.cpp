#include "ipc/request_memory.h"

#include <algorithm>
#include <limits>
#include <string>

namespace sluice::ipc {
namespace {

constexpr std::uint32_t whole_units(std::uint32_t bytes) {
  return (bytes + kRequestAlignment - 1) / kRequestAlignment * kRequestAlignment;
}

}  // namespace

RequestPiece::~RequestPiece() {
  if (owner_ != nullptr) owner_->give_back({offset_, whole_units(size_)});
}

void RequestPiece::swap(RequestPiece& other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(data_, other.data_);
  std::swap(offset_, other.offset_);
  std::swap(size_, other.size_);
}

RequestMemory::RequestMemory(std::span<std::byte> memory) : memory_(memory) {
  SLUICE_ASSERT(memory.size() % kRequestAlignment == 0);
  SLUICE_ASSERT(memory.size() <= std::numeric_limits<std::uint32_t>::max() - kRequestAlignment);
  if (!memory.empty()) free_.push_back({0, static_cast<std::uint32_t>(memory.size())});
}

Result<RequestPiece> RequestMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return fail(Errc::invalid_argument, "a piece of 0 bytes of request memory");
  if (bytes > memory_.size()) {
    return fail(Errc::list_too_long, "a request of " + std::to_string(bytes) +
                                         " bytes; the session's request memory has " +
                                         std::to_string(memory_.size()) +
                                         ": split the request, or configure more");
  }
  const std::uint32_t wanted = whole_units(static_cast<std::uint32_t>(bytes));
  const std::lock_guard lock(mutex_);
  const auto found =
      std::ranges::find_if(free_, [&](const Range& range) { return range.bytes >= wanted; });
  if (found == free_.end()) {
    return fail(Errc::busy, "no " + std::to_string(bytes) +
                                " contiguous bytes of request memory are free now: read "
                                "completions and try again");
  }
  RequestPiece piece;
  piece.owner_ = this;
  piece.offset_ = found->offset;
  piece.size_ = static_cast<std::uint32_t>(bytes);
  piece.data_ = memory_.data() + found->offset;
  found->offset += wanted;
  found->bytes -= wanted;
  if (found->bytes == 0) free_.erase(found);
  return piece;
}

std::size_t RequestMemory::free_bytes() const {
  const std::lock_guard lock(mutex_);
  std::size_t bytes = 0;
  for (const Range& range : free_) bytes += range.bytes;
  return bytes;
}

void RequestMemory::give_back(Range range) {
  const std::lock_guard lock(mutex_);
  auto next = std::ranges::lower_bound(free_, range.offset, {}, &Range::offset);
  if (next != free_.end() && range.offset + range.bytes == next->offset) {
    range.bytes += next->bytes;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    Range& before = *std::prev(next);
    if (before.offset + before.bytes == range.offset) {
      before.bytes += range.bytes;
      return;
    }
  }
  free_.insert(next, range);
}

}  // namespace sluice::ipc
