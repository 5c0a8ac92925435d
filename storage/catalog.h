// What the store knows of its blocks while it runs: which exist and where, whose they are, when
// they were used, and how much of each segment is still wanted.
//
// An entry takes about 100 bytes of memory. That is what RocksDB's cache would need for the same
// block, and buys look-ups of well under a microsecond, exact accounting per tenant and segment,
// and an order of use per tenant. The index follows (commit.h); what was dropped is told to it with
// the next batch.
//
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "storage/block_store.h"
#include "storage/digest_table.h"
#include "storage/index.h"

namespace sluice::storage {

// Bytes of a record on disk.
std::uint64_t record_bytes(const IndexEntry& entry);

// Uses that wait to be told to the index; more are forgotten.
inline constexpr std::size_t kMaxUses = 65536;

// Blocks beyond a limit that are dropped before others have their turn.
inline constexpr std::size_t kDropsPerTurn = 1024;

// A segment as far as the catalog knows: of its blocks that exist.
struct SegmentUse {
  std::uint64_t live_bytes = 0;
  std::uint64_t held_bytes = 0;  // of these: held
  std::uint64_t used_bytes = 0;  // of the others: used since they were written or moved
};

enum class Drop : std::uint8_t {
  forgotten,     // asked for
  to_make_room,  // never of held ones
  lost,
};

class Catalog {
 public:
  // The tenant's number: the same in every run, if it is told the ones of before first.
  struct TenantNumber {
    std::uint32_t number = 0;
    bool is_new = false;
  };
  TenantNumber tenant(const std::string& name);
  void restore_tenant(std::uint32_t number, const std::string& name);
  bool has_tenant(std::uint32_t number) const;
  double weight(std::uint32_t tenant) const;
  // What it may have from now on, 0: all; drop_excess() makes it so.
  void set_quota(std::uint32_t tenant, std::uint64_t limit_bytes, double weight);
  // Drops the coldest of the tenant that are beyond its limit, at most kDropsPerTurn. Whether there
  // are more.
  bool drop_excess(std::uint32_t tenant);

  void add_device(std::uint32_t device, std::uint32_t segments);
  // While the store opens, in ascending order of use. A newer record of a block wins.
  // false: it has a newer one.
  bool restore(const IndexEntry& entry);

  std::optional<IndexEntry> peek(const Digest& digest) const;
  // Each counts as a use.
  void find(std::span<const Digest> digests, std::uint32_t now_s,
            std::vector<std::optional<IndexEntry>>& found);
  struct Held {
    IndexEntry block;
    bool newly = false;  // it was not held before
  };
  // Those that exist one after the other, from the first on, which are held then; a use of each.
  std::vector<Held> find_and_hold(std::span<const Digest> digests, std::uint32_t now_s);

  enum class Begun : std::uint8_t {
    started,  // the caller writes it, and ends it with end_write
    exists,
    joined,  // another write of it has begun; `done` waits for its end
    refused  // the tenant's limit: what it drops would not do, or is being dropped already; or it
             // is to be held, and was dropped when its write had just ended
  };
  // Whether it exists, with these sizes. It is held then, if asked for.
  bool exists(const Digest& digest, std::uint64_t block_bytes, std::uint64_t valid_bytes,
              Hold hold);
  // Takes `done` if started or joined. Drops the coldest of the tenant as far as its limit asks.
  // With `hold` the block is held from the moment on that it exists.
  Begun begin_write(const Digest& digest, std::uint32_t tenant, std::uint64_t block_bytes,
                    std::uint64_t valid_bytes, Hold hold, Done& done);
  // Everybody who waits for it.
  std::vector<Done> end_write(const Digest& digest);
  void count_refused(std::uint32_t tenant);

  // Of a record that is about to be told to the index: whether it is still wanted. A moved one is
  // only while the block is the record that it was moved from.
  bool wanted(const Digest& digest, std::optional<std::uint64_t> moved_from) const;
  // The index knows it now. If it is not wanted any more, the index will be told.
  void apply(const IndexEntry& entry, std::optional<std::uint64_t> moved_from);

