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
  out["tiers"] = json::array({tier_json("hbm", node.hbm), tier_json("dram", node.dram)});
  out["devices"] = devices_json(request.coordinator());
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
