#include "daemon/health_watch.h"

#include <tuple>
#include <utility>

#include "daemon/coordinator.h"

namespace sluice::daemon {
namespace {

std::vector<HealthCounts> counts_of(const std::vector<residency::TenantStatus>& tenants,
                                    const std::vector<ResolveTotals>& resolved) {
  std::vector<HealthCounts> counts;
  counts.reserve(tenants.size());
  for (const auto& tenant : tenants) {
    counts.push_back({resolved[tenant.tenant.value], tenant.hbm.failed, tenant.dram.failed});
  }
  return counts;
}

// What an idle cache or arena holds can be given up whole, of others the blocks that nobody refers
// to.
std::pair<std::uint64_t, std::uint64_t> reclaimable(
    const std::vector<residency::CacheStatus>& caches) {
  std::uint64_t hbm = 0;
  std::uint64_t dram = 0;
  for (const auto& cache : caches) {
    const bool whole = cache.state == residency::CacheState::idle ||
                       cache.state == residency::CacheState::destroying;
    for (const auto& arena : cache.arenas) {
      const bool used = arena.state == residency::CacheState::open ||
                        arena.state == residency::CacheState::opening;
      hbm += used ? 0 : arena.hbm_bytes;
    }
    dram +=
        whole ? cache.dram_bytes
              : (cache.blocks.unreferenced + cache.free_frames) * cache.shape.geometry.frame_stride;
  }
  return {hbm, dram};
}

}  // namespace

HealthWatch::HealthWatch(Coordinator& coordinator, std::vector<std::string> mps_pipe_directories)
    : coordinator_(coordinator),
      mps_pipe_directories_(std::move(mps_pipe_directories)),
      started_(std::chrono::steady_clock::now()),
      recent_(RecentCounts::Clock::now(), mps_pipe_directories_.size()) {}

void HealthWatch::sample() {
  const auto tenants = coordinator_.with_manager([](auto& m) { return m.tenants(); });
  auto counts = counts_of(tenants, coordinator_.resolve_totals());
  const std::lock_guard lock(mutex_);
  recent_.sample(RecentCounts::Clock::now(), std::move(counts));
}

std::vector<HealthFinding> HealthWatch::look() {
  HealthInput input;
  residency::NodeStatus node;
  std::vector<residency::CacheStatus> caches;
  std::tie(node, input.tenants, caches) = coordinator_.with_manager(
      [](auto& m) { return std::tuple(m.status(), m.tenants(), m.caches()); });
  const auto [hbm, dram] = reclaimable(caches);
  input.hbm = {node.hbm, hbm};
  input.dram = {node.dram, dram};
  input.draining = draining();
  for (std::uint32_t i = 0; i < coordinator_.device_count(); ++i) {
    input.devices.push_back(coordinator_.device_health(ipc::DeviceId{i}));
  }
  input.not_kept = coordinator_.kept().trouble();
  if (std::chrono::steady_clock::now() - started_ > kReturnPatience) {
    input.away_sessions = node.away_sessions;
  }
  input.mps_pipe_directories = mps_pipe_directories_;
  auto counts = counts_of(input.tenants, coordinator_.resolve_totals());
  {
    const std::lock_guard lock(mutex_);
    input.recent = recent_.since(RecentCounts::Clock::now(), std::move(counts));
  }
  return findings_in(input);
}

}  // namespace sluice::daemon
