#include "storage/check.h"

#include <fcntl.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "storage/bytes.h"
#include "storage/catalog.h"
#include "storage/device_directory.h"
#include "storage/segment_scan.h"

namespace sluice::storage {
namespace {

class Check {
 public:
  Check(const StoreImage& image, const OnCheck& progress)
      : image_(image), progress_(progress), reader_(image) {}

  CheckReport run() {
    estimate();
    check_index();
    for (std::size_t i = 0; i < image_.devices.size(); ++i) check_device(i);
    check_entries();
    for (std::size_t i = 0; i < image_.devices.size(); ++i) scan_device(i);
    return std::move(report_);
  }

 private:
  Finding& add(FindingKind kind, std::string text) {
    Finding& finding = report_.findings.emplace_back();
    finding.kind = kind;
    finding.text = std::move(text);
    return finding;
  }

  void count(std::uint64_t bytes) {
    done_.done_bytes += bytes;
    done_.all_bytes = std::max(done_.all_bytes, done_.done_bytes);
    report_.read_bytes += bytes;
    if (progress_) progress_(done_);
  }

  void estimate() {
    for (const IndexEntry& entry : image_.index.entries) done_.all_bytes += record_bytes(entry);
    if (image_.index_fault.empty()) return;
    for (const DeviceImage& device : image_.devices) {
      for (const SegmentImage& segment : device.segments) done_.all_bytes += segment.file_bytes;
    }
  }

  void check_index() {
    if (!image_.index_fault.empty()) {
      add(FindingKind::index, image_.index_fault + "; a store makes it anew from the segments");
    }
    if (!image_.index_log_fault.empty()) {
      add(FindingKind::index_log,
          image_.index_log_fault + "; what it said is older than the blocks");
    }
    if (image_.index.unreadable > 0) {
      add(FindingKind::index_row,
          std::to_string(image_.index.unreadable) + " rows of the index do not parse");
    }
  }

  void check_device(std::size_t number) {
    const DeviceImage& device = image_.devices[number];
    if (!device.identity_fault.empty()) {
      add(FindingKind::device_page,
          device.identity_fault +
              (device.identity ? "; its segments say who it is" : "; nothing says who it is"))
          .device = number;
    }
    if (!device.identity) return;
    for (const SegmentImage& segment : device.segments) {
      ++report_.segments;
      const auto place = [&](Finding& finding) {
        finding.device = number;
        finding.segment = segment.number;
      };
      if (segment.sequence == 0 && !segment.blank) {
        place(add(FindingKind::segment_page, "its page does not say that it is this segment"));
      }
      if (segment.file_bytes < device.identity->segment_bytes) {
        Finding& finding = add(FindingKind::segment_short, "its file ends too early");
        place(finding);
        finding.offset = segment.file_bytes;
        finding.bytes = device.identity->segment_bytes - segment.file_bytes;
      }
    }
  }

  void check_entries() {
    for (const IndexEntry& entry : image_.index.entries) {
      known_.emplace(entry.digest, entry.sequence);
      const DeviceImage* device = image_.device(entry.device);
      if (device == nullptr) {
        ++report_.unchecked_blocks;
        continue;
      }
      ++report_.blocks;
      report_.bytes += record_bytes(entry);
      check_entry(*device, entry);
      count(record_bytes(entry));
    }
  }

  void check_entry(const DeviceImage& device, const IndexEntry& entry) {
    const SegmentImage* segment = device.segment(entry.segment);
    if (!is_possible(entry, device.identity->segment_bytes) ||
        !image_.tenants.contains(entry.tenant)) {
      lose(device, entry, FindingKind::entry, "no record can be as the index says");
    } else if (segment == nullptr) {
      lose(device, entry, FindingKind::segment_missing, "its segment's file is not there");
    } else if (segment->sequence == 0) {
      Finding& finding =
          lose(device, entry, FindingKind::segment_page, "its segment cannot be used");
      if (const auto fields = reader_.header(entry)) name(finding, *fields);
    } else if (segment->sequence != entry.segment_sequence) {
      lose(device, entry, FindingKind::stale_entry, "its segment was reused since");
    } else {
      check_record(device, entry);
    }
  }

  void check_record(const DeviceImage& device, const IndexEntry& entry) {
    const auto fields = reader_.header(entry);
    if (!fields) {
      const bool unread = fields.error().code != Errc::data_lost;
      lose(device, entry, unread ? FindingKind::unreadable : FindingKind::header,
           fields.error().text);
      return;
    }
    const std::vector<BadPart> bad = reader_.bad_parts(*fields, kMaxPartsPerBlock);
    if (bad.empty()) return;
    const bool unread = std::ranges::any_of(bad, &BadPart::unread);
    Finding& finding =
        lose(device, entry, unread ? FindingKind::unreadable : FindingKind::part,
             std::to_string(bad.size()) + " of " + std::to_string(fields->layout.parts) +
                 (unread ? " parts cannot be read" : " parts do not match"));
    name(finding, *fields);
    finding.offset = fields->offset + kPageBytes + bad.front().part * fields->layout.part_bytes;
    finding.bytes = 0;
    for (const BadPart& part : bad) finding.bytes += fields->layout.bytes_of(part.part);
  }

