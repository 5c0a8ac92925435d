#include "storage/segment_scan.h"

#include <algorithm>

#include "storage/segment_window.h"

namespace sluice::storage {
Result<ScanResult> scan_segment(int fd, const SegmentIdentity& segment, std::uint64_t segment_bytes,
                                std::uint64_t offset, ScanParts parts,
                                const std::function<void(const ScannedRecord&)>& found) {
  SegmentWindow window(fd);
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
    const bool intact = parts == ScanParts::headers_only || bad_parts(window, *fields, 1).empty();
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
