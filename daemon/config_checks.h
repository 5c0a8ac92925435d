// What must hold between the values of a configuration.
#pragma once

#include <functional>
#include <string>

#include "daemon/config.h"

namespace sluice::daemon {

// Reports a problem with the value of a key.
using Report = std::function<void(std::string key, std::string text)>;

// Extents fit into their tiers, and guarantees and limits of tenants too.
void check_sizes(const Config& config, const Report& report);
// Every id and socket has one owner.
void check_owners(const Config& config, const Report& report);

}  // namespace sluice::daemon