  Finding& lose(const DeviceImage& device, const IndexEntry& entry, FindingKind kind,
                std::string text) {
    Finding& finding = add(kind, std::move(text));
    finding.device = static_cast<std::size_t>(&device - image_.devices.data());
    finding.segment = entry.segment;
    finding.offset = std::uint64_t{entry.offset_pages} * kIoAlign;
    finding.digest = entry.digest;
    finding.bytes = record_bytes(entry);
    finding.loses_block = true;
    ++report_.lost_blocks;
    report_.lost_bytes += record_bytes(entry);
    return finding;
  }

  static void name(Finding& finding, const RecordFields& fields) {
    finding.scope = decode_namespace(as_bytes(fields.encoded_namespace));
    finding.key = as_text(fields.key);
  }

  // What is behind the checkpoint; all of it if there is no index.
  void scan_device(std::size_t number) {
    const DeviceImage& device = image_.devices[number];
    if (!device.identity) return;
    for (const SegmentImage& segment : device.segments) {
      if (segment.sequence == 0 || segment.sequence < device.checkpoint.segment_sequence) continue;
      const bool last = segment.sequence == device.checkpoint.segment_sequence;
      const std::uint64_t from = last ? std::max(device.checkpoint.offset, kPageBytes) : kPageBytes;
      if (from % kIoAlign != 0 || from >= device.identity->segment_bytes) continue;
      scan(number, segment, from, last && device.checkpoint.clean);
    }
  }

  void scan(std::size_t number, const SegmentImage& segment, std::uint64_t from, bool closed) {
    const DeviceImage& device = image_.devices[number];
    const auto opened = open_file(device.directory / segment_name(segment.number), O_RDONLY);
    const std::uint64_t segment_bytes = device.identity->segment_bytes;
    const auto take = [&](const ScannedRecord& record) {
      take_scanned(number, segment, record, closed);
    };
    // One that cannot be read at all was told when it was listed, or its blocks were.
    if (opened) {
      static_cast<void>(scan_segment(opened->file.fd(), device.identity_of(segment), segment_bytes,
                                     from, ScanParts::verify, take));
    }
    count(segment_bytes - from);
  }

  // `closed`: nothing was being written when the index was told last, so that what is torn here is
  // what a store before it left behind.
  void take_scanned(std::size_t number, const SegmentImage& segment, const ScannedRecord& record,
                    bool closed) {
    const RecordFields& fields = record.fields;
    const Digest digest = digest_of(image_.store, fields.encoded_namespace, fields.key);
    const auto known = known_.find(digest);
    const bool is_known = known != known_.end() && known->second >= fields.sequence;
    const std::uint64_t bytes = record_bytes_of(fields.layout.block_bytes);
    const bool has_index = image_.index_fault.empty();
    if (record.intact && !has_index) {
      ++report_.blocks;
      report_.bytes += bytes;
    }
    if (is_known || (record.intact ? !has_index : closed)) return;
    Finding& finding =
        record.intact ? add(FindingKind::unindexed, "it is whole, and the index does not know it")
                      : add(FindingKind::torn, "its parts do not match, and no index knows it");
    finding.device = number;
    finding.segment = segment.number;
    finding.offset = fields.offset;
    finding.bytes = bytes;
    name(finding, fields);
  }

  const StoreImage& image_;
  const OnCheck& progress_;
  ImageReader reader_;
  CheckReport report_;
  CheckProgress done_;
  std::unordered_map<Digest, std::uint64_t, DigestHash> known_;
};

}  // namespace

std::string_view word_for(FindingKind kind) {
  switch (kind) {
    case FindingKind::device_page:
      return "device_page";
    case FindingKind::index:
      return "index";
    case FindingKind::index_log:
      return "index_log";
    case FindingKind::index_row:
      return "index_row";
    case FindingKind::segment_page:
      return "segment_page";
    case FindingKind::segment_short:
      return "segment_short";
    case FindingKind::segment_missing:
      return "segment_missing";
    case FindingKind::entry:
      return "entry";
    case FindingKind::stale_entry:
      return "stale_entry";
    case FindingKind::header:
      return "header";
    case FindingKind::part:
      return "part";
    case FindingKind::unreadable:
      return "unreadable";
    case FindingKind::unindexed:
      return "unindexed";
    case FindingKind::torn:
      return "torn";
  }
  return "?";
}

CheckReport check(const StoreImage& image, const OnCheck& progress) {
  return Check(image, progress).run();
}

}  // namespace sluice::storage
