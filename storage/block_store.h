// The NVMe tier: sealed blocks in log-structured segments of files, found by an index.
//
// A block is named by (namespace, key). It is written once, whole, as a record of a header and
// 4 KiB-aligned *parts*, each with a checksum of its own, so that one page does not cost the whole
// block. A record is appended to the open segment of one of the devices; when it is durable (data
// synced), the index is told; only then the block exists. So the index never knows of a block that
// the disk may lose, and what the disk has and the index does not know is found again by reading
// the tails of the segments (recovery). A wrong byte is worse than any miss: every read verifies
// every part, by checksums of a header (namespace, key, sequence number) that was verified then or
// lately; what does not match is a miss (data_lost), counted, and forgotten.
//
// The store is a cache: it may drop any block to make room (the coldest of its tenant first), and
// says so by not finding it later. Not one that is held: for a block that somebody counts on and
// that is nowhere else. A store that is full of these refuses writes.
//
// Work is asynchronous. Each device has a thread that owns its io engine, its open segment and its
// queue; requests are served by class (IoClass), inside a class by tenant weight. Completions run
// on that thread: they only pass the news on.
//
// Thread-safety: any thread, except open and the destructor. A completion may call the store.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "storage/io_engine.h"

namespace sluice::storage {

inline constexpr std::size_t kMaxKeyBytes = 64;
inline constexpr std::size_t kMaxNamespaceBytes = 2048;  // of all its words together
inline constexpr std::uint32_t kMaxPartsPerBlock = 192;  // their checksums fit into the header
inline constexpr std::uint64_t kMaxBlockBytes = std::uint64_t{1} << 30;
inline constexpr std::uint32_t kMaxNamespaces = 1u << 16;  // known to a running store
inline constexpr std::uint32_t kMaxDevices = 64;
inline constexpr std::uint64_t kMinSegmentBytes = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kMaxSegmentBytes = std::uint64_t{1} << 36;

// The scope of keys on disk, as in memory. Words are compared whole; the store does not look into
// them. `layout` and `shard` are texts that say everything that must agree.
struct Namespace {
  std::string tenant;
  std::string model;
  std::string salt;
  std::string layout;
  std::string shard;
  friend bool operator==(const Namespace&, const Namespace&) = default;
};

// A namespace's number in this run of the store.
struct NamespaceId {
  std::uint32_t value = 0;
  friend auto operator<=>(NamespaceId, NamespaceId) = default;
};

// Served in this order.
enum class IoClass : std::uint8_t { must_have, forecast, write_back, cleaning };
inline constexpr std::size_t kIoClasses = 4;

struct DeviceConfig {
  std::filesystem::path directory;   // its segments are files in it; made if it is not there
  std::uint64_t capacity_bytes = 0;  // that segments may take in all; one more if cleaning must
};

struct TenantConfig {
  std::string name;
  std::uint64_t limit_bytes = 0;  // of records on all devices; 0: the whole store
  double weight = 1;              // above 0; of what a device serves while others want it, too
};

// What cleaning may do on its own.
enum class Cleaning : bool {
  as_needed,   // moves and drops blocks so that there is always space
  when_asked,  // compact() alone moves blocks, and nothing drops them, nor has anybody a limit: for
               // tools, and for who has holds to place first
};

using EngineFactory = std::function<Result<std::unique_ptr<IoEngine>>(std::size_t device)>;

struct StoreConfig {
  std::vector<DeviceConfig> devices;
  std::filesystem::path index_directory;  // empty: "index" in the first device's directory
  std::vector<TenantConfig> tenants;      // others may use the whole store, with weight 1
  std::uint64_t segment_bytes = std::uint64_t{256} << 20;
  std::uint64_t part_bytes = std::uint64_t{64} << 10;  // a multiple of kIoAlign; larger if needed
  IoKind io = IoKind::automatic;
  std::uint32_t depth = 64;                            // requests of a device in flight
  std::uint64_t queue_bytes = std::uint64_t{1} << 30;  // of write_back waiting or in flight
  std::uint64_t write_bytes_per_day = 0;               // 0: no bound
  std::uint32_t device_error_budget = 64;  // io errors in ten minutes, until it is taken out
  std::chrono::milliseconds stall_timeout{30'000};  // of one request, until it is taken out
  Cleaning cleaning = Cleaning::as_needed;
  // For tests: stands in for make_io_engine.
  EngineFactory engine;
};

// What the caller knows of a block that it writes. A device wears out by what is written to it:
// blocks that nobody has asked for a second time yet do not take all that may be written in a day.
enum class Reuse : std::uint8_t { unlikely, likely };

// Whether a block that is written is held from then on (BlockStore::hold).
enum class Hold : bool { no, yes };

// What a caller keeps of a block that was found: enough to read it without asking the index again.
// Its record may be moved or dropped meanwhile; a read by a stale one is a miss and never a wrong
// byte.
struct StoredBlock {
  std::uint32_t device = 0;
  std::uint32_t segment = 0;
  std::uint64_t offset = 0;
  std::uint64_t sequence = 0;
  std::uint64_t block_bytes = 0;  // payload, parts padded to kIoAlign behind the last
  std::uint64_t valid_bytes = 0;  // as written
};

// ok: it is done. Of writes, ok means durable. Errors:
//   not_found       no such block (any more)
//   data_lost       the record does not match its checksums; the block is forgotten
//   io_error        the device answered with an error; the text has its words
//   limit_reached   a bound of the store: queue_bytes, write_bytes_per_day
//   busy            what is left of today's bytes is for blocks that are likelier to be read again
//   quota_exceeded  the tenant's limit, and nothing of its that may be dropped
//   no_memory       the devices are full, and nothing could be dropped
//   shutting_down
using Done = std::move_only_function<void(Status)>;

struct DeviceStats {
  std::filesystem::path directory;
  std::string engine;      // "io_uring", "threads"
  std::string engine_why;  // why not io_uring
  bool taken_out = false;
  std::string taken_out_why;
  std::uint64_t capacity_bytes = 0;
  bool direct = false;              // past the page cache
  std::uint64_t segment_count = 0;  // that exist
  std::uint64_t segment_bytes = 0;  // of one
  std::uint64_t live_bytes = 0;     // of records that the index knows
  std::uint64_t read_bytes = 0, written_bytes = 0, cleaned_bytes = 0;
  std::uint64_t freed_segments = 0;  // by cleaning
  std::uint64_t io_errors = 0, checksum_errors = 0, syncs = 0;
  std::uint64_t queued = 0, in_flight = 0;
};

struct TenantStats {
  std::string name;
  std::uint64_t limit_bytes = 0;  // the capacity of all devices, if it has none of its own
  double weight = 1;
  std::uint64_t blocks = 0, live_bytes = 0;
  std::uint64_t held_bytes = 0;  // of these: that may not be dropped
  std::uint64_t written_bytes = 0, read_bytes = 0;
  std::uint64_t dropped_blocks = 0;  // to make room
  std::uint64_t refused_writes = 0;
  std::uint64_t lost_blocks = 0;  // did not match their checksums, or could not be read
};

struct StoreStats {
  std::uint64_t blocks = 0;
  std::vector<DeviceStats> devices;
  std::vector<TenantStats> tenants;
  std::uint64_t recovered_blocks = 0;  // at open: that the index did not know
  std::uint64_t dropped_records = 0;   // at open: torn or stale
  double open_seconds = 0;
};

class BlockStore {
 public:
  // Opens or makes the store, and recovers it. One process at a time (a lock file says so).
  // Errors: bad_config, address_in_use (another process has it), version_mismatch (made by a
  // newer version), io_error. A device that cannot be opened is taken out, if another one can.
  static Result<std::unique_ptr<BlockStore>> open(StoreConfig config);

