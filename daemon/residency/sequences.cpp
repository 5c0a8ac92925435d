// Sequences: the part of Manager that requests go through.
#include <algorithm>
#include <string>
#include <utility>

#include "daemon/residency/manager.h"
#include "daemon/residency/pressure.h"
#include "daemon/residency/seeded.h"
#include "daemon/residency/state.h"
#include "daemon/residency/tiering.h"

namespace sluice::residency {
namespace {

// A slot keeps the memory of its list for the next sequence, up to this many blocks.
constexpr std::size_t kKeptListBlocks = 1024;
// Blocks whose memory is fetched ahead while a list is given up.
constexpr std::size_t kPrefetchAhead = 16;

struct Found {
  Session* session;
  Sequence* sequence;
  Cache* cache;
};

Result<Sequence*> find_sequence(Session& session, Handle handle) {
  if (handle.index < session.sequences.size() && handle.generation != 0 &&
      session.sequences[handle.index].generation == handle.generation) {
    return &session.sequences[handle.index];
  }
  return ipc::fail(Errc::stale_handle,
                   "no such sequence in this session: it was released, or belongs "
                   "to another session");
}

Result<Found> find_place(State& state, SessionId id, Handle handle) {
  auto session = find_session(state, id);
  if (!session) return std::unexpected(session.error());
  auto sequence = find_sequence(**session, handle);
  if (!sequence) return std::unexpected(sequence.error());
  return Found{*session, *sequence, state.caches[(*sequence)->cache.value].get()};
}

SessionCache* find_open(Session& session, CacheId cache, DeviceId device) {
  const auto open = std::ranges::find_if(session.caches, [&](const SessionCache& one) {
    return one.cache == cache && one.device == device;
  });
  return open == session.caches.end() ? nullptr : &*open;
}

Status check_keys(const KeyView& keys, std::size_t blocks_before) {
  if (keys.count == 0) return {};
  if (keys.key_bytes == 0 || keys.key_bytes > kMaxKeyBytes || keys.stride < keys.key_bytes) {
    return ipc::fail(Errc::invalid_argument,
                     "keys of " + std::to_string(keys.key_bytes) + " bytes with a stride of " +
                         std::to_string(keys.stride) + "; expected 1 to " +
                         std::to_string(kMaxKeyBytes) + " bytes and a stride of at least that");
  }
  if (keys.count > kMaxBlocksPerTurn) {
    return ipc::fail(Errc::list_too_long, std::to_string(keys.count) + " keys; at most " +
                                              std::to_string(kMaxBlocksPerTurn) +
                                              " in a call: go on with append_known");
  }
  if (blocks_before + keys.count > kMaxBlocksPerSequence) {
    return ipc::fail(Errc::limit_reached,
                     "a sequence has at most " + std::to_string(kMaxBlocksPerSequence) + " blocks");
  }
  return {};
}

Result<Handle> add_sequence(State& state, Session& session, Cache& cache, DeviceId device) {
  if (session.free_slots.empty() &&
      session.sequences.size() >= state.config.max_sequences_per_session) {
    return ipc::fail(Errc::limit_reached,
                     "the session has " + std::to_string(session.live_sequences) +
                         " sequences, as many as the daemon allows; release some, or raise "
                         "sequences_per_session");
  }
  if (session.free_slots.empty()) {
    session.free_slots.push_back(static_cast<std::uint32_t>(session.sequences.size()));
    session.sequences.emplace_back();
  }
  const std::uint32_t index = session.free_slots.back();
  session.free_slots.pop_back();
  Sequence& sequence = session.sequences[index];
  sequence.generation = state.next_generation++;
  if (state.next_generation == 0) state.next_generation = 1;
  sequence.cache = cache.id;
  sequence.device = device;
  sequence.taken = 0;
  sequence.all_known = false;
  ++session.live_sequences;
  ++find_open(session, cache.id, device)->sequences;
  ++cache.sequences;
  return Handle{index, sequence.generation};
}

// The list must be empty, or moved from.
void remove_sequence(Session& session, Cache& cache, std::uint32_t index) {
  Sequence& sequence = session.sequences[index];
  sequence.generation = 0;
  sequence.blocks.clear();
  if (sequence.blocks.capacity() > kKeptListBlocks) sequence.blocks = {};
  session.free_slots.push_back(index);
  --session.live_sequences;
  --find_open(session, cache.id, sequence.device)->sequences;
  --cache.sequences;
}

BlockRef ref_of(const Cache& cache, BlockId id) { return {id, cache.blocks[id.value].frame}; }

// Matches `keys`, refers to what is known and appends it to the sequence and to the reply.
void match_into(State& state, Cache& cache, Sequence& sequence, const KeyView& keys) {
  state.matched.clear();
  state.reply_blocks.clear();
  match_prefix(cache, state.config.hash_seed, keys, state.matched);
  sequence.blocks.reserve(sequence.blocks.size() + state.matched.size());
  for (const BlockId id : state.matched) {
    reference(cache, id);
    want(cache, id, Urgency::soon);
    sequence.blocks.push_back(id);
    state.reply_blocks.push_back(ref_of(cache, id));
  }
  sequence.all_known = state.matched.size() == keys.count;
  cache.sharing.matched_blocks += state.matched.size();
  cache.sharing.matched_bytes += state.matched.size() * cache.block_bytes();
}

// Gives up the blocks from `keep` on, the last one first: a prefix is used later, so evicted later,
// than what follows it. Long lists go on in turn().
void drop_tail(State& state, Cache& cache, Sequence& sequence, std::size_t keep, Actions& actions) {
  std::vector<BlockId>& blocks = sequence.blocks;
  if (blocks.size() - keep > kMaxBlocksPerTurn) {
    const auto first = blocks.begin() + static_cast<std::ptrdiff_t>(keep);
    state.drains.push_back(Drain{cache.id, std::vector<BlockId>(first, blocks.end())});
    ++cache.drains;
    blocks.erase(first, blocks.end());
    return;
  }
  for (std::size_t i = blocks.size(); i > keep; --i) {
    if (i > keep + kPrefetchAhead)
      __builtin_prefetch(&cache.blocks[blocks[i - 1 - kPrefetchAhead].value], 1);
    dereference(cache, state.config.hash_seed, blocks[i - 1], state.now);
  }
  blocks.resize(keep);
  order_batches(cache, state.next_batch, actions);
}

// Pages of a dead session's blocks on which pins may be left, cache by cache.
struct LeftPins {
  CacheId cache;
  std::vector<BlockId> taken, sealed;