  // Whether it exists. One that is held is dropped only because it is forgotten or lost.
  bool hold(const Digest& digest);
  // It is the tenant's newest in use then. Nothing to do for one that is not held.
  void let_go(const Digest& digest);

  // If it exists, with this sequence if one is given. A write of it that is under way is answered
  // not_found. Whether it was dropped.
  bool drop(const Digest& digest, std::optional<std::uint64_t> sequence, Drop why);
  // Blocks of a device that was taken out. The index keeps them: the device may come back.
  void drop_device(std::uint32_t device);

  std::vector<SegmentUse> segment_use(std::uint32_t device) const;
  // Its blocks were not used since they were written, as far as that counts.
  void clear_used(std::uint32_t device, std::uint32_t number);
  std::uint64_t live_bytes(std::uint32_t device) const;
  struct SegmentBlock {
    IndexEntry block;
    bool held = false;
  };
  std::vector<SegmentBlock> blocks_of(std::uint32_t device, std::uint32_t segment) const;
  // Drops all blocks of a segment, to make room. false: one of them is held, and none is dropped.
  bool drop_segment(std::uint32_t device, std::uint32_t segment);

  // What the index must be told: which are gone, and whose last use it should know. At most
  // `uses` of the latter.
  struct News {
    std::vector<Digest> deletes;
    std::vector<IndexEntry> uses;
  };
  News take_news(std::size_t uses);
  bool has_news() const;
  void give_back(News news);

  void count_read(std::uint32_t tenant, std::uint64_t bytes);
  std::uint64_t blocks() const;
  std::vector<TenantStats> tenant_stats() const;

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  struct Links {
    std::uint32_t previous = kNone;
    std::uint32_t next = kNone;
  };
  struct Entry {
    IndexEntry block;
    Links by_use;      // of its tenant, unless it is held: next is colder
    Links by_segment;  // next in its segment
    std::uint32_t told_use_s = 0;
    bool held = false;
  };
  struct List {
    std::uint32_t first = kNone;
    std::uint32_t last = kNone;
  };
  struct Tenant {
    TenantStats stats;                 // limit_bytes is 0 if it has none
    std::uint64_t reserved_bytes = 0;  // of writes under way that the index does not know yet
    List by_use;
    bool is_over_limit() const {
      return stats.limit_bytes != 0 && stats.live_bytes + reserved_bytes > stats.limit_bytes;
    }
  };
  struct Segment {
    SegmentUse use;
    List blocks;
  };
  struct Device {
    std::vector<Segment> segments;
    std::uint64_t live_bytes = 0;
  };
  struct Pending {
    std::vector<Done> waiters;
    std::uint32_t tenant = 0;
    std::uint64_t bytes = 0;  // of the tenant's reserved ones
    bool applied = false;     // the block exists, or did
    bool forgotten = false;
    bool hold = false;
  };

  std::optional<std::uint32_t> place_of(const Digest& digest) const;
  void insert(const IndexEntry& block);
  void remove(std::uint32_t place);
  void use(std::uint32_t place, std::uint32_t now_s);
  bool exists_at(const Digest& digest, std::uint64_t block_bytes, std::uint64_t valid_bytes,
                 Hold hold);
  void hold_at(std::uint32_t place);
  bool hold_pending(const Digest& digest, Pending& pending);
  void let_go_at(std::uint32_t place);
  void drop_at(std::uint32_t place, Drop why);
  bool make_room(Tenant& tenant, std::uint64_t bytes);
  bool drop_excess(Tenant& tenant);
  void link(List& list, Links Entry::* links, std::uint32_t place);
  void unlink(List& list, Links Entry::* links, std::uint32_t place);

  mutable std::mutex mutex_;
  std::deque<Entry> entries_;
  std::vector<std::uint32_t> free_places_;
  DigestTable table_;
  std::vector<Tenant> tenants_;
  std::unordered_map<std::string, std::uint32_t> tenant_numbers_;
  std::vector<Device> devices_;
  std::unordered_map<Digest, Pending, DigestHash> pending_;
  std::vector<Digest> deletes_;
  std::vector<Digest> uses_;
};

}  // namespace sluice::storage
