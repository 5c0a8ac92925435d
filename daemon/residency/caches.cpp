// Caches and their extents: the part of Manager that opens, joins, closes and destroys.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "daemon/residency/manager.h"
#include "daemon/residency/pressure.h"
#include "daemon/residency/seeded.h"
#include "daemon/residency/state.h"
#include "daemon/residency/tiering.h"

namespace sluice::residency {
namespace {

// Of an arena whose pages do not fit into the device's units otherwise; the configuration may ask
// for larger ones.
constexpr std::uint64_t kMostExtentBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kMaxSlots = 0x7FFFFFFFu;  // a slot is an int32 that kernels index

std::unexpected<Error> invalid(std::string text) {
  return ipc::fail(Errc::invalid_argument, std::move(text));
}

Status check_spec(const State& state, const CacheSpec& spec) {
  if (spec.device.value >= state.hbm.size()) {
    return invalid("there is no device " + std::to_string(spec.device.value) +
                   "; expected one of " + std::to_string(state.hbm.size()));
  }
  if (spec.model.empty() || spec.model.size() > kMaxModelBytes) {
    return invalid("the model name has " + std::to_string(spec.model.size()) +
                   " bytes; expected 1 to " + std::to_string(kMaxModelBytes));
  }
  if (spec.salt.size() > kMaxSaltBytes) {
    return invalid("the salt has " + std::to_string(spec.salt.size()) +
                   " bytes; expected at most " + std::to_string(kMaxSaltBytes));
  }
  if (spec.shard_count == 0 || spec.shard_index >= spec.shard_count) {
    return invalid("shard " + std::to_string(spec.shard_index) + " of " +
                   std::to_string(spec.shard_count) + "; expected an index below the count");
  }
  if (spec.kind > CacheKind::opaque) {
    return invalid("cache kind " + std::to_string(static_cast<int>(spec.kind)) +
                   "; expected 0 (attention) to 4 (opaque)");
  }
  return {};
}

bool same_name(const CacheSpec& a, const CacheSpec& b) {
  return a.model == b.model && a.salt == b.salt && a.kind == b.kind &&
         a.shard_index == b.shard_index && a.shard_count == b.shard_count;
}

Cache* find_named(State& state, TenantId tenant, const CacheSpec& spec) {
  for (const auto& cache : state.caches) {
    if (cache && cache->tenant == tenant && cache->state != CacheState::destroying &&
        same_name(cache->spec, spec)) {
      return cache.get();
    }
  }
  return nullptr;
}

std::unexpected<Error> layout_differs(const ipc::Layout& has, const ipc::Layout& wanted) {
  std::string differences;
  const auto compare = [&](const char* field, std::uint32_t a, std::uint32_t b) {
    if (a == b) return;
    if (!differences.empty()) differences += ", ";
    differences +=
        std::string(field) + " is " + std::to_string(b) + " and there " + std::to_string(a);
  };
  compare("layers", has.layers, wanted.layers);
  compare("kv_heads", has.kv_heads, wanted.kv_heads);
  compare("head_dim", has.head_dim, wanted.head_dim);
  compare("block_tokens", has.block_tokens, wanted.block_tokens);
  compare("dtype_bytes", has.dtype_bytes, wanted.dtype_bytes);
  compare("planes", has.planes, wanted.planes);
  compare("page_kind", static_cast<std::uint32_t>(has.page_kind),
          static_cast<std::uint32_t>(wanted.page_kind));
  return ipc::fail(Errc::invalid_layout,
                   "this cache is open with another layout: " + differences +
                       "; open it with the same layout, or under another model name or salt");
}

// The sizes that do not depend on the arena.
// Ids for the blocks that DRAM holds, and for those of running sequences that only the store has.
std::uint32_t ids_with_store(const State& state, const CacheShape& shape, const Quota& dram) {
  const std::uint64_t in_dram = shape.max_blocks;
  const std::uint64_t stored = state.config.nvme_bytes / shape.geometry.frame_stride;
  const std::uint64_t by_memory =
      dram.limit_bytes / kStoreIdsFraction / (4 * std::uint64_t{shape.geometry.pages_per_block});
  const std::uint64_t most = std::min<std::uint64_t>(
      kMaxBlocksPerCache, kMaxPagesPerCache / shape.geometry.pages_per_block);
  const std::uint64_t wanted =
      std::min({in_dram + stored, in_dram * kMaxStoreIdsFactor, std::max(in_dram, by_memory)});
  return static_cast<std::uint32_t>(std::min(wanted, most));
}

Result<CacheShape> shape_of(State& state, TenantId tenant, const CacheSpec& spec) {
  const auto geometry = ipc::geometry_of(spec.layout);
  if (!geometry) return std::unexpected(geometry.error());
  const TierBook& hbm = state.hbm[spec.device.value];
  CacheShape shape;
  shape.geometry = *geometry;
  shape.slot_extent_bytes =
      ipc::extent_bytes_for(geometry->page_bytes, hbm.granularity, hbm.extent_bytes);
  if (shape.slot_extent_bytes > std::max(kMostExtentBytes, hbm.extent_bytes)) {
    return ipc::fail(Errc::invalid_layout,
                     "pages of " + std::to_string(geometry->page_bytes) + " bytes fill units of " +
                         std::to_string(hbm.granularity) +
                         " bytes, in which this device gives memory, only in extents of " +
                         std::to_string(shape.slot_extent_bytes) + " bytes; expected at most " +
                         std::to_string(kMostExtentBytes) +
                         ": use a page size with a larger power of two in it");
  }
  shape.frame_extent_bytes = ipc::extent_bytes_for(geometry->frame_stride, state.dram.granularity,
                                                   state.dram.extent_bytes);
  const std::uint64_t slots = shape.slot_extent_bytes / geometry->page_bytes;
  const std::uint64_t frames = shape.frame_extent_bytes / geometry->frame_stride;
  const std::uint64_t most_ids =
      std::min<std::uint64_t>(kMaxBlocksPerCache, kMaxPagesPerCache / geometry->pages_per_block);
  if (slots > kMaxSlots || frames > most_ids) {
    return ipc::fail(Errc::invalid_layout, "an extent would hold " + std::to_string(slots) +
                                               " slots or " + std::to_string(frames) +
                                               " frames, more than 32 bits of pages can number; "
                                               "use larger pages, or configure smaller extents");
  }
  shape.slots_per_extent = static_cast<std::uint32_t>(slots);
  shape.frames_per_extent = static_cast<std::uint32_t>(frames);
  shape.extents_stay = state.dram.extents_stay;

  const Quota& quota = state.dram.tenants[tenant.value].quota;
  const std::uint64_t by_limit = quota.limit_bytes / shape.frame_extent_bytes;
  if (by_limit == 0) {
    ++state.dram.tenants[tenant.value].refused;
    return ipc::fail(Errc::quota_exceeded,
                     "a DRAM extent of this cache takes " +
                         std::to_string(shape.frame_extent_bytes) + " bytes; " +
                         describe(state.dram, tenant, state.now) + "; raise the tenant's limit");
  }
  const std::uint64_t spare = std::max<std::uint64_t>(1, by_limit / kSpareIdsFraction);
  const std::uint64_t extents = std::min<std::uint64_t>(
      {by_limit + spare, std::max(by_limit, state.dram.capacity / shape.frame_extent_bytes),
       most_ids / frames, kMaxExtentsPerCache});
  shape.max_frame_extents = static_cast<std::uint32_t>(extents);
  shape.max_blocks = shape.max_frame_extents * shape.frames_per_extent;
  if (state.config.nvme_bytes > 0) shape.max_blocks = ids_with_store(state, shape, quota);
  return shape;
}

// Extents of the arena. Errors: quota_exceeded, busy.
Result<std::uint32_t> size_arena(State& state, TenantId tenant, const CacheSpec& spec,
                                 const CacheShape& shape, Actions& actions) {
  TierBook& hbm = state.hbm[spec.device.value];
  const std::uint64_t extent = shape.slot_extent_bytes;
  const Room room = room_for(hbm, tenant, state.now);
  std::uint64_t extents = 0;
  if (spec.hbm_bytes == 0) {
    extents = std::max<std::uint64_t>(1, room.bytes / kDefaultArenaFraction / extent);
  } else {
    extents = spec.hbm_bytes / extent + (spec.hbm_bytes % extent != 0 ? 1 : 0);
  }
  const std::uint64_t most =
      std::min<std::uint64_t>(kMaxArenaExtents, kMaxSlots / shape.slots_per_extent);
  if (spec.hbm_bytes == 0) extents = std::min(extents, most);
  if (extents <= most && extents <= room.bytes / extent) return static_cast<std::uint32_t>(extents);
  const std::string asked = "an arena of " + std::to_string(extents) + " extents of " +
                            std::to_string(extent) + " bytes asked for; ";
  const std::uint64_t limit = hbm.tenants[tenant.value].quota.limit_bytes;
  if (extents <= most && extents <= limit / extent &&
      make_arena_room(state, hbm, tenant, extents * extent, actions)) {
    return ipc::fail(Errc::busy, asked + "idle caches are being destroyed to make room; try again");
  }
  ++hbm.tenants[tenant.value].refused;
  return ipc::fail(
      Errc::quota_exceeded,
      asked + describe(hbm, tenant, state.now) +
          "; ask for a smaller arena, close other caches, or raise the tenant's limit");
}

// Numbers of caches, as one tenant sees them.
struct Numbers {
  std::vector<std::uint32_t> used;  // by tenant
  std::uint32_t reserve = 0;        // what each tenant can always have
  std::uint32_t free = 0;
  std::uint32_t kept = 0;  // of the free ones, for the others
};

Numbers numbers_for(const State& state, TenantId tenant) {
  Numbers numbers;
  numbers.used.resize(state.past.size());
  for (const auto& cache : state.caches)
    ++(cache ? numbers.used[cache->tenant.value] : numbers.free);
  numbers.reserve = static_cast<std::uint32_t>(
      std::min<std::size_t>(kReservedCaches, state.caches.size() / numbers.used.size()));
  for (std::uint32_t other = 0; other < numbers.used.size(); ++other) {
    if (other != tenant.value && numbers.used[other] < numbers.reserve) {
      numbers.kept += numbers.reserve - numbers.used[other];
    }
  }
  return numbers;
}

// An idle cache whose number would be the tenant's: its own, or of one that has more than its
// reserve.
Cache* idle_for(State& state, TenantId tenant, const Numbers& numbers) {
  Cache* found = longest_idle(state, tenant.value);
  if (found != nullptr) return found;
  for (std::uint32_t other = 0; other < numbers.used.size(); ++other) {
    if (numbers.used[other] <= numbers.reserve) continue;
    Cache* idle = longest_idle(state, other);
    if (idle == nullptr) continue;
    if (found == nullptr || idle->idle_since < found->idle_since) found = idle;
  }
  return found;
}

// A number for a new cache, at the cost of the cache that has been idle the longest if there is
// none.
Result<CacheId> free_number(State& state, TenantId tenant, Actions& actions) {
  const Numbers numbers = numbers_for(state, tenant);
  if (numbers.free > numbers.kept) {
    const auto free = std::ranges::find_if(state.caches, [](const auto& cache) { return !cache; });
    return CacheId{static_cast<std::uint32_t>(free - state.caches.begin())};
  }
  const bool going = std::ranges::any_of(
      state.caches, [](const auto& cache) { return cache && cache->is_going(); });
  Cache* idle = idle_for(state, tenant, numbers);
  if (!going && idle != nullptr) part_with(state, *idle, EvictReason::pressure, actions);
  if (going || idle != nullptr) {
    return ipc::fail(Errc::busy, "an idle cache is being destroyed to make room; try again");
  }
  std::string text = "the tenant has " + std::to_string(numbers.used[tenant.value]) + " of the " +
                     std::to_string(state.caches.size()) +
                     " caches that the daemon allows (limits.caches), and none is idle";
  if (numbers.kept > 0) {
    text += "; the last " + std::to_string(numbers.kept) + " are kept for other tenants";
  }
  return ipc::fail(Errc::limit_reached, text + "; close some, or raise limits.caches");
}

void enter_cache(State& state, Session& session, Cache& cache, Arena& arena) {
  ++cache.opens;
  ++arena.opens;
  if (cache.parting) {
    cache.parting.reset();
    // What was to come of it does not come.
    if (over_any_limit(state, cache.tenant)) state.shrinking[cache.tenant.value] = true;
  }
  if (cache.state == CacheState::idle) cache.state = CacheState::open;
  if (arena.state == CacheState::idle) arena.state = CacheState::open;
  bool known = false;
  for (SessionCache& open : session.caches) {
    if (open.cache != cache.id) continue;
    known = true;
    if (open.device != arena.device) continue;
    ++open.opens;
    return;
  }
  if (!known) ++cache.sessions;
  ++arena.sessions;
  session.caches.push_back(SessionCache{cache.id, arena.device, 1, 0});
}

// Errors: those of size_arena.
Result<Arena> make_arena(State& state, TenantId tenant, const CacheSpec& spec,
                         const CacheShape& shape, Actions& actions) {
  const auto extents = size_arena(state, tenant, spec, shape, actions);
  if (!extents) return std::unexpected(extents.error());
  Arena arena;
  arena.device = spec.device;
  arena.extents = *extents;
  TierBook& hbm = state.hbm_of(arena);
  charge(hbm, tenant, arena.extents * shape.slot_extent_bytes);
  hbm.tenants[tenant.value].want_until = 0;
  return arena;
}

CacheShape shape_of_arena(const Cache& cache, const Arena& arena) {
  CacheShape shape = cache.shape;
  shape.slot_extents = arena.extents;
  return shape;
}

// Why a session has to wait for the arena, if it has to.
Status check_settled(const Arena& arena) {
  if (arena.state == CacheState::opening) {
    return ipc::fail(Errc::busy, "another session is opening this cache; try again");
  }
  if (arena.state == CacheState::destroying) {
    return ipc::fail(Errc::busy,
                     "the arena that this cache had on the device is being destroyed; try again");
  }
  return {};
}

// Nobody has it open, and soon nothing of it will be under way.
bool is_settling(const Cache& cache) { return cache.opens == 0 && !may_destroy(cache); }

Result<Cache*> find_extent(State& state, CacheId id, std::uint32_t extent, ExtentState expected) {
  auto cache = find_cache(state, id);
  if (!cache || (*cache)->state == CacheState::destroying ||
      extent >= (*cache)->frames.max_extents() || (*cache)->frames.state(extent) != expected) {
    return ipc::fail(Errc::not_found, "extent " + std::to_string(extent) + " of cache " +
                                          std::to_string(id.value) + " is not being waited for");
  }
  return cache;
}

// All that a cache that is gone leaves: charges and totals.
void forget_cache(State& state, Cache& cache) {
  for (const Arena& arena : cache.arenas) {
    uncharge(state.hbm_of(arena), cache.tenant, cache.hbm_bytes(arena));
  }
  uncharge(state.dram, cache.tenant, cache.dram_bytes());
  TenantPast& past = state.past[cache.tenant.value];
  past.sharing.matched_blocks += cache.sharing.matched_blocks;
  past.sharing.matched_bytes += cache.sharing.matched_bytes;
  past.sharing.deduplicated_blocks += cache.sharing.deduplicated_blocks;
  past.sharing.deduplicated_bytes += cache.sharing.deduplicated_bytes;
  past.forecasts += cache.forecasts;
  past.tiering += cache.tiering.totals;
  past.evicted_blocks += sum_of(cache.evicted_blocks);
  add_evicted_bytes(past.evicted_bytes, cache);
  state.caches[cache.id.value].reset();
}

}  // namespace

bool may_destroy(const Cache& cache) {
  return cache.state == CacheState::idle && cache.drains == 0 && cache.frames.granting() == 0 &&
         std::ranges::all_of(cache.arenas,
                             [](const Arena& arena) { return arena.state == CacheState::idle; });
}

bool may_destroy_arena(const Cache& cache, const Arena& arena) {
  const bool unused = arena.state == CacheState::idle ||
                      (SLUICE_SEEDED(destroy_open_arena) && arena.state == CacheState::open);
  return unused && !cache.held && std::ranges::any_of(cache.arenas, [&](const Arena& other) {
           return &other != &arena &&
                  (other.state == CacheState::open || other.state == CacheState::idle);
         });
}

void destroy_arena(Cache& cache, Arena& arena, Actions& actions) {
  SLUICE_ASSERT(may_destroy_arena(cache, arena));
  arena.state = CacheState::destroying;
  actions.push_back(DestroyArena{cache.id, arena.device});
}

namespace {

// The store need not hold anything of the cache any more.
void let_go_of_all(Cache& cache, Actions& actions) {
  const TieringCounts& counts = cache.tiering.counts;
  if (counts.leaving + counts.arriving > 0) {
    for (std::uint32_t i = 0; i < cache.fresh_id; ++i) {
      const Block& block = cache.blocks[i];
      if (block.state != BlockState::sealed || !is_held_in_store(block)) continue;
      hold_in_store(cache, BlockId{i}, false);
    }
  }
  order_holds(cache, actions);
}

// Its blocks go at once: their memory is not given to anyone before cache_destroyed.
void destroy_cache(Cache& cache, EvictReason reason, Actions& actions) {
  SLUICE_ASSERT(may_destroy(cache) && cache.counts.taken == 0 && cache.sequences == 0);
  cache.state = CacheState::destroying;
  cache.parting.reset();
  cache.records = {};
  for (Arena& arena : cache.arenas) arena.state = CacheState::destroying;
  let_go_of_all(cache, actions);
  cache.evicted_blocks[static_cast<std::size_t>(reason)] += cache.counts.sealed;
  cache.counts = BlockCounts{};
  const TieringTotals totals = cache.tiering.totals;
  cache.tiering = Tiering{};
  cache.tiering.totals = totals;
  cache.referenced = 0;
  cache.retiring_frames = 0;
  cache.unreferenced = UseOrder{};
  cache.directory = Directory{};
  cache.blocks = {};
  cache.key_tails = {};
  cache.free_ids = {};
  cache.waiting.clear();
  cache.given_up.clear();
  cache.batches.clear();
  cache.vacate_scans.clear();
  actions.push_back(DestroyCache{cache.id});
}

}  // namespace

void part_with(State& state, Cache& cache, EvictReason reason, Actions& actions) {
  SLUICE_ASSERT(may_part(cache));
  cache.parting = reason;
  cache.next_parting = 0;
  cache.parting_refusals = 0;
  (void)go_on_parting(state, cache, kMaxBlocksPerTurn, actions);
}

bool can_go_on_parting(const State& state, const Cache& cache) {
  if (!cache.parting || !may_destroy(cache)) return false;
  if (!may_write(cache, state.now)) return true;
  return cache.next_parting < cache.fresh_id ? may_write_more(cache)
                                             : cache.tiering.counts.writing == 0;
}

std::uint32_t go_on_parting(State& state, Cache& cache, std::uint32_t most, Actions& actions) {
  if (!can_go_on_parting(state, cache)) return 0;
  const std::uint32_t first = cache.next_parting;
  if (may_write(cache, state.now)) {
    const std::uint32_t end = first + std::min(most, cache.fresh_id - first);
    (void)write_some(cache, cache.next_parting, end);
    order_moves(cache, state.next_batch, actions);
    if (cache.next_parting < cache.fresh_id || cache.tiering.counts.writing > 0) {
      return cache.next_parting - first;
    }
  } else if (cache.tiering.store && cache.parting_refusals < kMostPartingRefusals) {
    return 0;  // turns pass
  }
  destroy_cache(cache, *cache.parting, actions);
  return cache.next_parting - first;
}

void leave_cache(State& state, Session& session, std::vector<SessionCache>::iterator open) {
  const SessionCache left = *open;
  session.caches.erase(open);
  Cache& cache = *state.caches[left.cache.value];
  Arena& arena = *find_arena(cache, left.device);
  cache.opens -= left.opens;
  arena.opens -= left.opens;
  --arena.sessions;
  if (std::ranges::find(session.caches, cache.id, &SessionCache::cache) == session.caches.end()) {
    --cache.sessions;
  }
  if (arena.opens == 0) {
    if (arena.state == CacheState::open) arena.state = CacheState::idle;
    arena.idle_since = state.now;
  }
  if (cache.opens == 0) {
    if (cache.state == CacheState::open) cache.state = CacheState::idle;
    cache.idle_since = state.now;
  }
  if (arena.opens == 0 && over_any_limit(state, cache.tenant)) {
    state.shrinking[cache.tenant.value] = true;
  }
}

Result<CacheOpened> Manager::open_cache(SessionId session_id, const CacheSpec& spec,
                                        Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto session = find_session(state, session_id);
  if (!session) return std::unexpected(session.error());
  if (auto ok = check_spec(state, spec); !ok) return std::unexpected(ok.error());
  const TenantId tenant = (*session)->tenant;

  Cache* cache = find_named(state, tenant, spec);
  Arena* arena = cache == nullptr ? nullptr : find_arena(*cache, spec.device);
  if (arena != nullptr) {
    if (auto ok = check_settled(*arena); !ok) return std::unexpected(ok.error());
  }
  if (cache != nullptr && cache->spec.layout != spec.layout) {
    if (const auto absurd = ipc::geometry_of(spec.layout); !absurd) {
      return std::unexpected(absurd.error());
    }
    if (is_settling(*cache)) {
      return ipc::fail(Errc::busy,
                       "this cache has another layout, and cannot be destroyed yet; try again");
    }
    if (!may_destroy(*cache)) return layout_differs(cache->spec.layout, spec.layout);
    // Nobody has it open: an engine that changed its layout.
    if (!cache->parting) part_with(state, *cache, EvictReason::pressure, actions);
    if (cache->state != CacheState::destroying) {
      return ipc::fail(Errc::busy,
                       "what this cache has in another layout is being written; try again");
    }
    cache = nullptr;
    arena = nullptr;
  }
  if (arena != nullptr) {
    enter_cache(state, **session, *cache, *arena);
    return CacheOpened{cache->id, false, shape_of_arena(*cache, *arena), cache->frames.end()};
  }
  if (cache != nullptr) {
    const auto made = make_arena(state, tenant, spec, cache->shape, actions);
    if (!made) return std::unexpected(made.error());
    arena = &cache->arenas.emplace_back(*made);
  } else {
    const auto shape = shape_of(state, tenant, spec);
    if (!shape) return std::unexpected(shape.error());
    const auto number = free_number(state, tenant, actions);
    if (!number) return std::unexpected(number.error());
    const auto made = make_arena(state, tenant, spec, *shape, actions);
    if (!made) return std::unexpected(made.error());
    auto& place = state.caches[number->value];
    place = std::make_unique<Cache>(*number, tenant, spec, *shape);
    place->tiering.store = state.config.nvme_bytes > 0;
    cache = place.get();
    arena = &cache->arenas.emplace_back(*made);
  }
  actions.push_back(
      CreateArena{cache->id, arena->device, arena->extents, cache->shape.slot_extent_bytes});
  enter_cache(state, **session, *cache, *arena);
  return CacheOpened{cache->id, true, shape_of_arena(*cache, *arena), cache->frames.end()};
}

namespace {

// Of an arena that is in this state.
Result<Arena*> find_arena_in(State& state, CacheId id, DeviceId device, CacheState expected,
                             const char* what) {
  auto cache = find_cache(state, id);
  Arena* const arena = cache ? find_arena(**cache, device) : nullptr;
  if (arena != nullptr && arena->state == expected && (*cache)->state != CacheState::destroying) {
    return arena;
  }
  return ipc::fail(Errc::not_found, "an arena of cache " + std::to_string(id.value) +
                                        " on device " + std::to_string(device.value) +
                                        " is not being " + what);
}

void forget_arena(State& state, Cache& cache, Arena& arena) {
  if (arena.state != CacheState::opening || !SLUICE_SEEDED(forget_arena_charge)) {
    uncharge(state.hbm_of(arena), cache.tenant, cache.hbm_bytes(arena));
  }
  cache.arenas.erase(cache.arenas.begin() + (&arena - cache.arenas.data()));
}

}  // namespace

Status Manager::arena_ready(CacheId id, DeviceId device) {
  State& state = *state_;
  ++state.now;
  auto arena = find_arena_in(state, id, device, CacheState::opening, "made");
  if (!arena) return std::unexpected(arena.error());
  Cache& cache = *state.caches[id.value];
  (*arena)->state = (*arena)->opens > 0 ? CacheState::open : CacheState::idle;
  (*arena)->idle_since = state.now;
  if (cache.state == CacheState::opening) {
    cache.state = cache.opens > 0 ? CacheState::open : CacheState::idle;
    cache.idle_since = state.now;
  }
  return {};
}

Status Manager::arena_failed(CacheId id, Actions&, DeviceId device) {
  State& state = *state_;
  ++state.now;
  auto found = find_arena_in(state, id, device, CacheState::opening, "made");
  if (!found) return std::unexpected(found.error());
  Arena& arena = **found;
  Cache& cache = *state.caches[id.value];
  for (auto& [number, session] : state.sessions) {
    const auto open = std::ranges::find_if(session.caches, [&](const SessionCache& one) {
      return one.cache == id && one.device == device;
    });
    if (open != session.caches.end()) leave_cache(state, session, open);
  }
  ++state.hbm_of(arena).tenants[cache.tenant.value].failed;
  if (cache.arenas.size() > 1) {
    forget_arena(state, cache, arena);
  } else {
    forget_cache(state, cache);
  }
  return {};
}

Status Manager::arena_destroyed(CacheId id, DeviceId device, Actions&) {
  State& state = *state_;
  ++state.now;
  auto cache = find_cache(state, id);
  Arena* const arena = cache ? find_arena(**cache, device) : nullptr;
  if (arena == nullptr || arena->state != CacheState::destroying) {
    return ipc::fail(Errc::not_found, "an arena of cache " + std::to_string(id.value) +
                                          " on device " + std::to_string(device.value) +
                                          " is not being destroyed");
  }
  forget_arena(state, **cache, *arena);
  return {};
}

Status Manager::close_cache(SessionId session_id, CacheId id, Actions& actions, DeviceId device) {
  State& state = *state_;
  ++state.now;
  auto session = find_session(state, session_id);
  if (!session) return std::unexpected(session.error());
  auto& caches = (*session)->caches;
  const auto open = std::ranges::find_if(
      caches, [&](const SessionCache& one) { return one.cache == id && one.device == device; });
  if (open == caches.end()) {
    return ipc::fail(Errc::stale_handle, "this session has no cache " + std::to_string(id.value) +
                                             " open on device " + std::to_string(device.value));
  }
  Cache& cache = *state.caches[id.value];
  if (open->opens > 1) {
    --open->opens;
    --cache.opens;
    --find_arena(cache, device)->opens;
    return {};
  }
  if (open->sequences > 0) {
    return ipc::fail(Errc::wrong_state, "the session has " + std::to_string(open->sequences) +
                                            " sequences in this cache; release them first");
  }
  leave_cache(state, **session, open);
  if (state.shrinking[cache.tenant.value]) shrink_tenant(state, cache.tenant, actions);
  return {};
}

Status Manager::cache_destroyed(CacheId id, Actions&) {
  State& state = *state_;
  ++state.now;
  auto cache = find_cache(state, id);
  if (!cache || (*cache)->state != CacheState::destroying) {
    return ipc::fail(Errc::not_found,
                     "cache " + std::to_string(id.value) + " is not being destroyed");
  }
  forget_cache(state, **cache);
  return {};
}

Status Manager::extent_granted(CacheId id, std::uint32_t extent) {
  State& state = *state_;
  ++state.now;
  auto cache = find_extent(state, id, extent, ExtentState::granting);
  if (!cache) return std::unexpected(cache.error());
  (*cache)->frames.granted(extent);
  // The limit may have been lowered in the meantime.
  if (over_limit(state.dram, (*cache)->tenant) > 0) {
    state.shrinking[(*cache)->tenant.value] = true;
  }
  return {};
}

Status Manager::extent_failed(CacheId id, std::uint32_t extent) {
  State& state = *state_;
  ++state.now;
  auto cache = find_extent(state, id, extent, ExtentState::granting);
  if (!cache) return std::unexpected(cache.error());
  (*cache)->frames.grant_failed(extent);
  (*cache)->tiering.no_growth_until = state.now + kNoGrowthEvents;
  ++state.dram.tenants[(*cache)->tenant.value].failed;
  uncharge(state.dram, (*cache)->tenant, (*cache)->extent_bytes());
  return {};
}

Status Manager::extent_released(CacheId id, std::uint32_t extent, Actions&) {
  State& state = *state_;
  ++state.now;
  auto cache = find_extent(state, id, extent, ExtentState::releasing);
  if (!cache) return std::unexpected(cache.error());
  (*cache)->frames.released(extent);
  if (!SLUICE_SEEDED(forget_uncharge)) {
    uncharge(state.dram, (*cache)->tenant, (*cache)->extent_bytes());
  }
  return {};
}

}  // namespace sluice::residency
