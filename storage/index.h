// What survives a restart of who is where: RocksDB from a block's digest to its record.
//
// A running store looks blocks up in its catalog (catalog.h), which open() fills from here; so
// nothing is read from the index afterwards, and a batch is written per group commit. A batch holds
// the new entries of one device and its *checkpoint*: up to where in which segment the entries are
// complete. RocksDB recovers to a point in time, so after a power loss the index is old but never
// disagrees with its own checkpoint, and recovery reads the segments from there. A batch is
// therefore not synced; sync() comes before any segment is given away or reused.
//
// Keys: "meta"; "written" (bytes of a day); "c" + device; "t" + tenant; "b" + digest.
//
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "storage/digest.h"

namespace sluice::storage {

// Where a block's record is. Lengths in pages of kIoAlign fit into 32 bits, and so does a segment.
struct IndexEntry {
  Digest digest;
  std::uint64_t sequence = 0;
  std::uint64_t segment_sequence = 0;
  std::uint32_t device = 0;  // its number in the store
  std::uint32_t segment = 0;
  std::uint32_t offset_pages = 0;
  std::uint32_t block_pages = 0;
  std::uint32_t part_pages = 0;
  std::uint32_t valid_bytes = 0;
  std::uint32_t tenant = 0;
  std::uint32_t last_use_s = 0;  // wall clock
  bool used = false;             // since its record was written
};

// Whether a record can be where and as long as it says, in a segment of that size. What comes from
// a disk may say anything.
bool is_possible(const IndexEntry& entry, std::uint64_t segment_bytes);

// Records of the device before (segment_sequence, offset) are in the index.
struct Checkpoint {
  std::uint64_t segment_sequence = 0;
  std::uint64_t offset = 0;
  bool clean = false;  // the store was closed: there is nothing behind it
};

struct DayBytes {
  std::uint32_t day = 0;  // since 1970
  std::uint64_t bytes = 0;
};

struct IndexBatch {
  std::vector<Digest> deletes;  // before the puts
  std::vector<IndexEntry> puts;
  std::uint32_t device = 0;
  std::optional<Checkpoint> checkpoint;
  std::optional<DayBytes> written;
};

class Index {
 public:
  // Opens it, or makes an empty one. Errors: data_lost (corrupt), io_error, version_mismatch.
  static Result<std::unique_ptr<Index>> open(const std::filesystem::path& directory);
  // Opens one that no store runs on, and changes nothing in its directory: write() and its like are
  // errors then. Errors: not_found (there is none), and as open().
  enum class Log : bool {
    as_far_as_it_goes,  // as open(): what is behind damage in its log is passed over
    undamaged,          // data_lost: its log is damaged
  };
  static Result<std::unique_ptr<Index>> open_to_read(const std::filesystem::path& directory,
                                                     Log log);
  // Renames a corrupt one to "<directory>.corrupt", so that the next open() makes a new one, which
  // recovery fills from the segments.
  static Status set_aside(const std::filesystem::path& directory);
  ~Index();

  // nullopt: a new index.
  std::optional<StoreId> store() const;
  Status set_store(const StoreId& store);

  // Errors: data_lost, io_error. Entries that do not parse are left out and counted.
  struct Loaded {
    std::vector<IndexEntry> entries;
    std::vector<std::pair<std::uint32_t, std::string>> tenants;
    std::vector<std::pair<std::uint32_t, Checkpoint>> checkpoints;  // by device
    DayBytes written;
    std::uint64_t unreadable = 0;
  };
  Result<Loaded> load() const;

  // Every byte of its tables matches their checksums. Errors: data_lost, io_error.
  Status verify() const;

  // Numbers of the devices that have a checkpoint.
  Result<std::vector<std::uint32_t>> devices() const;

  Status write(const IndexBatch& batch);
  Status put_tenant(std::uint32_t tenant, const std::string& name);
  // What was written before is durable.
  Status sync();

 private:
  struct Impl;
  explicit Index(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::storage
