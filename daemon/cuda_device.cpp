#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "daemon/device.h"
#include "daemon/device_client.h"
#include "daemon/device_executor.h"
#include "daemon/logging.h"
#include "daemon/numa.h"
#include "daemon/programs.h"
#include "daemon/split_table.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using ipc::Tier;

namespace {

constexpr const char* kWorkerProgram = "sluice-device-worker";

// After two workers that hung: what cannot be ended meanwhile is tried again.
constexpr std::chrono::seconds kExecutorRest{1};

// HBM is the worker's to make and to wipe, and nobody here maps it.
class CudaDevice final : public Device {
 public:
  CudaDevice(DeviceClient::Options options, std::chrono::milliseconds executor_patience,
             std::shared_ptr<DeviceClient> client, device_worker::DeviceFacts facts,
             std::unique_ptr<Device> node)
      : options_(std::move(options)),
        executor_patience_(executor_patience),
        client_(std::move(client)),
        facts_(std::move(facts)),
        node_(std::move(node)) {}
  ~CudaDevice() override { CudaDevice::stop_executors(); }

  ipc::Result<ipc::Fd> allocate_extent(Tier tier, std::uint64_t bytes) override {
    return tier == Tier::hbm ? client_->allocate(bytes) : node_->allocate_extent(tier, bytes);
  }

  ipc::Status refill_extent(Tier tier, const ipc::Fd& extent, std::uint64_t bytes) override {
    if (tier == Tier::hbm) {
      return fail(Errc::internal, "extents of HBM are destroyed when they are given back");
    }
    return node_->refill_extent(tier, extent, bytes);
  }

  ipc::Status map_extent(Tier tier, ipc::ReservedRange& range, std::uint64_t offset,
                         const ipc::Fd& extent, std::uint64_t bytes) override {
    if (tier == Tier::hbm) return {};
    return node_->map_extent(tier, range, offset, extent, bytes);
  }

  void free_extent(Tier tier, const ipc::Fd& extent, std::uint64_t bytes) override {
    if (tier != Tier::hbm) return node_->free_extent(tier, extent, bytes);
    // Whoever gets this memory next wipes it too.
    if (auto wiped = client_->scrub(extent, bytes); !wiped) {
      log_error("an HBM extent was given back without being wiped",
                {{"reason", wiped.error().text}});
    }
  }

  ipc::Result<std::shared_ptr<CacheTable>> create_table(const kernels::TableSizes& sizes) override {
    SplitTablePlace place{facts_.granularity_bytes, std::nullopt};
    // The device reads the log and writes mirrors at each step.
    if (const auto nodes = dram_nodes(); !nodes.empty()) place.numa_node = nodes.front();
    return make_split_table(client_, place, sizes);
  }

  ipc::Result<std::shared_ptr<CacheTable>> adopt_table(const kernels::TableSizes& sizes,
                                                       std::vector<ipc::Fd> fds) override {
    return adopt_split_table(client_, facts_.granularity_bytes, sizes, std::move(fds));
  }

  std::uint64_t hbm_granularity() const override { return facts_.granularity_bytes; }
  std::vector<std::uint32_t> dram_nodes() const override { return node_->dram_nodes(); }
  const device_worker::DeviceFacts* gpu() const override { return &facts_; }
  DeviceHealth health() const override { return client_->health(); }
  std::vector<ExecutorStatus> executors() const override {
    const std::lock_guard lock(mutex_);
    std::vector<ExecutorStatus> all;
    all.reserve(executors_.size());
    for (const auto& [tenant, executor] : executors_) {
      all.push_back({ipc::TenantId{tenant}, executor->health()});
    }
    return all;
  }
  void stop_executors() override {
    const std::lock_guard lock(mutex_);
    for (const auto& [tenant, executor] : executors_) executor->stop();
  }
  void on_worker(WorkerListener listener) override {
    client_->on_start([listener](pid_t pid) { listener(0, pid); });
    const std::lock_guard lock(mutex_);
    listener_ = std::move(listener);
    for (const auto& [tenant, executor] : executors_) listen_to(tenant, *executor);
  }
  void look_after() override {
    client_->look_after();
    const std::lock_guard lock(mutex_);
    for (const auto& [tenant, executor] : executors_) executor->look_after();
  }

  std::shared_ptr<DeviceExecutor> executor(ipc::TenantId tenant,
                                           const std::string& mps_pipe_directory) override {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<DeviceExecutor>& executor = executors_[tenant.value];
    if (executor != nullptr) return executor;
    if (std::error_code ignored;
        !std::filesystem::exists(mps_pipe_directory + "/control", ignored)) {
      log_warn("no MPS server is there: the executor and the engines have the GPU by turns",
               {{"tenant", tenant.value}, {"mps_pipe_directory", mps_pipe_directory}});
    }
    DeviceClient::Options options = options_;
    options.device = device_worker::to_string(facts_.uuid);
    options.environment = {"CUDA_MPS_PIPE_DIRECTORY=" + mps_pipe_directory};
    options.known = true;
    // What waits behind a worker that hangs is still in its step, and not overdue.
    options.patience = std::min(options.patience, executor_patience_);
    options.rest = kExecutorRest;
    executor = std::make_shared<DeviceExecutor>(std::move(options));
    listen_to(tenant.value, *executor);
    return executor;
  }

 private:
  void listen_to(std::uint32_t tenant, DeviceExecutor& executor) const {
    if (!listener_) return;
    executor.on_start(
        [listener = listener_, number = tenant + 1](pid_t pid) { listener(number, pid); });
  }

