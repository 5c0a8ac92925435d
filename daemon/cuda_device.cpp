#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "daemon/device.h"
#include "daemon/device_client.h"
#include "daemon/logging.h"
#include "daemon/split_table.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using ipc::Tier;

namespace {

constexpr const char* kWorkerProgram = "sluice-device-worker";

// HBM is the worker's to make and to wipe, and nobody here maps it.
class CudaDevice final : public Device {
 public:
  CudaDevice(std::shared_ptr<DeviceClient> client, device_worker::DeviceFacts facts,
             std::unique_ptr<Device> node)
      : client_(std::move(client)), facts_(std::move(facts)), node_(std::move(node)) {}

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
    return make_split_table(client_, facts_.granularity_bytes, sizes);
  }

  std::uint64_t hbm_granularity() const override { return facts_.granularity_bytes; }
  const device_worker::DeviceFacts* gpu() const override { return &facts_; }
  void look_after() override { client_->look_after(); }

 private:
  std::shared_ptr<DeviceClient> client_;
  device_worker::DeviceFacts facts_;
  std::unique_ptr<Device> node_;
};

std::string worker_program(const BackendConfig& backend) {
  if (!backend.device_worker.empty()) return backend.device_worker;
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() / kWorkerProgram;
}

DeviceClient::Options options_for(const BackendConfig& backend) {
  DeviceClient::Options options;
  options.program = worker_program(backend);
  options.device = backend.device;
  options.idle = backend.worker_idle;
  return options;
}

}  // namespace

ipc::Result<std::unique_ptr<Device>> make_cuda_device(const Config& config) {
  auto client = std::make_shared<DeviceClient>(options_for(config.backend));
  auto facts = client->describe();
  if (!facts) {
    return fail(facts.error().code,
                "backend.kind = \"cuda\" cannot work here: " + facts.error().text);
  }
  if (config.hbm.capacity_bytes > facts->hbm_total_bytes) {
    return fail(Errc::bad_config,
                "tiers.hbm.capacity is " + std::to_string(config.hbm.capacity_bytes) + " bytes; " +
                    facts->name + " has " + std::to_string(facts->hbm_total_bytes) +
                    ": configure less, and leave room for what engines need besides");
  }
  if (config.hbm.capacity_bytes > facts->hbm_free_bytes) {
    log_warn(
        "tiers.hbm.capacity is more than the GPU has free now: caches may fail to open",
        {{"capacity_bytes", config.hbm.capacity_bytes}, {"hbm_free_bytes", facts->hbm_free_bytes}});
  }
  log_info("HBM is a GPU's", {{"device", facts->name},
                              {"uuid", device_worker::to_string(facts->uuid)},
                              {"hbm_bytes", facts->hbm_total_bytes},
                              {"hbm_free_bytes", facts->hbm_free_bytes}});
  return std::make_unique<CudaDevice>(std::move(client), std::move(*facts),
                                      make_host_device(HugePages::never, config.dram.huge_pages));
}

ipc::Result<std::unique_ptr<Device>> make_device(const Config& config) {
  if (config.backend.kind == BackendKind::cuda) return make_cuda_device(config);
  return make_host_device(config.hbm.huge_pages, config.dram.huge_pages);
}

}  // namespace sluice::daemon
