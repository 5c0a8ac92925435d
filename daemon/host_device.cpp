#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "daemon/device.h"
#include "daemon/logging.h"
#include "ipc/memfd.h"
#include "ipc/numa.h"

namespace sluice::daemon {
namespace {

class HostDevice final : public Device {
 public:
  HostDevice(HugePages hbm, HugePages dram, std::vector<std::uint32_t> dram_nodes)
      : hbm_(hbm), dram_(dram), nodes_(std::move(dram_nodes)) {}

  ipc::Result<ipc::Fd> allocate_extent(ipc::Tier tier, std::uint64_t bytes) override {
    // Untouched memory of a sealed memfd would be a SIGBUS at the first touch on a full node.
    if (tier == ipc::Tier::hbm || nodes_.empty()) {
      return ipc::create_memfd(name_of(tier), bytes, ipc::Populate::yes, huge_pages(tier));
    }
    auto extent = ipc::create_memfd(name_of(tier), bytes, ipc::Populate::no);
    if (!extent) return extent;
    place(*extent, bytes);
    if (auto taken = refill_extent(tier, *extent, bytes); !taken) {
      return std::unexpected(std::move(taken.error()));
    }
    return extent;
  }

  std::vector<std::uint32_t> dram_nodes() const override { return nodes_; }

  ipc::Status refill_extent(ipc::Tier tier, const ipc::Fd& extent, std::uint64_t bytes) override {
    return ipc::populate_memfd(extent.get(), name_of(tier), 0, bytes, huge_pages(tier));
  }

  ipc::Status map_extent(ipc::Tier tier, ipc::ReservedRange& range, std::uint64_t offset,
                         const ipc::Fd& extent, std::uint64_t bytes) override {
    return range.map_at(offset, extent.get(), 0, bytes, ipc::Access::read_write,
                        tier == ipc::Tier::hbm ? "an HBM extent" : "a DRAM extent");
  }

 private:
  // Extents take turns, and not pages: huge pages are made around one small page each, whose number
  // is even.
  void place(const ipc::Fd& extent, std::uint64_t bytes) {
    const std::uint32_t node = nodes_[turn_++ % nodes_.size()];
    const auto placed = ipc::prefer_numa_node(extent.get(), bytes, node);
    if (placed || told_.exchange(true)) return;
    log_warn("DRAM comes from whatever NUMA node the kernel likes",
             {{"reason", placed.error().text}});
  }

  static const char* name_of(ipc::Tier tier) {
    return tier == ipc::Tier::hbm ? "sluice-hbm" : "sluice-dram";
  }
  HugePages huge_pages(ipc::Tier tier) const { return tier == ipc::Tier::hbm ? hbm_ : dram_; }

  HugePages hbm_;
  HugePages dram_;
  std::vector<std::uint32_t> nodes_;
  std::atomic<std::size_t> turn_{0};
  std::atomic<bool> told_{false};
};

}  // namespace

void Device::free_extent(ipc::Tier tier, const ipc::Fd& extent, std::uint64_t bytes) {
  const char* const name = tier == ipc::Tier::hbm ? "sluice-hbm" : "sluice-dram";
  if (auto vacated = ipc::vacate_memfd(extent.get(), name, 0, bytes); !vacated) {
    log_error("memory of an extent was not given back", {{"reason", vacated.error().text}});
  }
}

ipc::Result<std::shared_ptr<CacheTable>> Device::create_table(const kernels::TableSizes& sizes) {
  return make_whole_table(sizes);
}

ipc::Result<std::shared_ptr<CacheTable>> Device::adopt_table(const kernels::TableSizes& sizes,
                                                             std::vector<ipc::Fd> fds) {
  if (fds.size() != 1) {
    return ipc::fail(ipc::Errc::invalid_argument,
                     "a hot table of " + std::to_string(fds.size()) + " parts; expected 1");
  }
  return adopt_whole_table(sizes, std::move(fds[0]));
}

Devices one_device(std::unique_ptr<Device> device) {
  Devices devices;
  devices.push_back(std::move(device));
  return devices;
}

std::unique_ptr<Device> make_host_device(HugePages hbm, HugePages dram,
                                         std::vector<std::uint32_t> dram_nodes) {
  return std::make_unique<HostDevice>(hbm, dram, std::move(dram_nodes));
}

}  // namespace sluice::daemon
