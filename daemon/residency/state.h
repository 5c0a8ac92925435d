// Everything the manager knows, as plain data. Private to daemon/residency.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "daemon/residency/cache.h"
#include "daemon/residency/quota.h"

namespace sluice::residency {

struct Sequence {
  std::uint32_t generation = 0;  // 0: the slot is free
  CacheId cache;
  DeviceId device;          // whose arena it was opened with
  std::uint32_t taken = 0;  // how many of the blocks are private
  bool all_known =
      false;  // every key so far matched, and nothing else was done: append_known may go on
  std::vector<BlockId> blocks;
};

// An arena of a cache that the session has open.
struct SessionCache {
  CacheId cache;
  DeviceId device;
  std::uint32_t opens = 0;
  std::uint32_t sequences = 0;
};

struct Session {
  SessionId id;
  TenantId tenant;
  bool ending = false;
  // Of a manager of before, until session_resumed (adopt.h).
  bool away = false;
  bool resuming = false;                                          // away, and back again
  std::set<std::pair<std::uint32_t, std::uint32_t>> unclaimed{};  // its private blocks, by cache
  std::vector<SessionCache> caches;
  std::vector<Sequence> sequences;        // by Handle::index
  std::vector<std::uint32_t> free_slots;  // of sequences
  std::uint32_t live_sequences = 0;
  std::uint32_t next_ending = 0;  // while ending: slots before it were given up
};

// References that are given up step by step, from the end of the list. They belong to no sequence
// any more; until its turn each block keeps its state and reference.
struct Drain {
  CacheId cache;
  std::vector<BlockId> blocks;
};

// An operator's evict that is not done yet.
struct Eviction {
  std::uint32_t tenant = EvictRequest::kAny;
  std::uint32_t cache = EvictRequest::kAny;
  std::uint64_t bytes_left = 0;
};

// What caches that are gone add to their tenant's totals.
struct TenantPast {
  TieringTotals tiering;
  SharingCounts sharing;
  ForecastLedger forecasts;
  std::uint64_t evicted_blocks = 0;
  EvictedCounts evicted_bytes{};
};

struct State {
  ManagerConfig config;
  std::uint64_t now = 0;  // events so far
  std::uint64_t next_session = 1;
  std::uint64_t next_batch = 1;
  std::uint32_t next_generation =
      1;  // of sequences, node-wide: handles of two sessions never agree

  std::vector<TierBook> hbm;  // by DeviceId
  TierBook dram;
  std::vector<TenantPast> past;                // by tenant
  std::vector<std::uint32_t> away;             // by tenant: sessions of before; see adopt.h
  std::vector<bool> shrinking;                 // by tenant: its limits were lowered; see pressure.h
  std::map<std::uint64_t, Session> sessions;   // ordered: listings and deaths are deterministic
  std::vector<std::unique_ptr<Cache>> caches;  // by CacheId; null: free

  std::deque<Drain> drains;
  std::deque<SessionId> ending;
  std::deque<Eviction> evictions;

  std::vector<BlockId> matched;        // scratch of the calls below
  std::vector<BlockRef> reply_blocks;  // behind the spans of replies
  std::vector<ForkedBlock> reply_copies;

  TierBook& hbm_of(const Arena& arena) { return hbm[arena.device.value]; }
};

// The session, alive, or stale_handle.
Result<Session*> find_session(State& state, SessionId id);
// The cache, or stale_handle. Also those being made or destroyed.
Result<Cache*> find_cache(State& state, CacheId id);

// Charges and returns bytes of a tier to a tenant.
void charge(TierBook& book, TenantId tenant, std::uint64_t bytes);
void uncharge(TierBook& book, TenantId tenant, std::uint64_t bytes);

// What a cache has of the tier, and how much of that is being destroyed, or will be.
std::uint64_t bytes_in(const TierBook& book, const Cache& cache);
std::uint64_t leaving_bytes(const TierBook& book, const Cache& cache);
// Bytes of the tenant's that come back to the tier without anybody giving up a reference.
std::uint64_t returning_bytes(const State& state, const TierBook& book, TenantId tenant);
// Whether the tenant has more than its limit, in DRAM or on a device.
bool over_any_limit(const State& state, TenantId tenant);

// No session has it open and nothing of it is under way: it may be destroyed whole.
bool may_destroy(const Cache& cache);
// The same, and that has not begun.
inline bool may_part(const Cache& cache) { return may_destroy(cache) && !cache.parting; }
// Has it destroyed: at once, unless there is a block store that has to be given blocks first.
void part_with(State& state, Cache& cache, EvictReason reason, Actions& actions);
// Goes on with a cache that is parting; looks at up to `most` ids, and returns at how many it did.
std::uint32_t go_on_parting(State& state, Cache& cache, std::uint32_t most, Actions& actions);
// Whether that would do something now.
bool can_go_on_parting(const State& state, const Cache& cache);
// No session has the arena open, and the cache has another one that is made. Its blocks stay.
bool may_destroy_arena(const Cache& cache, const Arena& arena);
void destroy_arena(Cache& cache, Arena& arena, Actions& actions);
// The session gives up an arena that it has open. The entry is gone.
void leave_cache(State& state, Session& session, std::vector<SessionCache>::iterator open);

// Of blocks that the session sealed before it was away, and that are not among `named` (cache, id):
// pins that it may have left on them. Nobody else has any.
void drop_pins_of_before(const State& state, const Session& session,
                         const std::set<std::pair<std::uint32_t, std::uint32_t>>& named,
                         Actions& actions);
// Private blocks of the session that it did not adopt retire.
void drop_unclaimed(State& state, Session& session, std::uint32_t& budget, Actions& actions);
// The session is not away any more.
void end_away(State& state, Session& session);

// Gives up what an ending session holds, as far as `budget` (in blocks) goes. True: nothing is left
// but its caches, which it has still open.
bool end_session(State& state, Session& session, std::uint32_t& budget, Actions& actions);

}  // namespace sluice::residency
