#include "daemon/residency/cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "daemon/residency/seeded.h"
#include "daemon/residency/siphash.h"
#include "daemon/residency/tiering.h"

namespace sluice::residency {
namespace {

// Keys whose memory is fetched together.
constexpr std::uint32_t kLookAhead = 64;

void link_newest(Cache& cache, BlockId id) {
  UseOrder& order = cache.unreferenced;
  Block& block = cache.blocks[id.value];
  block.older = order.newest;
  block.newer = ipc::kNoBlock;
  if (order.newest == ipc::kNoBlock) {
    order.oldest = id;
  } else {
    cache.blocks[order.newest.value].newer = id;
  }
  order.newest = id;
  ++order.count;
}

void unlink(Cache& cache, BlockId id) {
  UseOrder& order = cache.unreferenced;
  const Block& block = cache.blocks[id.value];
  if (block.older == ipc::kNoBlock) {
    order.oldest = block.newer;
  } else {
    cache.blocks[block.older.value].newer = block.newer;
  }
  if (block.newer == ipc::kNoBlock) {
    order.newest = block.older;
  } else {
    cache.blocks[block.newer.value].older = block.older;
  }
  --order.count;
}

void free_block(Cache& cache, BlockId id, Actions& actions) {
  Block& block = cache.blocks[id.value];
  SLUICE_ASSERT(block.state == BlockState::retiring);
  block.state = BlockState::free;
  // Its frame may be another block's soon, and the next change of this record may not end.
  if (!cache.records.empty()) cache.records[id.value].write(BlockRecord::free, {});
  --cache.counts.retiring;
  cache.free_ids.push_back(id);
  if (block.frame == ipc::kNoFrameId) return;
  --cache.retiring_frames;
  give_back_frame(cache, block, actions);
}

void retire_taken(Cache& cache, BlockId id) {
  --cache.counts.taken;
  cache.frames.unhold(cache.blocks[id.value].frame);
  retire(cache, id);
}

}  // namespace

void note(Cache& cache, BlockId id, SessionId owner) {
  if (cache.records.empty()) return;
  const Block& block = cache.blocks[id.value];
  BlockRecord& record = cache.records[id.value];
  if (block.state == BlockState::retiring) {
    record.write(BlockRecord::retiring);
    return;
  }
  BlockRecord::Content content;
  content.frame = block.frame.value;
  if (block.state == BlockState::taken) {
    content.owner = owner.value;
    record.write(BlockRecord::taken, content);
    return;
  }
  SLUICE_ASSERT(block.state == BlockState::sealed);
  if (record.state() == BlockRecord::sealed && record.content().frame == content.frame) {
    record.update(block.place, block.stored);
    return;
  }
  // Who sealed it may have left pins.
  content.owner = record.state() == BlockRecord::sealed ? record.content().owner : owner.value;
  const KeyCopy key = key_of(cache, id);
  content.valid_bytes_less_one = block.valid_bytes_less_one;
  content.key_bytes = block.key_bytes;
  content.sealer = block.sealer;
  content.place = block.place;
  content.stored = block.stored ? 1 : 0;
  std::memcpy(content.key.data(), key.bytes.data(), key.size);
  record.write(BlockRecord::sealed, content);
}

void retire(Cache& cache, BlockId id) {
  Block& block = cache.blocks[id.value];
  block.state = BlockState::retiring;
  note(cache, id);
  block.references = 0;
  ++cache.counts.retiring;
  if (block.frame != ipc::kNoFrameId) ++cache.retiring_frames;
  if (SLUICE_SEEDED(reuse_without_grace)) {
    Actions none;
    free_block(cache, id, none);
    return;
  }
  cache.waiting.push_back(id);
}

Cache::Cache(CacheId number, TenantId owner, const CacheSpec& wanted, const CacheShape& sizes)
    : id(number),
      tenant(owner),
      spec(wanted),
      shape(sizes),
      frames(sizes.frames_per_extent, sizes.max_frame_extents) {}

Arena* find_arena(Cache& cache, DeviceId device) {
  const auto found = std::ranges::find(cache.arenas, device, &Arena::device);
  return found == cache.arenas.end() ? nullptr : &*found;
}

namespace {

// A block with one reference and nothing else.
BlockId take_id(Cache& cache, std::uint64_t now) {
  BlockId id;
  if (cache.free_ids.empty()) {
    SLUICE_ASSERT(cache.fresh_id < cache.shape.max_blocks);
    id = BlockId{cache.fresh_id++};
    cache.blocks.ensure(cache.fresh_id);
  } else {
    id = cache.free_ids.back();
    cache.free_ids.pop_back();
  }
  Block& block = cache.blocks[id.value];
  SLUICE_ASSERT(block.state == BlockState::free);
  block = Block{};
  block.frame = ipc::kNoFrameId;
  block.references = 1;
  block.last_use = now;
  return id;
}

}  // namespace

void make_known(Cache& cache, BlockId id, std::uint32_t hash, std::span<const std::byte> key,
                std::uint64_t valid_bytes) {
  Block& block = cache.blocks[id.value];
  block.state = BlockState::sealed;
  block.key_bytes = static_cast<std::uint8_t>(key.size());
  block.valid_bytes_less_one = static_cast<std::uint32_t>(valid_bytes - 1);
  const std::size_t head = std::min<std::size_t>(key.size(), kKeyHeadBytes);
  std::memcpy(block.key_head.data(), key.data(), head);
  if (key.size() > head) {
    cache.key_tails.ensure(cache.fresh_id);
    std::memcpy(cache.key_tails[id.value].data(), key.data() + head, key.size() - head);
  }
  cache.directory.insert(hash, id);
  ++cache.counts.sealed;
}

BlockId take_block(Cache& cache, SessionId owner, std::uint64_t now) {
  const BlockId id = take_id(cache, now);
  Block& block = cache.blocks[id.value];
  block.frame = cache.frames.take(id);
  block.state = BlockState::taken;
  cache.frames.hold(block.frame);
  ++cache.counts.taken;
  note(cache, id, owner);
  return id;
}

BlockId take_stored(Cache& cache, const std::array<std::uint64_t, 2>& seed, const StoredKey& stored,
                    std::uint64_t now) {
  const BlockId id = take_id(cache, now);
  Block& block = cache.blocks[id.value];
  block.place = Place::absent;
  block.stored = true;
  ++cache.tiering.counts.absent;
  ++cache.referenced;
  make_known(cache, id, hash_key(seed, stored.key), stored.key, stored.valid_bytes);
  if (!SLUICE_SEEDED(forget_hold)) hold_in_store(cache, id, true);
  note(cache, id);
  return id;
}

void append_newest(Cache& cache, BlockId id) {
  link_newest(cache, id);
  ++cache.counts.unreferenced;
}

void leave_use_order(Cache& cache, BlockId id) {
  unlink(cache, id);
  --cache.counts.unreferenced;
}

std::uint32_t hash_key(const std::array<std::uint64_t, 2>& seed, std::span<const std::byte> key) {
  return static_cast<std::uint32_t>(siphash13(seed, key));
}

bool has_key(const Cache& cache, BlockId id, std::span<const std::byte> key) {
  const Block& block = cache.blocks[id.value];
  if (block.key_bytes != key.size()) return false;
  const std::size_t head = std::min<std::size_t>(key.size(), kKeyHeadBytes);
  if (std::memcmp(block.key_head.data(), key.data(), head) != 0) return false;
  return key.size() == head ||
         std::memcmp(cache.key_tails[id.value].data(), key.data() + head, key.size() - head) == 0;
}

KeyCopy key_of(const Cache& cache, BlockId id) {
  const Block& block = cache.blocks[id.value];
  KeyCopy key{{}, block.key_bytes};
  const std::size_t head = std::min<std::size_t>(key.size, kKeyHeadBytes);
  std::memcpy(key.bytes.data(), block.key_head.data(), head);
  if (key.size > head) {
    std::memcpy(key.bytes.data() + head, cache.key_tails[id.value].data(), key.size - head);
  }
  return key;
}

std::uint64_t valid_bytes(const Block& block) {
  return std::uint64_t{block.valid_bytes_less_one} + 1;
}

BlockId find_block(const Cache& cache, std::uint32_t hash, std::span<const std::byte> key) {
  return cache.directory.find(
      hash, [&](BlockId id) { return SLUICE_SEEDED(ignore_key) || has_key(cache, id, key); });
}

void match_prefix(const Cache& cache, const std::array<std::uint64_t, 2>& seed, const KeyView& keys,
                  std::vector<BlockId>& out) {
  std::uint32_t hashes[kLookAhead];
  for (std::uint32_t first = 0; first < keys.count; first += kLookAhead) {
    const std::uint32_t count = std::min(kLookAhead, keys.count - first);
    for (std::uint32_t i = 0; i < count; ++i) {
      hashes[i] = hash_key(seed, keys[first + i]);
      cache.directory.prefetch(hashes[i]);
    }
    for (std::uint32_t i = 0; i < count; ++i) {
      // The first candidate is nearly always the one; its memory is asked for before any is read.
      const BlockId candidate = cache.directory.find(hashes[i], [](BlockId) { return true; });
      if (candidate == ipc::kNoBlock) break;
      __builtin_prefetch(&cache.blocks[candidate.value], 1);
    }
    for (std::uint32_t i = 0; i < count; ++i) {
      const BlockId id = find_block(cache, hashes[i], keys[first + i]);
      if (id == ipc::kNoBlock) return;
      const Block& block = cache.blocks[id.value];
      if (block.references == 0) {  // its neighbours in the order of use will change
        if (block.older != ipc::kNoBlock) __builtin_prefetch(&cache.blocks[block.older.value], 1);
        if (block.newer != ipc::kNoBlock) __builtin_prefetch(&cache.blocks[block.newer.value], 1);
      }
      out.push_back(id);
    }
  }
}

void publish(Cache& cache, BlockId id, std::uint32_t hash, std::span<const std::byte> key,
             std::uint64_t valid_bytes) {
  SLUICE_ASSERT(cache.blocks[id.value].state == BlockState::taken);
  --cache.counts.taken;
  ++cache.referenced;
  make_known(cache, id, hash, key, valid_bytes);
}

void reference(Cache& cache, BlockId id) {
  Block& block = cache.blocks[id.value];
  SLUICE_ASSERT(block.state == BlockState::sealed);
  if (block.references == 0) {
    ++cache.referenced;
    if (in_use_order(block)) leave_use_order(cache, id);
    if (block.frame != ipc::kNoFrameId) cache.frames.hold(block.frame);
  } else {
    ++cache.saved_references;
    if (block.references == 1) ++cache.counts.shared;
  }
  block.reused = true;
  ++block.references;
  if (block.references == 1 && needs_no_write(block)) ++cache.tiering.stored_in_use;
}

void dereference(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id,
                 std::uint64_t now) {
  Block& block = cache.blocks[id.value];
  SLUICE_ASSERT(block.references > 0);
  if (block.state == BlockState::taken) {
    retire_taken(cache, id);
    return;
  }
  SLUICE_ASSERT(block.state == BlockState::sealed);
  if (block.references == 1 && needs_no_write(block)) --cache.tiering.stored_in_use;
  if (--block.references > (SLUICE_SEEDED(evict_referenced) ? 1 : 0)) {
    --cache.saved_references;
    if (block.references == 1) --cache.counts.shared;
    return;
  }
  --cache.referenced;
  block.last_use = now;
  if (block.frame != ipc::kNoFrameId) cache.frames.unhold(block.frame);
  if (block.place == Place::absent) {
    if (!SLUICE_SEEDED(strand_displaced)) evict(cache, seed, id, EvictReason::pressure);
    return;
  }
  if (!in_use_order(block)) return;  // goes when it has arrived, left or been written
  append_newest(cache, id);
  if (cache.frames.is_vacating(block.frame)) evict_vacating_soon(cache, seed, id, now);
}

bool evict_vacating(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id,
                    std::uint64_t now) {
  const bool forced = cache.frames.is_forced(cache.blocks[id.value].frame);
  return give_up(cache, seed, id, forced ? EvictReason::quota : EvictReason::pressure, now);
}

void evict_vacating_soon(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id,
                         std::uint64_t now) {
  if (evict_vacating(cache, seed, id, now)) return;
  const FrameId frame = cache.blocks[id.value].frame;
  const std::uint32_t extent = cache.frames.extent_of(frame);
  const std::uint32_t place = frame.value % cache.shape.frames_per_extent;
  const auto scan = std::ranges::find(cache.vacate_scans, extent, &VacateScan::extent);
  if (scan == cache.vacate_scans.end()) {
    cache.vacate_scans.push_back({extent, place});
  } else {
    scan->next = std::min(scan->next, place);
  }
}

void evict(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id, EvictReason reason) {
  Block& block = cache.blocks[id.value];
  SLUICE_ASSERT(block.state == BlockState::sealed && block.references == 0 && !block.writing);
  if (is_held_in_store(block)) hold_in_store(cache, id, false);
  if (!SLUICE_SEEDED(stay_in_directory) && !is_lost(block)) {
    cache.directory.erase(hash_key(seed, key_of(cache, id)), id);
  }
  if (block.place == Place::absent) {
    --cache.tiering.counts.absent;
    if (is_lost(block)) --cache.tiering.counts.lost;
    block.wanted = false;
  } else {
    SLUICE_ASSERT(in_use_order(block));
    leave_use_order(cache, id);
  }
  --cache.counts.sealed;
  ++cache.evicted_blocks[static_cast<std::size_t>(reason)];
  retire(cache, id);
}

void hold_in_store(Cache& cache, BlockId id, bool hold) {
  // What the store has no room for, it may have room for now.
  if (!hold) cache.tiering.refused_until = 0;
  const KeyCopy key = key_of(cache, id);
  const std::span<const std::byte> bytes = key;
  cache.tiering.to_hold.push_back({cache.id, id, {bytes.begin(), bytes.end()}, hold});
}

std::uint32_t evict_oldest(Cache& cache, const std::array<std::uint64_t, 2>& seed,
                           std::uint32_t most, EvictReason reason, std::uint64_t now) {
  std::uint32_t evicted = 0;
  for (; evicted < most && cache.unreferenced.count > 0; ++evicted) {
    if (!give_up(cache, seed, cache.unreferenced.oldest, reason, now)) break;
  }
  return evicted;
}

void give_back_frame(Cache& cache, Block& block, Actions& actions) {
  const FrameId frame = std::exchange(block.frame, ipc::kNoFrameId);
  const std::uint32_t extent = cache.frames.extent_of(frame);
  if (!cache.frames.give_back(frame) || cache.shape.extents_stay) return;
  const std::uint32_t spare = cache.keep_spare ? kSpareEmptyExtents : 0;
  // What promotions wait for was displaced for them.
  const bool needed = cache.tiering.has_promotions();
  if (cache.frames.vacating(extent) || (!needed && cache.frames.empty() > spare)) {
    release_extent(cache, extent, actions);
  }
}

void add_evicted_bytes(EvictedCounts& to, const Cache& cache) {
  for (std::size_t i = 0; i < kEvictReasons; ++i) {
    to[i] += cache.evicted_blocks[i] * cache.shape.geometry.frame_stride;
  }
}

void order_batches(Cache& cache, std::uint64_t& next_batch, Actions& actions) {
  order_moves(cache, next_batch, actions);
  while (!cache.waiting.empty() && cache.batches.size() < kMaxRetireBatches) {
    const auto count =
        static_cast<std::ptrdiff_t>(std::min<std::size_t>(cache.waiting.size(), kMaxBlocksPerTurn));
    RetireBatch batch;
    batch.number = next_batch++;
    batch.ids.assign(cache.waiting.begin(), cache.waiting.begin() + count);
    cache.waiting.erase(cache.waiting.begin(), cache.waiting.begin() + count);
    actions.push_back(Retire{cache.id, batch.number, batch.ids});
    cache.batches.push_back(std::move(batch));
  }
}

bool reclaim(Cache& cache, std::uint64_t number, Actions& actions) {
  const auto batch = std::ranges::find(cache.batches, number, &RetireBatch::number);
  if (batch == cache.batches.end()) return false;
  const std::vector<BlockId> ids = std::move(batch->ids);
  cache.batches.erase(batch);
  for (const BlockId id : ids) free_block(cache, id, actions);
  return true;
}

void release_extent(Cache& cache, std::uint32_t extent, Actions& actions) {
  std::erase_if(cache.vacate_scans, [&](const VacateScan& scan) { return scan.extent == extent; });
  cache.frames.begin_release(extent);
  actions.push_back(ReleaseExtent{cache.id, extent});
}

void release_empty_extents(Cache& cache, Actions& actions) {
  if (cache.shape.extents_stay) return;
  cache.keep_spare = false;
  for (std::uint32_t extent = 0; extent < cache.frames.max_extents(); ++extent) {
    if (cache.frames.state(extent) == ExtentState::present && cache.frames.is_empty(extent)) {
      release_extent(cache, extent, actions);
    }
  }
}

}  // namespace sluice::residency
