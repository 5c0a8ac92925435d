// What differs between backends: where the memory of the fast tier comes from.
//
// Extents of both tiers are file descriptors, so that they can be handed to the tenant's processes.
// The host backend takes memfds for both; a GPU backend takes device allocations for HBM.
//
// Thread-safety: any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/cache_table.h"
#include "daemon/config.h"
#include "daemon/device_worker/protocol.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/ids.h"
#include "ipc/mapping.h"

namespace sluice::daemon {

class DeviceExecutor;

// How the GPU does, as far as the daemon has found out.
struct DeviceHealth {
  enum class State : std::uint8_t {
    well,
    silent,  // it has not answered for a while
    lost,    // it gives nobody a context
  };
  State state = State::well;
  std::string text;                   // why it is lost
  std::uint64_t worker_failures = 0;  // device workers that died, hung, or lost their context
  pid_t worker = -1;                  // that runs; -1: none
  std::uint64_t pinned_bytes = 0;     // of DRAM, by it
};

// The executor of a tenant on a device.
struct ExecutorStatus {
  ipc::TenantId tenant;
  DeviceHealth health;
};
std::string_view to_string(DeviceHealth::State state);

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

  // Gives the memory of an extent back, whoever still has a descriptor of it: what was in it is
  // gone. Called before the descriptor is closed. Failures are logged. By default of a memfd.
  virtual void free_extent(ipc::Tier tier, const ipc::Fd& extent, std::uint64_t bytes);

  // A hot table, which has no memory yet. Errors: limit_reached, io_error. By default a whole one.
  virtual ipc::Result<std::shared_ptr<CacheTable>> create_table(const kernels::TableSizes& sizes);

  // One that a daemon of before made, from the descriptors that CacheTable::fds() gave then. By
  // default a whole one. Errors: invalid_argument, no_memory, io_error.
  virtual ipc::Result<std::shared_ptr<CacheTable>> adopt_table(const kernels::TableSizes& sizes,
                                                               std::vector<ipc::Fd> fds);

  // Extents of HBM are multiples of this, a power of two.
  virtual std::uint64_t hbm_granularity() const { return ipc::kMapGranularity; }

  // The NUMA nodes that DRAM extents come from, in turn; empty: any.
  virtual std::vector<std::uint32_t> dram_nodes() const { return {}; }

  // The GPU that HBM is of; null: it is memory of the node.
  virtual const device_worker::DeviceFacts* gpu() const { return nullptr; }

  // DRAM extents are pinned by those who map them, so they stay with their cache.
  bool users_pin_dram() const { return gpu() != nullptr; }

  // From any thread; never waits.
  virtual DeviceHealth health() const { return {}; }

  // `listener` is told of each process that works on the device for the daemon, before it does, and
  // takes the place of an earlier one of the same number: 0, or that of a tenant's executor.
  using WorkerListener = std::function<void(std::uint32_t number, pid_t pid)>;
  virtual void on_worker(WorkerListener /*listener*/) {}

  // Who resolves on the device for sessions of this tenant whose executor is the daemon, under the
  // MPS server of that directory. Null: the CPU does, in lanes.
  virtual std::shared_ptr<DeviceExecutor> executor(ipc::TenantId /*tenant*/,
                                                   const std::string& /*mps_pipe_directory*/) {
    return nullptr;
  }

  // Those that there are.
  virtual std::vector<ExecutorStatus> executors() const { return {}; }
  // They do nothing more; see DeviceExecutor::stop().
  virtual void stop_executors() {}

  // To be called now and then.
  virtual void look_after() {}
};

// HBM posed by a memfd; copies are memcpy. `hbm` and `dram` say how to use huge pages, `dram_nodes`
// which NUMA nodes DRAM comes from as long as they have any (numa.h).
std::unique_ptr<Device> make_host_device(HugePages hbm, HugePages dram,
                                         std::vector<std::uint32_t> dram_nodes = {});

// What a daemon has, by DeviceId; never empty.
using Devices = std::vector<std::unique_ptr<Device>>;
Devices one_device(std::unique_ptr<Device> device);

// HBM of the GPUs that the configuration names, by way of a device worker for each; DRAM as above.
// Starts the workers to see that there are GPUs. Errors: not_supported (no worker, driver or GPU),
// bad_config (no such GPU, or one smaller than tiers.hbm), io_error.
ipc::Result<Devices> make_cuda_devices(const Config& config, const std::string& sysfs = "/sys");

// Those of the configured backend.
ipc::Result<Devices> make_devices(const Config& config);

}  // namespace sluice::daemon
