#include "storage/recovery.h"

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <utility>

#include "ipc/kill_point.h"
#include "storage/bytes.h"
#include "storage/segment_scan.h"

namespace sluice::storage {
namespace {

// Segments, from the last one back, whose parts a replay verifies.
constexpr std::size_t kVerifiedSegments = 2;
// Entries of one batch of the index.
constexpr std::size_t kIndexBatch = 4096;

class Recovery {
 public:
  Recovery(std::vector<OpenedDevice>& devices, Index& index, Catalog& catalog)
      : devices_(devices), index_(index), catalog_(catalog) {}

  Result<Recovered> run() {
    SLUICE_KILL_POINT("store.recovery.begun");
    auto loaded = index_.load();
    if (!loaded) return std::unexpected(loaded.error());
    out_.written = loaded->written;
    out_.dropped_records += loaded->unreadable;
    for (OpenedDevice& device : devices_) {
      if (!device.usable()) continue;
      catalog_.add_device(device.identity->device, device.segments.count);
      by_number_[device.identity->device] = &device;
    }
    std::ranges::sort(loaded->tenants);
    for (const auto& [number, name] : loaded->tenants) catalog_.restore_tenant(number, name);
    for (const auto& [number, checkpoint] : loaded->checkpoints) {
      if (const auto device = by_number_.find(number); device != by_number_.end()) {
        device->second->checkpoint = checkpoint;
      }
    }
    if (Status known = restore_known(loaded->entries); !known) {
      return std::unexpected(known.error());
    }
    for (const auto& [number, device] : by_number_) {
      if (Status replayed = replay(*device); !replayed) return std::unexpected(replayed.error());
    }
    if (Status synced = index_.sync(); !synced) return std::unexpected(synced.error());
    SLUICE_KILL_POINT("store.recovery.ended");
    return out_;
  }

 private:
  Status restore_known(std::vector<IndexEntry>& entries) {
    std::ranges::sort(entries, {}, [](const IndexEntry& entry) {
      return std::pair(entry.last_use_s, entry.sequence);
    });
    IndexBatch stale;
    for (const IndexEntry& entry : entries) {
      out_.next_sequence = std::max(out_.next_sequence, entry.sequence + 1);
      const auto device = by_number_.find(entry.device);
      if (device == by_number_.end()) continue;  // it may come back
      if (is_there(*device->second, entry)) {
        catalog_.restore(entry);
      } else {
        ++out_.dropped_records;
        stale.deletes.push_back(entry.digest);
      }
    }
    return stale.deletes.empty() ? Status{} : index_.write(stale);
  }

  // Bytes from a disk: everything that the store relies on later is checked here.
  bool is_there(const OpenedDevice& device, const IndexEntry& entry) const {
    const Segments::Config& segments = device.segments;
    if (entry.segment >= segments.count || !catalog_.has_tenant(entry.tenant)) return false;
    if (segments.sequences[entry.segment] != entry.segment_sequence) return false;
    return is_possible(entry, segments.identity.segment_bytes);
  }

  Status replay(OpenedDevice& device) {
    const Segments::Config& segments = device.segments;
    std::vector<std::uint32_t> unknown;  // with records behind the checkpoint, oldest first
    for (std::uint32_t segment = 0; segment < segments.count; ++segment) {
      if (segments.sequences[segment] == 0) continue;
      if (segments.sequences[segment] >= device.checkpoint.segment_sequence) {
        unknown.push_back(segment);
      }
    }
    std::ranges::sort(unknown, {}, [&](std::uint32_t s) { return segments.sequences[s]; });
    for (std::size_t i = 0; i < unknown.size(); ++i) {
      const ScanParts parts =
          i + kVerifiedSegments >= unknown.size() ? ScanParts::verify : ScanParts::headers_only;
      if (Status done = replay_segment(device, unknown[i], parts); !done) return done;
    }
    return {};
  }

  Status replay_segment(OpenedDevice& device, std::uint32_t segment, ScanParts parts) {
    const Segments::Config& segments = device.segments;
    const std::uint64_t sequence = segments.sequences[segment];
    const bool has_checkpoint = sequence == device.checkpoint.segment_sequence;
    const std::uint64_t from =
        has_checkpoint ? std::max(device.checkpoint.offset, kPageBytes) : kPageBytes;
    if (has_checkpoint && device.checkpoint.clean) {
      device.segments.tail = SegmentTail{segment, from};
      return {};
    }
    const auto opened = open_segment(segments.directory, segment, false);
    if (!opened) return {};  // its blocks are misses
    IndexBatch batch;
    batch.device = segments.identity.device;
    Status told;
    const SegmentIdentity identity{segments.identity.store, segments.identity.device, segment,
                                   sequence};
    const auto scanned = scan_segment(opened->file.fd(), identity, segments.identity.segment_bytes,
                                      from, parts, [&](const ScannedRecord& record) {
                                        take(record, batch);
                                        if (batch.puts.size() < kIndexBatch || !told) return;
                                        told = index_.write(batch);
                                        batch.puts.clear();
                                      });
    if (!told) return told;
    if (!scanned) return {};
    SLUICE_KILL_POINT("store.recovery.replaying");
    device.checkpoint = {sequence, scanned->end, false};
    device.segments.tail = SegmentTail{segment, scanned->end};
    batch.checkpoint = device.checkpoint;
    auto replayed = index_.write(batch);
    SLUICE_KILL_POINT("store.recovery.replayed");
    return replayed;
  }

  void take(const ScannedRecord& record, IndexBatch& batch) {
    const RecordFields& fields = record.fields;
    const auto scope = decode_namespace(as_bytes(fields.encoded_namespace));
    if (!record.intact || !scope) {
      ++out_.dropped_records;
      return;
    }
    out_.next_sequence = std::max(out_.next_sequence, fields.sequence + 1);
    IndexEntry entry;
    entry.digest = digest_of(fields.segment.store, fields.encoded_namespace, fields.key);
    entry.sequence = fields.sequence;
    entry.segment_sequence = fields.segment.sequence;
    entry.device = fields.segment.device;
    entry.segment = fields.segment.segment;
    entry.offset_pages = static_cast<std::uint32_t>(fields.offset / kIoAlign);
    entry.block_pages = static_cast<std::uint32_t>(fields.layout.block_bytes / kIoAlign);
    entry.part_pages = static_cast<std::uint32_t>(fields.layout.part_bytes / kIoAlign);
    entry.valid_bytes = static_cast<std::uint32_t>(fields.valid_bytes);
    entry.last_use_s = fields.written_s;
    const Catalog::TenantNumber tenant = catalog_.tenant(scope->tenant);
    entry.tenant = tenant.number;
    if (tenant.is_new) static_cast<void>(index_.put_tenant(tenant.number, scope->tenant));
    if (!catalog_.restore(entry)) return;
    ++out_.recovered_blocks;
    batch.puts.push_back(entry);
  }

  std::vector<OpenedDevice>& devices_;
  Index& index_;
  Catalog& catalog_;
  std::unordered_map<std::uint32_t, OpenedDevice*> by_number_;
  Recovered out_;
};

}  // namespace

Result<Recovered> recover(std::vector<OpenedDevice>& devices, Index& index, Catalog& catalog) {
  return Recovery(devices, index, catalog).run();
}

}  // namespace sluice::storage
