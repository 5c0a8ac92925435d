// Where memory comes from when there is none free: grants, eviction, and taking extents back.
#pragma once

#include "daemon/residency/state.h"

namespace sluice::residency {

// Free frames that the cache should have ahead of need.
std::uint32_t stock_target(const Cache& cache);
// Of these, those that forecasts leave to others.
std::uint32_t urgent_stock(const Cache& cache);
// Frames of the cache that are on their way, or that it could make free, without new extents.
std::uint64_t frames_within_reach(const Cache& cache, std::uint64_t now);

// Sees to it that the cache has `count` frames to take, and `spared` ones that are left then.
//   false           it has
//   true            it asked for extents (GrantDram); nothing else was done
//   busy            frames come back after a grace period, or extents from elsewhere
//   no_memory       growth is refused by the caller, and nothing comes back
//   quota_exceeded  growth is refused by quota, and nothing comes back
// In this order it takes free frames; new extents, as far as the quota admits; extents that hold
// nothing in use, of the tenant's caches with older blocks, then of tenants above their share
// (quota.h); and frames of this cache's blocks that nobody refers to, oldest first, then, where
// there is a block store, of others (tiering.h).
// `asking`: the device for which.
Result<bool> acquire_frames(State& state, Cache& cache, std::uint32_t count, std::uint32_t spared,
                            Growth growth, DeviceId asking, Actions& actions);

// The same for blocks, which have ids too. quota_exceeded also: there are no more ids. While blocks
// are absent, some frames are spared for them.
Result<bool> acquire_blocks(State& state, Cache& cache, std::uint32_t count, Growth growth,
                            DeviceId asking, Actions& actions);

// Evicts ahead when the stock of free frames is low and the cache cannot grow.
void keep_stock(State& state, Cache& cache);

// Frees `bytes` of arena on a device for the tenant by destroying idle arenas, longest idle first:
// its own, then those of tenants above their share. True: enough is on its way back.
bool make_arena_room(State& state, TierBook& hbm, TenantId tenant, std::uint64_t bytes,
                     Actions& actions);
// The cache that has been idle the longest, of one tenant (or of all: kAny), or null.
Cache* longest_idle(State& state, std::uint32_t tenant);
// Destroys the arena on the device that has been idle the longest, of one tenant, with the cache if
// that has no other. False: there is none.
bool destroy_longest_idle(State& state, const TierBook& hbm, std::uint32_t tenant,
                          EvictReason reason, Actions& actions);

// Begins to give back what the tenant has above its limits.
void shrink_tenant(State& state, TenantId tenant, Actions& actions);
// A limit was raised: extents that were to be emptied stay.
void stop_shrinking(State& state, TenantId tenant);

// Evicts what can be evicted in vacating extents, looking at `most` frames at most; how many it
// were.
std::uint32_t scan_vacating(State& state, Cache& cache, std::uint32_t most, Actions& actions);

}  // namespace sluice::residency
