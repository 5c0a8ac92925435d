// What operators see of the devices that arenas lie on, as JSON for documents of admin.h.
//
// Thread-safety: any thread.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>

#include "daemon/coordinator.h"

namespace sluice::daemon {

// A row for each device, in the order of their numbers; executors of tenants that `sees` says.
nlohmann::json devices_json(Coordinator& coordinator,
                            const std::function<bool(ipc::TenantId)>& sees);

// A row for each arena of a cache, by device.
nlohmann::json arenas_json(const residency::CacheStatus& cache);

}  // namespace sluice::daemon
