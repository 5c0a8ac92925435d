// Plain values that go into the residency manager and come out of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/residency/limits.h"
#include "ipc/error.h"
#include "ipc/ids.h"
#include "ipc/layout.h"

namespace sluice::residency {

using ipc::BlockId;
using ipc::CacheId;
using ipc::DeviceId;
using ipc::Errc;
using ipc::Error;
using ipc::FrameId;
using ipc::Handle;
using ipc::Result;
using ipc::SessionId;
using ipc::Status;
using ipc::TenantId;
using ipc::Tier;

// ---- configuration

// What a tenant may take of a tier. guaranteed <= limit; quota.h has the rule of admission.
struct Quota {
  std::uint64_t guaranteed_bytes = 0;
  std::uint64_t limit_bytes = 0;
  double weight = 1.0;  // > 0
  friend bool operator==(const Quota&, const Quota&) = default;
};

struct TenantSpec {
  std::string name;
  Quota hbm;
  Quota dram;
};

struct TierSpec {
  std::uint64_t capacity_bytes = 0;
  std::uint64_t extent_bytes = 64u << 20;  // wanted; each cache rounds to whole pages or frames
  std::uint64_t granularity_bytes = ipc::kFrameAlignment;  // of extents; a power of two
  // Users pin the extents for a device, which from then on reads the memory that was in them when
  // they were pinned: an extent stays with its cache, and goes with it as a whole.
  bool extents_stay = false;
};

struct ManagerConfig {
  TierSpec hbm;                   // of each device, as the quotas of tenants are
  std::uint32_t hbm_devices = 1;  // DeviceIds are below
  TierSpec dram;
  // Of the block store behind DRAM; 0: there is none, and a block that leaves DRAM is gone.
  std::uint64_t nvme_bytes = 0;
  std::vector<TenantSpec> tenants;           // TenantId is the index
  std::array<std::uint64_t, 2> hash_seed{};  // secret and random: clients choose the keys
  std::uint32_t max_sessions = 1024;
  // Of max_sessions, what each tenant can always have, as far as max_sessions / tenants goes.
  std::uint32_t reserved_sessions = 0;
  std::uint32_t max_caches = 256;
  std::uint32_t max_sequences_per_session = 65536;
};

// ---- caches

enum class CacheKind : std::uint8_t {
  attention = 0,
  window = 1,
  latent = 2,
  state = 3,
  opaque = 4
};

// What a session wants to open: the arena of a cache on a device. Everything but `device`,
// `hbm_bytes` and `layout` is the name of the cache inside the tenant: caches that differ in any of
// it share nothing. Arenas of a cache share its blocks, with their ids and frames.
struct CacheSpec {
  std::string model;  // 1 to kMaxModelBytes bytes
  std::string salt;   // up to kMaxSaltBytes bytes
  CacheKind kind = CacheKind::attention;
  std::uint32_t shard_index = 0;
  std::uint32_t shard_count = 1;
  DeviceId device;  // that the arena lies on
  ipc::Layout layout;
  std::uint64_t hbm_bytes = 0;  // arena wanted, rounded up to extents; 0: the default share
};

// Sizes that are fixed when a cache, or `slot_extents` when an arena is created.
struct CacheShape {
  ipc::Geometry geometry;
  std::uint64_t slot_extent_bytes = 0;
  std::uint32_t slots_per_extent = 0;
  std::uint32_t slot_extents = 0;  // of the arena; slots = slot_extents * slots_per_extent
  std::uint64_t frame_extent_bytes = 0;
  std::uint32_t frames_per_extent = 0;
  std::uint32_t max_frame_extents = 0;
  std::uint32_t max_blocks = 0;  // attached ids and frames
  // Extents of DRAM are not taken from the cache one by one while it exists: see TierSpec.
  bool extents_stay = false;
  friend bool operator==(const CacheShape&, const CacheShape&) = default;
};

struct CacheOpened {
  CacheId cache;
  bool created = false;  // a CreateArena action was given; joined otherwise
  CacheShape shape;
  std::uint32_t frame_extents = 0;  // one past the highest index that exists now
};

// ---- keys and blocks

// Keys of equal length as a view: key i is `key_bytes` bytes at data + i * stride.
struct KeyView {
  const std::byte* data = nullptr;
  std::uint32_t key_bytes = 0;  // 1 to kMaxKeyBytes
  std::uint32_t stride = 0;     // at least key_bytes
  std::uint32_t count = 0;

