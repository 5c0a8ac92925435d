// Every bound of the residency manager, by name.
//
// Bounds that an operator chooses (sessions, caches, sequences) are in ManagerConfig; these here
// are what the data structures and the wait times of others are built on.
#pragma once

#include <cstdint>

namespace sluice::residency {

// Blocks that one event or one turn() handles, so that a huge request delays nobody else. An open,
// an extend or a continued open of more is refused (list_too_long); a longer release, truncation or
// death goes on in turn(), a longer fork in fork_more().
inline constexpr std::uint32_t kMaxBlocksPerTurn = 1024;

inline constexpr std::uint32_t kMaxKeyBytes = 64;
inline constexpr std::uint32_t kMaxModelBytes = 256;
inline constexpr std::uint32_t kMaxSaltBytes = 128;
inline constexpr std::uint32_t kMaxBlocksPerSequence = 1u << 20;

// Attached ids of a cache. Pages are numbered id * pages_per_block + page in 32 bits, and the
// highest number means "none": a cache of many pages per block gets fewer ids than this.
inline constexpr std::uint32_t kMaxBlocksPerCache = 1u << 27;
inline constexpr std::uint64_t kMaxPagesPerCache = 0xFFFFFFFEu;
// DRAM extents of a cache. With 64 MiB extents that is 1 TiB: give bigger tiers bigger extents.
inline constexpr std::uint32_t kMaxExtentsPerCache = 16384;
inline constexpr std::uint32_t kMaxArenaExtents = 1u << 20;

// Ids beyond what the tenant's DRAM limit can hold when the cache opens, as a fraction of that and
// at least one extent's worth: room for a limit that is raised later.
inline constexpr std::uint32_t kSpareIdsFraction = 8;

// Free frames kept ahead of need, because a frame given up comes back only after a grace period:
// 1/64 of the frames that exist, within these bounds. At the tenant's limit, blocks that nobody
// refers to are evicted early to keep this stock.
inline constexpr std::uint32_t kFreeStockFraction = 64;
inline constexpr std::uint32_t kMinFreeStock = 1;
inline constexpr std::uint32_t kMaxFreeStock = 1024;

// Batches of retired blocks of a cache that wait for their grace period at the same time. What
// retires meanwhile forms the next batch: many small ones would each cost a scan of the table.
inline constexpr std::uint32_t kMaxRetireBatches = 2;

// The same where a block store is behind DRAM: frames that are written before they are free come
// back later, and promotions that somebody waits for must find some that are past their grace.
inline constexpr std::uint32_t kStoreStockFraction = 16;
inline constexpr std::uint32_t kStoreMaxFreeStock = 8192;

// Blocks of a cache that are being written to, or read from, the block store at the same time: as
// many as have these bytes, at least one.
inline constexpr std::uint64_t kMaxWritingBytes = std::uint64_t{256} << 20;
inline constexpr std::uint64_t kMaxArrivingBytes = std::uint64_t{256} << 20;
inline constexpr std::uint64_t kMaxMovingBlocks = 4096;
// Of what arrives, what nobody waits for yet: so much may be ahead of a read that somebody needs.
inline constexpr std::uint64_t kMaxArrivingSoonBytes = std::uint64_t{64} << 20;
// Such reads leave this part of the stock of free frames to the others, and one more. While the
// store refuses writes, new blocks leave that part to what comes back.
inline constexpr std::uint32_t kUrgentStockFraction = 2;
// Blocks that wait to be read; more are marked as wanted again by who wants them.
inline constexpr std::uint32_t kMaxPromotionsQueued = 1u << 16;
// After the store refused a write, blocks of that cache that leave DRAM are dropped without asking
// it, for this many events, or until it has one less to hold for the cache.
inline constexpr std::uint64_t kWriteRefusedEvents = 1u << 12;
// A cache that is parting tries again after so many refusals, and then goes with what was not
// written.
inline constexpr std::uint8_t kMostPartingRefusals = 3;
// After an extent could not be made, promotions displace blocks instead of asking for more, for
// this many events.
inline constexpr std::uint64_t kNoGrowthEvents = 1u << 16;
// With a block store, a cache has ids for up to this many times the blocks that DRAM holds, as far
// as four bytes a page come to no more than this part of the tenant's DRAM.
inline constexpr std::uint64_t kMaxStoreIdsFactor = 16;
inline constexpr std::uint64_t kStoreIdsFraction = 16;

// Empty DRAM extents that a cache keeps; any beyond go back to the node.
inline constexpr std::uint32_t kSpareEmptyExtents = 1;

// A refused grant marks the tenant as wanting for this many events; while tenants want, what is
// lent beyond the guarantees is split by weight (quota.h).
inline constexpr std::uint64_t kWantEvents = 1u << 16;

// Without a wish of its own, an arena takes this part of what its tenant may take.
inline constexpr std::uint64_t kDefaultArenaFraction = 2;

inline constexpr std::uint32_t kMaxTenants = 256;
inline constexpr std::uint32_t kMaxDevices = 64;         // bound of ManagerConfig::hbm_devices
inline constexpr std::uint32_t kMaxSessions = 1u << 16;  // bound of ManagerConfig::max_sessions
inline constexpr std::uint32_t kMaxCaches = 1u << 12;    // bound of ManagerConfig::max_caches
// Caches that each tenant can always have, as far as its memory goes; or its equal part of
// max_caches if they do not go round.
inline constexpr std::uint32_t kReservedCaches = 4;
// Bound of ManagerConfig::max_sequences_per_session.
inline constexpr std::uint32_t kMaxSequencesPerSession = 1u << 20;
inline constexpr std::uint32_t kMaxEvictions = 64;  // by operators, under way at the same time
// Blocks of one cache that an operator's evict takes before it looks at the ages of the others'.
inline constexpr std::uint32_t kEvictRun = 32;
// Blocks that a plan of an evict follows in their order; it estimates the rest.
inline constexpr std::uint64_t kMaxPlannedBlocks = std::uint64_t{16} * kMaxBlocksPerTurn;

// Rows that a listing returns at most; the cursor goes on from there.
inline constexpr std::uint32_t kMaxListedRows = 1024;

}  // namespace sluice::residency
