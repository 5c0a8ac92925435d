// A store that nobody runs, as it lies on its disks: for what checks, counts and lists it.
//
// Nothing is changed: files are opened to be read, the index as well, and nothing is recovered. The
// directories stay locked while the image is there, so that no store can start.
//
// Thread-safety: none; one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "storage/file.h"
#include "storage/index.h"
#include "storage/record.h"
#include "storage/segment_window.h"

namespace sluice::storage {

struct StoreLocation {
  std::vector<std::filesystem::path> directories;  // of the devices
  std::filesystem::path index_directory;           // empty: "index" in the first of them
};

struct SegmentImage {
  std::uint32_t number = 0;
  std::uint64_t sequence = 0;  // 0: nothing in it can be used
  std::uint64_t file_bytes = 0;
  bool blank = false;  // its page is zeros: it is new, or was given back
};

struct DeviceImage {
  std::filesystem::path directory;
  File lock;
  // nullopt: `device` does not parse, and the segments do not say either.
  std::optional<DeviceIdentity> identity;
  std::string identity_fault;          // not empty: `device` does not parse; why
  std::vector<SegmentImage> segments;  // by number
  Checkpoint checkpoint;               // that the index has

  const SegmentImage* segment(std::uint32_t number) const;  // null: there is no such file
  SegmentIdentity identity_of(const SegmentImage& segment) const;
};

struct StoreImage {
  StoreId store;
  std::vector<DeviceImage> devices;
  std::filesystem::path index_directory;
  std::string index_fault;      // not empty: the index cannot be used; why. It is empty here then
  std::string index_log_fault;  // not empty: its newest changes cannot be read
  Index::Loaded index;          // entries by device, segment and offset
  std::map<std::uint32_t, std::string> tenants;

  const DeviceImage* device(std::uint32_t number) const;  // null: it was not given
};

// `look`: several may. `repair`: nobody else looks.
enum class Access : bool { look, repair };

// Errors: not_found (there is no store in a directory), address_in_use (a store runs on it),
// bad_config (devices of two stores, a device twice), version_mismatch, io_error.
Result<StoreImage> open_image(const StoreLocation& location, Access access);

// How to run the store of an image: each device as large as what is on it, so that nothing is cut
// off, and cleaning only when asked.
StoreConfig config_of(const StoreImage& image);

// Reads records of an image; fast where they come in the order of the index's entries.
class ImageReader {
 public:
  explicit ImageReader(const StoreImage& image);

  // The header of an entry's record, which is that of its block. The views are valid until the next
  // call. Errors: not_found (no such device or segment), data_lost (no record there, or another
  // one), io_error (it cannot be read).
  Result<RecordFields> header(const IndexEntry& entry);
  // Of the record whose header was read last: its parts that do not match, at most `most`.
  std::vector<BadPart> bad_parts(const RecordFields& fields, std::size_t most);
  // The valid bytes of an entry's block, piece by piece, each of a part that was verified.
  // Errors: as header(), and those of `take`.
  using Take = std::function<Status(std::span<const std::byte>)>;
  Status payload(const IndexEntry& entry, const Take& take);

 private:
  Status open(const IndexEntry& entry);

  const StoreImage& image_;
  const DeviceImage* device_ = nullptr;
  std::optional<std::uint32_t> segment_;
  File file_;
  AlignedMemory page_;
  std::optional<SegmentWindow> window_;
};

}  // namespace sluice::storage
