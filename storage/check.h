// Whether a store that nobody runs is whole: every block that exists is verified, and index and
// segments are compared.
//
// A block exists if the index has it. What a fault is:
//   - Anything that makes a block that exists a miss: its header page or one of its parts does not
//     match its checksum (both cover their padding), is another's, or cannot be read; its segment
//     is gone, was reused, or its page does not parse.
//   - A record that the index should know: it is whole, and behind the index's checkpoint. After a
//     kill that is so until the next start, and so is a torn record behind the checkpoint.
//   - Damage to what finds blocks: the file `device`, the index, its log, the length of a segment.
// What is in no block that exists is dead space, and no fault whatever it holds: records that were
// forgotten, what is behind the last record, segments that were given back.
//
// Pure but for reading; the format's words are stable, for scripts.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "storage/store_image.h"

namespace sluice::storage {

enum class FindingKind : std::uint8_t {
  device_page,      // the file `device` does not parse, or is not there
  index,            // the index cannot be used; a store makes it anew from the segments
  index_log,        // the newest changes of the index cannot be read
  index_row,        // a row of the index does not parse
  segment_page,     // a segment does not say which one it is, or says that it is another
  segment_short,    // a segment's file is shorter than a segment
  segment_missing,  // the index has blocks in a segment whose file is not there
  entry,            // no record can be as the index says
  stale_entry,      // the segment was reused since the index was told
  header,           // no record where the index says, or another one
  part,             // parts that do not match their checksums
  unreadable,       // the device answers with an error, or the file ends
  unindexed,        // a whole record that the index does not know, and should
  torn,             // a record behind the checkpoint that is not whole
};
// "device_page" and so on.
std::string_view word_for(FindingKind kind);

struct Finding {
  FindingKind kind = FindingKind::index;
  std::optional<std::size_t> device;  // in StoreImage::devices
  std::optional<std::uint32_t> segment;
  std::optional<std::uint64_t> offset;  // in the segment: of the record, or the first bad part
  std::optional<Namespace> scope;       // scope and key: where a header still says so
  std::string key;
  std::optional<Digest> digest;  // of a block that the index knows
  std::uint64_t bytes = 0;       // of the record, the bad parts, the missing end of a file
  bool loses_block = false;      // a block that exists is lost by it
  std::string text;
};

struct CheckReport {
  std::vector<Finding> findings;  // at most a few per segment and one per record
  std::uint64_t segments = 0;
  std::uint64_t blocks = 0;  // that exist; without an index: records that are whole
  std::uint64_t bytes = 0;   // of these
  std::uint64_t lost_blocks = 0;
  std::uint64_t lost_bytes = 0;
  std::uint64_t unchecked_blocks = 0;  // of devices that were not given, or do not say who they are
  std::uint64_t read_bytes = 0;
};

struct CheckProgress {
  std::uint64_t done_bytes = 0;
  std::uint64_t all_bytes = 0;  // an estimate until the end
};

// Called after each record.
using OnCheck = std::function<void(const CheckProgress&)>;

CheckReport check(const StoreImage& image, const OnCheck& progress = {});

}  // namespace sluice::storage
