// Taking over what a manager of before left.
#include "daemon/residency/adopt.h"

#include <algorithm>
#include <string>
#include <utility>

#include "daemon/residency/manager.h"
#include "daemon/residency/seeded.h"
#include "daemon/residency/state.h"
#include "daemon/residency/tiering.h"

namespace sluice::residency {
namespace {

using Content = BlockRecord::Content;

std::unexpected<Error> unfit(std::string text) {
  return ipc::fail(Errc::invalid_argument, std::move(text));
}

// ---- one cache

// Extents that a block lies in. The others may have been given back before, and count as such: what
// they are charged for now would be missing for what is really there.
std::vector<bool> occupied_extents(const AdoptedCache& adopted) {
  const CacheShape& shape = adopted.shape;
  std::vector<bool> occupied(adopted.frame_extents, shape.extents_stay);
  for (const BlockRecord& record : adopted.records) {
    const std::uint32_t extent = record.content().frame / shape.frames_per_extent;
    if (record.state() != BlockRecord::free && extent < occupied.size()) occupied[extent] = true;
  }
  return occupied;
}

Status check_adopted(const State& state, const AdoptedCache& adopted) {
  const CacheShape& shape = adopted.shape;
  const std::string name = "cache " + std::to_string(adopted.id.value) + " of before";
  if (adopted.tenant.value >= state.past.size()) {
    return ipc::fail(Errc::not_found, name + " is of a tenant that does not exist any more");
  }
  if (adopted.id.value >= state.caches.size() || state.caches[adopted.id.value]) {
    return unfit(name + " has a number that is taken, or beyond limits.caches");
  }
  const std::uint64_t in_extents = std::uint64_t{shape.max_frame_extents} * shape.frames_per_extent;
  if (shape.frames_per_extent == 0 || adopted.frame_extents > shape.max_frame_extents ||
      in_extents > kMaxBlocksPerCache || shape.max_blocks == 0 ||
      shape.max_blocks > kMaxBlocksPerCache || adopted.records.size() != shape.max_blocks ||
      shape.frames_per_extent * shape.geometry.frame_stride > shape.frame_extent_bytes ||
      adopted.arenas.empty()) {
    return unfit(name + " has sizes that do not go together");
  }
  if (shape.extents_stay != state.dram.extents_stay) {
    return unfit(name + " was made for another backend");
  }
  const auto occupied =
      static_cast<std::uint64_t>(std::ranges::count(occupied_extents(adopted), true));
  const std::uint64_t dram = occupied * shape.frame_extent_bytes;
  if (used_bytes(state.dram) + dram > state.dram.capacity) {
    return ipc::fail(Errc::quota_exceeded, name + " has " + std::to_string(dram) +
                                               " bytes of DRAM, more than tiers.dram.capacity has "
                                               "room for now");
  }
  for (const AdoptedCache::Arena& arena : adopted.arenas) {
    if (arena.device.value >= state.hbm.size()) {
      return ipc::fail(Errc::not_found, name + " is on a device that does not exist any more");
    }
    const TierBook& hbm = state.hbm[arena.device.value];
    const std::uint64_t bytes = arena.extents * shape.slot_extent_bytes;
    if (arena.extents == 0 || used_bytes(hbm) + bytes > hbm.capacity) {
      return ipc::fail(Errc::quota_exceeded, name + " has " + std::to_string(bytes) +
                                                 " bytes of HBM, more than tiers.hbm.capacity has "
                                                 "room for now");
    }
  }
  return {};
}

// Whether a manager would have written it.
bool is_sound(const BlockRecord& record, const CacheShape& shape, std::uint32_t frames) {
  const Content& has = record.content();
  const bool framed = has.frame < frames;
  if (record.state() == BlockRecord::taken) return framed;
  if (record.state() != BlockRecord::sealed) return true;
  if (has.key_bytes == 0 || has.key_bytes > kMaxKeyBytes || has.place > Place::arriving ||
      has.stored > 1 || std::uint64_t{has.valid_bytes_less_one} + 1 > shape.geometry.block_bytes) {
    return false;
  }
  return framed != (has.place == Place::absent);
}

// What becomes of a record's block.
enum class Fate : std::uint8_t { none, taken, resident, absent, retires };

class Adopter {
 public:
  Adopter(State& state, Cache& cache, std::uint32_t frame_extents)
      : state_(state),
        cache_(cache),
        frame_extents_(frame_extents),
        frames_(frame_extents * cache.shape.frames_per_extent),
        held_(state.away[cache.tenant.value] > 0) {}

