#include "daemon/residency/pressure.h"

#include <algorithm>
#include <limits>
#include <string>

#include "daemon/residency/tiering.h"

namespace sluice::residency {
namespace {

// Extents that one turn chooses to empty; each choice looks at all extents of a cache.
constexpr std::uint32_t kMaxChoicesPerTurn = 16;

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

std::uint64_t divide_up(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

// When the block was last used that eviction would take first; kNever if there is none.
std::uint64_t oldest_use(const Cache& cache) {
  if (cache.unreferenced.count == 0) return kNever;
  return cache.blocks[cache.unreferenced.oldest.value].last_use;
}

void begin_vacating(Cache& cache, std::uint32_t extent, bool forced, Actions& actions) {
  if (cache.frames.is_empty(extent)) {
    release_extent(cache, extent, actions);
    return;
  }
  cache.frames.begin_vacating(extent, forced);
  cache.vacate_scans.push_back({extent, 0});
}

bool can_give_extents(const Cache& cache) {
  if (cache.shape.extents_stay) return false;
  return cache.state == CacheState::open || cache.state == CacheState::idle;
}

// Empties unheld extents of `donor`'s caches, those with the oldest blocks first, until `bytes` are
// on their way. Spares `asking`, and blocks used later than `before`. What it began to free.
std::uint64_t take_extents(State& state, TenantId donor, const Cache* asking, std::uint64_t before,
                           std::uint64_t bytes, Actions& actions) {
  std::uint64_t begun = 0;
  for (std::uint32_t choices = 0; choices < kMaxChoicesPerTurn && begun < bytes; ++choices) {
    Cache* from = nullptr;
    std::uint32_t extent = kNoExtent;
    std::uint64_t age = before;
    for (const auto& cache : state.caches) {
      if (!cache || cache->tenant != donor || cache.get() == asking || !can_give_extents(*cache)) {
        continue;
      }
      const std::uint32_t cheapest = cache->frames.cheapest(true);
      if (cheapest == kNoExtent) continue;
      const std::uint64_t use = cache->frames.is_empty(cheapest) ? 0 : oldest_use(*cache);
      if (use >= age) continue;
      from = cache.get();
      extent = cheapest;
      age = use;
    }
    if (from == nullptr) break;
    begun += from->extent_bytes();
    begin_vacating(*from, extent, false, actions);
  }
  return begun;
}

// Frees idle caches of `donor` whose extents stay with them, the one that was idle longest first,
// until `bytes` are on their way. What it began to free.
std::uint64_t take_idle_caches(State& state, TenantId donor, const Cache* asking,
                               std::uint64_t bytes, Actions& actions) {
  std::uint64_t begun = 0;
  while (begun < bytes) {
    Cache* const idle = longest_idle(state, donor.value);
    if (idle == nullptr || idle == asking || !idle->shape.extents_stay) break;
    begun += idle->dram_bytes();
    part_with(state, *idle, EvictReason::pressure, actions);
  }
  return begun;
}

// Of the other tenants, the one that has most above its share of the tier, if any has.
std::uint32_t most_excess(const State& state, const TierBook& book, TenantId asking,
                          std::uint64_t& excess) {
  std::uint32_t found = EvictRequest::kAny;
  excess = 0;
  for (std::uint32_t tenant = 0; tenant < book.tenants.size(); ++tenant) {
    if (tenant == asking.value) continue;
    const std::uint64_t has = excess_of(book, TenantId{tenant}, state.now);
    const std::uint64_t coming = returning_bytes(state, book, TenantId{tenant});
    if (has <= coming || has - coming <= excess) continue;
    excess = has - coming;
    found = tenant;
  }
  return found;
}

// Bytes coming back to the tier that this tenant may hope for.
std::uint64_t hoped_for(const State& state, const TierBook& book, TenantId tenant, Bound bound) {
  if (bound != Bound::capacity) return returning_bytes(state, book, tenant);
  std::uint64_t sum = 0;
  for (std::uint32_t other = 0; other < book.tenants.size(); ++other) {
    sum += returning_bytes(state, book, TenantId{other});
  }
  return sum;
}

// Gets extents for `cache` from elsewhere. True: `extents` of them are on their way.
bool make_extent_room(State& state, Cache& cache, std::uint64_t extents, bool must, Bound bound,
                      Actions& actions) {
  const std::uint64_t wanted = extents * cache.extent_bytes();
  std::uint64_t coming = hoped_for(state, state.dram, cache.tenant, bound);
  if (coming < wanted) {
    const std::uint64_t before = must ? kNever : oldest_use(cache);
    coming += take_extents(state, cache.tenant, &cache, before, wanted - coming, actions);
    if (must && coming < wanted) {
      coming += take_idle_caches(state, cache.tenant, &cache, wanted - coming, actions);
    }
  }
  if (coming < wanted && bound == Bound::capacity) {
    std::uint64_t excess = 0;
    const std::uint32_t donor = most_excess(state, state.dram, cache.tenant, excess);
    if (donor != EvictRequest::kAny) {
      const std::uint64_t most = std::min(excess, wanted - coming);
      const std::uint64_t begun =
          take_extents(state, TenantId{donor}, &cache, kNever, most, actions);
      coming += begun;
      if (begun < most) {
        coming += take_idle_caches(state, TenantId{donor}, &cache, most - begun, actions);
      }
    }
  }
  return coming >= wanted;
}

void want(State& state, TierBook& book, TenantId tenant, Bound bound) {
  if (bound != Bound::limit) book.tenants[tenant.value].want_until = state.now + kWantEvents;
}

std::unexpected<Error> busy(std::string what) {
  return ipc::fail(Errc::busy, std::move(what) + "; try again after running steps have ended");
}

void grant_extents(State& state, Cache& cache, std::uint32_t count, DeviceId asking,
                   Actions& actions) {
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t extent = cache.frames.begin_grant();
    charge(state.dram, cache.tenant, cache.extent_bytes());
    actions.push_back(GrantDram{cache.id, extent, cache.extent_bytes(), asking});
  }
  state.dram.tenants[cache.tenant.value].want_until = 0;
  cache.keep_spare = true;
}

std::unexpected<Error> no_frames(State& state, const Cache& cache, std::uint32_t count,
                                 std::uint32_t spared, Growth growth) {
  const std::string asked =
      std::to_string(count) + " blocks of " + std::to_string(cache.shape.geometry.frame_stride) +
      " bytes asked for, " + std::to_string(cache.frames.available()) + " free" +
      (spared > 0 ? " (" + std::to_string(spared) + " of them for blocks that come back from NVMe)"
                  : "") +
      " and " + std::to_string(cache.counts.unreferenced) + " to be evicted; ";
  const std::string state_of = describe(state.dram, cache.tenant, state.now);
  if (growth == Growth::refused) {
    return ipc::fail(Errc::no_memory, asked + "the node could not make another extent; " +
                                          state_of +
                                          "; release sequences, or make the tier smaller than the "
                                          "memory that the node really has");
  }
  ++state.dram.tenants[cache.tenant.value].refused;
  const std::uint64_t growable =
      std::uint64_t{cache.frames.absent()} * cache.shape.frames_per_extent;
  if (cache.frames.available() + cache.counts.unreferenced + growable <
      std::uint64_t{count} + spared) {
    return ipc::fail(Errc::quota_exceeded,
                     asked + "the cache was opened with ids for " +
                         std::to_string(cache.shape.max_blocks) + " blocks in all; " + state_of +
                         "; release sequences, or open the cache anew after raising the limit");
  }
  return ipc::fail(Errc::quota_exceeded,
                   asked + state_of + "; release sequences, or raise the tenant's limit");
}

// Frames that come back without anybody giving anything up.
std::uint64_t coming_frames(const Cache& cache) {
  return cache.retiring_frames + cache.tiering.counts.leaving + cache.tiering.counts.writing;
}

// Gives up blocks that nobody refers to, then displaces others, until `frames` are on their way.
void make_frame_room(State& state, Cache& cache, std::uint64_t frames) {
  const auto most = static_cast<std::uint32_t>(std::min<std::uint64_t>(frames, kMaxBlocksPerTurn));
  const std::uint32_t given_up =
      evict_oldest(cache, state.config.hash_seed, most, EvictReason::pressure, state.now);
  if (given_up < most && cache.tiering.store) displace(cache, most - given_up, state.now);
}

// Ids come back with the blocks that nobody refers to.
Result<bool> make_ids_room(State& state, Cache& cache, std::uint32_t count, Actions& actions) {
  const std::uint64_t missing = count - cache.available_ids();
  const std::uint64_t coming = cache.coming_ids();
  if (coming + cache.unreferenced.count < missing) {
    ++state.dram.tenants[cache.tenant.value].refused;
    return ipc::fail(Errc::quota_exceeded,
                     "the cache has ids for " + std::to_string(cache.shape.max_blocks) +
                         " blocks, in DRAM and behind it, and sequences refer to nearly all of "
                         "them; release sequences, or open the cache anew after raising the "
                         "tenant's limit");
  }
  if (missing > coming) {
    evict_oldest(
        cache, state.config.hash_seed,
        static_cast<std::uint32_t>(std::min<std::uint64_t>(missing - coming, kMaxBlocksPerTurn)),
        EvictReason::pressure, state.now);
  }
  order_batches(cache, state.next_batch, actions);
  return busy("blocks that nobody uses are being given up to make room");
}

// Frames that new blocks leave to promotions while there is something to promote: one, or half of
// the stock while the store refuses writes. If it is full of blocks that it holds, each that comes
// back lets it take another one, whose frame is free then; without a frame nothing would go on.
std::uint32_t spared_for_promotions(const Cache& cache, std::uint64_t now) {
  const TieringCounts& counts = cache.tiering.counts;
  if (counts.absent == counts.lost || cache.frames.lasting() < 2) return 0;
  return may_write(cache, now) ? 1 : urgent_stock(cache);
}

}  // namespace

std::uint32_t urgent_stock(const Cache& cache) {
  return static_cast<std::uint32_t>(divide_up(stock_target(cache), kUrgentStockFraction));
}

std::uint32_t stock_target(const Cache& cache) {
  if (cache.tiering.store) {
    return std::clamp(cache.frames.lasting() / kStoreStockFraction, kMinFreeStock,
                      kStoreMaxFreeStock);
  }
  return std::clamp(cache.frames.lasting() / kFreeStockFraction, kMinFreeStock, kMaxFreeStock);
}

std::uint64_t frames_within_reach(const Cache& cache, std::uint64_t now) {
  return std::uint64_t{cache.frames.granting()} * cache.shape.frames_per_extent +
         coming_frames(cache) + cache.unreferenced.count + displaceable(cache, now);
}

Result<bool> acquire_frames(State& state, Cache& cache, std::uint32_t count, std::uint32_t spared,
                            Growth growth, DeviceId asking, Actions& actions) {
  const std::uint32_t available = cache.frames.available();
  if (available >= std::uint64_t{count} + spared) return false;
  const std::uint64_t per_extent = cache.shape.frames_per_extent;
  const std::uint64_t missing = std::uint64_t{count} + spared - available;
  const std::uint64_t granting = cache.frames.granting() * per_extent;
  if (granting >= missing) return busy("extents for this cache are being made");

  const std::uint64_t extents = divide_up(missing - granting, per_extent);
  const Room room = room_for(state.dram, cache.tenant, state.now);
  std::uint64_t admitted = 0;
  if (growth == Growth::allowed) {
    admitted = std::min<std::uint64_t>(
        {extents, room.bytes / cache.extent_bytes(), cache.frames.absent()});
  }
  const std::uint64_t coming = coming_frames(cache);
  const std::uint64_t own = frames_within_reach(cache, state.now);
  const bool within_reach = own + admitted * per_extent >= missing;
  if (within_reach && admitted > 0) {
    grant_extents(state, cache, static_cast<std::uint32_t>(admitted), asking, actions);
    return true;
  }
  if (growth == Growth::allowed && cache.frames.absent() >= extents) {
    want(state, state.dram, cache.tenant, room.bound);
    const std::uint64_t beyond = within_reach ? 1 : divide_up(missing - own, per_extent);
    const std::uint64_t have = room.bytes / cache.extent_bytes();
    if (beyond > have &&
        make_extent_room(state, cache, beyond - have, !within_reach, room.bound, actions)) {
      order_batches(cache, state.next_batch, actions);
      return busy("extents of other caches are on their way back");
    }
  }
  if (!within_reach) return no_frames(state, cache, count, spared, growth);
  if (missing > granting + coming) {
    make_frame_room(state, cache, missing - granting - coming + stock_target(cache));
  }
  order_batches(cache, state.next_batch, actions);
  return busy("blocks that nobody uses are being given up to make room");
}

Result<bool> acquire_blocks(State& state, Cache& cache, std::uint32_t count, Growth growth,
                            DeviceId asking, Actions& actions) {
  // Without a store there are as many ids as frames, and both are taken and freed together.
  if (cache.tiering.store && cache.available_ids() < count) {
    return make_ids_room(state, cache, count, actions);
  }
  return acquire_frames(state, cache, count, spared_for_promotions(cache, state.now), growth,
                        asking, actions);
}

void keep_stock(State& state, Cache& cache) {
  const std::uint32_t target = stock_target(cache);
  const std::uint64_t ahead = cache.frames.available() + coming_frames(cache);
  if (ahead >= target) return;
  if (cache.unreferenced.count == 0 && displaceable(cache, state.now) == 0) return;
  const bool can_grow = cache.frames.absent() > 0 &&
                        room_for(state.dram, cache.tenant, state.now).bytes >= cache.extent_bytes();
  if (can_grow) return;
  make_frame_room(state, cache, target - ahead);
}

Cache* longest_idle(State& state, std::uint32_t tenant) {
  Cache* found = nullptr;
  for (const auto& cache : state.caches) {
    if (!cache || !may_part(*cache)) continue;
    if (tenant != EvictRequest::kAny && cache->tenant.value != tenant) continue;
    if (found == nullptr || cache->idle_since < found->idle_since) found = cache.get();
  }
  return found;
}

bool destroy_longest_idle(State& state, const TierBook& hbm, std::uint32_t tenant,
                          EvictReason reason, Actions& actions) {
  Cache* from = nullptr;
  Arena* found = nullptr;
  for (const auto& cache : state.caches) {
    if (!cache || cache->tenant.value != tenant) continue;
    Arena* const arena = find_arena(*cache, hbm.device);
    if (arena == nullptr) continue;
    if (!may_destroy_arena(*cache, *arena) && !may_part(*cache)) continue;
    if (found != nullptr && arena->idle_since >= found->idle_since) continue;
    from = cache.get();
    found = arena;
  }
  if (from == nullptr) return false;
  if (may_destroy_arena(*from, *found)) {
    destroy_arena(*from, *found, actions);
  } else {
    part_with(state, *from, reason, actions);
  }
  return true;
}

bool make_arena_room(State& state, TierBook& hbm, TenantId tenant, std::uint64_t bytes,
                     Actions& actions) {
  const auto missing = [&] {
    const Room room = room_for(hbm, tenant, state.now);
    const std::uint64_t have = room.bytes + hoped_for(state, hbm, tenant, room.bound);
    return bytes > have ? bytes - have : 0;
  };
  want(state, hbm, tenant, room_for(hbm, tenant, state.now).bound);
  while (missing() > 0) {
    if (destroy_longest_idle(state, hbm, tenant.value, EvictReason::pressure, actions)) continue;
    if (room_for(hbm, tenant, state.now).bound != Bound::capacity) return false;
    std::uint64_t excess = 0;
    const std::uint32_t donor = most_excess(state, hbm, tenant, excess);
    if (donor == EvictRequest::kAny ||
        !destroy_longest_idle(state, hbm, donor, EvictReason::pressure, actions)) {
      return false;
    }
  }
  return true;
}

void shrink_tenant(State& state, TenantId tenant, Actions& actions) {
  const auto over = [&](const TierBook& book) {
    const std::uint64_t bytes = over_limit(book, tenant);
    std::uint64_t coming = 0;
    for (const auto& cache : state.caches) {
      if (!cache || cache->tenant != tenant) continue;
      coming += leaving_bytes(book, *cache);
      if (book.tier == Tier::dram && !cache->is_going()) {
        coming += cache->frames.leaving() * cache->extent_bytes();
      }
    }
    return bytes > coming;
  };
  for (std::uint32_t choices = 0; choices < kMaxChoicesPerTurn; ++choices) {
    const bool over_dram = over(state.dram);
    const bool over_hbm = std::ranges::any_of(state.hbm, over);
    if (!over_dram && !over_hbm) break;
    Cache* const idle = over_dram ? longest_idle(state, tenant.value) : nullptr;
    if (idle != nullptr) {
      part_with(state, *idle, EvictReason::quota, actions);
      continue;
    }
    const bool begun = std::ranges::any_of(state.hbm, [&](const TierBook& book) {
      return over(book) &&
             destroy_longest_idle(state, book, tenant.value, EvictReason::quota, actions);
    });
    if (begun) continue;
    Cache* from = nullptr;
    std::uint32_t extent = kNoExtent;
    for (const auto& cache : state.caches) {
      if (!over_dram || !cache || cache->tenant != tenant || !can_give_extents(*cache)) continue;
      const std::uint32_t cheapest = cache->frames.cheapest(false);
      if (cheapest == kNoExtent) continue;
      if (from == nullptr || cache->frames.held(cheapest) < from->frames.held(extent)) {
        from = cache.get();
        extent = cheapest;
      }
    }
    if (from == nullptr) break;
    begin_vacating(*from, extent, true, actions);
    if (choices + 1 == kMaxChoicesPerTurn) return;  // goes on in the next turn
  }
  state.shrinking[tenant.value] = false;
}

void stop_shrinking(State& state, TenantId tenant) {
  state.shrinking[tenant.value] = false;
  for (const auto& cache : state.caches) {
    if (!cache || cache->tenant != tenant) continue;
    for (std::uint32_t extent = 0; extent < cache->frames.max_extents(); ++extent) {
      if (cache->frames.state(extent) == ExtentState::present && cache->frames.vacating(extent)) {
        cache->frames.stop_vacating(extent);
      }
    }
    cache->vacate_scans.clear();
  }
}

std::uint32_t scan_vacating(State& state, Cache& cache, std::uint32_t most, Actions& actions) {
  std::uint32_t looked = 0;
  while (!cache.vacate_scans.empty() && looked < most) {
    VacateScan& scan = cache.vacate_scans.front();
    const FrameId frame{scan.extent * cache.shape.frames_per_extent + scan.next};
    const bool over = scan.next == cache.shape.frames_per_extent;
    if (over || !cache.frames.vacating(scan.extent)) {
      cache.vacate_scans.pop_front();
      continue;
    }
    const BlockId id = cache.frames.owner(frame);
    if (id != ipc::kNoBlock && cache.blocks[id.value].state == BlockState::sealed &&
        in_use_order(cache.blocks[id.value]) &&
        !evict_vacating(cache, state.config.hash_seed, id, state.now)) {
      break;  // the store has to write what it was given first
    }
    ++scan.next;
    ++looked;
  }
  order_batches(cache, state.next_batch, actions);
  return looked;
}

}  // namespace sluice::residency
