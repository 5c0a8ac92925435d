#include "daemon/residency/tiering.h"

#include <algorithm>
#include <iterator>
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

// What the store has, as far as is known, waits behind no writes: it answers at once.
bool may_confirm_more(const Cache& cache) {
  return cache.tiering.confirming < most_moving(cache, kMaxWritingBytes);
}

void begin_writing(Cache& cache, BlockId id) {
  cache.blocks[id.value].writing = true;
  ++cache.tiering.counts.writing;
  cache.tiering.to_write.push_back(id);
}

// The store has it, and holds it.
void begin_leaving(Cache& cache, BlockId id) {
  if (needs_no_write(cache.blocks[id.value])) --cache.tiering.stored_in_use;
  cache.blocks[id.value].place = Place::leaving;
  ++cache.tiering.counts.leaving;
  cache.tiering.to_withdraw.push_back(id);
}

std::deque<BlockId>& queue_of(Tiering& tiering, Urgency urgency) {
  return urgency == Urgency::now ? tiering.wanted_now : tiering.wanted_soon;
}

bool may_be_recalled(const Block& block) {
  return block.state == BlockState::sealed && block.place == Place::leaving && block.references > 0;
}

// A block that was to leave stays: its frame is as it was. Whoever wants it may be in a step, for
// whose end the frame would wait.
void recall(Cache& cache, BlockId id) {
  Tiering& tiering = cache.tiering;
  Block& block = cache.blocks[id.value];
  hold_in_store(cache, id, false);
  block.place = Place::resident;
  block.wanted = false;
  --tiering.counts.leaving;
  if (needs_no_write(block)) ++tiering.stored_in_use;
}

