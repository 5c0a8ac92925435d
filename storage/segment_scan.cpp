#include "storage/segment_scan.h"

#include <algorithm>

#include "storage/file.h"

namespace sluice::storage {
namespace {

constexpr std::uint64_t kWindowBytes = std::uint64_t{4} << 20;

// The segment through a window that moves forward.
class Window {
 public:
  explicit Window(int fd) : fd_(fd), memory_(allocate_aligned(kWindowBytes)) {}

  explicit operator bool() const { return memory_ != nullptr; }

  // [offset, offset + length) of the file, length at most kWindowBytes; empty: cannot be read.
  std::span<const std::byte> at(std::uint64_t offset, std::uint64_t length) {
    if (offset < begin_ || offset + length > begin_ + filled_) {
      begin_ = offset;
      const auto got = read_at(fd_, offset, {memory_.get(), kWindowBytes});
      filled_ = got ? *got : read_pages(offset);
      any_read_ = any_read_ || filled_ > 0;
    }
    if (offset + length > begin_ + filled_) return {};
    return {memory_.get() + (offset - begin_), length};
  }

  bool any_read() const { return any_read_; }

 private:
  // One page cannot be read: take what is before it.
  std::uint64_t read_pages(std::uint64_t offset) {
    std::uint64_t done = 0;
    for (; done < kWindowBytes; done += kPageBytes) {
      const auto got = read_at(fd_, offset + done, {memory_.get() + done, kPageBytes});
      if (!got || *got != kPageBytes) break;
    }
    return done;
  }

  int fd_;
  AlignedMemory memory_;
  std::uint64_t begin_ = 0;
  std::uint64_t filled_ = 0;
  bool any_read_ = false;
};

bool parts_match(Window& window, const RecordFields& fields) {
  std::uint64_t at = fields.offset + kPageBytes;
  for (std::uint32_t part = 0; part < fields.layout.parts; ++part) {
    std::uint64_t left = fields.layout.bytes_of(part);
    PartChecksum checksum;
    while (left > 0) {
      const std::uint64_t piece = std::min(left, kWindowBytes);
      const auto bytes = window.at(at, piece);
      if (bytes.empty()) return false;
      checksum.add(bytes);
      at += piece;
      left -= piece;
    }
    if (checksum.value() != fields.part_checksums[part]) return false;
  }
  return true;
}

}  // namespace

Result<ScanResult> scan_segment(int fd, const SegmentIdentity& segment, std::uint64_t segment_bytes,
                                std::uint64_t offset, ScanParts parts,
                                const std::function<void(const ScannedRecord&)>& found) {
  Window window(fd);
  // The header's views outlive the window's moves.
  const AlignedMemory header = allocate_aligned(kPageBytes);
  if (!window || !header) return ipc::fail(Errc::io_error, "no memory to read a segment");

  ScanResult result;
  result.end = offset;
  while (offset + kPageBytes <= segment_bytes) {
    const auto bytes = window.at(offset, kPageBytes);
    std::ranges::copy(bytes, header.get());
    const auto fields = bytes.empty() ? Result<RecordFields>(ipc::fail(Errc::data_lost, "unread"))
                                      : parse_record_page(ConstPage(header.get(), kPageBytes),
                                                          segment, offset, segment_bytes);
    if (!fields) {
      offset += kPageBytes;
      continue;
    }
    const bool intact = parts == ScanParts::headers_only || parts_match(window, *fields);
    found({*fields, intact});
    // What is torn may be shorter on the disk than its header says: another one may begin inside.
    offset += intact ? record_bytes_of(fields->layout.block_bytes) : kPageBytes;
    (intact ? result.intact : result.torn)++;
    if (intact) result.end = offset;
  }
  if (!window.any_read()) return ipc::fail(Errc::io_error, "the segment cannot be read");
  return result;
}

}  // namespace sluice::storage
