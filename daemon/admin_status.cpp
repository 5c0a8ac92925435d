// The document of how the daemon is.
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "daemon/admin_counts.h"
#include "daemon/admin_documents.h"
#include "daemon/device_report.h"
#include "daemon/version.h"

namespace sluice::daemon {

using nlohmann::json;

namespace {

json tier_json(const char* name, const residency::TierStatus& tier) {
  return {{"tier", name},
          {"capacity_bytes", tier.capacity_bytes},
          {"used_bytes", tier.used_bytes},
          {"free_bytes", tier.capacity_bytes - std::min(tier.capacity_bytes, tier.used_bytes)},
          {"guaranteed_bytes", tier.guaranteed_bytes},
          {"lent_bytes", tier.lent_bytes}};
}

json health_json(const AdminRequest& request, const std::vector<HealthFinding>& findings) {
  json list = json::array();
  for (const HealthFinding& finding : findings) {
    if (finding.tenant && !request.sees(*finding.tenant)) continue;
    json row = {{"code", std::string(to_string(finding.code))},
                {"level", std::string(to_string(finding.level))},
                {"what", finding.what},
                {"todo", finding.todo}};
    if (finding.tenant) row["tenant"] = request.tenant_name(*finding.tenant);
    list.push_back(std::move(row));
  }
  return list;
}

// Null if there is no block store. Tenants see what is theirs only in `tenants`.
json nvme_json(const AdminRequest& request) {
  const NvmeTier* const nvme = request.coordinator().nvme();
  if (nvme == nullptr || !request.everything()) return nullptr;
  const storage::StoreStats stats = nvme->store().stats();
  json devices = json::array();
  for (const storage::DeviceStats& device : stats.devices) {
    devices.push_back({{"directory", device.directory.string()},
                       {"io", device.engine},
                       {"io_why", device.engine_why},
                       {"taken_out", device.taken_out},
                       {"taken_out_why", device.taken_out_why},
                       {"capacity_bytes", device.capacity_bytes},
                       {"segment_bytes", device.segment_bytes},
                       {"live_bytes", device.live_bytes},
                       {"read_bytes", device.read_bytes},
                       {"written_bytes", device.written_bytes},
                       {"cleaned_bytes", device.cleaned_bytes},
                       {"io_errors", device.io_errors},
                       {"checksum_errors", device.checksum_errors},
                       {"queued", device.queued},
                       {"in_flight", device.in_flight}});
  }
  json tenants = json::array();
  std::uint64_t held_bytes = 0;
  for (const storage::TenantStats& tenant : stats.tenants) {
    held_bytes += tenant.held_bytes;
    tenants.push_back({{"tenant", tenant.name},
                       {"blocks", tenant.blocks},
                       {"live_bytes", tenant.live_bytes},
                       {"held_bytes", tenant.held_bytes},
                       {"limit_bytes", tenant.limit_bytes},
                       {"weight", tenant.weight},
                       {"read_bytes", tenant.read_bytes},
                       {"written_bytes", tenant.written_bytes},
                       {"dropped_blocks", tenant.dropped_blocks},
                       {"refused_writes", tenant.refused_writes},
                       {"lost_blocks", tenant.lost_blocks}});
  }
  const residency::TieringTotals moved = request.coordinator().with_manager(
      [](auto& manager) { return manager.status().tiering_totals; });
  return {{"blocks", stats.blocks},
          {"held_bytes", held_bytes},
          {"recovered_blocks", stats.recovered_blocks},
          {"dropped_records", stats.dropped_records},
          {"written_blocks", moved.written},
          {"write_refused_blocks", moved.write_refused},
          {"displaced_blocks", moved.displaced},
          {"promoted_blocks", moved.promoted},
          {"lost_blocks", moved.lost},
          {"matched_blocks", moved.matched},
          {"devices", std::move(devices)},
          {"tenants", std::move(tenants)}};
}

// How a restart would find things, and how this one found them.
json restart_json(const AdminRequest& request, const residency::NodeStatus& node) {
  const TakenOver& taken = request.coordinator().taken_over();
  return {{"warm", request.coordinator().kept().active()},
          {"held_by", request.coordinator().kept().held_by()},
          {"trouble", request.coordinator().kept().trouble()},
          {"away_sessions", node.away_sessions},
          {"taken_over",
           {{"caches", taken.caches},
            {"sessions", taken.sessions},
            {"blocks", taken.sealed_blocks},
            {"private_blocks", taken.private_blocks},
            {"given_up_blocks", taken.given_up},
            {"damaged_records", taken.damaged},
            {"refused_caches", taken.refused_caches}}}};
}

// What HBM is of: memory of the node, or GPUs.
std::string backend_of(const AdminRequest& request) {
  return request.coordinator().on_gpus() ? "cuda" : "host";
}

}  // namespace

ipc::Result<json> status_of(const AdminRequest& request, const AdminHooks& hooks, double uptime_s) {
  json out = document("sluice.status");
  const auto node = request.coordinator().with_manager([](auto& m) { return m.status(); });
  out["daemon"] = {{"version", kVersion},
                   {"pid", getpid()},
                   {"uptime_seconds", uptime_s},
                   {"draining", hooks.draining()},
                   {"backend", backend_of(request)},
                   {"metrics_address", hooks.metrics_address()}};
  if (request.everything()) out["restart"] = restart_json(request, node);
  out["tiers"] = json::array({tier_json("hbm", node.hbm), tier_json("dram", node.dram)});
  out["devices"] = devices_json(request.coordinator(),
                                [&](ipc::TenantId tenant) { return request.sees(tenant); });
  out["nvme"] = nvme_json(request);
  out["daemon"]["device"] =
      request.coordinator().on_gpus() ? out["devices"][0] : json(nullptr);  // the first of them
  const auto resolved = request.coordinator().resolve_totals();
  auto tenants = tenants_of(request, resolved);
  if (!tenants) return std::unexpected(tenants.error());
  ResolveTotals totals;
  for (std::uint32_t tenant = 0; tenant < resolved.size(); ++tenant) {
    if (request.sees(ipc::TenantId{tenant})) totals += resolved[tenant];
  }
  out["tenants"] = std::move(*tenants);
  out["resolve"] = resolve_json(totals);
  out["health"] = health_json(request, hooks.health());
  if (request.everything()) {
    out["sessions"] = node.sessions;
    out["caches"] = node.caches;
    out["sequences"] = node.sequences;
    out["blocks"] = blocks_json(node.blocks);
    out["sharing"] = sharing_json(node.sharing);
    out["pending_work"] = node.pending_work;
  }
  return out;
}

}  // namespace sluice::daemon
