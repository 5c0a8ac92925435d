// libsluice and the daemon on a GPU: bytes, pins, forks, streams, processes; both executors.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/client/gpu/gpu_engine.h"

namespace sluice::test {
namespace {

// What does not depend on who resolves. Without an MPS server the daemon's executor has the GPU by
// turns with this process.
class EachExecutor : public testing::TestWithParam<sluice_executor> {
 protected:
  static DaemonProcess::Options options() {
    DaemonProcess::Options wanted = on_gpu();
    const char* const directory = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
    wanted.tenant_a = std::string("mps_pipe_directory = \"") +
                      (directory != nullptr ? directory : "/tmp/nvidia-mps") + "\"";
    return wanted;
  }
  static sluice_cache_desc cache() { return gpu_cache("model", GetParam()); }

  const DaemonProcess daemon{options()};
  Engine engine{daemon, cache()};
};

INSTANTIATE_TEST_SUITE_P(GpuClient, EachExecutor,
                         testing::Values(SLUICE_EXECUTOR_DIRECT, SLUICE_EXECUTOR_DAEMON),
                         [](const auto& param) {
                           return param.param == SLUICE_EXECUTOR_DIRECT ? "Direct" : "Daemon";
                         });

TEST_P(EachExecutor, ResolvesServeTheBytesThatWereSealed) {
  EXPECT_EQ(engine.arena.device_type, 2);
  const Sequence sequence = prefilled(engine, 20);
  must(engine.actor.begin_step());
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    client::ResolveCounts counts{};
    const auto slots = engine.resolve(sequence, layer, {0, 7, 19, 7}, &counts);
    EXPECT_EQ(counts.hits + counts.misses, 4u);
    EXPECT_EQ(counts.bytes_filled, counts.misses * engine.info.page_bytes);
    EXPECT_EQ(slots[1], slots[3]) << "a duplicate has the same slot";
    EXPECT_TRUE(engine.filled(slots[0], 1));
    EXPECT_TRUE(engine.filled(slots[1], 8));
    EXPECT_TRUE(engine.filled(slots[2], 20));
    engine.resolve(sequence, layer, {0, 7, 19}, &counts);
    EXPECT_EQ(counts.hits, 3u) << "they are there now";
  }
  must(engine.actor.end_step());
}

TEST(GpuClient, WhatPinningTookIsTold) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 20);
  const auto info = must(engine.cache.info());
  EXPECT_GT(info.frame_extents, 0u);
  EXPECT_EQ(info.pinned_frame_extents, info.frame_extents);
  EXPECT_EQ(info.pin_status, static_cast<std::uint32_t>(SLUICE_OK));
  EXPECT_GE(info.device_bytes, info.frame_extents * info.frame_extent_bytes / 512);
}

TEST_P(EachExecutor, PinnedSlotsAreWrittenOnTheDeviceAndSealed) {
  Sequence sequence = prefilled(engine, 2);
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  const auto slots = pin(engine, sequence, 2);
  EXPECT_EQ(pin(engine, sequence, 2), slots) << "pinned already";
  for (std::uint32_t page = 0; page < kLayers; ++page) {
    engine.fill(slots[page], 100 + static_cast<int>(page));
    EXPECT_EQ(engine.resolve(sequence, page, {2}), std::vector<std::int32_t>{slots[page]});
  }
  const std::string name = key(2);
  EXPECT_EQ(status_of(sequence.seal(2, std::as_bytes(std::span(name)))), SLUICE_INVALID_ARGUMENT)
      << "without an actor";
  EXPECT_FALSE(must(sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor)));
  EXPECT_EQ(engine.resolve(sequence, 3, {2}), std::vector<std::int32_t>{slots[3]});
  must(engine.actor.end_step());

  Engine other(daemon, cache());
  auto [shared, matched] = open(other, 3);
  ASSERT_EQ(matched, 3u);
  must(other.cache.wait_pinned(kPinTimeoutUs));
  must(other.actor.begin_step());
  for (std::uint32_t page = 0; page < kLayers; ++page) {
    EXPECT_TRUE(other.filled(other.resolve(shared, page, {2})[0], 100 + static_cast<int>(page)));
  }
  must(other.actor.end_step());
}