  Adoption run() {
    cache_.fresh_id = end_of_ids();
    cache_.blocks.ensure(cache_.fresh_id);
    fates_.resize(cache_.fresh_id);
    std::vector<BlockId> owners(frames_, ipc::kNoBlock);
    for (std::uint32_t i = 0; i < cache_.fresh_id; ++i) {
      fates_[i] = fate_of(BlockId{i});
      give_frame(BlockId{i}, owners);
    }
    cache_.frames.adopt(frame_extents_, owners);
    report_.frames.assign(cache_.fresh_id, ipc::kNoFrameId);
    for (std::uint32_t i = 0; i < cache_.fresh_id; ++i) place(BlockId{i});
    cache_.held = held_;
    if (held_) ++cache_.drains;
    if (held_) cache_.given_up = std::exchange(cache_.waiting, {});
    return std::move(report_);
  }

 private:
  const BlockRecord& record_of(BlockId id) const { return cache_.records[id.value]; }

  std::uint32_t end_of_ids() const {
    auto end = static_cast<std::uint32_t>(cache_.records.size());
    while (end > 0 && cache_.records[end - 1].state() == BlockRecord::free) --end;
    return end;
  }

  Session* owner_of(const Content& record) {
    const auto found = state_.sessions.find(record.owner);
    if (found == state_.sessions.end() || found->second.tenant != cache_.tenant) return nullptr;
    return &found->second;
  }

  Fate damaged() {
    ++report_.damaged;
    return Fate::retires;
  }

  Fate fate_of(BlockId id) {
    const BlockRecord& record = record_of(id);
    if (!is_sound(record, cache_.shape, frames_)) return damaged();
    switch (record.state()) {
      case BlockRecord::free:
        return Fate::none;
      case BlockRecord::taken:
        return owner_of(record.content()) != nullptr ? Fate::taken : Fate::retires;
      case BlockRecord::sealed:
        return fate_of_sealed(id, record.content());
      case BlockRecord::changing:
      case BlockRecord::retiring:
        return Fate::retires;
    }
    return damaged();
  }

  // It is in the directory afterwards, unless it retires, or is lost.
  Fate fate_of_sealed(BlockId id, const Content& has) {
    const bool there = has.place == Place::resident || has.place == Place::leaving;
    // Nobody can refer to it, and it is not in DRAM.
    if (!there && !held_) return Fate::retires;
    const std::span key(has.key.data(), has.key_bytes);
    const std::uint32_t hash = hash_key(state_.config.hash_seed, key);
    const bool lost = !there && has.stored == 0;
    if (!lost && find_block(cache_, hash, key) != ipc::kNoBlock) return damaged();
    cache_.blocks[id.value] = Block{};
    make_known(cache_, id, hash, key, std::uint64_t{has.valid_bytes_less_one} + 1);
    if (lost) cache_.directory.erase(hash, id);
    return there ? Fate::resident : Fate::absent;
  }

  // A frame is one block's. Of two that claim it neither is believed.
  void give_frame(BlockId id, std::vector<BlockId>& owners) {
    const Content& has = record_of(id).content();
    const Fate fate = fates_[id.value];
    if (fate == Fate::none || fate == Fate::absent || has.frame >= frames_) return;
    BlockId& owner = owners[has.frame];
    if (owner == ipc::kNoBlock) {
      owner = id;
      return;
    }
    ++report_.damaged;
    spoil(owner);
    spoil(id);
  }

  void spoil(BlockId id) {
    if (fates_[id.value] == Fate::resident) {
      cache_.directory.erase(hash_key(state_.config.hash_seed, key_of(cache_, id)), id);
      --cache_.counts.sealed;
    }
    fates_[id.value] = Fate::retires;
  }

  void place(BlockId id) {
    const Content has = record_of(id).content();
    const Fate fate = fates_[id.value];
    if (fate == Fate::none) {
      cache_.free_ids.push_back(id);
      return;
    }
    Block& block = cache_.blocks[id.value];
    if (fate == Fate::taken || fate == Fate::retires) block = Block{};
    const bool framed = fate != Fate::absent && has.frame < frames_ &&
                        cache_.frames.owner(FrameId{has.frame}) == id;
    block.frame = framed ? FrameId{has.frame} : ipc::kNoFrameId;
    block.last_use = state_.now;
    if (fate == Fate::taken) {
      place_taken(id, block, *owner_of(has));
    } else if (fate == Fate::retires) {
      retire(cache_, id);
      ++report_.given_up;
    } else {
      place_sealed(id, block, has, fate);
    }
  }

