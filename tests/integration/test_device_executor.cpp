// Executor daemon on a GPU, which is a fake one: what engines get from it, and who may die.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/daemon/fake_device.h"
#include "tests/integration/daemon_process.h"
#include "tests/ipc/support.h"
#include "tests/status_of.h"

namespace sluice::test {
namespace {

using nlohmann::json;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr std::size_t kPageBytes = 2048;
constexpr std::uint32_t kLayers = 4;  // pages of a block

DaemonProcess::Options under_mps(const std::string& more = "") {
  DaemonProcess::Options options;
  options.extra = "[backend]\nkind = \"cuda\"\ndevice_worker = \"" + FakeDevice::program() +
                  "\"\nworker_idle = \"100ms\"\n" + more;
  options.tenant_a = options.tenant_b =
      "mps_pipe_directory = \"" + std::string(kFakeMpsDirectory) + "\"";
  return options;
}

sluice_cache_desc on_gpu(const char* model = "m") {
  sluice_cache_desc desc = small_cache(model, SLUICE_EXECUTOR_DAEMON, kLayers);
  desc.device_type = 2;
  return desc;
}

std::byte pattern(std::uint32_t seed, std::uint32_t layer) {
  return static_cast<std::byte>(1 + seed * 7 + layer);
}

void fill(std::span<std::byte> block, std::uint32_t seed) {
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    std::memset(block.data() + layer * kPageBytes, std::to_integer<int>(pattern(seed, layer)),
                kPageBytes);
  }
}

struct Engine {
  explicit Engine(const DaemonProcess& daemon, const char* model = "m", char tenant = 'a',
                  std::uint64_t timeout_us = 60'000'000)
      : client(daemon.connect(tenant, timeout_us)),
        cache(must(client.open_cache(on_gpu(model)))),
        actor(must(cache.open_actor())) {}

  std::span<const std::byte> slot(std::int32_t slot) {
    return {static_cast<const std::byte*>(must(cache.arena()).base) +
                static_cast<std::size_t>(slot) * kPageBytes,
            kPageBytes};
  }
  std::span<std::byte> writable(std::int32_t slot) {
    return {static_cast<std::byte*>(must(cache.arena()).base) +
                static_cast<std::size_t>(slot) * kPageBytes,
            kPageBytes};
  }

  // Into slots of all layers of a block.
  void write(const std::vector<std::int32_t>& pinned, std::uint32_t seed) {
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      std::memset(writable(pinned[layer]).data(), std::to_integer<int>(pattern(seed, layer)),
                  kPageBytes);
    }
  }

  // Blocks whose bytes say which they are, written to their frames.
  client::Sequence written(std::uint32_t blocks, const std::string& prefix) {
    auto sequence = std::move(must(cache.open_sequence({})).sequence);
    must(sequence.extend(blocks));
    for (std::uint32_t i = 0; i < blocks; ++i) {
      fill(must(sequence.map(i)), i);
      const std::string key = prefix + std::to_string(i);
      must(sequence.seal(i, std::as_bytes(std::span(key))));
    }
    return sequence;
  }

  client::Result<client::ResolveCounts> resolve(client::Sequence& sequence, std::uint32_t layer,
                                                const std::vector<std::uint32_t>& blocks) {
    slots.assign(blocks.size(), -2);
    outcomes.assign(blocks.size(), 99);
    const client::PageList list{
        sequence.get(), layer,        static_cast<std::uint32_t>(blocks.size()),
        blocks.data(),  slots.data(), outcomes.data()};
    return actor.resolve({&list, 1});
  }

