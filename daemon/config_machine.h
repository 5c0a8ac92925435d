// What a configuration owes to the machine and the user that the daemon runs on.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "daemon/config.h"
#include "daemon/config_findings.h"

namespace sluice::daemon {

// What holds before a file is read. Without tenants.
Config defaults_for(const Environment& environment);

// The tenant of a file that names none.
TenantConfig default_tenant(const Config& config, uid_t uid);

// What the log should say: which defaults were taken, and what may not fit. `findings`: which keys
// the file has.
std::vector<std::string> notes_on(const Config& config, const Environment& environment,
                                  const Findings& findings);

}  // namespace sluice::daemon
