// The daemon and its device worker: who starts, who dies, and what is done again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "daemon/device_client.h"
#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "tests/daemon/fake_device.h"
#include "tests/eventually.h"

namespace sluice::daemon {
namespace {

using ipc::Errc;
using test::eventually;
using test::FakeDevice;
using test::kFakeGranularity;
using test::Request;
using ::testing::HasSubstr;

bool is_there(std::uint32_t pid) { return kill(static_cast<pid_t>(pid), 0) == 0; }

struct ADeviceClient : ::testing::Test {
  DeviceClient::Options options() const {
    DeviceClient::Options wanted;
    wanted.program = FakeDevice::program();
    wanted.device = "0";
    return wanted;
  }

  FakeDevice device;
  DeviceClient client{options()};
};

std::uint64_t sum_of(const ipc::Fd& memory, std::uint64_t bytes) {
  const auto view = ipc::Mapping::map(memory.get(), 0, bytes, ipc::Access::read_write, "fake HBM");
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < bytes; ++i) sum += std::to_integer<std::uint64_t>(view->data()[i]);
  return sum;
}

TEST_F(ADeviceClient, StartsAWorkerWhenThereIsSomethingToDo) {
  EXPECT_EQ(device->started, 0U);
  const auto facts = client.describe();
  ASSERT_TRUE(facts) << facts.error().text;
  EXPECT_EQ(facts->uuid, test::kFakeUuid);
  EXPECT_EQ(facts->name, "Fake GPU");
  EXPECT_EQ(facts->granularity_bytes, kFakeGranularity);
  EXPECT_EQ(device_worker::to_string(facts->uuid), "GPU-fa4e0102-0304-0506-0708-090a0b0c0d0e");
  EXPECT_EQ(facts->gpus, test::kFakeGpus);
  EXPECT_EQ(facts->pci_bus_id, test::fake_pci_bus_id(0));
  ASSERT_TRUE(client.describe());
  EXPECT_EQ(device->started, 1U);
}

TEST_F(ADeviceClient, GetsMemoryAndHasItWiped) {
  const auto memory = client.allocate(kFakeGranularity);
  ASSERT_TRUE(memory) << memory.error().text;
  auto view =
      ipc::Mapping::map(memory->get(), 0, kFakeGranularity, ipc::Access::read_write, "fake HBM");
  ASSERT_TRUE(view);
  view->data()[12345] = std::byte{7};
  EXPECT_EQ(sum_of(*memory, kFakeGranularity), 7U);
  ASSERT_TRUE(client.scrub(*memory, kFakeGranularity));
  EXPECT_EQ(sum_of(*memory, kFakeGranularity), 0U);
}

TEST_F(ADeviceClient, IsToldWhyAndKeepsAWorkerThatCanGoOn) {
  const auto memory = client.allocate(std::uint64_t{1} << 40);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code, Errc::no_memory);
  EXPECT_TRUE(client.describe());
  EXPECT_EQ(device->started, 1U);
}

TEST_F(ADeviceClient, AsksAnotherWorkerIfOneDies) {
  device->of(device->deaths, Request::Allocate) = 1;
  EXPECT_TRUE(client.allocate(kFakeGranularity));
  device->of(device->late_deaths, Request::Allocate) = 1;
  EXPECT_TRUE(client.allocate(kFakeGranularity));
  EXPECT_EQ(device->started, 3U);
  EXPECT_EQ(device->of(device->asked, Request::Allocate), 4U);
}

// Nobody is to be reaped, or killed, by the number of a worker that is gone.
TEST_F(ADeviceClient, ForgetsATableOfAWorkerThatDied) {
  kernels::TableSizes sizes{8, 8, 2, 4, 16, 64};
  SplitTableParts table;
  table.number = 1;
  table.sizes = sizes;
  table.node = std::move(
      *ipc::create_memfd("node", kernels::split_offsets_of(sizes).host_end, ipc::Populate::yes));
  table.device = std::move(*client.make_table(sizes, table.node));
  ASSERT_TRUE(client.work(table, {}));
  const auto worker = static_cast<pid_t>(device->pid.load());
  ASSERT_EQ(kill(worker, SIGKILL), 0);
  client.forget_table(1);
  EXPECT_EQ(client.health().worker, -1);
  client.look_after();
  EXPECT_TRUE(client.describe()) << "by another one";
  EXPECT_NE(static_cast<pid_t>(device->pid.load()), worker);
}