  // All layers of the blocks, in a step; how many pages were missed.
  std::uint64_t step(client::Sequence& sequence, const std::vector<std::uint32_t>& blocks) {
    must(actor.begin_step());
    std::uint64_t misses = 0;
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      const client::ResolveCounts counts = must(resolve(sequence, layer, blocks));
      EXPECT_EQ(counts.hits + counts.misses, blocks.size());
      misses += counts.misses;
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        EXPECT_THAT(slot(slots[i]), Each(pattern(blocks[i], layer)));
      }
    }
    must(actor.end_step());
    return misses;
  }

  client::Client client;
  client::Cache cache;
  client::Actor actor;
  std::vector<std::int32_t> slots;
  std::vector<std::uint8_t> outcomes;
};

// A process with an engine that makes one.
auto a_step_of(const DaemonProcess& daemon) {
  return [&daemon] {
    Engine engine(daemon);
    client::Sequence sequence = engine.written(1, "k");
    engine.step(sequence, {0});
    return 0;
  };
}

TEST(TheExecutorOnAGpu, IsForTenantsThatSayWhoseMpsServerTheyShare) {
  const FakeDevice device;
  DaemonProcess::Options options = under_mps();
  options.tenant_a.clear();
  const DaemonProcess daemon(options);
  client::Client client = daemon.connect('a');
  const auto cache = client.open_cache(on_gpu());
  ASSERT_FALSE(cache);
  EXPECT_EQ(cache.error().code, SLUICE_NOT_SUPPORTED);
  EXPECT_THAT(cache.error().text, HasSubstr("mps_pipe_directory of tenant \"a\""));
}

TEST(TheExecutorOnAGpu, FindsAndFillsPages) {
  const FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(6, "k");
  EXPECT_EQ(engine.step(sequence, {5, 0, 3}), 3 * kLayers);
  EXPECT_EQ(engine.step(sequence, {3, 5, 0, 1}), kLayers) << "the others are there";
  Engine other(daemon);
  client::Sequence same = other.written(6, "k");
  EXPECT_EQ(other.step(same, {0, 1, 3, 5}), 0U) << "of both sessions";
  EXPECT_EQ(status_of(engine.cache.wait_pinned(0)), SLUICE_OK);
  const auto info = must(engine.cache.info());
  EXPECT_EQ(info.pinned_frame_extents, 0U) << "by another process";
  const json executors = json::parse(daemon.admin("devices"))["devices"][0]["executors"];
  ASSERT_EQ(executors.size(), 1U);
  EXPECT_EQ(executors[0]["tenant"], "a");
  EXPECT_EQ(kill(executors[0]["pid"].get<pid_t>(), 0), 0) << "is there";
  EXPECT_EQ(executors[0]["pinned_bytes"], info.frame_extents * info.frame_extent_bytes);
}

TEST(TheExecutorOnAGpu, IsATenantsOwnUnderItsMpsServer) {
  const FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine a(daemon);
  client::Sequence sequence = a.written(1, "k");
  a.step(sequence, {0});
  EXPECT_EQ(device->under_mps, 1U) << "and not the device's own";
  Engine b(daemon, "m", 'b');
  client::Sequence other = b.written(1, "k");
  b.step(other, {0});
  EXPECT_EQ(device->under_mps, 2U);
  EXPECT_EQ(json::parse(daemon.admin("devices"))["devices"][0]["executors"].size(), 2U);
}

TEST(TheExecutorOnAGpu, TakesListsOfAnyLengthAndMemoryThatCameSince) {
  const FakeDevice device;
  DaemonProcess::Options options = under_mps();
  options.daemon = "";
  options.extra += "\n[rings]\nrequest_memory = \"16MiB\"\n";
  const DaemonProcess daemon(options);
  Engine engine(daemon);
  client::Sequence sequence = engine.written(2, "k");
  engine.step(sequence, {0, 1});
  client::Sequence more = engine.written(300, "more");  // in other extents
  must(engine.actor.begin_step());
  std::vector<std::uint32_t> blocks(device_worker::kMaxListItems + 300);
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<std::uint32_t>(i % 300);
  const auto counts = must(engine.resolve(more, 2, blocks));
  EXPECT_EQ(counts.hits + counts.misses, blocks.size());
  EXPECT_THAT(engine.slot(engine.slots.back()), Each(pattern(blocks.back(), 2)));
  must(engine.actor.end_step());
}

