#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/config.h"
#include "daemon/config_checks.h"
#include "daemon/config_text.h"
#include "ipc/error.h"

namespace sluice::daemon {
namespace {

std::vector<ConfigChange> changes(const Config& now, const Config& wanted) {
  const std::vector<ConfigValue> now_values = list_config(now);
  const std::vector<ConfigValue> wanted_values = list_config(wanted);
  std::map<std::string, std::string> wanted_by_key;
  for (const ConfigValue& value : wanted_values) wanted_by_key[value.key] = value.value;

  std::vector<ConfigChange> found;
  std::set<std::string> seen;
  for (const ConfigValue& value : now_values) {
    seen.insert(value.key);
    const std::string& other = wanted_by_key[value.key];
    if (other != value.value) found.push_back({value.key, value.value, other});
  }
  for (const ConfigValue& value : wanted_values) {
    if (!seen.contains(value.key)) found.push_back({value.key, "", value.value});
  }
  return found;
}

template <class Quota>
Quota within(Quota quota, std::uint64_t capacity_bytes) {
  quota.limit_bytes = std::min(quota.limit_bytes, capacity_bytes);
  return quota;
}

}  // namespace

ipc::Result<Reload> plan_reload(const Config& running, const Config& wanted) {
  Reload reload;
  reload.config = running;
  reload.config.daemon.log_level = wanted.daemon.log_level;
  reload.config.admin = wanted.admin;
  for (TenantConfig& tenant : reload.config.tenants) {
    const auto other = std::ranges::find(wanted.tenants, tenant.name, &TenantConfig::name);
    if (other == wanted.tenants.end()) continue;
    tenant.hbm = within(other->hbm, running.hbm.capacity_bytes);
    tenant.dram = within(other->dram, running.dram.capacity_bytes);
    // A file without a block store says nothing of the one that runs.
    if (wanted.nvme.has_store()) {
      tenant.nvme = within(other->nvme, running.nvme.capacity_bytes());
    }
  }
  std::vector<std::string> problems;
  check_sizes(reload.config,
              [&](const std::string&, std::string text) { problems.push_back(std::move(text)); });
  if (!problems.empty()) {
    return ipc::fail(ipc::Errc::bad_config,
                     "nothing was reloaded, because not everything can change without a restart: " +
                         join(problems, "; "));
  }
  reload.applied = changes(running, reload.config);
  reload.deferred = changes(reload.config, wanted);
  return reload;
}

}  // namespace sluice::daemon