TEST_P(EachExecutor, APinTakesAlongWhatWasInTheFrame) {
  Sequence sequence = open(engine, 0).sequence;
  must(sequence.extend(1));
  const auto frame = must(sequence.map(0));
  std::memset(frame.data(), 77, frame.size());
  must(engine.actor.begin_step());
  for (const std::int32_t slot : pin(engine, sequence, 0)) EXPECT_TRUE(engine.filled(slot, 77));
  must(engine.actor.end_step());
}

TEST_P(EachExecutor, AForkCopiesPinnedBlocksInAStepOfAnActor) {
  Sequence sequence = open(engine, 0).sequence;
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  const auto slots = pin(engine, sequence, 0);
  for (const std::int32_t slot : slots) engine.fill(slot, 5);
  EXPECT_EQ(status_of(sequence.fork()), SLUICE_INVALID_ARGUMENT);
  Sequence child = must(sequence.fork(&engine.actor));
  for (const std::int32_t slot : slots) engine.fill(slot, 6);
  const auto copy = must(child.map(0));
  EXPECT_EQ(copy.front(), std::byte{5});
  EXPECT_EQ(copy.back(), std::byte{5});
  must(engine.actor.end_step());
}

TEST_P(EachExecutor, WhatWasWrittenAfterASecondPinIsSealed) {
  Sequence sequence = prefilled(engine, 2);
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  const auto slots = pin(engine, sequence, 2);
  for (const std::int32_t slot : slots) engine.fill(slot, 5);
  must(sequence.store(2, engine.actor));
  EXPECT_EQ(pin(engine, sequence, 2), slots);
  EXPECT_FALSE(must(sequence.stored(2)));
  for (const std::int32_t slot : slots) engine.fill(slot, 6);
  must(sequence.store(2, engine.actor));
  EXPECT_TRUE(eventually([&] { return must(sequence.stored(2)); }));
  const std::string name = key(2);
  must(sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor));
  must(engine.actor.end_step());
  EXPECT_EQ(status_of(sequence.store(2, engine.actor)), SLUICE_WRONG_STATE);

  Sequence copy = must(sequence.fork());
  must(sequence.truncate(0));
  must(engine.actor.begin_step());
  EXPECT_TRUE(engine.filled(engine.resolve(copy, 1, {2})[0], 6));
  must(engine.actor.end_step());
}

TEST(GpuClient, AnActorChangesItsStreamBetweenSteps) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 3);
  cudaStream_t mine = nullptr;
  ASSERT_EQ(cudaStreamCreate(&mine), cudaSuccess);
  for (const sluice_stream stream :
       {sluice_stream{SLUICE_STREAM_CUDA, 0, mine}, sluice_stream{SLUICE_STREAM_CUDA, 0, nullptr},
        sluice_stream{SLUICE_STREAM_NONE, 0, nullptr}}) {
    must(engine.actor.set_stream(&stream));
    must(engine.actor.begin_step());
    EXPECT_EQ(status_of(engine.actor.set_stream(nullptr)), SLUICE_WRONG_STATE);
    EXPECT_TRUE(engine.filled(engine.resolve(sequence, 1, {2})[0], 3));
    must(engine.actor.end_step());
  }
  EXPECT_EQ(cudaStreamDestroy(mine), cudaSuccess);
}

