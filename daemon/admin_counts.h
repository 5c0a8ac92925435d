// Counts that several documents have, as their JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "daemon/cache_memory.h"
#include "daemon/residency/status.h"

namespace sluice::daemon {

nlohmann::json blocks_json(const residency::BlockCounts& blocks);
nlohmann::json sharing_json(const residency::SharingCounts& sharing);
nlohmann::json resolve_json(const ResolveTotals& totals);

}  // namespace sluice::daemon
