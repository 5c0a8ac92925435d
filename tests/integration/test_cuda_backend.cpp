// sluiced with the cuda backend, on a fake GPU: what a session gets, what operators see, and who is
// there when nothing is to be done.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "ipc/mapping.h"
#include "ipc/message.h"
#include "kernels/table.h"
#include "tests/daemon/fake_device.h"
#include "tests/hostile/raw_peer.h"
#include "tests/integration/daemon_process.h"

namespace sluice::test {
namespace {

namespace wire = ipc::wire;
using nlohmann::json;
using ::testing::HasSubstr;

DaemonProcess::Options on_fake_gpu(const std::string& keys = "") {
  DaemonProcess::Options options;
  options.extra = "[backend]\nkind = \"cuda\"\ndevice_worker = \"" + FakeDevice::program() +
                  "\"\n" + keys + "\n";
  return options;
}

// Also false of a dead one that nobody has taken note of, as of an orphan in some containers.
bool runs(std::uint32_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string number;
  std::string name;
  std::string state;
  return file >> number >> name >> state && state != "Z" && state != "X";
}

bool is_there(std::uint32_t pid) { return kill(static_cast<pid_t>(pid), 0) == 0; }

// Opens a cache with pages of 2 KiB; the answer, whatever it is.
ipc::Result<ipc::Frame> open_cache(RawPeer& peer, std::uint32_t device_index = 0) {
  const auto bytes = ipc::make_message(7, [&](flatbuffers::FlatBufferBuilder& builder) {
    const auto layout = wire::CreateLayoutSpec(builder, 4, 2, 16, 16, 2, 2, 0);
    const auto model = builder.CreateString("m");
    const auto uuid = builder.CreateVector(kFakeUuid.data(), kFakeUuid.size());
    wire::OpenCacheBuilder open(builder);
    open.add_model(model);
    open.add_shard_count(1);
    open.add_layout(layout);
    open.add_executor(wire::Executor::direct);
    open.add_hbm_bytes(8 << 20);
    open.add_device_type(2);
    open.add_device_uuid(uuid);
    open.add_device_index(device_index);
    return open.Finish();
  });
  EXPECT_TRUE(peer.send(bytes));
  return peer.receive();
}

TEST(TheCudaBackend, GivesASessionBothPartsOfTheTableAndTheHbm) {
  const FakeDevice device;
  const DaemonProcess daemon(on_fake_gpu());
  RawPeer peer(daemon.socket('a'));
  const auto session = peer.open_session();
  const auto opened = open_cache(peer);
  ASSERT_TRUE(opened) << opened.error().text;
  const auto* cache = (*ipc::verify_envelope(opened->bytes))->body_as_CacheOpened();
  ASSERT_NE(cache, nullptr);
  ASSERT_EQ(opened->fds.size(), 2U);
  EXPECT_EQ(cache->slot_extent_bytes(), kFakeGranularity);
  kernels::TableSizes sizes;
  sizes.slots = cache->slots();
  sizes.blocks = cache->max_blocks();
  sizes.pages_per_block = 4;
  sizes.actors = cache->table_actors();
  sizes.log_capacity = cache->table_log_capacity();
  sizes.hint_capacity = cache->table_hint_capacity();
  const kernels::SplitOffsets offsets = kernels::split_offsets_of(sizes);
  EXPECT_EQ(cache->table_bytes(), offsets.host_end);
  EXPECT_EQ(cache->device_table_bytes(), offsets.device_end);
  EXPECT_TRUE(ipc::check_memfd(opened->fds[0].get(), cache->table_bytes(), "the node's part"));
  EXPECT_TRUE(ipc::check_memfd(opened->fds[1].get(), cache->device_table_extent_bytes(),
                               "the device's part"));

  const auto bytes = ipc::make_message(8, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateFetchExtents(builder, cache->cache(), 0, 0);
  });
  ASSERT_TRUE(peer.send(bytes));
  const auto extents = peer.receive();
  ASSERT_TRUE(extents) << extents.error().text;
  ASSERT_EQ(extents->fds.size(), 4U) << "8 MiB";
  for (const ipc::Fd& extent : extents->fds) {
    EXPECT_TRUE(ipc::check_memfd(extent.get(), kFakeGranularity, "an HBM extent"));
  }
}

TEST(TheCudaBackend, RefusesWhoDoesNotNameTheGpu) {
  const FakeDevice device;
  const DaemonProcess daemon(on_fake_gpu());
  client::Client client = daemon.connect('a');
  const auto cache = client.open_cache(small_cache("m", SLUICE_EXECUTOR_DIRECT));
  ASSERT_FALSE(cache);
  EXPECT_EQ(cache.error().code, SLUICE_NOT_SUPPORTED);
  EXPECT_THAT(std::string(cache.error().text), HasSubstr("Fake GPU"));
}

TEST(TheCudaBackend, IsShownToOperatorsWithItsWords) {
  const FakeDevice device;
  const DaemonProcess daemon(on_fake_gpu());
  RawPeer peer(daemon.socket('a'));
  const auto session = peer.open_session();
  ASSERT_TRUE(open_cache(peer));
  const json status = json::parse(daemon.admin("status"));
  EXPECT_EQ(status["daemon"]["backend"], "cuda");
  ASSERT_EQ(status["devices"].size(), 1U);
  EXPECT_EQ(status["devices"][0]["name"], "Fake GPU");
  EXPECT_EQ(status["devices"][0]["uuid"], device_worker::to_string(kFakeUuid));
  // Fetched from the device, which takes a moment; whoever asks waits, and nobody else.
  const json residency = json::parse(daemon.admin("residency"));
  EXPECT_EQ(residency["caches"][0]["hbm_pages"]["free"], (8 << 20) / 2048);
}

TEST(TheCudaBackend, ShowsWhatClientsHavePinnedAndWhatThatCosts) {
  const FakeDevice device;
  const DaemonProcess daemon(on_fake_gpu());
  RawPeer peer(daemon.socket('a'));
  const auto session = peer.open_session();
  ASSERT_TRUE(open_cache(peer));
  session.memory.tell_pinned(std::uint64_t{3} << 30);
  const json row = json::parse(daemon.admin("sessions"))["sessions"][0];
  EXPECT_EQ(row["pinned_bytes"], std::uint64_t{3} << 30);
  EXPECT_EQ(row["pin_hbm_bytes"], 6 << 20);
  EXPECT_EQ(row["to_pin_bytes"], 0U) << "the cache has no DRAM yet";
}

TEST(TheCudaBackend, ShowsACacheOnTwoDevicesOfOneGpu) {
  const FakeDevice device;
  const DaemonProcess daemon(on_fake_gpu("devices = [0, 0]"));
  RawPeer peer(daemon.socket('a'));
  const auto session = peer.open_session();
  for (const std::uint32_t index : {0U, 1U}) {
    const auto opened = open_cache(peer, index);
    ASSERT_TRUE(opened) << opened.error().text;
    const auto* cache = (*ipc::verify_envelope(opened->bytes))->body_as_CacheOpened();
    ASSERT_NE(cache, nullptr);
    EXPECT_TRUE(cache->created());
  }
  const json devices = json::parse(daemon.admin("devices"))["devices"];
  ASSERT_EQ(devices.size(), 2U);
  for (const json& row : devices) {
    EXPECT_EQ(row["uuid"], device_worker::to_string(kFakeUuid));
    EXPECT_EQ(row["pci_bus_id"], fake_pci_bus_id(0));
    EXPECT_EQ(row["used_bytes"], 8 << 20);
    EXPECT_EQ(row["caches"], 1);
  }
  const json caches = json::parse(daemon.admin("caches"))["caches"];
  ASSERT_EQ(caches.size(), 1U);
  EXPECT_EQ(caches[0]["hbm_bytes"], 16 << 20);
  ASSERT_EQ(caches[0]["arenas"].size(), 2U);
  EXPECT_EQ(caches[0]["arenas"][1]["device"], 1);
  EXPECT_EQ(caches[0]["hbm_pages"]["free"], (16 << 20) / 2048) << "of both";
}

TEST(TheCudaBackend, LeavesTheGpuAloneWhenThereIsNothingToDo) {
  const FakeDevice device;
  const DaemonProcess daemon(on_fake_gpu("worker_idle = \"100ms\""));
  const std::uint32_t worker = device->pid;
  EXPECT_TRUE(eventually([&] { return !is_there(worker); }));
  RawPeer peer(daemon.socket('a'));
  const auto session = peer.open_session();
  EXPECT_TRUE(open_cache(peer)) << "by another worker";
  EXPECT_NE(device->pid, worker);
}

TEST(TheCudaBackend, TakesItsWorkerAlongWhenItDies) {
  const FakeDevice device;
  DaemonProcess daemon(on_fake_gpu());
  const std::uint32_t worker = device->pid;
  ASSERT_TRUE(is_there(worker));
  device->of(device->held, Request::MakeTable) = 1;
  RawPeer peer(daemon.socket('a'));
  const auto session = peer.open_session();
  std::thread opening([&] { (void)open_cache(peer); });
  EXPECT_TRUE(eventually([&] { return device->of(device->asked, Request::MakeTable) == 1; }));
  daemon.signal(SIGKILL);
  EXPECT_NE(daemon.wait(), -1);
  // Also in the middle of a request.
  EXPECT_TRUE(eventually([&] { return !runs(worker); }));
  opening.join();
}

// Memory that descriptors keep is found again with its table, by another worker.
TEST(TheCudaBackend, IsFoundAgainAfterARestart) {
  const FakeDevice device;
  DaemonProcess daemon(on_fake_gpu("devices = [0, 0]\n[restart]\nwarm = true"));
  const auto incarnation = [&](RawPeer& peer, std::uint32_t index, bool created) {
    const auto opened = open_cache(peer, index);
    EXPECT_TRUE(opened) << opened.error().text;
    if (!opened) return std::uint64_t{0};
    const auto* cache = (*ipc::verify_envelope(opened->bytes))->body_as_CacheOpened();
    EXPECT_NE(cache, nullptr);
    if (cache == nullptr) return std::uint64_t{0};
    EXPECT_EQ(cache->created(), created);
    EXPECT_EQ(opened->fds.size(), 2U);
    return cache->incarnation();
  };
  RawPeer before(daemon.socket('a'));
  const auto session = before.open_session();
  const std::uint64_t numbers[] = {incarnation(before, 0, true), incarnation(before, 1, true)};
  EXPECT_NE(numbers[0], 0U);
  EXPECT_NE(numbers[0], numbers[1]);
  const std::uint32_t worker = device->pid;
  daemon.kill_and_restart();
  EXPECT_FALSE(runs(worker));
  const json sessions = json::parse(daemon.admin("sessions"))["sessions"];
  ASSERT_EQ(sessions.size(), 1U);
  EXPECT_EQ(sessions[0]["state"], "away");
  RawPeer after(daemon.socket('a'));
  const auto another = after.open_session();
  EXPECT_EQ(incarnation(after, 0, false), numbers[0]);
  EXPECT_EQ(incarnation(after, 1, false), numbers[1]);
  // Its words are asked of a worker of today's.
  const json residency = json::parse(daemon.admin("residency"));
  EXPECT_EQ(residency["caches"][0]["hbm_pages"]["free"], (16 << 20) / 2048);
}

TEST(TheCudaBackend, SurvivesItsWorker) {
  const FakeDevice device;
  const DaemonProcess daemon(on_fake_gpu());
  ASSERT_EQ(kill(static_cast<pid_t>(device->pid.load()), SIGKILL), 0);
  RawPeer peer(daemon.socket('a'));
  const auto session = peer.open_session();
  EXPECT_TRUE(open_cache(peer));
}

}  // namespace
}  // namespace sluice::test