TEST(TheExecutorOnAGpu, RefusesWhatItCannotDo) {
  const FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(1, "k");
  EXPECT_EQ(status_of(engine.resolve(sequence, 0, {0})), SLUICE_WRONG_STATE) << "in no step";
  EXPECT_EQ(status_of(sequence.row()), SLUICE_NOT_SUPPORTED);
  EXPECT_EQ(status_of(engine.actor.set_stream(nullptr)), SLUICE_NOT_SUPPORTED);
  must(engine.actor.begin_step());
  EXPECT_EQ(status_of(engine.actor.begin_step()), SLUICE_WRONG_STATE);
  EXPECT_EQ(status_of(engine.resolve(sequence, kLayers, {0})), SLUICE_INVALID_ARGUMENT);
  std::vector<std::int32_t> pins(kLayers);
  EXPECT_EQ(status_of(sequence.pin(0, engine.actor, pins)), SLUICE_WRONG_STATE) << "sealed";
  must(engine.actor.end_step());
}

// The bytes of a pinned block go from its slots to its frame at the seal, and from there anywhere.
TEST(TheExecutorOnAGpu, WritesAndSealsPinnedBlocks) {
  const FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = std::move(must(engine.cache.open_sequence({})).sequence);
  must(sequence.extend(2));
  fill(must(sequence.map(0)), 40);
  must(engine.actor.begin_step());
  std::vector<std::int32_t> pins(kLayers, -1);
  must(sequence.pin(0, engine.actor, pins));
  EXPECT_THAT(engine.slot(pins[2]), Each(pattern(40, 2))) << "what was written before comes along";
  engine.write(pins, 0);
  must(engine.resolve(sequence, 1, {0}));
  EXPECT_EQ(engine.slots[0], pins[1]);
  client::Sequence child = must(sequence.fork(&engine.actor));
  const std::string key = "a block";
  must(sequence.seal(0, std::as_bytes(std::span(key)), &engine.actor));
  must(engine.actor.end_step());
  EXPECT_EQ(engine.step(sequence, {0}), 0U) << "it is in its slots still";
  const auto forked = must(child.map(0));
  EXPECT_THAT(forked.subspan(3 * kPageBytes, kPageBytes), Each(pattern(0, 3)));

  Engine other(daemon, "m");
  const sluice_keys keys{reinterpret_cast<const std::uint8_t*>(key.data()),
                         static_cast<std::uint32_t>(key.size()),
                         static_cast<std::uint32_t>(key.size()), 1};
  auto matched = must(other.cache.open_sequence(keys));
  EXPECT_EQ(matched.matched_blocks, 1U);
  EXPECT_EQ(other.step(matched.sequence, {0}), 0U);
}

TEST(TheExecutorOnAGpu, ForecastsBringPagesIn) {
  const FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(4, "k");
  must(engine.actor.begin_step());
  const std::uint32_t blocks[] = {0, 1, 2};
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    const client::PageList list{sequence.get(), layer, 3, blocks, nullptr, nullptr};
    must(engine.actor.forecast({&list, 1}, 1'000'000, 100));
  }
  must(engine.actor.end_step());
  EXPECT_EQ(engine.step(sequence, {0, 1, 2, 3}), kLayers) << "of the block that nobody announced";
  engine.step(sequence, {0});
  const auto stats = must(engine.cache.stats());
  EXPECT_EQ(stats.forecast_issued, 3U * kLayers);
  EXPECT_EQ(stats.forecast_used, 3U * kLayers) << "as of the step before the last";
}

// ---- deaths

class AnExecutorThatDies : public ::testing::TestWithParam<Request> {};