  // Finishes what is in flight and answers the rest with shutting_down. Index and data are synced.
  ~BlockStore();

  // The number of a namespace; the same for equal ones. Errors: invalid_argument (too long),
  // limit_reached (kMaxNamespaces).
  Result<NamespaceId> intern(const Namespace& scope);

  // One entry per key, in order: the block, if it exists. A look-up costs microseconds while the
  // index is in its cache, else a read of the index; counts as a use of what it finds.
  // Errors: io_error (of the index).
  Result<std::vector<std::optional<StoredBlock>>> find(
      NamespaceId scope, std::span<const std::span<const std::byte>> keys);

  struct HeldBlock {
    StoredBlock block;
    bool newly = false;  // it was not held before
  };
  // The blocks that exist of `keys` one after the other, from the first on; they are held from then
  // on, as by hold(). Errors: invalid_argument.
  Result<std::vector<HeldBlock>> find_and_hold(NamespaceId scope,
                                               std::span<const std::span<const std::byte>> keys);

  // Reads bytes [offset, offset + to.size()) of the block, both multiples of kIoAlign (the range
  // may end at the padded end of the block). Reads the parts that these lie in and verifies them.
  // `to` is aligned to kIoAlign and stays valid until `done`; what is in it after an error is
  // unspecified. If a client can write into `to` meanwhile, that is its own payload's fault, and
  // the answer is still ok or not by what the disk holds.
  void read(NamespaceId scope, std::span<const std::byte> key, const StoredBlock& block,
            std::uint64_t offset, std::span<std::byte> to, IoClass io_class, Done done);

