// Snapshots for operators and metrics. Plain copies; listings are bounded and go on from a cursor.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "daemon/residency/ledger.h"
#include "daemon/residency/types.h"

namespace sluice::residency {

// Blocks by state now.
struct BlockCounts {
  std::uint64_t taken = 0;         // private
  std::uint64_t sealed = 0;        // all sealed ones
  std::uint64_t shared = 0;        // of the sealed: two references or more
  std::uint64_t unreferenced = 0;  // of the sealed: none, so evictable
  std::uint64_t retiring = 0;
  friend bool operator==(const BlockCounts&, const BlockCounts&) = default;
};

// Sealed blocks by what moves or moved them between DRAM and the block store, now.
struct TieringCounts {
  std::uint64_t absent = 0;    // of running sequences, in the store only (or lost)
  std::uint64_t lost = 0;      // of the absent: the store could not give them back
  std::uint64_t leaving = 0;   // frames waiting for their grace period
  std::uint64_t arriving = 0;  // being read
  std::uint64_t writing = 0;   // being written, and in DRAM until that is done
  TieringCounts& operator+=(const TieringCounts& other);
  friend bool operator==(const TieringCounts&, const TieringCounts&) = default;
};

// The same, since the cache was made, in blocks.
struct TieringTotals {
  std::uint64_t written = 0;
  std::uint64_t write_refused = 0;
  std::uint64_t displaced = 0;  // out of DRAM while sequences refer to them
  std::uint64_t promoted = 0;
  std::uint64_t lost = 0;
  std::uint64_t matched = 0;  // found in the store at open
  TieringTotals& operator+=(const TieringTotals& other);
  friend bool operator==(const TieringTotals&, const TieringTotals&) = default;
};

// What having blocks once saves. A reference is one place in one sequence.
struct SharingCounts {
  std::uint64_t saved_bytes = 0;     // now: sum over referenced blocks of (references - 1) blocks
  std::uint64_t matched_blocks = 0;  // since the cache was made: found by key at open
  std::uint64_t matched_bytes = 0;   // and their bytes, neither computed nor stored again
  std::uint64_t deduplicated_blocks = 0;  // sealed with a key that was known
  std::uint64_t deduplicated_bytes = 0;
  friend bool operator==(const SharingCounts&, const SharingCounts&) = default;
};

// Why a sealed block lost its place in DRAM.
enum class EvictReason : std::uint8_t {
  pressure,  // its memory was needed, by whomever
  quota,     // its tenant's limit was lowered
  admin,     // an operator's wish
};
inline constexpr std::size_t kEvictReasons = 3;
using EvictedCounts = std::array<std::uint64_t, kEvictReasons>;  // by EvictReason

inline std::uint64_t sum_of(const EvictedCounts& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

struct TierStatus {
  std::uint64_t capacity_bytes = 0;
  std::uint64_t used_bytes = 0;        // granted in extents, until their memory is back
  std::uint64_t guaranteed_bytes = 0;  // to all tenants together
  std::uint64_t lent_bytes = 0;        // used beyond the users' guarantees
};

struct NodeStatus {
  TierStatus hbm, dram;             // hbm: of all devices together
  std::vector<TierStatus> devices;  // hbm by DeviceId
  std::uint32_t sessions = 0;
  std::uint32_t away_sessions = 0;  // of these: of a daemon of before, and not back yet
  std::uint32_t caches = 0;
  std::uint32_t sequences = 0;
  BlockCounts blocks;
  SharingCounts sharing;
  TieringCounts tiering;
  TieringTotals tiering_totals;      // since start
  std::uint64_t evicted_blocks = 0;  // since start
  std::uint64_t evicted_bytes = 0;
  bool pending_work = false;
};

struct TenantTierStatus {
  Quota quota;
  std::uint64_t used_bytes = 0;
  std::uint64_t over_limit_bytes = 0;  // held above a limit that was lowered
  bool wanting = false;                // was refused recently
  std::uint64_t refused = 0;           // requests refused by quota, since start
  std::uint64_t failed = 0;  // extents (HBM: arenas) that the node could not make, since start
};

struct TenantStatus {
  TenantId tenant;
  std::string name;
  TenantTierStatus hbm, dram;             // hbm: on all devices together
  std::vector<TenantTierStatus> devices;  // hbm by DeviceId
  std::uint32_t sessions = 0;
  std::uint32_t caches = 0;
  std::uint32_t sequences = 0;
  BlockCounts blocks;
  SharingCounts sharing;
  ForecastLedger forecasts;
  TieringCounts tiering;
  TieringTotals tiering_totals;
  std::uint64_t evicted_blocks = 0;
  EvictedCounts evicted_bytes{};
};

struct SessionStatus {
  SessionId session;
  TenantId tenant;
  bool ending = false;  // dead; what it held is being given up
  std::uint32_t caches = 0;
  std::uint32_t sequences = 0;
  std::uint64_t blocks = 0;  // references in its sequences
};

// Of a cache and of each of its arenas. A cache is opening until its first arena is made, and open
// if one of them is.
enum class CacheState : std::uint8_t { opening, open, idle, destroying };
std::string_view to_string(CacheState state);

struct ArenaStatus {
  DeviceId device;
  CacheState state = CacheState::opening;
  std::uint32_t slots = 0;
  std::uint32_t sessions = 0;
  std::uint64_t hbm_bytes = 0;
};

struct CacheStatus {
  CacheId cache;
  TenantId tenant;
  CacheState state = CacheState::opening;
  CacheSpec spec;
  CacheShape shape;  // slot_extents: of all arenas
  std::vector<ArenaStatus> arenas;
  std::uint32_t sessions = 0;
  std::uint32_t sequences = 0;
  std::uint32_t frame_extents = 0;  // one past the highest index that exists now
  std::uint64_t hbm_bytes = 0;
  std::uint64_t dram_bytes = 0;
  std::uint64_t free_frames = 0;  // ready to be taken
  BlockCounts blocks;
  TieringCounts tiering;
  TieringTotals tiering_totals;
  SharingCounts sharing;
  ForecastLedger forecasts;
  std::uint64_t evicted_blocks = 0;
  std::uint64_t evicted_bytes = 0;
};

struct SequenceStatus {
  SessionId session;
  Handle sequence;
  CacheId cache;
  DeviceId device;
  std::uint32_t blocks = 0;
  std::uint32_t taken = 0;
};

struct BlockStatus {
  BlockId id;
  FrameId frame;
  BlockState state = BlockState::free;
  Place place = Place::resident;  // of a sealed one
  bool stored = false;            // as far as is known
  std::uint32_t references = 0;
  std::uint64_t valid_bytes = 0;
  std::uint64_t last_use = 0;  // event count when it was last taken or given up
  std::vector<std::byte> key;  // empty unless sealed
};

template <class Row>
struct Listing {
  std::vector<Row> rows;
  std::uint64_t next = 0;  // cursor for the following rows; 0: that was all
};

}  // namespace sluice::residency
