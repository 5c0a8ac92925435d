// Manager::check(): recounts what is kept incrementally. For tests; aborts on a difference.
#include <algorithm>

#include "daemon/residency/manager.h"
#include "daemon/residency/state.h"

namespace sluice::residency {
namespace {

using References = std::vector<std::uint32_t>;  // by block id

void count_references(const State& state, std::vector<References>& by_cache) {
  for (const auto& [number, session] : state.sessions) {
    for (const Sequence& sequence : session.sequences) {
      if (sequence.generation == 0) continue;
      for (const BlockId id : sequence.blocks) ++by_cache[sequence.cache.value][id.value];
    }
  }
  for (const auto& [number, session] : state.sessions) {
    for (const auto& [cache, id] : session.unclaimed) ++by_cache[cache][id];
  }
  for (const auto& cache : state.caches) {
    if (!cache) continue;
    for (const BlockId id : cache->of_before) ++by_cache[cache->id.value][id.value];
  }
  for (const Drain& drain : state.drains) {
    for (const BlockId id : drain.blocks) ++by_cache[drain.cache.value][id.value];
  }
}

void check_order(const Cache& cache) {
  std::uint32_t count = 0;
  BlockId before = ipc::kNoBlock;
  for (BlockId id = cache.unreferenced.oldest; id != ipc::kNoBlock;
       id = cache.blocks[id.value].newer) {
    const Block& block = cache.blocks[id.value];
    SLUICE_ASSERT(block.state == BlockState::sealed && in_use_order(block));
    SLUICE_ASSERT(block.older == before);
    SLUICE_ASSERT(before == ipc::kNoBlock || cache.blocks[before.value].last_use <= block.last_use);
    before = id;
    ++count;
  }
  SLUICE_ASSERT(before == cache.unreferenced.newest);
  SLUICE_ASSERT(count == cache.unreferenced.count);
}

// Adds a sealed block to what moves.
void check_move(const Block& block, TieringCounts& counts, std::uint64_t& arriving_soon,
                std::uint64_t& confirming) {
  if (block.place == Place::absent) ++counts.absent;
  if (block.place == Place::leaving) ++counts.leaving;
  if (block.place == Place::arriving) ++counts.arriving;
  if (block.place == Place::arriving && !block.urgent) ++arriving_soon;
  if (block.writing) ++counts.writing;
  if (block.confirms) ++confirming;
  if (is_lost(block)) ++counts.lost;
  SLUICE_ASSERT(!block.writing || (block.place == Place::resident && !block.stored));
  SLUICE_ASSERT((!block.leaves && !block.stays) || block.writing);
  SLUICE_ASSERT(!block.confirms || block.leaves);
  SLUICE_ASSERT(block.place != Place::absent || block.references > 0);
  SLUICE_ASSERT(!block.wanted || block.place == Place::absent || block.place == Place::leaving);
}

void check_blocks(const State& state, const Cache& cache, const References& references) {
  BlockCounts counts;
  TieringCounts tiering;
  std::uint64_t stored_in_use = 0;
  std::uint64_t arriving_soon = 0;
  std::uint64_t confirming = 0;
  std::uint64_t referenced = 0;
  std::uint64_t saved = 0;
  std::uint64_t retiring_frames = 0;
  std::uint32_t free = 0;
  std::uint32_t framed = 0;
  References used(cache.frames.max_extents()), held(cache.frames.max_extents());
  for (std::uint32_t i = 0; i < cache.fresh_id; ++i) {
    const BlockId id{i};
    const Block& block = cache.blocks[i];
    SLUICE_ASSERT(block.references == references[i]);
    if (block.state == BlockState::free) {
      ++free;
      continue;
    }
    const bool absent = block.state == BlockState::sealed && block.place == Place::absent;
    if (block.frame != ipc::kNoFrameId) {
      SLUICE_ASSERT(!absent && cache.frames.owner(block.frame) == id);
      const std::uint32_t extent = cache.frames.extent_of(block.frame);
      ++used[extent];
      ++framed;
      if (block.references > 0) ++held[extent];
    } else {
      SLUICE_ASSERT(absent || block.state == BlockState::retiring);
    }
    if (block.state == BlockState::taken) {
      ++counts.taken;
      SLUICE_ASSERT(block.references == 1);
    } else if (block.state == BlockState::sealed) {
      ++counts.sealed;
      check_move(block, tiering, arriving_soon, confirming);
      if (needs_no_write(block)) ++stored_in_use;
      if (block.references > 0) ++referenced;
      if (in_use_order(block)) ++counts.unreferenced;
      if (block.references > 1) {
        ++counts.shared;
        saved += block.references - 1;
      }
      const KeyCopy key = key_of(cache, id);
      const BlockId found = find_block(cache, hash_key(state.config.hash_seed, key), key);
      SLUICE_ASSERT((found == id) != is_lost(block));
    } else {
      ++counts.retiring;
      if (block.frame != ipc::kNoFrameId) ++retiring_frames;
      SLUICE_ASSERT(block.references == 0);
    }
  }
  SLUICE_ASSERT(counts == cache.counts);
  SLUICE_ASSERT(saved == cache.saved_references);
  SLUICE_ASSERT(free == cache.free_ids.size());
  SLUICE_ASSERT(tiering == cache.tiering.counts);
  SLUICE_ASSERT(referenced == cache.referenced);
  SLUICE_ASSERT(stored_in_use == cache.tiering.stored_in_use);
  SLUICE_ASSERT(arriving_soon == cache.tiering.arriving_soon);
  SLUICE_ASSERT(confirming == cache.tiering.confirming);
  SLUICE_ASSERT(retiring_frames == cache.retiring_frames);
  SLUICE_ASSERT(cache.directory.size() == counts.sealed - tiering.lost);
  SLUICE_ASSERT(cache.unreferenced.count == counts.unreferenced);
  SLUICE_ASSERT(cache.frames.used() == framed);
  // What was taken over may be without the frame that its record named.
  SLUICE_ASSERT(cache.tiering.store || !cache.records.empty() || framed == cache.fresh_id - free);

  SLUICE_ASSERT(cache.held || cache.given_up.empty());
  std::uint64_t retiring = cache.waiting.size() + cache.given_up.size();
  for (const RetireBatch& batch : cache.batches) retiring += batch.ids.size();
  SLUICE_ASSERT(retiring == counts.retiring);
  SLUICE_ASSERT(cache.waiting.empty() || cache.batches.size() == kMaxRetireBatches);
  std::uint64_t leaving = cache.tiering.to_withdraw.size();
  for (const RetireBatch& batch : cache.tiering.batches) leaving += batch.ids.size();
  SLUICE_ASSERT(leaving == tiering.leaving);

  std::uint32_t available = 0;
  std::uint32_t returning = 0;
  std::uint32_t empty = 0;
  for (std::uint32_t extent = 0; extent < cache.frames.max_extents(); ++extent) {
    SLUICE_ASSERT(cache.frames.used(extent) == used[extent]);
    SLUICE_ASSERT(cache.frames.held(extent) == held[extent]);
    const bool present = cache.frames.state(extent) == ExtentState::present;
    const bool vacating = cache.frames.vacating(extent);
    if (present && !vacating) available += cache.shape.frames_per_extent - used[extent];
    if (vacating && held[extent] == 0) ++returning;
    if (present && !vacating && used[extent] == 0) ++empty;
    SLUICE_ASSERT(!(present && vacating && used[extent] == 0));
  }
  SLUICE_ASSERT(available == cache.frames.available());
  SLUICE_ASSERT(returning == cache.frames.returning());
  SLUICE_ASSERT(empty == cache.frames.empty());
}

void check_arenas(const Cache& cache) {
  std::uint32_t opens = 0;
  bool made = false;
  for (const Arena& arena : cache.arenas) {
    opens += arena.opens;
    made = made || arena.state == CacheState::open || arena.state == CacheState::idle;
    SLUICE_ASSERT(std::ranges::count(cache.arenas, arena.device, &Arena::device) == 1);
    SLUICE_ASSERT(arena.state != CacheState::destroying || arena.opens == 0);
    SLUICE_ASSERT((arena.state == CacheState::open) <= (arena.opens > 0));
    SLUICE_ASSERT((arena.state == CacheState::idle) <= (arena.opens == 0));
  }
  SLUICE_ASSERT(opens == cache.opens);
  SLUICE_ASSERT(made == (cache.state == CacheState::open || cache.state == CacheState::idle));
  SLUICE_ASSERT(made == (cache.state != CacheState::opening));
}

void check_book(const State& state, const TierBook& book) {
  for (std::uint32_t tenant = 0; tenant < book.tenants.size(); ++tenant) {
    std::uint64_t used = 0;
    for (const auto& cache : state.caches) {
      if (!cache || cache->tenant.value != tenant) continue;
      used += bytes_in(book, *cache);
    }
    SLUICE_ASSERT(used == book.tenants[tenant].used);
  }
  SLUICE_ASSERT(used_bytes(book) <= book.capacity);
}

}  // namespace

void Manager::check() const {
  const State& state = *state_;
  std::vector<References> references(state.caches.size());
  for (const auto& cache : state.caches) {
    if (cache) references[cache->id.value].resize(cache->fresh_id);
  }
  count_references(state, references);
  for (const auto& cache : state.caches) {
    if (!cache || cache->state == CacheState::destroying) continue;
    check_arenas(*cache);
    check_order(*cache);
    check_blocks(state, *cache, references[cache->id.value]);
  }
  for (const TierBook& book : state.hbm) check_book(state, book);
  check_book(state, state.dram);
}

}  // namespace sluice::residency
