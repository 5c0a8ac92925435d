// The formats on disk of segments and records.
//
// A device's directory holds the file `device` and segment files of one size. A segment begins with
// a page (kIoAlign bytes) that says which one it is; records follow, one behind another, until the
// next would not fit. A record is a header page and the block's parts behind it, each padded to
// kIoAlign and with an XXH3-64 of its own in the header. All pages of this kind begin with a magic,
// the version, and an XXH3-64 over the whole page with that field 0; numbers are little-endian.
//
// Payload comes from tenants, who may put anything into it, also what looks like a header. So every
// page names the store's id (128 random bits that no client sees), its device, its segment's
// *sequence* (a number that a segment gets anew each time it is opened for writing) and its own
// offset: what a payload holds, or what a segment held in an earlier life, never parses.
//
// Everything read from disk is untrusted: parse_* check all lengths before they use one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "storage/block_store.h"
#include "storage/digest.h"

namespace sluice::storage {

inline constexpr std::uint32_t kFormatVersion = 1;
inline constexpr std::uint64_t kPageBytes = kIoAlign;
using Page = std::span<std::byte, kPageBytes>;
using ConstPage = std::span<const std::byte, kPageBytes>;

// What the file `device` says.
struct DeviceIdentity {
  StoreId store;
  std::uint32_t device = 0;  // its number in the store, the same in every run
  std::uint64_t segment_bytes = 0;
};

struct SegmentIdentity {
  StoreId store;
  std::uint32_t device = 0;
  std::uint32_t segment = 0;   // its number, which is its file's name
  std::uint64_t sequence = 0;  // of this life of it; larger than any before on the device
  friend bool operator==(const SegmentIdentity&, const SegmentIdentity&) = default;
};

void write_device_page(const DeviceIdentity& identity, Page page);
void write_segment_page(const SegmentIdentity& identity, Page page);
// Errors: version_mismatch (of a newer version), data_lost (anything else).
Result<DeviceIdentity> parse_device_page(ConstPage page);
Result<SegmentIdentity> parse_segment_page(ConstPage page);

// How a block is cut: parts of part_bytes, the last one perhaps shorter.
struct PartLayout {
  std::uint64_t block_bytes = 0;
  std::uint64_t part_bytes = 0;
  std::uint32_t parts = 0;
  // Of the part: the last one ends where the block does.
  std::uint64_t bytes_of(std::uint32_t part) const;
};

// part_bytes grows until the block has at most kMaxPartsPerBlock parts. block_bytes is a multiple
// of kIoAlign from kIoAlign to kMaxBlockBytes, part_bytes a multiple of kIoAlign.
PartLayout layout_of(std::uint64_t block_bytes, std::uint64_t part_bytes);

constexpr std::uint64_t record_bytes_of(std::uint64_t block_bytes) {
  return kPageBytes + block_bytes;
}

struct RecordFields {
  SegmentIdentity segment;
  std::uint64_t offset = 0;    // of the record in its segment
  std::uint64_t sequence = 0;  // grows with every record of the store
  std::uint64_t valid_bytes = 0;
  std::uint32_t written_s = 0;  // wall clock
  PartLayout layout;
  std::string_view encoded_namespace;
  std::span<const std::byte> key;
  std::span<const std::uint64_t> part_checksums;
};

void write_record_page(const RecordFields& fields, Page page);

// The views in the answer point into `page`, which is the caller's private memory.
// Errors: data_lost: not a record of this segment at this offset.
Result<RecordFields> parse_record_page(ConstPage page, const SegmentIdentity& segment,
                                       std::uint64_t offset, std::uint64_t segment_bytes);

// Of one part, piece by piece in order.
class PartChecksum {
 public:
  PartChecksum();
  ~PartChecksum();
  PartChecksum(PartChecksum&&) = delete;
  void add(std::span<const std::byte> piece);
  std::uint64_t value() const;
  void restart();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::uint64_t checksum_of(std::span<const std::byte> part);

}  // namespace sluice::storage
