#include "tests/client/fake_device.h"

#include <algorithm>

#include "client/actor.h"
#include "client/sequence.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;

namespace {

FakeDevice the_device;

void note(std::string call) { the_device.calls.push_back(std::move(call)); }

// Is passed when the device has run what was enqueued.
class FakeEnqueued final : public Enqueued {
 public:
  explicit FakeEnqueued(std::string what)
      : what_(std::move(what)), number_(++the_device.enqueued) {}
  ipc::Result<bool> passed() const override { return the_device.run >= number_; }
  ipc::Status wait() const override {
    if (the_device.run < number_) note("wait for " + what_);
    the_device.run = std::max(the_device.run, number_);
    return {};
  }

 private:
  const std::string what_;
  const std::uint64_t number_;
};

ipc::Result<Pending> enqueue(std::string what) {
  note(what);
  return std::make_shared<const FakeEnqueued>(std::move(what));
}

class FakeActor final : public Actor {
 public:
  FakeActor(Cache& cache, std::uint32_t index) : Actor(cache, index) {}

  ipc::Result<Pending> unpin(std::uint32_t id, const std::vector<std::int32_t>&) override {
    return enqueue("unpin " + std::to_string(id));
  }
  ipc::Result<Pending> copy_to_frame(const Sequence&, std::uint32_t block,
                                     const Sequence& to) override {
    return enqueue("copy to frame " + std::to_string(to.frame(block)));
  }
  ipc::Status await_begin() override {
    note("await the begin");
    return {};
  }
  ipc::Status copy_to_slots(const Sequence& of, std::uint32_t block) override {
    note("copy from frame " + std::to_string(of.frame(block)));
    return {};
  }

 private:
  ipc::Status do_begin_step() override { return {}; }
  ipc::Status do_end_step() override { return {}; }
  ipc::Status do_start(Operation&) override { return {}; }
  ipc::Status do_finish(Operation&, ipc::Deadline) override { return {}; }
  ipc::Status do_forecast(std::span<const PageList>, std::uint64_t, std::uint32_t) override {
    return {};
  }
  ipc::Result<std::vector<std::int32_t>> do_pin(const Sequence& sequence,
                                                std::uint32_t block) override {
    note("pin " + std::to_string(sequence.id(block)));
    return std::vector<std::int32_t>(cache().geometry().pages_per_block, 0);
  }
  ipc::Status do_set_stream(const StreamRef&) override {
    note("set stream");
    return {};
  }
  ipc::Status do_close() override {
    note("close actor");
    return {};
  }
};

class FakeDeviceCache final : public DeviceCache {
 public:
  explicit FakeDeviceCache(const Client& client) : client_(client) { the_device.open = true; }
  ~FakeDeviceCache() override {
    the_device.open = false;
    client_.note_pinned(-kFakePinned * mapped_);
  }

  std::int32_t ordinal() const override { return 3; }
  const DeviceUuid& uuid() const override { return uuid_; }
  ipc::Status reserve_arena(std::uint64_t bytes) override {
    note("reserve arena of " + std::to_string(bytes));
    return {};
  }
  ipc::Status map_arena_extent(std::uint64_t offset, int, std::uint64_t bytes) override {
    note("map arena at " + std::to_string(offset) + ", " + std::to_string(bytes));
    return {};
  }
  ipc::Status attach_table(const kernels::TableSizes&, int, std::uint64_t bytes,
                           std::span<std::byte> node_part) override {
    note("attach table of " + std::to_string(bytes) + " and " + std::to_string(node_part.size()));
    return {};
  }
  ipc::Status start_pinning(std::byte*, std::uint64_t, std::uint32_t, std::uint32_t) override {
    note("start pinning");
    return {};
  }

  std::byte* arena() const override { return nullptr; }
  const kernels::HotTable& table() const override { return table_; }
  const std::uint32_t* frames_ready() const override { return nullptr; }
  std::uint64_t device_bytes() const override { return 4096; }

  void pin(std::uint32_t extents) override {
    client_.note_pinned(kFakePinned * (std::int64_t{extents} - mapped_));
    mapped_ = extents;
  }
  std::uint32_t pinned() const override { return std::min(mapped_, the_device.pinnable); }
  ipc::Status pin_status() const override {
    if (the_device.pin_failure.code == Errc::ok) return {};
    return std::unexpected(the_device.pin_failure);
  }
  void retry_pinning() override { ++the_device.retries; }
  ipc::Status wait_pinned(std::uint32_t extents, ipc::Deadline) override {
    if (pinned() >= extents) return {};
    if (auto failed = pin_status(); !failed) return failed;
    return fail(Errc::timed_out, "not pinned yet");
  }

  ipc::Status expose_frame(std::uint32_t block, std::uint32_t frame) override {
    note("expose " + std::to_string(block) + " in " + std::to_string(frame));
    return {};
  }

  ipc::Result<std::uint32_t> add_row(std::span<const std::uint32_t> ids) override {
    const auto row = static_cast<std::uint32_t>(the_device.rows.size());
    the_device.rows[row].assign(ids.begin(), ids.end());
    return row;
  }
  ipc::Status update_row(std::uint32_t row, std::span<const std::uint32_t> ids,
                         std::size_t first_changed) override {
    the_device.rows.at(row).assign(ids.begin(), ids.end());
    the_device.first_changed.push_back(first_changed);
    return {};
  }
  void remove_row(std::uint32_t row) override { the_device.rows.erase(row); }

  ipc::Result<std::unique_ptr<Actor>> make_actor(Cache& cache, std::uint32_t index) override {
    return std::make_unique<FakeActor>(cache, index);
  }

 private:
  const Client& client_;
  DeviceUuid uuid_{1, 2, 3};
  kernels::HotTable table_;
  std::uint32_t mapped_ = 0;
};

}  // namespace

FakeDevice& fake_device() { return the_device; }
void reset_fake_device() { the_device = {}; }

ipc::Result<std::unique_ptr<DeviceCache>> DeviceCache::open(const Client& client, std::int32_t) {
  return std::make_unique<FakeDeviceCache>(client);
}

}  // namespace sluice::client::internal