TEST(GpuClient, AForkedChildMayOnlyDisconnect) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 3);
  PlanLists lists;
  Plan plan = must(Plan::create(engine.actor, lists.desc(SLUICE_ITEM_BLOCK, 0)));
  const pid_t child = fork();
  if (child == 0) {
    const bool told = status_of(engine.actor.begin_step()) == SLUICE_FORKED &&
                      status_of(engine.cache.wait_pinned(0)) == SLUICE_FORKED &&
                      status_of(sequence.row()) == SLUICE_FORKED &&
                      status_of(plan.launch()) == SLUICE_FORKED &&
                      status_of(engine.actor.set_stream(nullptr)) == SLUICE_FORKED;
    {
      const Engine copied = std::move(engine);
      const Plan copied_plan = std::move(plan);
    }
    _exit(told ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  must(engine.actor.begin_step());
  EXPECT_TRUE(engine.filled(engine.resolve(sequence, 0, {2})[0], 3));
  must(engine.actor.end_step());
}

// A forecast by an actor of its own, beside which the engine's resolves are hits.
TEST(GpuClient, ForecastsBringPagesInBeforeTheyAreAskedFor) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 20);
  Actor forecaster = must(engine.cache.open_actor());
  const std::vector<std::uint32_t> blocks = {3, 4, 5};
  const PageList list{sequence.get(), 0, 3, blocks.data(), nullptr, nullptr};
  must(forecaster.begin_step());
  must(forecaster.forecast({&list, 1}, 1'000'000, 100));
  must(forecaster.end_step());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  auto stats = must(engine.cache.stats());
  EXPECT_EQ(stats.forecast_issued, 3u);
  EXPECT_EQ(stats.forecast_dropped, 0u);

  must(engine.actor.begin_step());
  client::ResolveCounts counts{};
  const auto slots = engine.resolve(sequence, 0, blocks, &counts);
  EXPECT_EQ(counts.hits, 3u);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_TRUE(engine.filled(slots[i], static_cast<int>(blocks[i]) + 1));
  }
  must(engine.actor.end_step());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  stats = must(engine.cache.stats());
  EXPECT_EQ(stats.forecast_issued, 3u) << "counted once";
  EXPECT_EQ(stats.forecast_used, 3u);
  EXPECT_EQ(stats.forecast_wasted_bytes, 0u);
}

// Processes that work for a daemon.
std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "stat");
    pid_t pid = 0;
    std::string name;
    std::string state;
    pid_t its_parent = 0;
    if (file >> pid >> name >> state >> its_parent && its_parent == parent) children.push_back(pid);
  }
  return children;
}

TEST_P(EachExecutor, GoesOnWithOtherWorkers) {
  Sequence sequence = prefilled(engine, 6);
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  const auto slots = pin(engine, sequence, 6);
  for (const std::int32_t slot : slots) engine.fill(slot, 7);
  for (const std::uint32_t block : {0u, 2u, 4u}) {
    for (const pid_t worker : children_of(daemon.pid())) kill(worker, SIGKILL);
    EXPECT_TRUE(
        engine.filled(engine.resolve(sequence, 1, {block})[0], static_cast<int>(block) + 1));
  }
  const std::string name = key(6);
  for (const pid_t worker : children_of(daemon.pid())) kill(worker, SIGKILL);
  must(sequence.seal(6, std::as_bytes(std::span(name)), &engine.actor));
  EXPECT_EQ(engine.resolve(sequence, 2, {6}), std::vector<std::int32_t>{slots[2]});
  must(engine.actor.end_step());
}

TEST(GpuClient, ACacheOnAGpuHasTheDirectExecutorUnlessATenantTrustsItself) {
  const DaemonProcess daemon(on_gpu());
  Client client = daemon.connect('a');
  sluice_cache_desc desc = gpu_cache("model", SLUICE_EXECUTOR_DAEMON);
  EXPECT_EQ(status_of(client.open_cache(desc)), SLUICE_NOT_SUPPORTED);
  desc.executor = SLUICE_EXECUTOR_DIRECT;
  desc.device_type = 0;
  EXPECT_EQ(status_of(client.open_cache(desc)), SLUICE_NOT_SUPPORTED)
      << "a cache of the host backend, with a daemon that has a GPU";
  desc.device_type = 2;
  desc.device_id = 1000;
  EXPECT_EQ(status_of(client.open_cache(desc)), SLUICE_INVALID_ARGUMENT);
}

// Opening and closing again and again leaves no memory of the device behind.
TEST(GpuClient, WhatACacheTookOfTheDeviceComesBackWhenItIsClosed) {
  const DaemonProcess daemon(on_gpu());
  const auto free_bytes = [] {
    std::size_t free = 0;
    std::size_t total = 0;
    EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    return free;
  };
  const auto use = [&] {
    Engine engine(daemon);
    const Sequence sequence = prefilled(engine, 3);
    must(sequence.row());
    must(engine.actor.begin_step());
    engine.resolve(sequence, 0, {0, 1, 2});
    must(engine.actor.end_step());
  };
  use();
  const std::size_t before = free_bytes();
  for (int i = 0; i < 10; ++i) use();
  constexpr std::size_t kNoise = std::size_t{32} << 20;  // of other processes
  EXPECT_GE(free_bytes() + kNoise, before);
}

}  // namespace
}  // namespace sluice::test
