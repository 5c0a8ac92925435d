// A GPU in a client whose daemon has a fake one (tests/daemon/fake_device.h): HBM is a memfd, which
// this process maps, too. For executor daemon, which asks a client's device for nothing else.
// Linked in place of the real one.
#include <algorithm>

#include "client/actor.h"
#include "client/device_cache.h"
#include "ipc/mapping.h"
#include "tests/daemon/fake_device.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;

namespace {

ipc::Status unexpected_call() {
  return fail(Errc::internal, "a client of executor daemon asks its device to resolve");
}

class MappedDevice final : public DeviceCache {
 public:
  explicit MappedDevice(std::int32_t ordinal) : ordinal_(ordinal) {}

  std::int32_t ordinal() const override { return ordinal_; }
  const DeviceUuid& uuid() const override { return test::kFakeUuid; }

  ipc::Status reserve_arena(std::uint64_t bytes) override {
    auto range = ipc::ReservedRange::reserve(bytes, "fake HBM");
    if (!range) return std::unexpected(range.error());
    arena_ = std::move(*range);
    return {};
  }
  ipc::Status map_arena_extent(std::uint64_t offset, int fd, std::uint64_t bytes) override {
    return arena_.map_at(offset, fd, 0, bytes, ipc::Access::read_write, "fake HBM");
  }
  std::byte* arena() const override { return arena_.data(); }

  ipc::Status attach_table(const kernels::TableSizes&, int, std::uint64_t,
                           std::span<std::byte>) override {
    return unexpected_call();
  }
  ipc::Status start_pinning(std::byte*, std::uint64_t, std::uint32_t, std::uint32_t) override {
    return unexpected_call();
  }
  const kernels::HotTable& table() const override { return table_; }
  const std::uint32_t* frames_ready() const override { return nullptr; }
  std::uint64_t device_bytes() const override { return 0; }
  void pin(std::uint32_t) override { std::abort(); }
  std::uint32_t pinned() const override { return 0; }
  ipc::Status pin_status() const override { return unexpected_call(); }
  void retry_pinning() override {}
  ipc::Status wait_pinned(std::uint32_t, ipc::Deadline) override { return unexpected_call(); }
  ipc::Status expose_frame(std::uint32_t, std::uint32_t) override { return unexpected_call(); }
  ipc::Result<std::uint32_t> add_row(std::span<const std::uint32_t>) override {
    return std::unexpected(unexpected_call().error());
  }
  ipc::Status update_row(std::uint32_t, std::span<const std::uint32_t>, std::size_t) override {
    return unexpected_call();
  }
  void remove_row(std::uint32_t) override {}
  ipc::Result<std::unique_ptr<Actor>> make_actor(Cache&, std::uint32_t) override {
    return std::unexpected(unexpected_call().error());
  }

 private:
  const std::int32_t ordinal_;
  ipc::ReservedRange arena_;
  kernels::HotTable table_{};
};

}  // namespace

ipc::Result<std::unique_ptr<DeviceCache>> DeviceCache::open(const Client&, std::int32_t ordinal) {
  return std::make_unique<MappedDevice>(ordinal);
}

}  // namespace sluice::client::internal
