// What operators ask: each verb gives one JSON document that names its schema and version.
//
// Documents only ever gain fields. Sizes are raw numbers with the unit in the name. An operator who
// may not see everything sees the tenant that they are: other tenants' rows are left out, and
// selecting one is permission_denied.
//
// Thread-safety: the control thread.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "daemon/config.h"
#include "daemon/coordinator.h"
#include "daemon/health.h"
#include "daemon/server.h"
#include "ipc/error.h"

namespace sluice::daemon {

// What the admin interface needs of the process around it.
struct AdminHooks {
  std::function<std::vector<Server::SessionRow>()> sessions;
  std::function<ipc::Status(ipc::SessionId, const SessionEnd&)> end_session;
  std::function<void(bool on)> drain;
  std::function<bool()> draining;
  std::function<std::vector<HealthFinding>()> health;
  // Where metrics are served; empty: nowhere.
  std::function<std::string()> metrics_address;
  // Re-reads the configuration file: what was applied and what was not.
  std::function<ipc::Result<Reload>()> reload;
};

class Admin {
 public:
  Admin(const Config& config, Coordinator& coordinator, AdminHooks hooks);

  // Errors: not_supported (no such verb), invalid_argument (arguments), permission_denied,
  // not_found.
  ipc::Result<std::string> run(const AdminScope& scope, std::string_view verb,
                               std::string_view arguments);

 private:
  const Config& config_;
  Coordinator& coordinator_;
  AdminHooks hooks_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace sluice::daemon