TEST_F(ADeviceClient, SaysHowTwoWorkersDied) {
  device->of(device->deaths, Request::Allocate) = 2;
  const auto memory = client.allocate(kFakeGranularity);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code, Errc::daemon_away);
  EXPECT_THAT(memory.error().text, HasSubstr("was ended by signal 9 before it answered"));
  EXPECT_TRUE(client.allocate(kFakeGranularity)) << "the next request begins anew";
}

TEST_F(ADeviceClient, ReplacesAWorkerWhoseGpuFailed) {
  device->of(device->errors, Request::Allocate) = 1;
  EXPECT_TRUE(client.allocate(kFakeGranularity));
  EXPECT_EQ(device->started, 2U);
  device->of(device->errors, Request::Allocate) = 2;
  const auto memory = client.allocate(kFakeGranularity);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code, Errc::io_error);
  EXPECT_THAT(memory.error().text, HasSubstr("the test broke the GPU"));
}

TEST_F(ADeviceClient, EndsAWorkerThatHangsBeforeItStartsAnother) {
  DeviceClient::Options hasty = options();
  hasty.patience = std::chrono::seconds(2);
  DeviceClient impatient(hasty);
  ASSERT_TRUE(impatient.describe());
  const std::uint32_t first = device->pid;
  device->of(device->hangs, Request::Describe) = 1;
  const auto facts = impatient.describe();
  ASSERT_TRUE(facts) << facts.error().text;
  EXPECT_NE(device->pid, first);
  EXPECT_FALSE(is_there(first)) << "dead, and known to be";
}

TEST_F(ADeviceClient, MakesNobodyWaitForAGpuThatHangs) {
  DeviceClient::Options hasty = options();
  hasty.patience = std::chrono::seconds(1);
  hasty.rest = std::chrono::hours(1);
  DeviceClient impatient(hasty);
  device->of(device->hangs, Request::Allocate) = 2;
  EXPECT_EQ(impatient.allocate(kFakeGranularity).error().code, Errc::timed_out);
  EXPECT_EQ(impatient.allocate(kFakeGranularity).error().code, Errc::timed_out);
  EXPECT_EQ(device->of(device->asked, Request::Allocate), 2U) << "the last one was not tried";

  hasty.rest = std::chrono::milliseconds(0);
  DeviceClient rested(hasty);
  device->of(device->hangs, Request::Allocate) = 2;
  EXPECT_FALSE(rested.allocate(kFakeGranularity));
  EXPECT_TRUE(rested.allocate(kFakeGranularity));
}

TEST_F(ADeviceClient, SaysThatItsGpuIsLostWhenANewWorkerGetsNoContext) {
  DeviceClient::Options eager = options();
  eager.lost_rest = std::chrono::hours(1);
  DeviceClient patient(eager);
  ASSERT_TRUE(patient.describe());
  device->of(device->errors, Request::Allocate) = 1;
  device->lost = 1;
  for (int i = 0; i < 2; ++i) {
    const auto memory = patient.allocate(kFakeGranularity);
    ASSERT_FALSE(memory);
    EXPECT_EQ(memory.error().code, Errc::device_lost);
    EXPECT_THAT(memory.error().text, HasSubstr("the test took the GPU"));
  }
  EXPECT_EQ(device->started, 2U) << "the second request was not worth a worker";
  EXPECT_EQ(patient.health().state, DeviceHealth::State::lost);
  EXPECT_EQ(patient.health().worker_failures, 1U);
}

TEST_F(ADeviceClient, FindsItsLostGpuAgain) {
  DeviceClient::Options eager = options();
  eager.lost_rest = std::chrono::milliseconds(0);
  DeviceClient restless(eager);
  ASSERT_TRUE(restless.describe());
  device->of(device->errors, Request::Allocate) = 1;
  device->lost = 2;
  EXPECT_FALSE(restless.allocate(kFakeGranularity));
  EXPECT_FALSE(restless.allocate(kFakeGranularity));
  EXPECT_TRUE(restless.allocate(kFakeGranularity));
  EXPECT_EQ(restless.health().state, DeviceHealth::State::well);
}

