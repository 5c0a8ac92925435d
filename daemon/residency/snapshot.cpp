// Snapshots for operators: the const part of Manager.
#include <algorithm>
#include <string>

#include "daemon/residency/manager.h"
#include "daemon/residency/state.h"

namespace sluice::residency {
namespace {

void add(BlockCounts& to, const BlockCounts& from) {
  to.taken += from.taken;
  to.sealed += from.sealed;
  to.shared += from.shared;
  to.unreferenced += from.unreferenced;
  to.retiring += from.retiring;
}

void add(SharingCounts& to, const SharingCounts& from) {
  to.saved_bytes += from.saved_bytes;
  to.matched_blocks += from.matched_blocks;
  to.matched_bytes += from.matched_bytes;
  to.deduplicated_blocks += from.deduplicated_blocks;
  to.deduplicated_bytes += from.deduplicated_bytes;
}

SharingCounts sharing_of(const Cache& cache) {
  SharingCounts sharing = cache.sharing;
  sharing.saved_bytes = cache.saved_references * cache.block_bytes();
  return sharing;
}

TierStatus status_of(const TierBook& book) {
  TierStatus status;
  status.capacity_bytes = book.capacity;
  status.used_bytes = used_bytes(book);
  status.guaranteed_bytes = guaranteed_bytes(book);
  for (const TenantUse& use : book.tenants) {
    const std::uint64_t guaranteed = use.quota.guaranteed_bytes;
    status.lent_bytes += use.used > guaranteed ? use.used - guaranteed : 0;
  }
  return status;
}

TenantTierStatus status_of(const TierBook& book, std::uint32_t tenant, std::uint64_t now) {
  const TenantUse& use = book.tenants[tenant];
  return {use.quota,   use.used,  over_limit(book, TenantId{tenant}), use.want_until > now,
          use.refused, use.failed};
}

TierStatus together(const std::vector<TierStatus>& devices) {
  TierStatus sum;
  for (const TierStatus& one : devices) {
    sum.capacity_bytes += one.capacity_bytes;
    sum.used_bytes += one.used_bytes;
    sum.guaranteed_bytes += one.guaranteed_bytes;
    sum.lent_bytes += one.lent_bytes;
  }
  return sum;
}

TenantTierStatus together(const std::vector<TenantTierStatus>& devices) {
  TenantTierStatus sum;
  for (const TenantTierStatus& one : devices) {
    sum.quota.guaranteed_bytes += one.quota.guaranteed_bytes;
    sum.quota.limit_bytes += one.quota.limit_bytes;
    sum.quota.weight = one.quota.weight;
    sum.used_bytes += one.used_bytes;
    sum.over_limit_bytes += one.over_limit_bytes;
    sum.wanting = sum.wanting || one.wanting;
    sum.refused += one.refused;
    sum.failed += one.failed;
  }
  return sum;
}

CacheStatus status_of(const Cache& cache) {
  CacheStatus status;
  status.cache = cache.id;
  status.tenant = cache.tenant;
  status.state = cache.state;
  status.spec = cache.spec;
  status.shape = cache.shape;
  for (const Arena& arena : cache.arenas) {
    status.arenas.push_back({arena.device, arena.state,
                             arena.extents * cache.shape.slots_per_extent, arena.sessions,
                             cache.hbm_bytes(arena)});
    status.shape.slot_extents += arena.extents;
    status.hbm_bytes += cache.hbm_bytes(arena);
  }
  std::ranges::sort(status.arenas, {}, &ArenaStatus::device);
  status.sessions = cache.sessions;
  status.sequences = cache.sequences;
  status.frame_extents = cache.frames.end();
  status.dram_bytes = cache.dram_bytes();
  status.free_frames = cache.state == CacheState::destroying ? 0 : cache.frames.available();
  status.blocks = cache.counts;
  status.tiering = cache.tiering.counts;
  status.tiering_totals = cache.tiering.totals;
  status.sharing = sharing_of(cache);
  status.forecasts = cache.forecasts;
  status.evicted_blocks = sum_of(cache.evicted_blocks);
  status.evicted_bytes = status.evicted_blocks * cache.shape.geometry.frame_stride;
  return status;
}

BlockStatus status_of(const Cache& cache, BlockId id) {
  const Block& block = cache.blocks[id.value];
  BlockStatus status;
  status.id = id;
  status.frame = block.frame;
  status.state = block.state;
  status.references = block.references;
  status.last_use = block.last_use;
  if (block.state == BlockState::sealed) {
    status.place = block.place;
    status.stored = block.stored;
    status.valid_bytes = valid_bytes(block);
    const KeyCopy key = key_of(cache, id);
    status.key.assign(key.bytes.data(), key.bytes.data() + key.size);
  }
  return status;
}

std::uint32_t bounded(std::uint32_t limit) { return std::clamp(limit, 1u, kMaxListedRows); }

// A place in the table of sequences as a cursor.
constexpr int kIndexBits = 20;
static_assert(kMaxSequencesPerSession <= 1u << kIndexBits);

}  // namespace

NodeStatus Manager::status() const {
  const State& state = *state_;
  NodeStatus status;
  for (const TierBook& book : state.hbm) status.devices.push_back(status_of(book));
  status.hbm = together(status.devices);
  status.dram = status_of(state.dram);
  status.pending_work = pending_work();
  for (const std::uint32_t away : state.away) status.away_sessions += away;
  for (const TenantStatus& tenant : tenants()) {
    status.sessions += tenant.sessions;
    status.caches += tenant.caches;
    status.sequences += tenant.sequences;
    add(status.blocks, tenant.blocks);
    add(status.sharing, tenant.sharing);
    status.tiering += tenant.tiering;
    status.tiering_totals += tenant.tiering_totals;
    status.evicted_blocks += tenant.evicted_blocks;
    status.evicted_bytes += sum_of(tenant.evicted_bytes);
  }
  return status;
}

std::vector<TenantStatus> Manager::tenants() const {
  const State& state = *state_;
  std::vector<TenantStatus> rows(state.past.size());
  for (std::uint32_t tenant = 0; tenant < rows.size(); ++tenant) {
    TenantStatus& row = rows[tenant];
    const TenantPast& past = state.past[tenant];
    row.tenant = TenantId{tenant};
    row.name = state.dram.tenants[tenant].name;
    for (const TierBook& book : state.hbm) {
      row.devices.push_back(status_of(book, tenant, state.now));
    }
    row.hbm = together(row.devices);
    row.dram = status_of(state.dram, tenant, state.now);
    row.sharing = past.sharing;
    row.forecasts = past.forecasts;
    row.tiering_totals = past.tiering;
    row.evicted_blocks = past.evicted_blocks;
    row.evicted_bytes = past.evicted_bytes;
  }
  for (const auto& [number, session] : state.sessions) ++rows[session.tenant.value].sessions;
  for (const auto& cache : state.caches) {
    if (!cache) continue;
    TenantStatus& row = rows[cache->tenant.value];
    ++row.caches;
    row.sequences += cache->sequences;
    add(row.blocks, cache->counts);
    add(row.sharing, sharing_of(*cache));
    row.forecasts += cache->forecasts;
    row.tiering += cache->tiering.counts;
    row.tiering_totals += cache->tiering.totals;
    row.evicted_blocks += sum_of(cache->evicted_blocks);
    add_evicted_bytes(row.evicted_bytes, *cache);
  }
  return rows;
}

std::vector<SessionStatus> Manager::sessions() const {
  std::vector<SessionStatus> rows;
  for (const auto& [number, session] : state_->sessions) {
    SessionStatus row;
    row.session = session.id;
    row.tenant = session.tenant;
    row.ending = session.ending;
    row.caches = static_cast<std::uint32_t>(session.caches.size());
    row.sequences = session.live_sequences;
    for (const Sequence& sequence : session.sequences) row.blocks += sequence.blocks.size();
    rows.push_back(row);
  }
  return rows;
}

std::vector<CacheStatus> Manager::caches() const {
  std::vector<CacheStatus> rows;
  for (const auto& cache : state_->caches) {
    if (cache) rows.push_back(status_of(*cache));
  }
  return rows;
}

Listing<SequenceStatus> Manager::sequences(std::uint64_t cursor, std::uint32_t limit) const {
  Listing<SequenceStatus> listing;
  limit = bounded(limit);
  const auto from = static_cast<std::uint32_t>(cursor & ((1u << kIndexBits) - 1));
  const std::uint64_t first = cursor >> kIndexBits;
  for (auto at = state_->sessions.lower_bound(first); at != state_->sessions.end(); ++at) {
    const Session& session = at->second;
    for (std::uint32_t i = at->first == first ? from : 0; i < session.sequences.size(); ++i) {
      const Sequence& sequence = session.sequences[i];
      if (sequence.generation == 0) continue;
      if (listing.rows.size() == limit) {
        listing.next = (at->first << kIndexBits) | i;
        return listing;
      }
      listing.rows.push_back({session.id, Handle{i, sequence.generation}, sequence.cache,
                              sequence.device, static_cast<std::uint32_t>(sequence.blocks.size()),
                              sequence.taken});
    }
  }
  return listing;
}

Result<Listing<BlockStatus>> Manager::blocks(CacheId id, std::uint64_t cursor,
                                             std::uint32_t limit) const {
  auto found = find_cache(*state_, id);
  if (!found) return ipc::fail(Errc::not_found, found.error().text);
  const Cache& cache = **found;
  Listing<BlockStatus> listing;
  if (cache.state == CacheState::destroying) return listing;
  limit = bounded(limit);
  // Free ids cost a look too: a call ends after a bounded number of them.
  constexpr std::uint64_t kMaxLooks = std::uint64_t{16} * kMaxListedRows;
  const std::uint64_t end = std::min<std::uint64_t>(cache.fresh_id, cursor + kMaxLooks);
  std::uint64_t at = cursor;
  for (; at < end && listing.rows.size() < limit; ++at) {
    const BlockId block{static_cast<std::uint32_t>(at)};
    if (cache.blocks[block.value].state == BlockState::free) continue;
    listing.rows.push_back(status_of(cache, block));
  }
  if (at < cache.fresh_id) listing.next = at;
  return listing;
}

Result<Listing<BlockStatus>> Manager::sequence_blocks(SessionId session_id, Handle handle,
                                                      std::uint64_t cursor,
                                                      std::uint32_t limit) const {
  const auto session = state_->sessions.find(session_id.value);
  if (session == state_->sessions.end() || handle.generation == 0 ||
      handle.index >= session->second.sequences.size() ||
      session->second.sequences[handle.index].generation != handle.generation) {
    return ipc::fail(Errc::not_found, "no such sequence");
  }
  const Sequence& sequence = session->second.sequences[handle.index];
  const Cache& cache = *state_->caches[sequence.cache.value];
  Listing<BlockStatus> listing;
  limit = bounded(limit);
  std::uint64_t at = cursor;
  for (; at < sequence.blocks.size() && listing.rows.size() < limit; ++at) {
    listing.rows.push_back(status_of(cache, sequence.blocks[at]));
  }
  if (at < sequence.blocks.size()) listing.next = at;
  return listing;
}

std::string_view to_string(BlockState state) {
  constexpr std::string_view names[] = {"free", "private", "sealed", "retiring"};
  return names[static_cast<std::size_t>(state)];
}

std::string_view to_string(Place place) {
  constexpr std::string_view names[] = {"resident", "leaving", "absent", "arriving"};
  return names[static_cast<std::size_t>(place)];
}

TieringCounts& TieringCounts::operator+=(const TieringCounts& other) {
  absent += other.absent;
  lost += other.lost;
  leaving += other.leaving;
  arriving += other.arriving;
  writing += other.writing;
  return *this;
}

TieringTotals& TieringTotals::operator+=(const TieringTotals& other) {
  written += other.written;
  write_refused += other.write_refused;
  displaced += other.displaced;
  promoted += other.promoted;
  lost += other.lost;
  matched += other.matched;
  return *this;
}

std::string_view to_string(CacheState state) {
  constexpr std::string_view names[] = {"opening", "open", "idle", "destroying"};
  return names[static_cast<std::size_t>(state)];
}

}  // namespace sluice::residency
