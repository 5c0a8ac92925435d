// A cache inside the manager: its blocks, their directory, frames and ids, and how a block lives.
//
//   take_block   free -> taken        id and frame, one reference
//   publish      taken -> sealed      into the directory
//   reference, dereference            of sealed ones; without references they wait in order of last
//   use retire       -> retiring          out of the directory; waits for its batch reclaim
//   retiring -> free     the batch's grace period is over
//
// Plain data and functions over it; no decisions about quotas (pressure.h).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "daemon/residency/actions.h"
#include "daemon/residency/chunked_array.h"
#include "daemon/residency/directory.h"
#include "daemon/residency/frames.h"
#include "daemon/residency/record.h"
#include "daemon/residency/status.h"

namespace sluice::residency {

// One cache line: what a match reads, compares and changes of a block with a key of up to
// kKeyHeadBytes.
inline constexpr std::uint32_t kKeyHeadBytes = 32;
inline constexpr std::uint32_t kKeyTailBytes = kMaxKeyBytes - kKeyHeadBytes;

struct alignas(64) Block {
  std::uint64_t last_use = 0;  // event count
  FrameId frame;
  std::uint32_t references = 0;
  BlockId older;  // neighbours in the order of last use, while sealed and unreferenced
  BlockId newer;
  std::uint32_t valid_bytes_less_one = 0;
  BlockState state : 4 = BlockState::free;
  bool reused : 1 = false;    // it was referred to again after it was sealed
  bool confirms : 1 = false;  // leaves, and the store had it when it was last heard of
  std::uint8_t key_bytes = 0;
  // Low bits of the session that sealed it and may have left pins on its pages. Taking another
  // session for it only costs a needless DropPins.
  std::uint8_t sealer = 0;
  // Of a sealed one:
  Place place : 2 = Place::resident;
  bool stored : 1 = false;   // the block store has it, as far as is known
  bool writing : 1 = false;  // place is resident
  bool leaves : 1 = false;   // writing, and to leave DRAM then though it is referred to
  bool stays : 1 = false;    // writing, and to stay though nobody refers to it
  bool wanted : 1 = false;   // not resident, and to be read as soon as it can be
  bool urgent : 1 = false;   // wanted, or arriving, with Urgency::now
  std::array<std::byte, kKeyHeadBytes> key_head{};  // zero behind the key's end
};
static_assert(sizeof(Block) == 64);

using KeyTail = std::array<std::byte, kKeyTailBytes>;

// Sealed, resident blocks without references that are not being written, by last use. Linked
// through Block::older and newer.
struct UseOrder {
  BlockId oldest = ipc::kNoBlock;
  BlockId newest = ipc::kNoBlock;
  std::uint32_t count = 0;
};

struct RetireBatch {
  std::uint64_t number = 0;
  std::vector<BlockId> ids;
};

// What moves between DRAM and the block store (tiering.h).
struct Tiering {
  bool store = false;                 // there is one
  std::vector<HoldStored> to_hold;    // not ordered yet
  std::deque<BlockId> to_write;       // writing, and not ordered yet
  std::deque<BlockId> to_withdraw;    // leaving, and not in a batch yet
  std::vector<RetireBatch> batches;   // of leaving ones
  std::deque<BlockId> wanted_now;     // absent ones, in order; also some that are so no more
  std::deque<BlockId> wanted_soon;    // the same
  std::uint32_t hand = 0;             // the id that displacing goes on with
  std::uint64_t refused_until = 0;    // event until which nothing is written
  std::uint64_t no_growth_until = 0;  // event until which promotions ask for no extents
  std::uint64_t stored_in_use = 0;    // blocks for which needs_no_write holds
  std::uint64_t arriving_soon = 0;    // arriving ones that are not urgent
  std::uint64_t confirming = 0;       // writing ones that the store has, as far as is known
  TieringCounts counts;
  TieringTotals totals;

  bool has_promotions() const { return !wanted_now.empty() || !wanted_soon.empty(); }
};

// An extent that is vacating and whose frames from `next` on were not looked at yet.
struct VacateScan {
  std::uint32_t extent = 0;
  std::uint32_t next = 0;
};

// The HBM of a cache on one device, with a hot table.
struct Arena {
  DeviceId device;
  std::uint32_t extents = 0;
  CacheState state = CacheState::opening;
  std::uint32_t opens = 0;     // by all sessions
  std::uint32_t sessions = 0;  // that have it open
  std::uint64_t idle_since = 0;
};

struct Cache {
  Cache(CacheId number, TenantId owner, const CacheSpec& wanted, const CacheShape& sizes);

