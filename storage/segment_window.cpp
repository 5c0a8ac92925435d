#include "storage/segment_window.h"

#include <algorithm>
#include <optional>

namespace sluice::storage {
namespace {

// nullopt: it cannot be read.
std::optional<std::uint64_t> checksum_at(SegmentWindow& window, std::uint64_t offset,
                                         std::uint64_t length) {
  PartChecksum checksum;
  while (length > 0) {
    const std::uint64_t piece = std::min(length, SegmentWindow::kBytes);
    const auto bytes = window.at(offset, piece);
    if (bytes.empty()) return std::nullopt;
    checksum.add(bytes);
    offset += piece;
    length -= piece;
  }
  return checksum.value();
}

}  // namespace

std::span<const std::byte> SegmentWindow::at(std::uint64_t offset, std::uint64_t length) {
  if (offset < begin_ || offset + length > begin_ + filled_) {
    begin_ = offset;
    const auto got = read_at(fd_, offset, {memory_.get(), kBytes});
    filled_ = got ? *got : read_pages(offset);
    any_read_ = any_read_ || filled_ > 0;
  }
  if (offset + length > begin_ + filled_) return {};
  return {memory_.get() + (offset - begin_), length};
}

// One page cannot be read: takes what is before it.
std::uint64_t SegmentWindow::read_pages(std::uint64_t offset) {
  std::uint64_t done = 0;
  for (; done < kBytes; done += kPageBytes) {
    const auto got = read_at(fd_, offset + done, {memory_.get() + done, kPageBytes});
    if (!got || *got != kPageBytes) break;
  }
  return done;
}

std::vector<BadPart> bad_parts(SegmentWindow& window, const RecordFields& fields,
                               std::size_t most) {
  std::vector<BadPart> bad;
  std::uint64_t at = fields.offset + kPageBytes;
  for (std::uint32_t part = 0; part < fields.layout.parts && bad.size() < most; ++part) {
    const std::uint64_t length = fields.layout.bytes_of(part);
    const auto checksum = checksum_at(window, at, length);
    if (checksum != fields.part_checksums[part]) bad.push_back({part, !checksum});
    at += length;
  }
  return bad;
}

}  // namespace sluice::storage
