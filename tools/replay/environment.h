// Where the engines of a run find their daemon: a private one made to measure, or one that exists.
//
// Tenants are named t0, t1, ...
#pragma once

#include "tools/common/spawn.h"
#include "tools/replay/options.h"
#include "tools/replay/plan.h"
#include "tools/replay/run.h"

namespace sluice::tools {

// A daemon with the memory that the plan asks for, rounded up to whole extents.
DaemonSpec daemon_spec(const Plan& plan, const Options& options);

// `daemon` must outlive the environment.
RunEnvironment spawned_environment(SpawnedDaemon& daemon, const Options& options);
RunEnvironment existing_environment(const Options& options);

}  // namespace sluice::tools
