// The hot table of a cache whose words are in the memory of a GPU; see cache_table.h.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "daemon/cache_table.h"
#include "daemon/device_client.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "kernels/table_sizes.h"

namespace sluice::daemon {

// How long orders wait that the device could not do. An operator's look at the words is as old as
// `look_life` at most.
struct SplitTableTimes {
  std::chrono::milliseconds retry{1000};
  std::chrono::milliseconds look_life{1000};
};

// Where a table's memory comes from: allocations of the device in such units, and the NUMA node
// that is best for the node's part, if it is known.
struct SplitTablePlace {
  std::uint64_t granularity_bytes = 0;
  std::optional<std::uint32_t> numa_node;
};

// Errors: limit_reached, io_error.
ipc::Result<std::shared_ptr<CacheTable>> make_split_table(std::shared_ptr<DeviceClient> device,
                                                          const SplitTablePlace& place,
                                                          const kernels::TableSizes& sizes,
                                                          const SplitTableTimes& times = {});
// One that a daemon of before left, from the descriptors of its two parts; whole. The device worker
// of that daemon is dead. Errors: invalid_argument, no_memory, io_error.
ipc::Result<std::shared_ptr<CacheTable>> adopt_split_table(std::shared_ptr<DeviceClient> device,
                                                           std::uint64_t granularity_bytes,
                                                           const kernels::TableSizes& sizes,
                                                           std::vector<ipc::Fd> fds);

}  // namespace sluice::daemon
