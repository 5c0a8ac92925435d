#include "daemon/residency/tiering.h"

#include <algorithm>
#include <string>
#include <utility>

#include "daemon/residency/manager.h"
#include "daemon/residency/pressure.h"
#include "daemon/residency/seeded.h"

namespace sluice::residency {
namespace {

// Ids that one call looks at for blocks to displace.
constexpr std::uint32_t kMaxLooks = 16 * kMaxBlocksPerTurn;

bool writes_refused(const Tiering& tiering, std::uint64_t now) {
  return now < tiering.refused_until;
}

bool may_write_more(const Cache& cache) {
  return cache.tiering.counts.writing < most_moving(cache, kMaxWritingBytes);
}

void begin_writing(Cache& cache, BlockId id) {
  cache.blocks[id.value].writing = true;
  ++cache.tiering.counts.writing;
  cache.tiering.to_write.push_back(id);
}

void begin_leaving(Cache& cache, BlockId id) {
  if (needs_no_write(cache.blocks[id.value])) --cache.tiering.stored_in_use;
  cache.blocks[id.value].place = Place::leaving;
  ++cache.tiering.counts.leaving;
  cache.tiering.to_withdraw.push_back(id);
}

// The block has no frame any more.
void become_absent(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id,
                   Actions& actions) {
  Block& block = cache.blocks[id.value];
  if (block.references > 0) cache.frames.unhold(block.frame);
  if (SLUICE_SEEDED(keep_lost_frame) && !block.stored) {
    block.frame = ipc::kNoFrameId;
  } else {
    give_back_frame(cache, block, actions);
  }
  block.place = Place::absent;
  ++cache.tiering.counts.absent;
  note(cache, id);
  if (block.references == 0) {
    evict(cache, seed, id, EvictReason::pressure);
  } else if (block.wanted) {
    cache.tiering.promotions.push_back(id);
  }
}

// For the seeded bug: the frames of a batch that was ordered just now are free.
void skip_grace(Cache& cache, RetireBatch& batch, Actions& actions) {
  std::erase_if(batch.ids, [&](BlockId id) {
    if (cache.blocks[id.value].references == 0) return false;
    --cache.tiering.counts.leaving;
    become_absent(cache, {}, id, actions);
    return true;
  });
}

bool may_be_displaced(const Block& block) {
  return block.state == BlockState::sealed && block.references > 0 &&
         block.place == Place::resident && !block.writing;
}

std::vector<std::byte> copy_of_key(const Cache& cache, BlockId id) {
  const KeyCopy key = key_of(cache, id);
  return {key.bytes.begin(), key.bytes.begin() + static_cast<std::ptrdiff_t>(key.size)};
}

void forget_promotions(Cache& cache) {
  for (const BlockId id : std::exchange(cache.tiering.promotions, {})) {
    cache.blocks[id.value].wanted = false;
  }
}

// The cache of a move. One that is being destroyed has no blocks any more, and its moves are void.
Result<Cache*> find_living(State& state, CacheId id) {
  auto cache = find_cache(state, id);
  if (cache && (*cache)->state != CacheState::destroying) return *cache;
  return ipc::fail(Errc::not_found, "nothing of cache " + std::to_string(id.value) + " moves");
}

// The block of a move that is under way.
Result<Block*> find_moving(Cache& cache, BlockId id, bool (*moves)(const Block&)) {
  if (id.value < cache.fresh_id) {
    Block& block = cache.blocks[id.value];
    if (block.state == BlockState::sealed && moves(block)) return &block;
  }
  return ipc::fail(Errc::not_found, "block " + std::to_string(id.value) + " of cache " +
                                        std::to_string(cache.id.value) + " does not move so");
}

}  // namespace

std::uint64_t most_moving(const Cache& cache, std::uint64_t bytes) {
  return std::clamp<std::uint64_t>(bytes / cache.shape.geometry.frame_stride, 1, kMaxMovingBlocks);
}

bool give_up(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id, EvictReason reason,
             std::uint64_t now) {
  const bool write = !SLUICE_SEEDED(drop_unwritten) && cache.tiering.store &&
                     !cache.blocks[id.value].stored && !writes_refused(cache.tiering, now);
  if (!write) {
    evict(cache, seed, id, reason);
    return true;
  }
  if (!may_write_more(cache)) return false;
  leave_use_order(cache, id);
  begin_writing(cache, id);
  if (SLUICE_SEEDED(evict_while_writing)) {
    cache.blocks[id.value].writing = false;
    append_newest(cache, id);
    evict(cache, seed, id, reason);
  }
  return true;
}

std::uint64_t displaceable(const Cache& cache, std::uint64_t now) {
  const Tiering& tiering = cache.tiering;
  if (!tiering.store) return 0;
  if (writes_refused(tiering, now)) return tiering.stored_in_use;
  return cache.counts.sealed - cache.counts.unreferenced - tiering.counts.absent -
         tiering.counts.leaving - tiering.counts.arriving - tiering.counts.writing;
}

std::uint64_t displace(Cache& cache, std::uint64_t most, std::uint64_t now) {
  Tiering& tiering = cache.tiering;
  std::uint64_t begun = 0;
  const std::uint32_t looks = std::min(kMaxLooks, cache.fresh_id);
  for (std::uint32_t look = 0; look < looks && begun < most; ++look) {
    if (tiering.hand >= cache.fresh_id) tiering.hand = 0;
    const BlockId id{tiering.hand++};
    Block& block = cache.blocks[id.value];
    if (!may_be_displaced(block)) continue;
    if (block.stored || SLUICE_SEEDED(displace_unwritten)) {
      begin_leaving(cache, id);
    } else {
      if (writes_refused(tiering, now) || !may_write_more(cache)) continue;
      block.leaves = true;
      begin_writing(cache, id);
    }
    ++begun;
  }
  return begun;
}

void want(Cache& cache, BlockId id) {
  Block& block = cache.blocks[id.value];
  if (block.state != BlockState::sealed || block.wanted || is_lost(block)) return;
  if (block.place != Place::absent && block.place != Place::leaving) return;
  if (cache.tiering.promotions.size() >= kMaxPromotionsQueued) return;
  block.wanted = true;
  if (block.place == Place::absent) cache.tiering.promotions.push_back(id);
}

void promote(State& state, Cache& cache, Actions& actions) {
  Tiering& tiering = cache.tiering;
  while (!tiering.promotions.empty()) {
    const BlockId id = tiering.promotions.front();
    Block& block = cache.blocks[id.value];
    if (block.state != BlockState::sealed || !block.wanted || block.place != Place::absent) {
      tiering.promotions.pop_front();  // of a block that is gone; the id may be another one's
      continue;
    }
    if (tiering.counts.arriving >= most_moving(cache, kMaxArrivingBytes)) return;
    if (cache.frames.available() == 0) {
      // No more than there can be: a part of them is better than none.
      const std::uint64_t most =
          std::clamp<std::uint64_t>(frames_within_reach(cache, state.now), 1, kMaxBlocksPerTurn);
      const auto asked = std::min<std::uint64_t>(tiering.promotions.size(), most);
      const Growth growth = state.now < tiering.no_growth_until ? Growth::refused : Growth::allowed;
      const auto room = acquire_frames(state, cache, static_cast<std::uint32_t>(asked), growth,
                                       cache.arenas.front().device, actions);
      if (!room && room.error().code != Errc::busy) forget_promotions(cache);
      return;
    }
    tiering.promotions.pop_front();
    block.wanted = false;
    block.frame = cache.frames.take(id);
    if (block.references > 0) cache.frames.hold(block.frame);
    block.place = Place::arriving;
    --tiering.counts.absent;
    ++tiering.counts.arriving;
    note(cache, id);
    actions.push_back(
        ReadBlock{cache.id, id, block.frame, valid_bytes(block), copy_of_key(cache, id)});
    if (SLUICE_SEEDED(publish_before_loaded)) {
      actions.push_back(SetFrame{cache.id, id, block.frame});
    }
  }
}

void order_moves(Cache& cache, std::uint64_t& next_batch, Actions& actions) {
  Tiering& tiering = cache.tiering;
  for (const BlockId id : std::exchange(tiering.to_write, {})) {
    const Block& block = cache.blocks[id.value];
    actions.push_back(
        WriteBlock{cache.id, id, block.frame, valid_bytes(block), copy_of_key(cache, id)});
  }
  while (!tiering.to_withdraw.empty() && tiering.batches.size() < kMaxRetireBatches) {
    const auto count = static_cast<std::ptrdiff_t>(
        std::min<std::size_t>(tiering.to_withdraw.size(), kMaxBlocksPerTurn));
    const auto end = tiering.to_withdraw.begin() + count;
    RetireBatch batch{next_batch++, {tiering.to_withdraw.begin(), end}};
    tiering.to_withdraw.erase(tiering.to_withdraw.begin(), end);
    actions.push_back(Withdraw{cache.id, batch.number, batch.ids});
    if (SLUICE_SEEDED(withdraw_without_grace)) skip_grace(cache, batch, actions);
    tiering.batches.push_back(std::move(batch));
  }
}

// ---- Manager

Status Manager::written(CacheId id, BlockId block_id, WriteOutcome outcome, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto cache = find_living(state, id);
  if (!cache) return std::unexpected(cache.error());
  auto block = find_moving(**cache, block_id, [](const Block& one) { return one.writing; });
  if (!block) return std::unexpected(block.error());
  Tiering& tiering = (*cache)->tiering;
  (*block)->writing = false;
  --tiering.counts.writing;
  const bool leaves = (*block)->leaves;
  (*block)->leaves = false;
  if (outcome == WriteOutcome::stored || SLUICE_SEEDED(believe_refused)) {
    (*block)->stored = true;
    if (needs_no_write(**block)) ++tiering.stored_in_use;
    ++tiering.totals.written;
    note(**cache, block_id);
  } else {
    tiering.refused_until = state.now + kWriteRefusedEvents;
    ++tiering.totals.write_refused;
  }
  if ((*block)->references == 0) {
    append_newest(**cache, block_id);
    residency::evict(**cache, state.config.hash_seed, block_id, EvictReason::pressure);
  } else if (leaves && (*block)->stored) {
    begin_leaving(**cache, block_id);
  }
  promote(state, **cache, actions);
  order_batches(**cache, state.next_batch, actions);
  return {};
}

Status Manager::withdrawn(CacheId id, std::uint64_t batch, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto cache = find_living(state, id);
  if (!cache) return std::unexpected(cache.error());
  Tiering& tiering = (*cache)->tiering;
  const auto found = std::ranges::find(tiering.batches, batch, &RetireBatch::number);
  if (found == tiering.batches.end()) {
    return ipc::fail(Errc::not_found, "cache " + std::to_string(id.value) + " withdraws no batch " +
                                          std::to_string(batch));
  }
  const std::vector<BlockId> ids = std::move(found->ids);
  tiering.batches.erase(found);
  for (const BlockId one : ids) {
    --tiering.counts.leaving;
    ++tiering.totals.displaced;
    become_absent(**cache, state.config.hash_seed, one, actions);
  }
  promote(state, **cache, actions);
  order_batches(**cache, state.next_batch, actions);
  return {};
}

Status Manager::loaded(CacheId id, BlockId block_id, bool whole, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto cache = find_living(state, id);
  if (!cache) return std::unexpected(cache.error());
  auto block =
      find_moving(**cache, block_id, [](const Block& one) { return one.place == Place::arriving; });
  if (!block) return std::unexpected(block.error());
  Tiering& tiering = (*cache)->tiering;
  const auto& seed = state.config.hash_seed;
  --tiering.counts.arriving;
  if (whole) {
    (*block)->place = Place::resident;
    note(**cache, block_id);
    if (needs_no_write(**block)) ++tiering.stored_in_use;
    ++tiering.totals.promoted;
    actions.push_back(SetFrame{id, block_id, (*block)->frame});
    if ((*block)->references == 0) {
      (*block)->last_use = state.now;
      append_newest(**cache, block_id);
      if ((*cache)->frames.is_vacating((*block)->frame)) {
        evict_vacating(**cache, seed, block_id, state.now);
      }
    }
  } else {
    if (!SLUICE_SEEDED(stay_lost_in_directory)) {
      (*cache)->directory.erase(hash_key(seed, key_of(**cache, block_id)), block_id);
    }
    (*block)->stored = false;
    ++tiering.counts.lost;
    ++tiering.totals.lost;
    if ((*block)->references > 0) actions.push_back(SetFrame{id, block_id, ipc::kLostFrameId});
    become_absent(**cache, seed, block_id, actions);
  }
  promote(state, **cache, actions);
  order_batches(**cache, state.next_batch, actions);
  return {};
}

Status Manager::wanted(CacheId id, std::span<const BlockId> ids, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto cache = find_living(state, id);
  if (!cache) return std::unexpected(cache.error());
  for (const BlockId one : ids) {
    if (one.value < (*cache)->fresh_id) want(**cache, one);
  }
  promote(state, **cache, actions);
  keep_stock(state, **cache);
  order_batches(**cache, state.next_batch, actions);
  return {};
}

}  // namespace sluice::residency
