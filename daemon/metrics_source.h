// Where the numbers of a scrape come from: a snapshot of the coordinator and of every cache's
// table.
//
// Thread-safety: any thread.
#pragma once

#include "daemon/config.h"
#include "daemon/metrics.h"

namespace sluice::daemon {

class Coordinator;
class HealthWatch;

MetricsSnapshot collect_metrics(const Config& config, Coordinator& coordinator,
                                HealthWatch& health);

}  // namespace sluice::daemon