  void flush(Actions& actions) {
    if (!taken.empty()) actions.push_back(DropPins{cache, false, std::exchange(taken, {})});
    if (!sealed.empty()) actions.push_back(DropPins{cache, true, std::exchange(sealed, {})});
  }
};

std::uint8_t sealer_mark(SessionId id) { return static_cast<std::uint8_t>(id.value); }

// The part of a fork from the child's length on.
Result<Forked> fork_part(State& state, Found parent, Handle handle, Sequence* child, Growth growth,
                         Actions& actions) {
  Cache& cache = *parent.cache;
  const std::size_t from = child == nullptr ? 0 : child->blocks.size();
  const std::size_t to =
      std::min<std::size_t>(parent.sequence->blocks.size(), from + kMaxBlocksPerTurn);
  std::uint32_t taken = 0;
  for (std::size_t i = from; i < to; ++i) {
    if (cache.blocks[parent.sequence->blocks[i].value].state == BlockState::taken) ++taken;
  }
  // Frames for the parts that follow too, so that they are rarely short of them half-way.
  const std::uint32_t copied = child == nullptr ? 0 : child->taken;
  const std::uint32_t left = parent.sequence->taken - std::min(copied, parent.sequence->taken);
  auto asked =
      acquire_blocks(state, cache, std::max(taken, left), growth, parent.sequence->device, actions);
  if (!asked) return std::unexpected(asked.error());
  if (*asked) return Forked{true, handle, static_cast<std::uint32_t>(from), false, {}};
  if (child == nullptr) {
    const std::size_t parent_index =
        static_cast<std::size_t>(parent.sequence - parent.session->sequences.data());
    const auto added = add_sequence(state, *parent.session, cache, parent.sequence->device);
    if (!added) return std::unexpected(added.error());
    handle = *added;
    child = &parent.session->sequences[handle.index];
    parent.sequence = &parent.session->sequences[parent_index];  // the table may have grown
  }
  state.reply_copies.clear();
  for (std::size_t i = from; i < to; ++i) {
    const BlockId id = parent.sequence->blocks[i];
    if (cache.blocks[id.value].state == BlockState::taken) {
      const BlockId copy = take_block(cache, parent.session->id, state.now);
      child->blocks.push_back(copy);
      ++child->taken;
      state.reply_copies.push_back(
          {static_cast<std::uint32_t>(i), ref_of(cache, id), ref_of(cache, copy)});
    } else {
      if (!SLUICE_SEEDED(forget_reference)) reference(cache, id);
      child->blocks.push_back(id);
    }
  }
  if (taken > 0) keep_stock(state, cache);
  order_batches(cache, state.next_batch, actions);
  return Forked{false, handle, static_cast<std::uint32_t>(to), to == parent.sequence->blocks.size(),
                state.reply_copies};
}

}  // namespace

bool end_session(State& state, Session& session, std::uint32_t& budget, Actions& actions) {
  drop_unclaimed(state, session, budget, actions);
  if (!session.unclaimed.empty()) return false;
  if (session.away) drop_pins_of_before(state, session, {}, actions);
  end_away(state, session);
  LeftPins pins;
  for (; session.next_ending < session.sequences.size(); ++session.next_ending) {
    Sequence& sequence = session.sequences[session.next_ending];
    if (sequence.generation == 0) continue;
    if (budget == 0) break;
    --budget;
    Cache& cache = *state.caches[sequence.cache.value];
    if (pins.cache != cache.id) pins.flush(actions);
    pins.cache = cache.id;
    for (; budget > 0 && !sequence.blocks.empty(); --budget) {
      const BlockId id = sequence.blocks.back();
      sequence.blocks.pop_back();
      const Block& block = cache.blocks[id.value];
      if (block.state == BlockState::taken) {
        if (SLUICE_SEEDED(leak_on_death)) continue;
        pins.taken.push_back(id);
      } else if (block.sealer == sealer_mark(session.id)) {
        pins.sealed.push_back(id);
      }
      dereference(cache, state.config.hash_seed, id, state.now);
    }
    if (!sequence.blocks.empty()) break;
    remove_sequence(session, cache, session.next_ending);
  }
  pins.flush(actions);
  return session.next_ending == session.sequences.size();
}

Result<SequenceOpened> Manager::open_sequence(SessionId session_id, CacheId cache_id,
                                              const KeyView& keys, DeviceId device) {
  State& state = *state_;
  ++state.now;
  auto session = find_session(state, session_id);
  if (!session) return std::unexpected(session.error());
  if (find_open(**session, cache_id, device) == nullptr) {
    return ipc::fail(Errc::stale_handle, "this session has no cache " +
                                             std::to_string(cache_id.value) + " open on device " +
                                             std::to_string(device.value));
  }
  Cache& cache = *state.caches[cache_id.value];
  if (find_arena(cache, device)->state == CacheState::opening) {
    return ipc::fail(Errc::busy, "this cache is still being made; try again");
  }
  if (auto ok = check_keys(keys, 0); !ok) return std::unexpected(ok.error());
  const auto handle = add_sequence(state, **session, cache, device);
  if (!handle) return std::unexpected(handle.error());
  match_into(state, cache, (*session)->sequences[handle->index], keys);
  return SequenceOpened{*handle, state.reply_blocks};
}

Result<SequenceOpened> Manager::append_known(SessionId session, Handle handle,
                                             const KeyView& keys) {
  State& state = *state_;
  ++state.now;
  auto place = find_place(state, session, handle);
  if (!place) return std::unexpected(place.error());
  if (!place->sequence->all_known) {
    return ipc::fail(Errc::wrong_state,
                     "keys can be appended only while all earlier ones were known and the sequence "
                     "was not changed otherwise");
  }
  if (auto ok = check_keys(keys, place->sequence->blocks.size()); !ok) {
    return std::unexpected(ok.error());
  }
  match_into(state, *place->cache, *place->sequence, keys);
  return SequenceOpened{handle, state.reply_blocks};
}

Result<SequenceOpened> Manager::append_stored(SessionId session, Handle handle,
                                              std::span<const StoredKey> blocks, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto place = find_place(state, session, handle);
  if (!place) return std::unexpected(place.error());
  Sequence& sequence = *place->sequence;
  Cache& cache = *place->cache;
  if (sequence.taken > 0) {
    return ipc::fail(Errc::wrong_state, "the sequence has private blocks already");
  }
  if (blocks.size() > kMaxBlocksPerTurn) {
    return ipc::fail(Errc::list_too_long, std::to_string(blocks.size()) + " blocks; at most " +
                                              std::to_string(kMaxBlocksPerTurn) + " in a call");
  }
  state.reply_blocks.clear();
  for (const StoredKey& stored : blocks) {
    if (stored.key.empty() || stored.key.size() > kMaxKeyBytes || stored.valid_bytes == 0 ||
        stored.valid_bytes > cache.block_bytes() ||
        sequence.blocks.size() >= kMaxBlocksPerSequence) {
      break;
    }
    BlockId id = find_block(cache, hash_key(state.config.hash_seed, stored.key), stored.key);
    if (id != ipc::kNoBlock) {
      reference(cache, id);
    } else if (cache.available_ids() > 0) {
      id = take_stored(cache, state.config.hash_seed, stored, state.now);
    } else {
      break;
    }
    want(cache, id, Urgency::soon);
    sequence.blocks.push_back(id);
    state.reply_blocks.push_back(ref_of(cache, id));
  }
  const std::size_t matched = state.reply_blocks.size();
  sequence.all_known = matched == blocks.size();
  cache.sharing.matched_blocks += matched;
  cache.sharing.matched_bytes += matched * cache.block_bytes();
  cache.tiering.totals.matched += matched;
  promote(state, cache, actions);
  order_batches(cache, state.next_batch, actions);
  return SequenceOpened{handle, state.reply_blocks};
}

Result<SequenceOpened> Manager::adopt_sequence(SessionId session_id, CacheId cache_id,
                                               Handle handle, std::span<const std::uint32_t> ids,
                                               DeviceId device, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto session = find_session(state, session_id);
  if (!session) return std::unexpected(session.error());
  if (!(*session)->resuming) {
    return ipc::fail(Errc::wrong_state,
                     "sequences are adopted by a session that comes back after a restart, before "
                     "it says that it is done");
  }
  if (find_open(**session, cache_id, device) == nullptr) {
    return ipc::fail(Errc::stale_handle, "this session has no cache " +
                                             std::to_string(cache_id.value) + " open on device " +
                                             std::to_string(device.value));
  }
  if (ids.size() > kMaxBlocksPerTurn) {
    return ipc::fail(Errc::list_too_long, std::to_string(ids.size()) + " blocks; at most " +
                                              std::to_string(kMaxBlocksPerTurn) + " in a call");
  }
  Cache& cache = *state.caches[cache_id.value];
  auto& unclaimed = (*session)->unclaimed;
  std::set<std::uint32_t> taken;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const bool known = ids[i] < cache.fresh_id;
    const BlockState has = known ? cache.blocks[ids[i]].state : BlockState::free;
    // What others sealed since is not what it had.
    if (has == BlockState::sealed && std::ranges::binary_search(cache.of_before, BlockId{ids[i]})) {
      continue;
    }
    const bool own = has == BlockState::taken && unclaimed.contains({cache_id.value, ids[i]}) &&
                     taken.insert(ids[i]).second;
    if (own) continue;
    return ipc::fail(Errc::stale_handle, "block " + std::to_string(i) + " of the list (id " +
                                             std::to_string(ids[i]) +
                                             ") is none that this session still has");
  }
  Sequence* sequence = nullptr;
  if (handle.generation != 0) {
    auto found = find_sequence(**session, handle);
    if (!found) return std::unexpected(found.error());
    sequence = *found;
    if (sequence->cache != cache_id ||
        sequence->blocks.size() + ids.size() > kMaxBlocksPerSequence) {
      return ipc::fail(Errc::limit_reached,
                       "the sequence is of another cache, or would be longer "
                       "than " +
                           std::to_string(kMaxBlocksPerSequence));
    }
  } else {
    const auto added = add_sequence(state, **session, cache, device);
    if (!added) return std::unexpected(added.error());
    handle = *added;
    sequence = &(*session)->sequences[handle.index];
  }
  state.reply_blocks.clear();
  for (const std::uint32_t number : ids) {
    const BlockId id{number};
    if (cache.blocks[number].state == BlockState::taken) {
      unclaimed.erase({cache_id.value, number});
      ++sequence->taken;
    } else {
      const bool reused = cache.blocks[number].reused;
      reference(cache, id);
      cache.blocks[number].reused = reused;  // it is with those who had it
      want(cache, id, Urgency::soon);
    }
    sequence->blocks.push_back(id);
    state.reply_blocks.push_back(ref_of(cache, id));
  }
  promote(state, cache, actions);
  order_batches(cache, state.next_batch, actions);
  return SequenceOpened{handle, state.reply_blocks};
}

