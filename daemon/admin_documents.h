// What the verbs of the admin interface answer: documents, and lists that several of them have.
//
// Thread-safety: the control thread.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "daemon/admin.h"
#include "daemon/admin_request.h"
#include "daemon/server.h"
#include "ipc/error.h"

namespace sluice::daemon {

// ---- lists; only what the request may see

ipc::Result<nlohmann::json> tenants_of(const AdminRequest& request,
                                       const std::vector<ResolveTotals>& resolved);
// `detail` adds what takes a scan of the tables.
ipc::Result<nlohmann::json> caches_of(const AdminRequest& request, bool detail);
nlohmann::json sessions_of(const AdminRequest& request,
                           const std::vector<Server::SessionRow>& rows);

// ---- documents

ipc::Result<nlohmann::json> status_of(const AdminRequest& request, const AdminHooks& hooks,
                                      double uptime_s);
ipc::Result<nlohmann::json> sequences_of(const AdminRequest& request);
ipc::Result<nlohmann::json> residency_of(const AdminRequest& request);
// What an evict with the same arguments would do.
ipc::Result<nlohmann::json> evict_plan(const AdminRequest& request);
ipc::Result<nlohmann::json> evict(const AdminRequest& request);

}  // namespace sluice::daemon
