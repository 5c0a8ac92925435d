// Reads what a segment holds, record by record, without a store: recovery and the offline tools.
//
// Where no record begins (torn, or a write that failed between two that did not) the next page is
// tried, so that one bad record costs only itself. That is safe because no payload parses
// (record.h).
//
// Thread-safety: none needed; a scan is a function of its file.
#pragma once

#include <cstdint>
#include <functional>

#include "storage/record.h"

namespace sluice::storage {

enum class ScanParts : bool { headers_only, verify };

struct ScannedRecord {
  const RecordFields& fields;  // valid during the call
  bool intact = false;         // all parts match; always true for headers_only
};

struct ScanResult {
  std::uint64_t end = 0;  // behind the last record that is intact
  std::uint64_t intact = 0;
  std::uint64_t torn = 0;  // whose header parses and whose parts do not match
};

// From `offset` (a multiple of kIoAlign) to the end of the segment. Bytes that cannot be read count
// as no record. Errors: io_error (no memory, or nothing at all can be read).
Result<ScanResult> scan_segment(int fd, const SegmentIdentity& segment, std::uint64_t segment_bytes,
                                std::uint64_t offset, ScanParts parts,
                                const std::function<void(const ScannedRecord&)>& found);

}  // namespace sluice::storage
