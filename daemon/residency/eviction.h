// What an operator's evict gives up: the blocks that no sequence refers to, oldest first.
#pragma once

#include "daemon/residency/state.h"

namespace sluice::residency {

// The plan of an evict, as things stand; a pure function.
Result<EvictPlan> plan_eviction(const State& state, const EvictRequest& request);

// Carries on with an evict, by at most `budget` blocks; how many it were. bytes_left is 0 when
// nothing is left to do.
std::uint32_t evict_some(State& state, Eviction& eviction, std::uint32_t budget);

}  // namespace sluice::residency
