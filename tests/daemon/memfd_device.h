// A device of the host in small pages, for tests that count, hold back or refuse its extents.
#pragma once

#include "daemon/device.h"
#include "ipc/memfd.h"

namespace sluice::test {

class MemfdDevice : public daemon::Device {
 public:
  ipc::Result<ipc::Fd> allocate_extent(ipc::Tier, std::uint64_t bytes) override {
    return ipc::create_memfd("sluice-test", bytes, ipc::Populate::yes);
  }
  ipc::Status refill_extent(ipc::Tier, const ipc::Fd& extent, std::uint64_t bytes) override {
    return ipc::populate_memfd(extent.get(), "sluice-test", 0, bytes);
  }
  ipc::Status map_extent(ipc::Tier, ipc::ReservedRange& range, std::uint64_t offset,
                         const ipc::Fd& extent, std::uint64_t bytes) override {
    return range.map_at(offset, extent.get(), 0, bytes, ipc::Access::read_write, "an extent");
  }
};

}  // namespace sluice::test