TEST_P(AnExecutorThatDies, IsReplacedAndAskedAgain) {
  FakeDevice device;
  for (auto* const deaths : {&device->deaths, &device->late_deaths}) {
    const DaemonProcess daemon(under_mps());
    Engine engine(daemon);
    constexpr std::uint32_t tail = 4;
    client::Sequence sequence = engine.written(tail, "k");
    device->of(*deaths, GetParam()) = 1;
    engine.step(sequence, {0, 1, 2});
    must(sequence.extend(1));
    must(engine.actor.begin_step());
    std::vector<std::int32_t> pins(kLayers, -1);
    must(sequence.pin(tail, engine.actor, pins));
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      std::memset(engine.writable(pins[layer]).data(), std::to_integer<int>(pattern(tail, layer)),
                  kPageBytes);
    }
    must(sequence.store(tail, engine.actor));
    EXPECT_TRUE(must(sequence.stored(tail)));
    const std::string key = "tail";
    must(sequence.seal(tail, std::as_bytes(std::span(key)), &engine.actor));
    must(engine.actor.end_step());
    engine.step(sequence, {0, 1, 2, tail});
    EXPECT_EQ(device->of(*deaths, GetParam()), 0U) << "somebody died of it";
    const json residency = json::parse(daemon.admin("residency"));
    EXPECT_EQ(residency["caches"][0]["hbm_pages"]["pinned"], 0);
  }
}

INSTANTIATE_TEST_SUITE_P(At, AnExecutorThatDies,
                         ::testing::Values(Request::EnterStep, Request::Resolve, Request::LeaveStep,
                                           Request::ClaimPins, Request::SealPins,
                                           Request::CopyBlock, Request::MapExtents,
                                           Request::OpenArena),
                         [](const auto& param) {
                           return device_worker::wire::EnumNameBody(param.param);
                         });

TEST(TheExecutorOnAGpu, SaysThatItFailedAndGoesOn) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(2, "k");
  must(engine.actor.begin_step());
  device->of(device->deaths, Request::Resolve) = 2;
  const auto failed = engine.resolve(sequence, 0, {0});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, SLUICE_IO_ERROR);
  EXPECT_THAT(failed.error().text, HasSubstr("executor on the GPU failed"));
  must(engine.resolve(sequence, 0, {0}));
  must(engine.actor.end_step());
  engine.step(sequence, {0, 1});
}

// A step that could not be ended is ended by the next try; a pin that failed is made again whole.
TEST(TheExecutorOnAGpu, CallsThatFailedAreMadeAgain) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(2, "k");
  device->of(device->late_deaths, Request::EnterStep) = 2;
  EXPECT_EQ(status_of(engine.actor.begin_step()), SLUICE_IO_ERROR);
  must(engine.actor.begin_step());
  device->of(device->deaths, Request::LeaveStep) = 2;
  EXPECT_EQ(status_of(engine.actor.end_step()), SLUICE_IO_ERROR);
  must(engine.actor.end_step());
  // Whatever it failed for.
  must(engine.actor.begin_step());
  device->of(device->deaths, Request::LeaveStep) = 1;
  device->lost = 1;
  EXPECT_EQ(status_of(engine.actor.end_step()), SLUICE_DEVICE_LOST);
  EXPECT_TRUE(eventually([&] { return status_of(engine.actor.end_step()) == SLUICE_OK; }));

  must(sequence.extend(1));
  fill(must(sequence.map(2)), 30);
  must(engine.actor.begin_step());
  std::vector<std::int32_t> pins(kLayers, -1);
  device->of(device->late_deaths, Request::ClaimPins) = 2;
  EXPECT_EQ(status_of(sequence.pin(2, engine.actor, pins)), SLUICE_IO_ERROR);
  device->of(device->deaths, Request::CopyBlock) = 2;
  EXPECT_EQ(status_of(sequence.pin(2, engine.actor, pins)), SLUICE_IO_ERROR);
  const std::string key = "tail";
  EXPECT_EQ(status_of(sequence.seal(2, std::as_bytes(std::span(key)), &engine.actor)),
            SLUICE_WRONG_STATE)
      << "its slots are not what its frame is";
  must(sequence.pin(2, engine.actor, pins));
  EXPECT_THAT(engine.slot(pins[1]), Each(pattern(30, 1)));
  const auto pinned = [&] {
    return json::parse(daemon.admin("residency"))["caches"][0]["hbm_pages"]["pinned"];
  };
  EXPECT_EQ(pinned(), kLayers) << "once";
  must(sequence.seal(2, std::as_bytes(std::span(key)), &engine.actor));
  must(engine.actor.end_step());
  engine.step(sequence, {0, 1});
}

