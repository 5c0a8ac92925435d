// Where the engines of a run find their daemon: a private one made to measure, or one that exists.
//
// Tenants are named t0, t1, ...
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/common/spawn.h"
#include "tools/replay/options.h"
#include "tools/replay/plan.h"
#include "tools/replay/run.h"

namespace sluice::tools {

// A daemon with the memory that the plan asks for, rounded up to whole extents. `gpus`: UUIDs by
// ordinal, with Backend::cuda at least options.device + 1.
DaemonSpec daemon_spec(const Plan& plan, const Options& options,
                       const std::vector<std::string>& gpus = {});

// The devices of a run go round the GPUs that there are, from options.device on.
DevicePlace place_of(std::uint32_t device, const Options& options, std::size_t gpus);

// `daemon` must outlive the environment. `gpus` as above.
RunEnvironment spawned_environment(SpawnedDaemon& daemon, const Options& options,
                                   const std::vector<std::string>& gpus = {});
RunEnvironment existing_environment(const Options& options);

}  // namespace sluice::tools
