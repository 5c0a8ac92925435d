#include "daemon/device_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>

namespace sluice::daemon {

using nlohmann::json;

namespace {

json row_of(const Coordinator& coordinator, ipc::DeviceId device, const residency::TierStatus& hbm,
            std::size_t caches, const std::function<bool(ipc::TenantId)>& sees) {
  const device_worker::DeviceFacts* const gpu = coordinator.gpu(device);
  json row = {{"device", device.value},
              {"capacity_bytes", hbm.capacity_bytes},
              {"used_bytes", hbm.used_bytes},
              {"free_bytes", hbm.capacity_bytes - std::min(hbm.capacity_bytes, hbm.used_bytes)},
              {"guaranteed_bytes", hbm.guaranteed_bytes},
              {"lent_bytes", hbm.lent_bytes},
              {"caches", caches},
              {"dram_numa_nodes", coordinator.dram_nodes(device)}};
  if (gpu == nullptr) {
    row["name"] = "memory of the node";
    return row;
  }
  const DeviceHealth health = coordinator.device_health(device);
  row["name"] = gpu->name;
  row["state"] = std::string(to_string(health.state));
  row["worker_failures"] = health.worker_failures;
  row["uuid"] = device_worker::to_string(gpu->uuid);
  row["pci_bus_id"] = gpu->pci_bus_id;
  row["hbm_total_bytes"] = gpu->hbm_total_bytes;
  row["executors"] = json::array();
  for (const ExecutorStatus& executor : coordinator.executors(device)) {
    if (!sees(executor.tenant)) continue;
    row["executors"].push_back({{"tenant", coordinator.tenant_name(executor.tenant)},
                                {"state", std::string(to_string(executor.health.state))},
                                {"pid", std::max<std::int64_t>(executor.health.worker, 0)},
                                {"pinned_bytes", executor.health.pinned_bytes},
                                {"worker_failures", executor.health.worker_failures}});
  }
  return row;
}

}  // namespace

json devices_json(Coordinator& coordinator, const std::function<bool(ipc::TenantId)>& sees) {
  const auto [node, caches] =
      coordinator.with_manager([](auto& m) { return std::tuple(m.status(), m.caches()); });
  json list = json::array();
  for (std::uint32_t device = 0; device < coordinator.device_count(); ++device) {
    const ipc::DeviceId id{device};
    const auto count = std::ranges::count_if(caches, [&](const residency::CacheStatus& row) {
      return std::ranges::find(row.arenas, id, &residency::ArenaStatus::device) != row.arenas.end();
    });
    list.push_back(
        row_of(coordinator, id, node.devices[device], static_cast<std::size_t>(count), sees));
  }
  return list;
}

json arenas_json(const residency::CacheStatus& cache) {
  json list = json::array();
  for (const residency::ArenaStatus& arena : cache.arenas) {
    list.push_back({{"device", arena.device.value},
                    {"state", std::string(residency::to_string(arena.state))},
                    {"slots", arena.slots},
                    {"hbm_bytes", arena.hbm_bytes},
                    {"sessions", arena.sessions}});
  }
  return list;
}

}  // namespace sluice::daemon