TEST(TheExecutorOnAGpu, LeavesTheStepsOfActorsThatWereClosedOverThem) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(1, "k");
  engine.step(sequence, {0});
  constexpr std::uint64_t kHastyUs = 1'000'000;
  client::Client hasty = daemon.connect('a', kHastyUs);
  for (const bool begun : {false, true}) {
    client::Cache cache = must(hasty.open_cache(on_gpu()));
    std::optional<client::Actor> actor(must(cache.open_actor()));
    device->of(device->held, Request::EnterStep) = 1;
    EXPECT_EQ(status_of(actor->begin_step()), SLUICE_TIMED_OUT);
    if (!begun) {
      actor.reset();
      device->of(device->deaths, Request::LeaveStep) = 2;  // nor can it be told to leave
    }
    device->of(device->held, Request::EnterStep) = 0;
    EXPECT_TRUE(eventually([&] { return status_of(cache.open_sequence({})) == SLUICE_OK; }))
        << "what comes after the step in the ring";
    actor.reset();
    if (!begun) device->of(device->deaths, Request::LeaveStep) = 0;
    std::optional<client::Actor> next(must(cache.open_actor()));
    EXPECT_TRUE(eventually([&] { return status_of(next->begin_step()) == SLUICE_OK; }));
    next.reset();
    EXPECT_EQ(status_of(cache.close()), SLUICE_OK) << "an actor is open";
  }
}

// What the executor holds pinned after a call that failed at the engine is not what it seals.
TEST(TheExecutorOnAGpu, ASealGivesUpPinsThatTheEngineDoesNotKnow) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(2, "k");
  engine.step(sequence, {0, 1});
  std::vector<std::int32_t> pins(kLayers, -1);
  const auto write_and_seal = [&](client::Sequence& of, std::uint32_t block) {
    fill(must(of.map(block)), block);
    const std::string key = "sealed" + std::to_string(block);
    must(of.seal(block, std::as_bytes(std::span(key))));
  };
  {
    must(sequence.extend(1));
    must(engine.actor.begin_step());
    device->of(device->late_deaths, Request::ClaimPins) = 1;
    device->of(device->deaths, Request::Work) = 2;
    EXPECT_EQ(status_of(sequence.pin(2, engine.actor, pins)), SLUICE_IO_ERROR);
    must(engine.actor.end_step());
    write_and_seal(sequence, 2);
    engine.step(sequence, {0, 1, 2});
  }
  // And of one that it did not wait for.
  constexpr std::uint64_t kHastyUs = 2'000'000;
  Engine hasty(daemon, "m", 'a', kHastyUs);
  auto own = std::move(must(hasty.cache.open_sequence({})).sequence);
  must(own.extend(1));
  must(hasty.actor.begin_step());
  device->of(device->held, Request::ClaimPins) = 1;
  EXPECT_EQ(status_of(own.pin(0, hasty.actor, pins)), SLUICE_TIMED_OUT);
  device->of(device->held, Request::ClaimPins) = 0;
  EXPECT_TRUE(eventually([&] { return status_of(hasty.cache.open_sequence({})) == SLUICE_OK; }))
      << "what comes after the pin in the ring";
  write_and_seal(own, 0);
  must(hasty.actor.end_step());
  hasty.step(own, {0});
}