  void place_taken(BlockId id, Block& block, Session& owner) {
    block.state = BlockState::taken;
    block.references = 1;
    cache_.frames.hold(block.frame);
    ++cache_.counts.taken;
    owner.unclaimed.emplace(cache_.id.value, id.value);
    ++report_.private_blocks;
  }

  void place_sealed(BlockId id, Block& block, const Content& has, Fate fate) {
    ++report_.sealed_blocks;
    block.sealer = has.sealer;
    block.stored = has.stored != 0 && cache_.tiering.store;
    block.place = fate == Fate::resident ? Place::resident : Place::absent;
    if (fate == Fate::resident) {
      report_.frames[id.value] = block.frame;
    } else {
      ++cache_.tiering.counts.absent;
      if (is_lost(block)) {
        if (has.stored != 0) {  // in a store that there is none of any more
          cache_.directory.erase(hash_key(state_.config.hash_seed, key_of(cache_, id)), id);
        }
        ++cache_.tiering.counts.lost;
        report_.frames[id.value] = ipc::kLostFrameId;
      } else {
        hold_in_store(cache_, id, true);
      }
    }
    if (held_) {
      block.references = 1;
      ++cache_.referenced;
      if (block.frame != ipc::kNoFrameId) cache_.frames.hold(block.frame);
      if (needs_no_write(block)) ++cache_.tiering.stored_in_use;
      cache_.of_before.push_back(id);
      cache_.sealers_of_before.push_back(has.owner);
    } else {
      append_newest(cache_, id);
    }
    note(cache_, id);
  }

