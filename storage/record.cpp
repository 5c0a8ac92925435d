#include "storage/record.h"

#include <xxhash.h>
#if __has_include(<xxh_x86dispatch.h>) && defined(__x86_64__)
#include <xxh_x86dispatch.h>  // the same functions, with the widest vectors of this processor
#endif

#include <algorithm>
#include <cstring>
#include <string>

#include "storage/bytes.h"

namespace sluice::storage {
namespace {

constexpr std::uint64_t kDeviceMagic = 0x3156454449554c53;   // "SLUIDEV1"
constexpr std::uint64_t kSegmentMagic = 0x3147455349554c53;  // "SLUISEG1"
constexpr std::uint64_t kRecordMagic = 0x3143455249554c53;   // "SLUIREC1"

// Every page begins like this.
struct PageHead {
  std::uint64_t magic;
  std::uint64_t checksum;
  std::uint32_t version;
  std::uint32_t device;
  std::uint64_t store_high;
  std::uint64_t store_low;
};

struct DevicePage {
  PageHead head;
  std::uint64_t segment_bytes;
  std::byte zero[kPageBytes - sizeof(PageHead) - 8];
};

struct SegmentPage {
  PageHead head;
  std::uint64_t sequence;
  std::uint32_t segment;
  std::byte zero[kPageBytes - sizeof(PageHead) - 12];
};

struct RecordPage {
  PageHead head;
  std::uint64_t segment_sequence;
  std::uint64_t offset;
  std::uint64_t sequence;
  std::uint64_t block_bytes;
  std::uint64_t valid_bytes;
  std::uint64_t part_bytes;
  std::uint32_t segment;
  std::uint32_t parts;
  std::uint32_t namespace_bytes;
  std::uint32_t key_bytes;
  std::uint32_t written_s;
  std::uint32_t zero;
  std::byte key[kMaxKeyBytes];
  std::uint64_t part_checksums[kMaxPartsPerBlock];
  std::byte
      encoded_namespace[kPageBytes - sizeof(PageHead) - 72 - kMaxKeyBytes - kMaxPartsPerBlock * 8];
};

static_assert(sizeof(DevicePage) == kPageBytes && sizeof(SegmentPage) == kPageBytes &&
              sizeof(RecordPage) == kPageBytes);
static_assert(sizeof(RecordPage::encoded_namespace) >= kMaxEncodedNamespaceBytes);

std::uint64_t page_checksum(ConstPage page) {
  std::byte copy[kPageBytes];
  std::ranges::copy(page, copy);
  std::memset(copy + offsetof(PageHead, checksum), 0, sizeof(PageHead::checksum));
  return XXH3_64bits(copy, sizeof copy);
}

PageHead head_of(std::uint64_t magic, const StoreId& store, std::uint32_t device) {
  return {magic, 0, kFormatVersion, device, store.high, store.low};
}

template <class Raw>
void seal(Raw& raw, Page page) {
  std::memcpy(page.data(), &raw, kPageBytes);
  const std::uint64_t checksum = page_checksum(page);
  std::memcpy(page.data() + offsetof(PageHead, checksum), &checksum, sizeof checksum);
}

Status check_head(ConstPage page, std::uint64_t magic, const char* what) {
  PageHead head;
  std::memcpy(&head, page.data(), sizeof head);
  if (head.magic != magic) return ipc::fail(Errc::data_lost, std::string("not ") + what);
  if (page_checksum(page) != head.checksum) {
    return ipc::fail(Errc::data_lost, std::string(what) + " does not match its checksum");
  }
  if (head.version > kFormatVersion) {
    return ipc::fail(Errc::version_mismatch,
                     std::string(what) + " has version " + std::to_string(head.version) +
                         ", this program knows up to " + std::to_string(kFormatVersion));
  }
  if (head.version == 0) return ipc::fail(Errc::data_lost, std::string(what) + " has version 0");
  return {};
}

std::unexpected<Error> wrong_record(const char* why) {
  return ipc::fail(Errc::data_lost, std::string("a record's header: ") + why);
}

bool lengths_fit(const RecordPage& raw, std::uint64_t offset, std::uint64_t segment_bytes) {
  if (raw.key_bytes == 0 || raw.key_bytes > kMaxKeyBytes) return false;
  if (raw.namespace_bytes > kMaxEncodedNamespaceBytes) return false;
  if (raw.block_bytes == 0 || raw.block_bytes > kMaxBlockBytes) return false;
  if (raw.block_bytes % kIoAlign != 0 || raw.valid_bytes > raw.block_bytes) return false;
  if (raw.part_bytes == 0 || raw.part_bytes > kMaxBlockBytes) return false;
  if (raw.part_bytes % kIoAlign != 0 || raw.parts > kMaxPartsPerBlock) return false;
  if ((raw.block_bytes + raw.part_bytes - 1) / raw.part_bytes != raw.parts) return false;
  return offset <= segment_bytes && record_bytes_of(raw.block_bytes) <= segment_bytes - offset;
}

}  // namespace

void write_device_page(const DeviceIdentity& identity, Page page) {
  DevicePage raw{};
  raw.head = head_of(kDeviceMagic, identity.store, identity.device);
  raw.segment_bytes = identity.segment_bytes;
  seal(raw, page);
}

void write_segment_page(const SegmentIdentity& identity, Page page) {
  SegmentPage raw{};
  raw.head = head_of(kSegmentMagic, identity.store, identity.device);
  raw.sequence = identity.sequence;
  raw.segment = identity.segment;
  seal(raw, page);
}

Result<DeviceIdentity> parse_device_page(ConstPage page) {
  if (const Status head = check_head(page, kDeviceMagic, "a device's page"); !head) {
    return std::unexpected(head.error());
  }
  DevicePage raw;
  std::memcpy(&raw, page.data(), kPageBytes);
  return DeviceIdentity{
      {raw.head.store_high, raw.head.store_low}, raw.head.device, raw.segment_bytes};
}

Result<SegmentIdentity> parse_segment_page(ConstPage page) {
  if (const Status head = check_head(page, kSegmentMagic, "a segment's page"); !head) {
    return std::unexpected(head.error());
  }
  SegmentPage raw;
  std::memcpy(&raw, page.data(), kPageBytes);
  return SegmentIdentity{
      {raw.head.store_high, raw.head.store_low}, raw.head.device, raw.segment, raw.sequence};
}

std::uint64_t PartLayout::bytes_of(std::uint32_t part) const {
  return std::min(part_bytes, block_bytes - part * part_bytes);
}

PartLayout layout_of(std::uint64_t block_bytes, std::uint64_t part_bytes) {
  const std::uint64_t least = (block_bytes + kMaxPartsPerBlock - 1) / kMaxPartsPerBlock;
  const std::uint64_t bytes = std::max(part_bytes, aligned_up(least));
  return {block_bytes, bytes, static_cast<std::uint32_t>((block_bytes + bytes - 1) / bytes)};
}

void write_record_page(const RecordFields& fields, Page page) {
  SLUICE_ASSERT(fields.part_checksums.size() == fields.layout.parts);
  SLUICE_ASSERT(fields.layout.parts <= kMaxPartsPerBlock && fields.key.size() <= kMaxKeyBytes);
  SLUICE_ASSERT(fields.encoded_namespace.size() <= kMaxEncodedNamespaceBytes);
  RecordPage raw{};
  raw.head = head_of(kRecordMagic, fields.segment.store, fields.segment.device);
  raw.segment_sequence = fields.segment.sequence;
  raw.offset = fields.offset;
  raw.sequence = fields.sequence;
  raw.block_bytes = fields.layout.block_bytes;
  raw.valid_bytes = fields.valid_bytes;
  raw.part_bytes = fields.layout.part_bytes;
  raw.segment = fields.segment.segment;
  raw.parts = fields.layout.parts;
  raw.namespace_bytes = static_cast<std::uint32_t>(fields.encoded_namespace.size());
  raw.key_bytes = static_cast<std::uint32_t>(fields.key.size());
  raw.written_s = fields.written_s;
  std::ranges::copy(fields.key, raw.key);
  std::ranges::copy(fields.part_checksums, raw.part_checksums);
  std::ranges::copy(as_bytes(fields.encoded_namespace), raw.encoded_namespace);
  seal(raw, page);
}

Result<RecordFields> parse_record_page(ConstPage page, const SegmentIdentity& segment,
                                       std::uint64_t offset, std::uint64_t segment_bytes) {
  if (const Status head = check_head(page, kRecordMagic, "a record's header"); !head) {
    return std::unexpected(Error{Errc::data_lost, head.error().text});
  }
  // The page is aligned as its type: it begins an aligned buffer.
  const auto& raw = *reinterpret_cast<const RecordPage*>(page.data());
  const SegmentIdentity named{{raw.head.store_high, raw.head.store_low},
                              raw.head.device,
                              raw.segment,
                              raw.segment_sequence};
  if (named != segment) return wrong_record("of another segment, or of an earlier life of this");
  if (raw.offset != offset) return wrong_record("of another place");
  if (!lengths_fit(raw, offset, segment_bytes)) return wrong_record("impossible lengths");

  RecordFields fields;
  fields.segment = segment;
  fields.offset = offset;
  fields.sequence = raw.sequence;
  fields.valid_bytes = raw.valid_bytes;
  fields.written_s = raw.written_s;
  fields.layout = {raw.block_bytes, raw.part_bytes, raw.parts};
  fields.encoded_namespace = as_text(std::span(raw.encoded_namespace).first(raw.namespace_bytes));
  fields.key = std::span(raw.key).first(raw.key_bytes);
  fields.part_checksums = std::span(raw.part_checksums).first(raw.parts);
  return fields;
}

struct PartChecksum::State {
  XXH3_state_t* hash = XXH3_createState();

  State() { SLUICE_ASSERT(hash != nullptr); }
  State(State&&) = delete;
  ~State() { XXH3_freeState(hash); }
};

PartChecksum::PartChecksum() : state_(std::make_unique<State>()) { restart(); }
PartChecksum::~PartChecksum() = default;

void PartChecksum::add(std::span<const std::byte> piece) {
  XXH3_64bits_update(state_->hash, piece.data(), piece.size());
}

std::uint64_t PartChecksum::value() const { return XXH3_64bits_digest(state_->hash); }

void PartChecksum::restart() { XXH3_64bits_reset(state_->hash); }

std::uint64_t checksum_of(std::span<const std::byte> part) {
  return XXH3_64bits(part.data(), part.size());
}

}  // namespace sluice::storage