// Pins that were given up by a worker that died before it said so are not used again.
TEST(TheExecutorOnAGpu, PinsWhoseDropFailedAreClaimedAnew) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  constexpr std::uint64_t kHastyUs = 3'000'000;
  Engine engine(daemon, "m", 'a', kHastyUs);
  auto first = std::move(must(engine.cache.open_sequence({})).sequence);
  auto second = std::move(must(engine.cache.open_sequence({})).sequence);
  must(first.extend(1));
  must(second.extend(1));
  must(engine.actor.begin_step());
  std::vector<std::int32_t> pins(kLayers, -1);
  std::vector<std::int32_t> others(kLayers, -1);
  device->of(device->held, Request::ClaimPins) = 1;
  EXPECT_EQ(status_of(first.pin(0, engine.actor, pins)), SLUICE_TIMED_OUT);
  device->of(device->held, Request::ClaimPins) = 0;
  EXPECT_TRUE(eventually([&] { return status_of(engine.cache.open_sequence({})) == SLUICE_OK; }));
  const std::string key = "k";
  device->of(device->late_deaths, Request::Work) = 2;
  EXPECT_EQ(status_of(first.seal(0, std::as_bytes(std::span(key)))), SLUICE_IO_ERROR);
  must(second.pin(0, engine.actor, others));
  must(first.pin(0, engine.actor, pins));
  for (const std::int32_t slot : pins) {
    EXPECT_EQ(std::ranges::find(others, slot), others.end()) << slot;
  }
  must(engine.actor.end_step());
}

TEST(TheExecutorOnAGpu, AWorkerThatHangsOverAPinIsReplaced) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps("[limits]\nstep_deadline = \"3s\"\n"));
  Engine engine(daemon);
  client::Sequence sequence = engine.written(1, "k");
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  device->of(device->hangs, Request::ClaimPins) = 1;
  std::vector<std::int32_t> pins(kLayers, -1);
  must(sequence.pin(1, engine.actor, pins));
  must(engine.actor.end_step());
}

// The step of an actor over which the executor failed, and which it cannot be told to leave.
TEST(TheExecutorOnAGpu, AnActorThatCannotLeaveIsMadeIdle) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(1, "k");
  engine.step(sequence, {0});
  for (const Request over : {Request::EnterStep, Request::Forecast}) {
    if (over == Request::Forecast) must(engine.actor.begin_step());
    const std::uint32_t before = device->of(device->asked, Request::Work);
    device->of(device->late_deaths, over) = 1;
    device->lost = 1;
    if (over == Request::EnterStep) {
      EXPECT_EQ(status_of(engine.actor.begin_step()), SLUICE_DEVICE_LOST);
    } else {
      const std::uint32_t block = 0;
      const client::PageList list{sequence.get(), 0, 1, &block, nullptr, nullptr};
      must(engine.actor.forecast({&list, 1}, 1'000'000, 100));
    }
    EXPECT_TRUE(eventually([&] { return device->of(device->asked, Request::Work) > before; }));
    if (over == Request::EnterStep) {
      EXPECT_TRUE(eventually([&] { return status_of(engine.actor.begin_step()) == SLUICE_OK; }));
    }
    EXPECT_TRUE(eventually([&] { return status_of(engine.actor.end_step()) == SLUICE_OK; }));
  }
  engine.step(sequence, {0});
}

// An engine whose step the daemon cannot end for a while is not late.
TEST(TheExecutorOnAGpu, WhoWaitsForItIsNotOverdue) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps("[limits]\nstep_deadline = \"3s\"\n"));
  Engine engine(daemon);
  client::Sequence sequence = engine.written(1, "k");
  engine.step(sequence, {0});
  must(engine.actor.begin_step());
  device->of(device->hangs, Request::Resolve) = 2;
  device->of(device->hangs, Request::LeaveStep) = 2;
  EXPECT_EQ(status_of(engine.resolve(sequence, 0, {0})), SLUICE_IO_ERROR);
  EXPECT_TRUE(eventually([&] { return status_of(engine.actor.end_step()) == SLUICE_OK; }));
  engine.step(sequence, {0});
}