Result<Extended> Manager::extend(SessionId session, Handle handle, std::uint32_t count,
                                 Growth growth, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto place = find_place(state, session, handle);
  if (!place) return std::unexpected(place.error());
  Sequence& sequence = *place->sequence;
  Cache& cache = *place->cache;
  if (count > kMaxBlocksPerTurn) {
    return ipc::fail(Errc::list_too_long, std::to_string(count) + " blocks; at most " +
                                              std::to_string(kMaxBlocksPerTurn) + " in a call");
  }
  if (sequence.blocks.size() + count > kMaxBlocksPerSequence) {
    return ipc::fail(Errc::limit_reached,
                     "a sequence has at most " + std::to_string(kMaxBlocksPerSequence) + " blocks");
  }
  auto asked = acquire_blocks(state, cache, count, growth, sequence.device, actions);
  if (!asked) return std::unexpected(asked.error());
  const auto first = static_cast<std::uint32_t>(sequence.blocks.size());
  if (*asked) return Extended{true, first, {}};
  state.reply_blocks.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    const BlockId id = take_block(cache, session, state.now);
    sequence.blocks.push_back(id);
    state.reply_blocks.push_back(ref_of(cache, id));
  }
  sequence.taken += count;
  sequence.all_known = false;
  keep_stock(state, cache);
  order_batches(cache, state.next_batch, actions);
  return Extended{false, first, state.reply_blocks};
}