TEST_F(ADeviceClient, HasNoGpuToLoseBeforeItFoundOne) {
  device->lost = 1;
  const auto facts = client.describe();
  ASSERT_FALSE(facts);
  EXPECT_EQ(facts.error().code, Errc::not_supported);
  EXPECT_EQ(client.health().state, DeviceHealth::State::well);
}

TEST_F(ADeviceClient, TellsThatItsGpuDoesNotAnswer) {
  DeviceClient::Options attentive = options();
  attentive.silence = std::chrono::milliseconds(1);
  DeviceClient asking(attentive);
  device->of(device->held, Request::Allocate) = 1;
  std::thread request([&] { EXPECT_TRUE(asking.allocate(kFakeGranularity)); });
  EXPECT_TRUE(eventually([&] { return asking.health().state == DeviceHealth::State::silent; }));
  device->of(device->held, Request::Allocate) = 0;
  request.join();
  EXPECT_EQ(asking.health().state, DeviceHealth::State::well);
}

TEST_F(ADeviceClient, BelievesNoNonsense) {
  device->of(device->nonsense, Request::Allocate) = 1;
  EXPECT_TRUE(client.allocate(kFakeGranularity)) << "by a sane one";
  device->of(device->nonsense, Request::Allocate) = 2;
  const auto memory = client.allocate(kFakeGranularity);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code, Errc::peer_violation);
}

TEST_F(ADeviceClient, NoticesAWorkerThatDiedInBetween) {
  ASSERT_TRUE(client.describe());
  const std::uint32_t first = device->pid;
  ASSERT_EQ(kill(static_cast<pid_t>(first), SIGKILL), 0);
  EXPECT_TRUE(eventually([&] {
    client.look_after();
    return !is_there(first);
  })) << "and leaves no zombie";
  EXPECT_TRUE(client.describe());
  EXPECT_EQ(device->started, 2U);
}

TEST_F(ADeviceClient, LetsAnIdleWorkerGo) {
  DeviceClient::Options short_lived = options();
  short_lived.idle = std::chrono::milliseconds(0);
  DeviceClient idle(short_lived);
  ASSERT_TRUE(idle.describe());
  const std::uint32_t first = device->pid;
  EXPECT_TRUE(eventually([&] {
    idle.look_after();
    return !is_there(first);
  }));
  ASSERT_TRUE(idle.describe());
  EXPECT_EQ(device->started, 2U);
}

TEST_F(ADeviceClient, KeepsAWorkerThatWasAskedLately) {
  ASSERT_TRUE(client.describe());
  client.look_after();
  ASSERT_TRUE(client.describe());
  EXPECT_EQ(device->started, 1U);
}

TEST_F(ADeviceClient, EndsItsWorkerWhenItGoes) {
  auto gone = std::make_unique<DeviceClient>(options());
  ASSERT_TRUE(gone->describe());
  const std::uint32_t worker = device->pid;
  gone.reset();
  EXPECT_FALSE(is_there(worker));
}

TEST(ADeviceClientWithoutAWorker, SaysWhatIsMissing) {
  DeviceClient client({.program = "/nowhere/sluice-device-worker", .device = "0"});
  const auto facts = client.describe();
  ASSERT_FALSE(facts);
  EXPECT_EQ(facts.error().code, Errc::not_supported);
  EXPECT_THAT(facts.error().text, HasSubstr("/nowhere/sluice-device-worker cannot be started"));
  EXPECT_THAT(facts.error().text, HasSubstr("a build that found CUDA"));
}

TEST(ADeviceClientWithoutAWorker, SaysHowAProgramEndedThatIsNone) {
  DeviceClient client({.program = "/bin/true", .device = "0"});
  const auto facts = client.describe();
  ASSERT_FALSE(facts);
  EXPECT_EQ(facts.error().code, Errc::daemon_away);
  EXPECT_THAT(facts.error().text, HasSubstr("ended with status 0 before it answered"));
}

}  // namespace
}  // namespace sluice::daemon