TEST(TheExecutorOnAGpu, AForecastThatFailsIsDropped) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(2, "k");
  must(engine.actor.begin_step());
  device->of(device->deaths, Request::Forecast) = 2;
  const std::vector<std::uint32_t> blocks = {0, 1};
  const client::PageList list{sequence.get(), 0, 2, blocks.data(), nullptr, nullptr};
  must(engine.actor.forecast({&list, 1}, 1'000'000, 100));
  must(engine.resolve(sequence, 0, {0}));
  must(engine.actor.end_step());
  EXPECT_EQ(device->of(device->deaths, Request::Forecast), 0U);
  engine.step(sequence, {0, 1});
}

TEST(TheExecutorOnAGpu, EndsWithTheDaemonInTheMiddleOfARequest) {
  FakeDevice device;
  DaemonProcess daemon(under_mps("[restart]\nwarm = true\n"));
  device->of(device->hangs, Request::Resolve) = 1;
  ipc::Child child(a_step_of(daemon));
  ASSERT_TRUE(eventually([&] { return device->of(device->asked, Request::Resolve) == 1; }));
  const std::uint32_t started = device->started;
  daemon.signal(SIGTERM);
  const int status = daemon.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(device->started, started) << "no other worker";
  child.kill_and_reap();
}

TEST(TheExecutorOnAGpu, HoldsNobodyElseUp) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  Engine engine(daemon);
  client::Sequence sequence = engine.written(1, "k");
  client::Client neighbour = daemon.connect('b');
  device->of(device->held, Request::Resolve) = 1;
  std::thread step([&] { engine.step(sequence, {0}); });
  EXPECT_TRUE(eventually([&] { return device->of(device->asked, Request::Resolve) == 1; }));
  sluice_cache_desc direct = on_gpu("other");
  direct.executor = SLUICE_EXECUTOR_DAEMON;
  EXPECT_TRUE(neighbour.open_cache(direct));
  EXPECT_EQ(status_of(neighbour.ping()), SLUICE_OK);
  device->of(device->held, Request::Resolve) = 0;
  step.join();
}

// What works for a dead engine ends before its actors are somebody else's.
TEST(TheExecutorOnAGpu, OutlivesItsEnginesAndIsWaitedFor) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  const auto sessions = [&] { return json::parse(daemon.admin("sessions"))["sessions"].size(); };
  device->of(device->held, Request::Resolve) = 1;
  ipc::Child child(a_step_of(daemon));
  ASSERT_TRUE(eventually([&] { return device->of(device->asked, Request::Resolve) == 1; }));
  child.kill_and_reap();
  // Others that end meanwhile are gone, so the daemon has noticed by then.
  for (int i = 0; i < 3; ++i) {
    must(daemon.connect('a').ping());
    EXPECT_TRUE(eventually([&] { return sessions() == 1; }));
  }
  EXPECT_EQ(sessions(), 1U) << "it is there while the device works for it";
  device->of(device->held, Request::Resolve) = 0;
  EXPECT_TRUE(eventually([&] { return sessions() == 0; }));
  Engine next(daemon);
  client::Sequence sequence = next.written(1, "k");
  next.step(sequence, {0});
}