  const DeviceClient::Options options_;
  const std::chrono::milliseconds executor_patience_;
  std::shared_ptr<DeviceClient> client_;
  device_worker::DeviceFacts facts_;
  std::unique_ptr<Device> node_;

  mutable std::mutex mutex_;  // for what follows
  WorkerListener listener_;
  std::map<std::uint32_t, std::shared_ptr<DeviceExecutor>> executors_;  // by tenant
};

std::string worker_program(const BackendConfig& backend) {
  if (!backend.device_worker.empty()) return backend.device_worker;
  return program_beside(kWorkerProgram);
}

DeviceClient::Options options_for(const BackendConfig& backend, const std::string& device) {
  DeviceClient::Options options;
  options.program = worker_program(backend);
  options.device = device;
  options.idle = backend.worker_idle;
  return options;
}

ipc::Result<std::unique_ptr<Device>> make_one(const Config& config, const std::string& device,
                                              const std::string& sysfs) {
  const DeviceClient::Options options = options_for(config.backend, device);
  auto client = std::make_shared<DeviceClient>(options);
  auto facts = client->describe();
  if (!facts) {
    return fail(facts.error().code,
                "backend.kind = \"cuda\" cannot work here: " + facts.error().text);
  }
  auto nodes = numa_nodes_for(config.dram.numa, facts->pci_bus_id, sysfs);
  return std::make_unique<CudaDevice>(
      options, config.limits.step_deadline / 3, std::move(client), std::move(*facts),
      make_host_device(HugePages::never, config.dram.huge_pages, std::move(nodes)));
}

ipc::Result<Devices> make_named(const Config& config, const std::vector<std::string>& names,
                                const std::string& sysfs) {
  Devices devices;
  for (const std::string& name : names) {
    auto made = make_one(config, name, sysfs);
    if (!made) return std::unexpected(std::move(made.error()));
    devices.push_back(std::move(*made));
  }
  return devices;
}

ipc::Result<Devices> make_all(const Config& config, const std::string& sysfs) {
  auto first = make_one(config, "0", sysfs);
  if (!first) return std::unexpected(std::move(first.error()));
  const std::uint32_t gpus = (*first)->gpu()->gpus;
  if (gpus > kMaxDevices) {
    return fail(Errc::bad_config, "backend.devices is \"all\", and there are " +
                                      std::to_string(gpus) + " GPUs; name at most " +
                                      std::to_string(kMaxDevices));
  }
  Devices devices = one_device(std::move(*first));
  for (std::uint32_t ordinal = 1; ordinal < gpus; ++ordinal) {
    auto made = make_one(config, std::to_string(ordinal), sysfs);
    if (!made) return std::unexpected(std::move(made.error()));
    devices.push_back(std::move(*made));
  }
  return devices;
}

// Whether a GPU has room for all the devices that it serves as.
ipc::Status check_room(const Config& config, const Devices& devices,
                       const device_worker::DeviceFacts& gpu) {
  const auto served = static_cast<std::uint64_t>(std::ranges::count_if(
      devices, [&](const auto& device) { return device->gpu()->uuid == gpu.uuid; }));
  const std::uint64_t capacity = config.hbm.capacity_bytes;
  const std::string as =
      served == 1 ? "" : ", and it serves as " + std::to_string(served) + " devices";
  if (capacity > gpu.hbm_total_bytes / served) {
    return fail(Errc::bad_config,
                "tiers.hbm.capacity is " + std::to_string(capacity) + " bytes; " + gpu.name +
                    " has " + std::to_string(gpu.hbm_total_bytes) + as +
                    ": configure less, and leave room for what engines need besides");
  }
  if (capacity > gpu.hbm_free_bytes / served) {
    log_warn("tiers.hbm.capacity is more than the GPU has free now: caches may fail to open",
             {{"uuid", device_worker::to_string(gpu.uuid)},
              {"capacity_bytes", capacity * served},
              {"hbm_free_bytes", gpu.hbm_free_bytes}});
  }
  return {};
}

}  // namespace

ipc::Result<Devices> make_cuda_devices(const Config& config, const std::string& sysfs) {
  const std::vector<std::string>& names = config.backend.devices;
  const bool all = names.size() == 1 && names[0] == kAllDevices;
  auto devices = all ? make_all(config, sysfs) : make_named(config, names, sysfs);
  if (!devices) return devices;
  for (std::size_t i = 0; i < devices->size(); ++i) {
    const device_worker::DeviceFacts& gpu = *(*devices)[i]->gpu();
    if (auto ok = check_room(config, *devices, gpu); !ok) return std::unexpected(ok.error());
    log_info("HBM is a GPU's", {{"device", std::uint64_t{i}},
                                {"name", gpu.name},
                                {"uuid", device_worker::to_string(gpu.uuid)},
                                {"hbm_bytes", gpu.hbm_total_bytes},
                                {"hbm_free_bytes", gpu.hbm_free_bytes}});
  }
  return devices;
}

std::string_view to_string(DeviceHealth::State state) {
  constexpr std::array<std::string_view, 3> names = {"well", "silent", "lost"};
  return names[static_cast<std::size_t>(state)];
}

ipc::Result<Devices> make_devices(const Config& config) {
  if (config.backend.kind == BackendKind::cuda) return make_cuda_devices(config);
  return one_device(make_host_device(config.hbm.huge_pages, config.dram.huge_pages,
                                     numa_nodes_for(config.dram.numa, "")));
}

}  // namespace sluice::daemon
