// The bytes of a segment in order, and whether the parts of a record in it are what they should be:
// for recovery and the offline checks.
//
// Thread-safety: none needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "storage/file.h"
#include "storage/record.h"

namespace sluice::storage {

// A segment's file through a window that moves forward.
class SegmentWindow {
 public:
  static constexpr std::uint64_t kBytes = std::uint64_t{4} << 20;

  explicit SegmentWindow(int fd) : fd_(fd), memory_(allocate_aligned(kBytes)) {}

  // false: there was no memory for it.
  explicit operator bool() const { return memory_ != nullptr; }

  // [offset, offset + length) of the file, multiples of kIoAlign, length at most kBytes; valid
  // until the next call. Empty: it cannot be read, or is behind the file's end.
  std::span<const std::byte> at(std::uint64_t offset, std::uint64_t length);

  // Something could be read since it was made.
  bool any_read() const { return any_read_; }

 private:
  std::uint64_t read_pages(std::uint64_t offset);

  int fd_;
  AlignedMemory memory_;
  std::uint64_t begin_ = 0;
  std::uint64_t filled_ = 0;
  bool any_read_ = false;
};

struct BadPart {
  std::uint32_t part = 0;
  bool unread = false;  // it cannot be read; else it does not match its checksum
};

// The parts of a record that are not as its header says, the first `most` of them.
std::vector<BadPart> bad_parts(SegmentWindow& window, const RecordFields& fields, std::size_t most);

}  // namespace sluice::storage
