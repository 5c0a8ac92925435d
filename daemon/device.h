// What differs between backends: where the memory of the fast tier comes from.
//
// Extents of both tiers are file descriptors, so that they can be handed to the tenant's processes.
// The host backend takes memfds for both; a GPU backend takes device allocations for HBM.
//
// Thread-safety: one thread at a time, the memory worker's.
#pragma once

#include <cstdint>
#include <memory>

#include "daemon/config.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/ids.h"
#include "ipc/mapping.h"

namespace sluice::daemon {

class Device {
 public:
  virtual ~Device() = default;

  // Zeroed memory of `bytes`, taken from the node now. Errors: no_memory, limit_reached, io_error.
  virtual ipc::Result<ipc::Fd> allocate_extent(ipc::Tier tier, std::uint64_t bytes) = 0;

  // Takes the memory of an extent anew that was given back (ipc::vacate_memfd). Errors: as above.
  virtual ipc::Status refill_extent(ipc::Tier tier, const ipc::Fd& extent, std::uint64_t bytes) = 0;

  // Maps an extent of its own at `offset` of a range of this process.
  virtual ipc::Status map_extent(ipc::Tier tier, ipc::ReservedRange& range, std::uint64_t offset,
                                 const ipc::Fd& extent, std::uint64_t bytes) = 0;
};

// HBM posed by a memfd; copies are memcpy. `hbm` and `dram` say how to use huge pages.
std::unique_ptr<Device> make_host_device(HugePages hbm, HugePages dram);

}  // namespace sluice::daemon
