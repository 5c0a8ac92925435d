#include "daemon/metrics_source.h"

#include <algorithm>
#include <tuple>

#include "daemon/arenas.h"
#include "daemon/coordinator.h"
#include "daemon/health_watch.h"
#include "daemon/version.h"

namespace sluice::daemon {

namespace {

void fill_tier(TierMetrics& to, const residency::TenantTierStatus& from) {
  to.used_bytes = from.used_bytes;
  to.guaranteed_bytes = from.quota.guaranteed_bytes;
  to.limit_bytes = from.quota.limit_bytes;
  to.allocation_failures = {from.refused, from.failed};
}

ResolvePages pages_of(const ResolveTotals& totals) {
  return {totals.hits, totals.misses, totals.no_slot, totals.absent};
}

std::string layout_label(const ipc::Layout& layout) {
  return std::to_string(layout.layers) + "x" + std::to_string(layout.kv_heads) + "x" +
         std::to_string(layout.head_dim) + "/" + std::to_string(layout.block_tokens);
}

// "0", or "0,1".
std::string devices_label(const residency::CacheStatus& row) {
  std::string label;
  for (const residency::ArenaStatus& arena : row.arenas) {
    label += (label.empty() ? "" : ",") + std::to_string(arena.device.value);
  }
  return label;
}

CacheMetrics cache_metrics(const residency::CacheStatus& row, const std::string& tenant,
                           const Arenas& arenas) {
  CacheMetrics cache;
  cache.tenant = tenant;
  cache.name = row.spec.model;
  cache.model_name = row.spec.model;
  cache.shard = std::to_string(row.spec.shard_index) + "/" + std::to_string(row.spec.shard_count);
  cache.device = devices_label(row);
  cache.layout = layout_label(row.spec.layout);
  cache.kind = "attention";
  cache.blocks.private_blocks = row.blocks.taken;
  cache.blocks.sealed = row.blocks.sealed;
  cache.blocks.shared = row.blocks.shared;
  cache.blocks.quarantined = row.blocks.retiring;
  cache.shared_saved_dram_bytes = row.sharing.saved_bytes;
  cache.resolved_by_daemon = pages_of(totals(arenas, ipc::wire::Executor::daemon));
  cache.resolved_direct = pages_of(totals(arenas, ipc::wire::Executor::direct));
  return cache;
}

StoreMetrics store_metrics(const storage::StoreStats& stats, const std::string& tenant) {
  const auto found = std::ranges::find(stats.tenants, tenant, &storage::TenantStats::name);
  if (found == stats.tenants.end()) return {};
  return {.used_bytes = found->live_bytes,
          .held_bytes = found->held_bytes,
          .limit_bytes = found->limit_bytes,
          .dropped_blocks = found->dropped_blocks,
          .written_bytes = found->written_bytes,
          .read_bytes = found->read_bytes,
          .refused_writes = found->refused_writes,
          .lost_blocks = found->lost_blocks};
}

// The worst of each code.
std::vector<HealthMetrics> health_metrics(const std::vector<HealthFinding>& findings) {
  std::vector<HealthMetrics> all(kHealthCodes);
  for (std::size_t i = 0; i < all.size(); ++i) all[i].code = to_string(static_cast<HealthCode>(i));
  for (const HealthFinding& finding : findings) {
    std::uint64_t& level = all[static_cast<std::size_t>(finding.code)].level;
    level = std::max(level, static_cast<std::uint64_t>(finding.level));
  }
  return all;
}

std::vector<DeviceMetrics> device_metrics(const Coordinator& coordinator,
                                          const residency::NodeStatus& node) {
  std::vector<DeviceMetrics> all;
  for (std::uint32_t number = 0; number < coordinator.device_count(); ++number) {
    const device_worker::DeviceFacts* gpu = coordinator.gpu(ipc::DeviceId{number});
    if (gpu == nullptr) continue;
    const residency::TierStatus& hbm = node.devices[number];
    all.push_back({std::to_string(number), gpu->name, device_worker::to_string(gpu->uuid),
                   hbm.capacity_bytes, hbm.used_bytes});
  }
  return all;
}

}  // namespace

MetricsSnapshot collect_metrics(const Config& config, Coordinator& coordinator,
                                HealthWatch& health) {
  MetricsSnapshot snapshot;
  snapshot.version = kVersion;
  snapshot.hbm_capacity_bytes = config.hbm.capacity_bytes * coordinator.device_count();
  snapshot.dram_capacity_bytes = config.dram.capacity_bytes;
  snapshot.health = health_metrics(health.look());
  const auto [node, tenants, caches] = coordinator.with_manager(
      [](auto& m) { return std::tuple(m.status(), m.tenants(), m.caches()); });
  snapshot.devices = device_metrics(coordinator, node);
  const auto counters = coordinator.tenant_counters();
  const auto resolved = coordinator.resolve_totals();
  storage::StoreStats store;
  if (const NvmeTier* nvme = coordinator.nvme(); nvme != nullptr) store = nvme->store().stats();
  for (const storage::DeviceStats& disk : store.devices) {
    snapshot.disks.push_back({disk.directory.string(), disk.capacity_bytes, disk.io_errors,
                              disk.checksum_errors, disk.cleaned_bytes, disk.taken_out});
  }
  for (const auto& row : tenants) {
    TenantMetrics tenant;
    tenant.name = row.name;
    if (!store.devices.empty()) tenant.store = store_metrics(store, row.name);
    tenant.sessions = row.sessions;
    tenant.sequences = row.sequences;
    fill_tier(tenant.hbm, row.hbm);
    fill_tier(tenant.dram, row.dram);
    const auto evicted = [&](residency::EvictReason reason) {
      return row.evicted_bytes[static_cast<std::size_t>(reason)];
    };
    tenant.dram.evicted_bytes = {evicted(residency::EvictReason::pressure),
                                 evicted(residency::EvictReason::quota),
                                 evicted(residency::EvictReason::admin)};
    tenant.hbm.evicted_bytes.pressure = resolved[row.tenant.value].bytes_swept;
    tenant.host_to_device.must = resolved[row.tenant.value].bytes_filled;
    tenant.host_to_device.forecast = resolved[row.tenant.value].forecast_bytes;
    tenant.forecast_bytes.used = row.forecasts.used.bytes;
    tenant.forecast_bytes.late = row.forecasts.late.bytes;
    tenant.forecast_bytes.wasted = row.forecasts.wasted.bytes;
    tenant.forecast_bytes.dropped = row.forecasts.dropped.bytes;
    tenant.session_deaths = counters[row.tenant.value].session_deaths;
    tenant.client_violations = counters[row.tenant.value].violations;
    tenant.resolve_duration = coordinator.resolve_histogram(row.tenant).counts();
    tenant.session_reclaim = coordinator.reclaim_histogram(row.tenant).counts();
    for (const auto& cache : caches) {
      if (cache.tenant != row.tenant) continue;
      snapshot.caches.push_back(cache_metrics(cache, row.name, coordinator.arenas(cache.cache)));
    }
    snapshot.tenants.push_back(std::move(tenant));
  }
  return snapshot;
}

}  // namespace sluice::daemon
