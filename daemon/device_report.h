// What operators see of the devices that arenas lie on, as JSON for documents of admin.h.
//
// Thread-safety: any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "daemon/coordinator.h"

namespace sluice::daemon {

// A row for each device, in the order of their numbers.
nlohmann::json devices_json(Coordinator& coordinator);

// A row for each arena of a cache, by device.
nlohmann::json arenas_json(const residency::CacheStatus& cache);

}  // namespace sluice::daemon