  CacheId id;
  TenantId tenant;
  CacheSpec spec;             // of the session that made it
  CacheShape shape;           // without slot_extents, which arenas have
  std::vector<Arena> arenas;  // one for a device; never empty
  CacheState state = CacheState::opening;
  std::uint32_t opens = 0;      // of all arenas, by all sessions
  std::uint32_t sessions = 0;   // that have one open
  std::uint32_t sequences = 0;  // live handles
  std::uint32_t drains = 0;     // lists of references still being given up (state.h)
  std::uint64_t idle_since = 0;
  bool keep_spare = true;  // of empty extents; false after an operator's evict
  // Idle, and to be destroyed when what only DRAM has is written, unless somebody opens it.
  std::optional<EvictReason> parting;
  std::uint32_t next_parting = 0;  // ids before it were looked at for that
  std::uint8_t parting_refusals = 0;

  Directory directory;
  ChunkedArray<Block> blocks;
  ChunkedArray<KeyTail> key_tails;  // by block; exists as far as keys were longer than a head
  FramePool frames;
  std::vector<BlockId> free_ids;
  std::uint32_t fresh_id = 0;  // ids from here on were never in use

  UseOrder unreferenced;
  Tiering tiering;
  std::uint64_t referenced = 0;       // sealed blocks that sequences refer to
  std::uint64_t retiring_frames = 0;  // of the blocks that are retiring
  std::deque<BlockId> waiting;        // retired, not yet in a batch
  std::vector<RetireBatch> batches;
  std::deque<VacateScan> vacate_scans;

  std::span<BlockRecord> records;  // by id; empty: nobody keeps any
  // Sealed blocks with a reference for sessions that are away (adopt.h); ids ascend.
  std::vector<BlockId> of_before;
  std::vector<std::uint64_t> sealers_of_before;  // of these, as recorded
  // Blocks given up at the adoption, which a session that is away may not have heard of: it may
  // use their ids, and their pins, until it is back. Only then they wait.
  std::deque<BlockId> given_up;
  bool held = false;  // there are such sessions: counts as a drain

  BlockCounts counts;
  std::uint64_t saved_references = 0;  // sum over sealed blocks of max(0, references - 1)
  SharingCounts sharing;               // saved_bytes is computed in snapshots
  ForecastLedger forecasts;
  EvictedCounts evicted_blocks{};