Result<Sealed> Manager::seal(SessionId session, Handle handle, std::uint32_t index,
                             std::span<const std::byte> key, std::uint64_t bytes,
                             Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto place = find_place(state, session, handle);
  if (!place) return std::unexpected(place.error());
  Sequence& sequence = *place->sequence;
  Cache& cache = *place->cache;
  if (index >= sequence.blocks.size()) {
    return ipc::fail(Errc::invalid_argument, "block " + std::to_string(index) +
                                                 " of a sequence of " +
                                                 std::to_string(sequence.blocks.size()));
  }
  if (key.empty() || key.size() > kMaxKeyBytes) {
    return ipc::fail(Errc::invalid_argument, "a key of " + std::to_string(key.size()) +
                                                 " bytes; expected 1 to " +
                                                 std::to_string(kMaxKeyBytes));
  }
  if (bytes == 0) bytes = cache.block_bytes();
  if (bytes > cache.block_bytes()) {
    return ipc::fail(Errc::invalid_argument, std::to_string(bytes) +
                                                 " valid bytes; a block of this cache has " +
                                                 std::to_string(cache.block_bytes()));
  }
  const BlockId own = sequence.blocks[index];
  const std::uint32_t hash = hash_key(state.config.hash_seed, key);
  const bool sealed = cache.blocks[own.value].state == BlockState::sealed;
  if (sealed && !has_key(cache, own, key)) {
    return ipc::fail(Errc::wrong_state, "block " + std::to_string(index) +
                                            " is sealed already, with another key; extend the "
                                            "sequence for a new block");
  }
  const BlockId known = sealed ? own : find_block(cache, hash, key);
  if (known != ipc::kNoBlock && valid_bytes(cache.blocks[known.value]) != bytes &&
      !SLUICE_SEEDED(ignore_key)) {
    return ipc::fail(Errc::size_mismatch,
                     "the key is known for a block of " +
                         std::to_string(valid_bytes(cache.blocks[known.value])) +
                         " valid bytes and this one has " + std::to_string(bytes) +
                         "; keys of partial blocks must differ from those of longer ones");
  }
  if (sealed) return Sealed{false, ref_of(cache, own)};
  if (known == ipc::kNoBlock) {
    publish(cache, own, hash, key, bytes);
    cache.blocks[own.value].sealer = sealer_mark(session);
    note(cache, own, session);
    --sequence.taken;
    actions.push_back(SetFrame{cache.id, own, cache.blocks[own.value].frame});
    return Sealed{false, ref_of(cache, own)};
  }
  reference(cache, known);
  if (!SLUICE_SEEDED(dedup_keeps_private)) sequence.blocks[index] = known;
  --sequence.taken;
  ++cache.sharing.deduplicated_blocks;
  cache.sharing.deduplicated_bytes += cache.block_bytes();
  dereference(cache, state.config.hash_seed, own, state.now);
  order_batches(cache, state.next_batch, actions);
  return Sealed{true, ref_of(cache, known)};
}