// After some were recalled: they are withdrawn no more, and where they had been, resolvers are told
// of their frames again.
void sort_out_recalled(Cache& cache, Actions& actions) {
  const auto stays = [&](BlockId id) { return cache.blocks[id.value].place != Place::leaving; };
  std::erase_if(cache.tiering.to_withdraw, stays);
  for (RetireBatch& batch : cache.tiering.batches) {
    for (const BlockId id : batch.ids) {
      if (stays(id)) actions.push_back(SetFrame{cache.id, id, cache.blocks[id.value].frame});
    }
    if (!SLUICE_SEEDED(recall_in_batch)) std::erase_if(batch.ids, stays);
  }
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
    queue_of(cache.tiering, block.urgent ? Urgency::now : Urgency::soon).push_back(id);
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

// Whether an entry of that queue stands for a block that is to be read. Ids stay in a queue when
// their block is gone, and may be another's then, and when what was wanted soon is wanted now.
bool is_waiting(const Block& block, Urgency urgency) {
  return block.state == BlockState::sealed && block.wanted && block.place == Place::absent &&
         block.urgent == (urgency == Urgency::now);
}

void forget_promotions(Cache& cache, Urgency urgency) {
  for (const BlockId id : std::exchange(queue_of(cache.tiering, urgency), {})) {
    Block& block = cache.blocks[id.value];
    if (is_waiting(block, urgency)) block.wanted = false;
  }
}

bool may_read_more(const Cache& cache, Urgency urgency) {
  const Tiering& tiering = cache.tiering;
  if (tiering.counts.arriving >= most_moving(cache, kMaxArrivingBytes)) return false;
  return urgency == Urgency::now ||
         tiering.arriving_soon < most_moving(cache, kMaxArrivingSoonBytes);
}

void begin_reading(Cache& cache, BlockId id, Actions& actions) {
  Tiering& tiering = cache.tiering;
  Block& block = cache.blocks[id.value];
  block.wanted = false;
  block.frame = cache.frames.take(id);
  if (block.references > 0) cache.frames.hold(block.frame);
  block.place = Place::arriving;
  --tiering.counts.absent;
  ++tiering.counts.arriving;
  if (!block.urgent) ++tiering.arriving_soon;
  note(cache, id);
  actions.push_back(ReadBlock{cache.id, id, block.frame, valid_bytes(block), copy_of_key(cache, id),
                              block.urgent ? Urgency::now : Urgency::soon});
  if (SLUICE_SEEDED(publish_before_loaded)) {
    actions.push_back(SetFrame{cache.id, id, block.frame});
  }
}

// Begins to read what is wanted so, and sees to frames for the rest. True: nothing is left.
bool promote(State& state, Cache& cache, Urgency urgency, Actions& actions) {
  // One more than new blocks leave: these have their turn beside forecasts.
  const std::uint32_t reserve =
      urgency == Urgency::now
          ? 0
          : std::min(urgent_stock(cache) + 1, std::max(cache.frames.lasting(), 1U) - 1);
  auto& queue = queue_of(cache.tiering, urgency);
  while (!queue.empty()) {
    const BlockId id = queue.front();
    if (!is_waiting(cache.blocks[id.value], urgency)) {
      queue.pop_front();
      continue;
    }
    if (!may_read_more(cache, urgency)) return false;
    const std::uint32_t available = cache.frames.available();
    if (available <= reserve) {
      // No more than there can be: a part of them is better than none.
      const std::uint64_t most =
          std::clamp<std::uint64_t>(frames_within_reach(cache, state.now), 1, kMaxBlocksPerTurn);
      const auto asked = available + std::min<std::uint64_t>(queue.size(), most);
      const Growth growth =
          state.now < cache.tiering.no_growth_until ? Growth::refused : Growth::allowed;
      const auto room = acquire_frames(state, cache, static_cast<std::uint32_t>(asked), 0, growth,
                                       cache.arenas.front().device, actions);
      if (!room && room.error().code != Errc::busy) forget_promotions(cache, urgency);
      return queue.empty();
    }
    queue.pop_front();
    begin_reading(cache, id, actions);
  }
  return true;
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
  const bool write =
      !SLUICE_SEEDED(drop_unwritten) && !cache.blocks[id.value].stored && may_write(cache, now);
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

bool may_write(const Cache& cache, std::uint64_t now) {
  return cache.tiering.store && !writes_refused(cache.tiering, now);
}

bool may_write_more(const Cache& cache) {
  return cache.tiering.counts.writing - cache.tiering.confirming <
         most_moving(cache, kMaxWritingBytes);
}

bool write_some(Cache& cache, std::uint32_t& next, std::uint32_t end) {
  for (; next < end; ++next) {
    const BlockId id{next};
    const Block& block = cache.blocks[next];
    if (block.state != BlockState::sealed || !in_use_order(block) || block.stored) continue;
    if (!may_write_more(cache)) return false;
    leave_use_order(cache, id);
    begin_writing(cache, id);
    cache.blocks[next].stays = true;
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
    const bool may_confirm = tiering.stored_in_use > 0 && may_confirm_more(cache);
    if (!may_confirm && (writes_refused(tiering, now) || !may_write_more(cache))) break;
    if (tiering.hand >= cache.fresh_id) tiering.hand = 0;
    const BlockId id{tiering.hand++};
    Block& block = cache.blocks[id.value];
    if (!may_be_displaced(block)) continue;
    if (SLUICE_SEEDED(displace_unwritten) || (SLUICE_SEEDED(displace_unheld) && block.stored)) {
      begin_leaving(cache, id);
      ++begun;
      continue;
    }
    if (block.stored) {
      // The store may have dropped it since. It is asked to write it, which is quick if it has it,
      // and to hold it.
      if (!may_confirm_more(cache)) continue;
      --tiering.stored_in_use;
      block.stored = false;
      block.confirms = true;
      ++tiering.confirming;
      note(cache, id);
    } else if (writes_refused(tiering, now) || !may_write_more(cache)) {
      continue;
    }
    block.leaves = true;
    begin_writing(cache, id);
    ++begun;
  }
  return begun;
}

void want(Cache& cache, BlockId id, Urgency urgency) {
  Block& block = cache.blocks[id.value];
  if (block.state != BlockState::sealed || is_lost(block)) return;
  if (block.place != Place::absent && block.place != Place::leaving) return;
  const bool now = urgency == Urgency::now;
  if (block.wanted && (block.urgent || !now)) return;
  auto& queue = queue_of(cache.tiering, urgency);
  if (queue.size() >= kMaxPromotionsQueued) return;
  block.wanted = true;
  block.urgent = now;
  if (block.place == Place::absent) queue.push_back(id);
}

// A step waits for a block that is coming already, if slowly.
void hurry(Cache& cache, BlockId id, Actions& actions) {
  Block& block = cache.blocks[id.value];
  if (block.place != Place::arriving || block.urgent) return;
  block.urgent = true;
  --cache.tiering.arriving_soon;
  actions.push_back(HurryRead{cache.id, id, copy_of_key(cache, id)});
}

void promote(State& state, Cache& cache, Actions& actions) {
  if (promote(state, cache, Urgency::now, actions)) {
    (void)promote(state, cache, Urgency::soon, actions);
  }
}

void order_holds(Cache& cache, Actions& actions) {
  auto& holds = cache.tiering.to_hold;
  std::ranges::move(holds, std::back_inserter(actions));
  holds.clear();
}

void order_moves(Cache& cache, std::uint64_t& next_batch, Actions& actions) {
  Tiering& tiering = cache.tiering;
  order_holds(cache, actions);
  for (const BlockId id : std::exchange(tiering.to_write, {})) {
    const Block& block = cache.blocks[id.value];
    actions.push_back(WriteBlock{
        cache.id, id, block.frame, valid_bytes(block), copy_of_key(cache, id),
        block.references > 0 || block.reused ? Reuse::likely : Reuse::unlikely, block.leaves});
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
  const bool confirms = (*block)->confirms;
  (*block)->confirms = false;
  if (confirms) --tiering.confirming;
  const bool leaves = (*block)->leaves;
  (*block)->leaves = false;
  const bool stays = (*block)->stays;
  (*block)->stays = false;
  if (outcome == WriteOutcome::stored || SLUICE_SEEDED(believe_refused)) {
    (*block)->stored = true;
    if (needs_no_write(**block)) ++tiering.stored_in_use;
    if (!confirms) ++tiering.totals.written;
    note(**cache, block_id);
  } else if (outcome == WriteOutcome::unwanted) {
    ++tiering.totals.write_refused;
  } else {
    if (stays) {
      // It is asked again, from the first on; several that were under way are refused together.
      (*cache)->next_parting = 0;
      if (may_write(**cache, state.now)) ++(*cache)->parting_refusals;
    }
    tiering.refused_until = state.now + kWriteRefusedEvents;
    ++tiering.totals.write_refused;
  }
  if ((*block)->references == 0) {
    if (leaves && (*block)->stored) hold_in_store(**cache, block_id, false);
    if (stays) (*block)->last_use = state.now;
    append_newest(**cache, block_id);
    if (!stays) {
      residency::evict(**cache, state.config.hash_seed, block_id, EvictReason::pressure);
    } else if ((*cache)->frames.is_vacating((*block)->frame)) {
      evict_vacating_soon(**cache, state.config.hash_seed, block_id, state.now);
    }
  } else if (leaves && (*block)->stored) {
    begin_leaving(**cache, block_id);
  }
  promote(state, **cache, actions);
  if ((*cache)->parting) go_on_parting(state, **cache, kMaxBlocksPerTurn, actions);
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
  if (!(*block)->urgent) --tiering.arriving_soon;
  (*block)->urgent = false;
  hold_in_store(**cache, block_id, false);
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
        evict_vacating_soon(**cache, seed, block_id, state.now);
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

Status Manager::let_go_of_unused(CacheId id, std::span<const std::span<const std::byte>> keys,
                                 Actions& actions) {
  State& state = *state_;
  auto cache = find_living(state, id);
  if (!cache) return std::unexpected(cache.error());
  for (const auto key : keys) {
    const BlockId known = find_block(**cache, hash_key(state.config.hash_seed, key), key);
    if (known != ipc::kNoBlock) {
      const Block& block = (*cache)->blocks[known.value];
      // One that leaves may have been asked for just now, and be held by that already.
      if (is_held_in_store(block) || block.leaves) continue;
    }
    actions.push_back(HoldStored{id, known, {key.begin(), key.end()}, false});
  }
  return {};
}

Status Manager::wanted(CacheId id, std::span<const BlockId> ids, Actions& actions,
                       Urgency urgency) {
  State& state = *state_;
  ++state.now;
  auto cache = find_living(state, id);
  if (!cache) return std::unexpected(cache.error());
  bool recalled = false;
  for (const BlockId one : ids) {
    if (one.value >= (*cache)->fresh_id) continue;
    if (urgency == Urgency::now) hurry(**cache, one, actions);
    if (urgency == Urgency::now && may_be_recalled((*cache)->blocks[one.value])) {
      recall(**cache, one);
      recalled = true;
    } else {
      want(**cache, one, urgency);
    }
  }
  if (recalled) sort_out_recalled(**cache, actions);
  promote(state, **cache, actions);
  keep_stock(state, **cache);
  order_batches(**cache, state.next_batch, actions);
  return {};
}

}  // namespace sluice::residency