TEST(TheExecutorOnAGpu, LeavesTheGpuWithTheLastOfItsCaches) {
  FakeDevice device;
  const DaemonProcess daemon(under_mps());
  std::optional<Engine> engine(std::in_place, daemon);
  const std::uint32_t before = device->pid;
  {
    client::Sequence sequence = engine->written(1, "k");
    engine->step(sequence, {0});
  }
  const auto is_there = [](std::uint32_t pid) { return kill(static_cast<pid_t>(pid), 0) == 0; };
  const std::uint32_t worker = device->pid;
  EXPECT_TRUE(eventually([&] { return !is_there(before); })) << "the device's own";
  // Its next one is asked for the words, and goes when it was idle for so long as to go: so was the
  // executor.
  ASSERT_FALSE(daemon.admin("residency").empty());
  const std::uint32_t own = device->pid;
  ASSERT_NE(own, worker);
  EXPECT_TRUE(eventually([&] { return !is_there(own); }));
  EXPECT_TRUE(is_there(worker));
  engine.reset();
  EXPECT_TRUE(eventually([&] { return !is_there(worker); }));
}

// Slots that an engine writes in are its own over the death of the daemon, which finds them again.
TEST(TheExecutorOnAGpu, FindsPinsAgainAfterARestart) {
  FakeDevice device;
  DaemonProcess daemon(under_mps("[restart]\nwarm = true\n"));
  Engine engine(daemon);
  client::Sequence sequence = engine.written(2, "k");
  engine.step(sequence, {0, 1});
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  std::vector<std::int32_t> pins(kLayers, -1);
  must(sequence.pin(2, engine.actor, pins));
  engine.write(pins, 2);
  daemon.kill_and_restart();
  must(engine.resolve(sequence, 3, {2, 0}));
  EXPECT_EQ(engine.slots[0], pins[3]);
  EXPECT_THAT(engine.slot(engine.slots[1]), Each(pattern(0, 3)));
  const std::string key = "tail";
  must(sequence.seal(2, std::as_bytes(std::span(key)), &engine.actor));
  must(engine.actor.end_step());
  EXPECT_EQ(engine.step(sequence, {0, 1, 2}), 0U) << "HBM is as it was";
}

// A session comes back without the executor, which may not be there for long.
TEST(TheExecutorOnAGpu, LooksForPinsWhenTheyAreNeeded) {
  FakeDevice device;
  DaemonProcess daemon(under_mps("[restart]\nwarm = true\n"));
  Engine engine(daemon);
  client::Sequence sequence = engine.written(2, "k");
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  std::vector<std::int32_t> pins(kLayers, -1);
  must(sequence.pin(2, engine.actor, pins));
  engine.write(pins, 2);
  // Another cache of the session, which has none.
  client::Cache cache = must(engine.client.open_cache(on_gpu("n")));
  client::Actor actor = must(cache.open_actor());
  client::Sequence sealed = std::move(must(cache.open_sequence({})).sequence);
  must(sealed.extend(1));
  const std::string name = "n";
  must(sealed.seal(0, std::as_bytes(std::span(name))));
  // The fake one knows frames by the log alone, which goes on far behind where it ended.
  must(actor.begin_step());
  must(actor.end_step());
  device->of(device->held, Request::FindPins) = 1;
  daemon.kill_and_restart();
  must(sequence.extend(1));
  const std::uint32_t block = 0;
  std::int32_t slot = -1;
  const client::PageList list{sealed.get(), 0, 1, &block, &slot, nullptr};
  must(actor.begin_step());
  must(actor.resolve({&list, 1}));
  must(actor.end_step());
  EXPECT_GE(slot, 0);
  EXPECT_EQ(device->of(device->asked, Request::FindPins), 0U);
  device->of(device->held, Request::FindPins) = 0;
  device->of(device->deaths, Request::FindPins) = 2;
  EXPECT_EQ(status_of(engine.resolve(sequence, 3, {2, 0})), SLUICE_IO_ERROR);
  must(engine.resolve(sequence, 3, {2, 0}));
  EXPECT_EQ(engine.slots[0], pins[3]);
  const std::string key = "tail";
  must(sequence.seal(2, std::as_bytes(std::span(key)), &engine.actor));
  must(engine.actor.end_step());
  engine.step(sequence, {0, 1, 2});
}

}  // namespace
}  // namespace sluice::test