  // Somebody waits now for a block of which a read was asked for as a forecast: if it has not begun
  // yet, it goes on as a must-have. Nothing to do for a block that is not being read.
  void hurry(NamespaceId scope, std::span<const std::byte> key);

  // Writes a block. `payload` is aligned to kIoAlign, its size a multiple of it; it stays valid
  // until `done`, and the store copies it before it computes checksums. A block that exists with
  // the same valid_bytes is left as it is: ok. A key that is being written already is answered
  // when that write ends. Once half of write_bytes_per_day is written, blocks that are unlikely
  // to be read again are not.
  void write(NamespaceId scope, std::span<const std::byte> key, std::span<const std::byte> payload,
             std::uint64_t valid_bytes, IoClass io_class, Done done, Reuse reuse = Reuse::likely,
             Hold hold = Hold::no);

  // The block is not dropped to make room until it is let go of, once, by whomever; holds do not
  // outlive the store. What cannot be read, or is on a device that is taken out, is lost all the
  // same. Errors: not_found, invalid_argument.
  Status hold(NamespaceId scope, std::span<const std::byte> key);
  // Nothing to do for a block that is not held, or does not exist.
  void let_go(NamespaceId scope, std::span<const std::byte> key);

  // The block does not exist from now on; reads of it that began may still end well.
  Status forget(NamespaceId scope, std::span<const std::byte> key);

  // What a tenant may have from now on, also one that nobody knows yet. Beyond a lower limit its
  // coldest blocks are dropped before this returns, a few at a time: others are served meanwhile,
  // and writes of this tenant refused (quota_exceeded). What is being written cannot be dropped
  // before it ends, nor what is held before it is let go of. The weight is of requests that come
  // later. Errors: bad_config (the weight).
  Status set_tenant(const TenantConfig& tenant);

  // Of a store that was opened with Cleaning::when_asked: limits hold from now on, as by
  // set_tenant(), and it is cleaned as needed.
  void clean_as_needed();

  // Moves the blocks out of segments of which less than `least_live` (0 to 1) is alive, and gives
  // these segments back; one that was begun before is taken once at most. Drops nothing. `done`
  // comes when all devices have none left; stats() tell how far it is (cleaned_bytes,
  // freed_segments). Errors: invalid_argument, busy (it is being done), no_memory (no segment is
  // free to move blocks into), io_error.
  void compact(double least_live, Done done);

  // Waits until everything that was asked for before is answered. Errors: timed_out.
  Status drain(std::chrono::milliseconds timeout);

  StoreStats stats() const;

 private:
  struct Impl;
  explicit BlockStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::storage