  bool is_going() const { return state == CacheState::destroying || parting.has_value(); }
  // Ids that take_block can give.
  std::uint64_t available_ids() const { return free_ids.size() + shape.max_blocks - fresh_id; }
  // Ids that come back without anybody giving up a reference: of retiring blocks, and of those that
  // nobody refers to and that are being written, read or displaced.
  std::uint64_t coming_ids() const {
    return counts.retiring + counts.sealed - referenced - counts.unreferenced;
  }
  std::uint64_t block_bytes() const { return shape.geometry.block_bytes; }
  std::uint64_t extent_bytes() const { return shape.frame_extent_bytes; }
  std::uint64_t hbm_bytes(const Arena& arena) const {
    return arena.extents * shape.slot_extent_bytes;
  }
  std::uint64_t dram_bytes() const { return frames.charged() * shape.frame_extent_bytes; }
};

// The arena on a device, or null.
Arena* find_arena(Cache& cache, DeviceId device);

// Writes the block's record, as it is now. `owner`: of one that was taken, or sealed, now.
void note(Cache& cache, BlockId id, SessionId owner = {});

// frames.available() and available_ids() > 0. The block has one reference, for `owner`.
BlockId take_block(Cache& cache, SessionId owner, std::uint64_t now);
// A sealed block that the store has and DRAM has not, with one reference. available_ids() > 0, and
// no block has the key.
BlockId take_stored(Cache& cache, const std::array<std::uint64_t, 2>& seed, const StoredKey& stored,
                    std::uint64_t now);
// Whether a sealed block is in the order of use, from which blocks are evicted.
inline bool in_use_order(const Block& block) {
  return block.references == 0 && block.place == Place::resident && !block.writing;
}
// Whether a sealed block that sequences refer to can leave DRAM without being written.
inline bool needs_no_write(const Block& block) {
  return block.references > 0 && block.place == Place::resident && block.stored;
}
inline bool is_lost(const Block& block) { return block.place == Place::absent && !block.stored; }
// Whether the store is told not to drop a sealed block: DRAM has it not, or not for long.
inline bool is_held_in_store(const Block& block) {
  return block.place != Place::resident && block.stored;
}
// Has the store told to hold a sealed block, or that it need not any more.
void hold_in_store(Cache& cache, BlockId id, bool hold);
// Puts a sealed block into the order of use, as the newest; and takes one out.
void append_newest(Cache& cache, BlockId id);
void leave_use_order(Cache& cache, BlockId id);

std::uint32_t hash_key(const std::array<std::uint64_t, 2>& seed, std::span<const std::byte> key);
bool has_key(const Cache& cache, BlockId id, std::span<const std::byte> key);
// The key of a sealed block; the whole of it is compared on a hit.
struct KeyCopy {
  std::array<std::byte, kMaxKeyBytes> bytes;
  std::size_t size;
  // NOLINTNEXTLINE(google-explicit-constructor): a key is given wherever a view of one is taken
  operator std::span<const std::byte>() const { return {bytes.data(), size}; }
};
KeyCopy key_of(const Cache& cache, BlockId id);
std::uint64_t valid_bytes(const Block& block);

// The sealed block with this key, or kNoBlock.
BlockId find_block(const Cache& cache, std::uint32_t hash, std::span<const std::byte> key);

// Appends the ids of the longest known prefix of `keys`, for which it takes no references.
void match_prefix(const Cache& cache, const std::array<std::uint64_t, 2>& seed, const KeyView& keys,
                  std::vector<BlockId>& out);

// `id` is taken, and no block has the key.
void publish(Cache& cache, BlockId id, std::uint32_t hash, std::span<const std::byte> key,
             std::uint64_t valid_bytes);

// Gives the block its key, and puts it into the directory; its references are the caller's.
void make_known(Cache& cache, BlockId id, std::uint32_t hash, std::span<const std::byte> key,
                std::uint64_t valid_bytes);

// Out of every list by now, and without references.
void retire(Cache& cache, BlockId id);

// `id` is sealed.
void reference(Cache& cache, BlockId id);
// `id` is taken or sealed, with a reference. A taken block retires.
void dereference(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id,
                 std::uint64_t now);

// Evicts up to `most` of the blocks that nobody refers to, oldest first; how many it were. Those
// that the store has not are written first, and evicted when that is done.
std::uint32_t evict_oldest(Cache& cache, const std::array<std::uint64_t, 2>& seed,
                           std::uint32_t most, EvictReason reason, std::uint64_t now);
// Evicts a sealed block without references that is neither written, read nor leaving.
void evict(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id, EvictReason reason);
// Evicts, or writes first, one in the order of use because its extent is vacating. False: as many
// as may be are being written, and nothing was done.
bool evict_vacating(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id,
                    std::uint64_t now);
// The same, for later if it cannot be done now.
void evict_vacating_soon(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id,
                         std::uint64_t now);

// What the cache evicted, added in bytes.
void add_evicted_bytes(EvictedCounts& to, const Cache& cache);

// The frame of a block that is leaving, or retiring, is free; an extent that is empty then and not
// to be kept is released.
void give_back_frame(Cache& cache, Block& block, Actions& actions);

// Orders Retire for what waits, as far as kMaxRetireBatches allows, and what tiering.h has to
// order.
void order_batches(Cache& cache, std::uint64_t& next_batch, Actions& actions);

// The batch's blocks are free; extents that are empty and not to be kept are released. False: no
// such batch.
bool reclaim(Cache& cache, std::uint64_t number, Actions& actions);
void release_extent(Cache& cache, std::uint32_t extent, Actions& actions);
// All that are empty, and from now on also those that the cache would keep spare.
void release_empty_extents(Cache& cache, Actions& actions);

}  // namespace sluice::residency