  std::span<const std::byte> operator[](std::uint32_t i) const {
    return {data + std::size_t{i} * stride, key_bytes};
  }
};

enum class BlockState : std::uint8_t {
  free = 0,
  taken = 1,     // `private` in the design: one sequence writes it, nobody else sees it
  sealed = 2,    // immutable and known by its key
  retiring = 3,  // given up; id and frame wait for their grace period
};
std::string_view to_string(BlockState state);

// Where the bytes of a sealed block are, beside what the block store has of it (tiering.h).
enum class Place : std::uint8_t {
  resident = 0,  // in its frame, which resolvers know
  leaving = 1,   // resolvers are told no more; the frame waits for its grace period
  absent = 2,    // no frame
  arriving = 3,  // being read into a frame that nobody knows yet
};
std::string_view to_string(Place place);

// How soon a block that only the store has is to be in DRAM.
enum class Urgency : std::uint8_t {
  soon = 0,  // a forecast names it, or a sequence was opened with it
  now = 1,   // a step cannot go on without it
};

struct BlockRef {
  BlockId id = ipc::kNoBlock;
  FrameId frame = ipc::kNoFrameId;
  friend bool operator==(const BlockRef&, const BlockRef&) = default;
};

// ---- replies. Spans point into the manager and are valid until its next call.

// A block that the store has and DRAM has not.
struct StoredKey {
  std::span<const std::byte> key;
  std::uint64_t valid_bytes = 0;
};

struct SequenceOpened {
  Handle sequence;
  std::span<const BlockRef> matched;  // the longest known prefix of the keys
};

// May extend and fork ask for new DRAM extents? `refused` is the caller's way to say that the
// extent it was asked for could not be made.
enum class Growth : std::uint8_t { allowed, refused };

// `needs_extents`: nothing was done; execute the GrantDram actions, report each, and call again
// (with Growth::refused if one of them failed).
struct Extended {
  bool needs_extents = false;
  std::uint32_t first_index = 0;
  std::span<const BlockRef> blocks;
};

// Whether a block that is written is likely to be read again: it is part of a running sequence, or
// was shared or found again before.
enum class Reuse : std::uint8_t { unlikely = 0, likely = 1 };

// What the block store answered to WriteBlock.
enum class WriteOutcome : std::uint8_t {
  stored,
  refused,   // there is no room, or not today: nothing is wrong with the block
  unwanted,  // there is room, but only for blocks that are likelier to be read again
};

struct Sealed {
  bool deduplicated = false;  // the key was known: `block` is the existing one
  BlockRef block;             // what the sequence has at this index now
};

// A private block of the parent and its new private copy. The caller copies the bytes before it
// lets the parent's session go on.
struct ForkedBlock {
  std::uint32_t index = 0;
  BlockRef parent;
  BlockRef child;
  friend bool operator==(const ForkedBlock&, const ForkedBlock&) = default;
};

struct Forked {
  bool needs_extents = false;  // as in Extended
  Handle sequence;
  std::uint32_t blocks = 0;             // that the child has now
  bool complete = false;                // false: call fork_more until true, or release the child
  std::span<const ForkedBlock> copies;  // made by this call
};

struct SequenceInfo {
  CacheId cache;
  DeviceId device;  // whose arena it was opened with
  std::uint32_t blocks = 0;
  std::uint32_t taken = 0;  // of them private
};

// ---- administration

struct EvictRequest {
  std::uint32_t tenant = kAny;
  std::uint32_t cache = kAny;
  std::uint64_t bytes = kAll;     // of blocks that no sequence refers to, oldest first
  bool drop_idle_caches = false;  // also destroy caches that no session has open (drain)

  static constexpr std::uint32_t kAny = 0xFFFFFFFFu;
  static constexpr std::uint64_t kAll = ~std::uint64_t{0};
};

// What was ordered, as it stands now; it happens batch by batch, in turn(). Blocks are evicted
// whole: `bytes` may be more than was asked for, by less than a block. Those of dropped caches
// count too.
struct EvictOrdered {
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;
  std::uint32_t caches_dropped = 0;
};

// What an evict would order, cache by cache.
struct EvictPlan {
  struct Row {
    CacheId cache;
    TenantId tenant;
    std::uint64_t evictable_blocks = 0;  // that no sequence refers to
    std::uint64_t evictable_bytes = 0;
    // Given up already: they wait for their grace period, or go with the cache.
    std::uint64_t retiring_blocks = 0;
    std::uint64_t blocks = 0;  // of these the evict would take
    std::uint64_t bytes = 0;
    bool dropped = false;  // the whole cache goes
  };
  EvictOrdered ordered;
  bool exact = true;  // false: which caches the last blocks come from is an estimate
  std::vector<Row> caches;
};

}  // namespace sluice::residency
