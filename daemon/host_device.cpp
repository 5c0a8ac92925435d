#include "daemon/device.h"
#include "ipc/memfd.h"

namespace sluice::daemon {
namespace {

class HostDevice final : public Device {
 public:
  HostDevice(HugePages hbm, HugePages dram) : hbm_(hbm), dram_(dram) {}

  ipc::Result<ipc::Fd> allocate_extent(ipc::Tier tier, std::uint64_t bytes) override {
    const bool hbm = tier == ipc::Tier::hbm;
    // Untouched memory of a sealed memfd would be a SIGBUS at the first touch on a full node.
    return ipc::create_memfd(hbm ? "sluice-hbm" : "sluice-dram", bytes, ipc::Populate::yes,
                             hbm ? hbm_ : dram_);
  }

  ipc::Status map_extent(ipc::Tier tier, ipc::ReservedRange& range, std::uint64_t offset,
                         const ipc::Fd& extent, std::uint64_t bytes) override {
    return range.map_at(offset, extent.get(), 0, bytes, ipc::Access::read_write,
                        tier == ipc::Tier::hbm ? "an HBM extent" : "a DRAM extent");
  }

 private:
  HugePages hbm_;
  HugePages dram_;
};

}  // namespace

std::unique_ptr<Device> make_host_device(HugePages hbm, HugePages dram) {
  return std::make_unique<HostDevice>(hbm, dram);
}

}  // namespace sluice::daemon