  State& state_;
  Cache& cache_;
  std::uint32_t frame_extents_;
  std::uint32_t frames_;
  bool held_;
  std::vector<Fate> fates_;
  Adoption report_;
};

// References for sessions that are away are given up, in turns. The caller orders the batches.
void let_go_of_before(State& state, TenantId tenant) {
  for (const auto& cache : state.caches) {
    if (!cache || cache->tenant != tenant || !cache->held) continue;
    cache->held = false;  // the drain goes on with this one's count
    state.drains.push_back(Drain{cache->id, std::exchange(cache->of_before, {})});
    cache->sealers_of_before = {};
    cache->waiting.insert(cache->waiting.end(), cache->given_up.begin(), cache->given_up.end());
    cache->given_up.clear();
  }
}

Result<Session*> find_resuming(State& state, SessionId id) {
  auto session = find_session(state, id);
  if (session && !(*session)->resuming) {
    return ipc::fail(Errc::wrong_state,
                     "the session is not one of before that comes back: nothing to adopt");
  }
  return session;
}

}  // namespace

void drop_pins_of_before(const State& state, const Session& session,
                         const std::set<std::pair<std::uint32_t, std::uint32_t>>& named,
                         Actions& actions) {
  for (const auto& cache : state.caches) {
    if (!cache || cache->tenant != session.tenant) continue;
    std::vector<BlockId> pinned;
    for (std::size_t i = 0; i < cache->of_before.size(); ++i) {
      const BlockId id = cache->of_before[i];
      if (cache->sealers_of_before[i] != session.id.value) continue;
      if (!named.contains({cache->id.value, id.value})) pinned.push_back(id);
    }
    if (!pinned.empty()) actions.push_back(DropPins{cache->id, true, std::move(pinned)});
  }
}

void drop_unclaimed(State& state, Session& session, std::uint32_t& budget, Actions& actions) {
  std::vector<BlockId> pinned;
  CacheId at;
  const auto flush = [&] {
    if (!pinned.empty()) actions.push_back(DropPins{at, false, std::exchange(pinned, {})});
  };
  for (; budget > 0 && !session.unclaimed.empty(); --budget) {
    const auto first = session.unclaimed.begin();
    const auto [number, id] = *first;
    session.unclaimed.erase(first);
    if (at.value != number) flush();
    at = CacheId{number};
    if (session.ending) pinned.push_back(BlockId{id});
    dereference(*state.caches[number], state.config.hash_seed, BlockId{id}, state.now);
  }
  flush();
}

void end_away(State& state, Session& session) {
  if (!session.away) return;
  session.away = false;
  session.resuming = false;
  if (--state.away[session.tenant.value] == 0) let_go_of_before(state, session.tenant);
}

Status Manager::adopt_session(SessionId id, TenantId tenant) {
  State& state = *state_;
  ++state.now;
  if (tenant.value >= state.past.size()) {
    return ipc::fail(Errc::not_found, "there is no tenant " + std::to_string(tenant.value));
  }
  if (id.value == 0 || id.value >= ~std::uint64_t{0} - 1 || state.sessions.contains(id.value)) {
    return unfit("session " + std::to_string(id.value) + " cannot be taken over");
  }
  Session session;
  session.id = id;
  session.tenant = tenant;
  session.away = true;
  state.sessions.emplace(id.value, std::move(session));
  state.next_session = std::max(state.next_session, id.value + 1);
  ++state.away[tenant.value];
  return {};
}

Result<Adoption> Manager::adopt_cache(const AdoptedCache& adopted, Actions& actions) {
  State& state = *state_;
  ++state.now;
  if (auto ok = check_adopted(state, adopted); !ok) return std::unexpected(std::move(ok.error()));
  auto& slot = state.caches[adopted.id.value];
  slot = std::make_unique<Cache>(adopted.id, adopted.tenant, adopted.spec, adopted.shape);
  Cache& cache = *slot;
  cache.tiering.store = state.config.nvme_bytes > 0;
  cache.records = adopted.records;
  cache.state = CacheState::idle;
  cache.idle_since = state.now;
  for (const AdoptedCache::Arena& one : adopted.arenas) {
    Arena& arena = cache.arenas.emplace_back();
    arena.device = one.device;
    arena.extents = one.extents;
    arena.state = CacheState::idle;
    arena.idle_since = state.now;
    charge(state.hbm_of(arena), cache.tenant, cache.hbm_bytes(arena));
  }
  Adoption report = Adopter(state, cache, adopted.frame_extents).run();
  for (std::uint32_t extent = 0; extent < adopted.frame_extents; ++extent) {
    if (!cache.frames.is_empty(extent) || cache.shape.extents_stay) continue;
    cache.frames.begin_release(extent);
    cache.frames.released(extent);
    report.empty_extents.push_back(extent);
  }
  const std::uint64_t left = adopted.frame_extents - report.empty_extents.size();
  charge(state.dram, cache.tenant, left * cache.extent_bytes());
  if (over_any_limit(state, cache.tenant)) state.shrinking[cache.tenant.value] = true;
  order_batches(cache, state.next_batch, actions);
  return report;
}

Status Manager::resume_session(SessionId id, TenantId tenant) {
  State& state = *state_;
  ++state.now;
  auto session = find_session(state, id);
  if (!session || (*session)->tenant != tenant || !(*session)->away || (*session)->resuming) {
    return ipc::fail(Errc::not_found, "session " + std::to_string(id.value) +
                                          " is not known here as one that may come back");
  }
  (*session)->resuming = true;
  return {};
}

Status Manager::session_resumed(SessionId id, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto session = find_resuming(state, id);
  if (!session) return std::unexpected(session.error());
  // What it did not adopt may be many blocks; it is asked for once in the life of a session.
  std::uint32_t budget = ~std::uint32_t{0};
  drop_unclaimed(state, **session, budget, actions);
  // What it sealed and does not name any more may still be pinned: it did not hear of the seal.
  // What it names it unpins itself, and may use the slots of until then.
  std::set<std::pair<std::uint32_t, std::uint32_t>> named;
  for (const Sequence& sequence : (*session)->sequences) {
    if (sequence.generation == 0) continue;
    for (const BlockId block : sequence.blocks) named.emplace(sequence.cache.value, block.value);
  }
  drop_pins_of_before(state, **session, named, actions);
  end_away(state, **session);
  for (const auto& cache : state.caches) {
    if (cache) order_batches(*cache, state.next_batch, actions);
  }
  return {};
}

Status Manager::keep_records(CacheId id, std::span<BlockRecord> records) {
  auto cache = find_cache(*state_, id);
  if (!cache) return ipc::fail(Errc::not_found, cache.error().text);
  if ((*cache)->fresh_id != 0 || records.size() != (*cache)->shape.max_blocks) {
    return ipc::fail(Errc::wrong_state,
                     "cache " + std::to_string(id.value) + " has blocks already, or other sizes");
  }
  (*cache)->records = records;
  return {};
}

}  // namespace sluice::residency