Result<Forked> Manager::fork(SessionId session, Handle parent, Growth growth, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto place = find_place(state, session, parent);
  if (!place) return std::unexpected(place.error());
  if (place->session->live_sequences >= state.config.max_sequences_per_session) {
    return ipc::fail(Errc::limit_reached,
                     "the session has " + std::to_string(place->session->live_sequences) +
                         " sequences, as many as the daemon allows; release some");
  }
  return fork_part(state, *place, Handle{}, nullptr, growth, actions);
}

Result<Forked> Manager::fork_more(SessionId session, Handle parent, Handle child, Growth growth,
                                  Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto place = find_place(state, session, parent);
  if (!place) return std::unexpected(place.error());
  auto sequence = find_sequence(*place->session, child);
  if (!sequence) return std::unexpected(sequence.error());
  if (*sequence == place->sequence || (*sequence)->cache != place->sequence->cache ||
      (*sequence)->device != place->sequence->device ||
      (*sequence)->blocks.size() > place->sequence->blocks.size()) {
    return ipc::fail(Errc::wrong_state,
                     "the second sequence is not a fork of the first that is "
                     "still incomplete");
  }
  return fork_part(state, *place, child, *sequence, growth, actions);
}

Status Manager::truncate(SessionId session, Handle handle, std::uint32_t blocks, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto place = find_place(state, session, handle);
  if (!place) return std::unexpected(place.error());
  Sequence& sequence = *place->sequence;
  if (blocks > sequence.blocks.size()) {
    return ipc::fail(Errc::invalid_argument, "truncate to " + std::to_string(blocks) +
                                                 " blocks; the sequence has " +
                                                 std::to_string(sequence.blocks.size()));
  }
  for (std::size_t i = sequence.blocks.size(); i > blocks && sequence.taken > 0; --i) {
    const Block& block = place->cache->blocks[sequence.blocks[i - 1].value];
    if (block.state == BlockState::taken) --sequence.taken;
  }
  sequence.all_known = false;
  drop_tail(state, *place->cache, sequence, blocks, actions);
  return {};
}

Status Manager::release(SessionId session, Handle handle, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto place = find_place(state, session, handle);
  if (!place) return std::unexpected(place.error());
  drop_tail(state, *place->cache, *place->sequence, 0, actions);
  remove_sequence(*place->session, *place->cache, handle.index);
  return {};
}

Result<SequenceInfo> Manager::sequence_info(SessionId session, Handle handle) const {
  auto place = find_place(*state_, session, handle);
  if (!place) return std::unexpected(place.error());
  return SequenceInfo{place->sequence->cache, place->sequence->device,
                      static_cast<std::uint32_t>(place->sequence->blocks.size()),
                      place->sequence->taken};
}

}  // namespace sluice::residency
