#include "daemon/residency/eviction.h"

#include <algorithm>
#include <string>

#include "daemon/residency/manager.h"

namespace sluice::residency {
namespace {

std::uint64_t stride_of(const Cache& cache) { return cache.shape.geometry.frame_stride; }

// Blocks of `stride` bytes until at least `bytes` are given up.
std::uint64_t blocks_for(std::uint64_t bytes, std::uint64_t stride) {
  return bytes / stride + (bytes % stride != 0 ? 1 : 0);
}

bool is_meant(const Cache& cache, std::uint32_t wanted_tenant, std::uint32_t wanted_cache) {
  return (wanted_cache == EvictRequest::kAny || cache.id.value == wanted_cache) &&
         (wanted_tenant == EvictRequest::kAny || cache.tenant.value == wanted_tenant);
}

Status check_request(const State& state, const EvictRequest& request) {
  if (request.tenant != EvictRequest::kAny && request.tenant >= state.past.size()) {
    return ipc::fail(Errc::not_found, "there is no tenant " + std::to_string(request.tenant));
  }
  if (request.cache != EvictRequest::kAny &&
      (request.cache >= state.caches.size() || !state.caches[request.cache])) {
    return ipc::fail(Errc::not_found, "there is no cache " + std::to_string(request.cache));
  }
  return {};
}

void take(EvictPlan::Row& row, std::uint64_t blocks, std::uint64_t stride) {
  row.blocks += blocks;
  row.bytes += blocks * stride;
}

// Where a plan is in the list of a cache's blocks that nobody refers to.
struct Cursor {
  const Cache* cache = nullptr;
  EvictPlan::Row* row = nullptr;
  BlockId next;
  std::uint64_t left() const { return row->evictable_blocks - row->blocks; }
  std::uint64_t age() const { return cache->blocks[next.value].last_use; }
};

// As evict_some goes on, step by step; what is left of `bytes` when it has followed enough blocks.
std::uint64_t follow_order(std::vector<Cursor>& cursors, std::uint64_t bytes) {
  for (std::uint64_t followed = 0; bytes > 0 && followed < kMaxPlannedBlocks;) {
    Cursor* oldest = nullptr;
    for (Cursor& cursor : cursors) {
      if (cursor.left() == 0) continue;
      if (oldest == nullptr || cursor.age() < oldest->age()) oldest = &cursor;
    }
    if (oldest == nullptr) return 0;
    const std::uint64_t stride = stride_of(*oldest->cache);
    const auto count =
        std::min<std::uint64_t>({blocks_for(bytes, stride), kEvictRun, oldest->left()});
    take(*oldest->row, count, stride);
    for (std::uint64_t i = 0; i < count; ++i) {
      oldest->next = oldest->cache->blocks[oldest->next.value].newer;
    }
    bytes -= std::min(bytes, count * stride);
    followed += count;
  }
  return bytes;
}

// From each as much of the rest as it has of what there is.
void spread(std::vector<Cursor>& cursors, std::uint64_t bytes) {
  double evictable = 0;
  for (const Cursor& cursor : cursors) {
    evictable += static_cast<double>(cursor.left() * stride_of(*cursor.cache));
  }
  if (evictable <= 0) return;
  const double part = std::min(1.0, static_cast<double>(bytes) / evictable);
  for (const Cursor& cursor : cursors) {
    const auto blocks = static_cast<std::uint64_t>(static_cast<double>(cursor.left()) * part);
    take(*cursor.row, std::min(blocks, cursor.left()), stride_of(*cursor.cache));
  }
}

void plan_blocks(const State& state, const EvictRequest& request, EvictPlan& plan) {
  std::vector<Cursor> cursors;
  std::uint64_t evictable = 0;
  for (EvictPlan::Row& row : plan.caches) {
    if (row.dropped) continue;
    const Cache& cache = *state.caches[row.cache.value];
    cursors.push_back({&cache, &row, cache.unreferenced.oldest});
    evictable += row.evictable_bytes;
  }
  if (request.bytes >= evictable) {
    for (const Cursor& cursor : cursors) {
      take(*cursor.row, cursor.row->evictable_blocks, stride_of(*cursor.cache));
    }
    return;
  }
  const std::uint64_t rest = follow_order(cursors, request.bytes);
  plan.exact = rest == 0;
  spread(cursors, rest);
}

}  // namespace

Result<EvictPlan> plan_eviction(const State& state, const EvictRequest& request) {
  if (auto ok = check_request(state, request); !ok) return std::unexpected(ok.error());
  EvictPlan plan;
  for (const auto& cache : state.caches) {
    if (!cache || !is_meant(*cache, request.tenant, request.cache)) continue;
    if (cache->state == CacheState::destroying) continue;
    EvictPlan::Row row;
    row.cache = cache->id;
    row.tenant = cache->tenant;
    row.evictable_blocks = cache->unreferenced.count;
    row.evictable_bytes = row.evictable_blocks * stride_of(*cache);
    row.retiring_blocks = cache->counts.retiring + (cache->parting ? cache->counts.sealed : 0);
    row.dropped = request.drop_idle_caches && may_part(*cache);
    if (row.dropped) take(row, row.evictable_blocks, stride_of(*cache));
    plan.caches.push_back(row);
  }
  plan_blocks(state, request, plan);
  for (const EvictPlan::Row& row : plan.caches) {
    plan.ordered.blocks += row.blocks;
    plan.ordered.bytes += row.bytes;
    plan.ordered.caches_dropped += row.dropped ? 1 : 0;
  }
  return plan;
}

std::uint32_t evict_some(State& state, Eviction& eviction, std::uint32_t budget) {
  Cache* oldest = nullptr;
  std::uint64_t age = 0;
  for (const auto& cache : state.caches) {
    if (!cache || cache->unreferenced.count == 0) continue;
    if (!is_meant(*cache, eviction.tenant, eviction.cache)) continue;
    const std::uint64_t use = cache->blocks[cache->unreferenced.oldest.value].last_use;
    if (oldest == nullptr || use < age) {
      oldest = cache.get();
      age = use;
    }
  }
  if (oldest == nullptr) {
    eviction.bytes_left = 0;
    return 0;
  }
  const std::uint64_t stride = stride_of(*oldest);
  const auto most = static_cast<std::uint32_t>(
      std::min<std::uint64_t>({blocks_for(eviction.bytes_left, stride), budget, kEvictRun}));
  const std::uint32_t evicted =
      evict_oldest(*oldest, state.config.hash_seed, most, EvictReason::admin, state.now);
  eviction.bytes_left -= std::min(eviction.bytes_left, evicted * stride);
  return evicted;
}

}  // namespace sluice::residency
