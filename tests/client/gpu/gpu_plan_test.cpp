// Plans on a GPU: lists in device memory, graphs, rows of sequences, waits for NVMe, forecasts.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "tests/client/gpu/gpu_engine.h"

namespace sluice::test {
namespace {

TEST(GpuClient, APlanResolvesListsOfSequencesInDeviceMemory) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence first = prefilled(engine, 12);
  auto [second, matched] = open(engine, 6);
  ASSERT_EQ(matched, 6u);
  PlanLists lists;
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 2);
  desc.lists_per_sequence = 2;  // pages 2 and 3
  Plan plan = must(Plan::create(engine.actor, desc));
  EXPECT_EQ(status_of(plan.launch()), SLUICE_WRONG_STATE) << "the actor is in no step";
  const std::uint32_t row = must(first.row());
  EXPECT_EQ(must(first.row()), row);
  lists.put({{11, 0, -1, 11}, {4}, {5}}, {row, must(second.row())});
  must(engine.actor.begin_step());
  must(plan.launch());
  EXPECT_TRUE(engine.filled(lists.slot(0, 0), 12));
  EXPECT_TRUE(engine.filled(lists.slot(0, 1), 1));
  EXPECT_EQ(lists.slot(0, 2), -1) << "padding";
  EXPECT_EQ(lists.slot(0, 3), lists.slot(0, 0));
  EXPECT_EQ(lists.slot(0, 4), PlanLists::kUntouched) << "beyond the count";
  EXPECT_EQ(lists.slot(1, 0), engine.resolve(first, 3, {4})[0]);
  EXPECT_EQ(lists.slot(2, 0), engine.resolve(first, 2, {5})[0]) << "the block is the same";
  EXPECT_EQ(lists.slot(3, 0), PlanLists::kUntouched) << "no real list";
  EXPECT_EQ(lists.without_slot.get()[0], 0u);
  must(engine.actor.end_step());
}

TEST(GpuClient, ACapturedPlanIsReplayedWithOtherListsCountsAndSequences) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence first = prefilled(engine, 12);
  auto [second, matched] = open(engine, 3);
  ASSERT_EQ(matched, 3u);
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  const sluice_stream ref{SLUICE_STREAM_CUDA, 0, stream};
  must(engine.actor.set_stream(&ref));
  PlanLists lists;
  {
    Plan plan = must(Plan::create(engine.actor, lists.desc(SLUICE_ITEM_BLOCK, 1)));
    must(engine.actor.begin_step());
    must(plan.launch());
    must(engine.actor.end_step());
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);

    cudaGraph_t captured = nullptr;
    cudaGraphExec_t graph = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    must(engine.actor.begin_step());
    must(plan.launch());
    must(engine.actor.end_step());
    // What the library does beside a capture must not spoil it.
    Sequence third = open(engine, 0).sequence;
    must(third.extend(100));
    const std::uint32_t third_row = must(third.row());
    ASSERT_EQ(cudaStreamEndCapture(stream, &captured), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&graph, captured, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(captured), cudaSuccess);

    const auto replay = [&] {
      EXPECT_EQ(cudaGraphLaunch(graph, stream), cudaSuccess);
      EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    };
    lists.put({{11, 3}}, {must(first.row())});
    replay();
    EXPECT_TRUE(engine.filled(lists.slot(0, 0), 12));
    EXPECT_TRUE(engine.filled(lists.slot(0, 1), 4));
    lists.put({{2}, {0, 1, 2}}, {must(second.row()), must(first.row())});
    replay();
    EXPECT_TRUE(engine.filled(lists.slot(0, 0), 3));
    EXPECT_EQ(lists.slot(0, 1), PlanLists::kUntouched);
    for (std::uint32_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(engine.filled(lists.slot(1, i), static_cast<int>(i) + 1));
    }
    lists.put({{0}}, {third_row});
    replay();
    EXPECT_EQ(lists.slot(0, 0), -1) << "a block that nobody has written is absent";
    EXPECT_EQ(cudaGraphExecDestroy(graph), cudaSuccess);
  }
  must(engine.actor.set_stream(nullptr));
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST(GpuClient, TheRowOfASequenceFollowsItsBlocks) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  Sequence sequence = open(engine, 0).sequence;
  const std::uint32_t row = must(sequence.row());
  PlanLists lists;
  Plan plan = must(Plan::create(engine.actor, lists.desc(SLUICE_ITEM_BLOCK, 0)));
  const auto resolved = [&](std::int32_t block) {
    lists.put({{block}}, {row});
    must(engine.actor.begin_step());
    must(plan.launch());
    must(engine.actor.end_step());
    return lists.slot(0, 0);
  };
  EXPECT_EQ(resolved(0), -1) << "it has no block";
  for (const int blocks : {1, 64, 65, 150}) {  // beyond what its array held
    prefill(engine, sequence, blocks);
    EXPECT_TRUE(engine.filled(resolved(blocks - 1), blocks));
    EXPECT_TRUE(engine.filled(resolved(0), 1));
    EXPECT_EQ(resolved(blocks), -1);
  }
  must(sequence.truncate(10));
  EXPECT_TRUE(engine.filled(resolved(9), 10));
  EXPECT_EQ(resolved(10), -1);
  EXPECT_EQ(must(sequence.row()), row);
  // A block that takes another's key becomes that block.
  must(sequence.extend(1));
  EXPECT_EQ(resolved(10), -1);
  const std::string name = key(10);
  EXPECT_TRUE(must(sequence.seal(10, std::as_bytes(std::span(name)))));
  EXPECT_TRUE(engine.filled(resolved(10), 11));
}

TEST(GpuClient, APlanOfRowsNamesTokens) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon, rows_cache());
  ASSERT_EQ(engine.info.pages_per_block, 2u * 16);
  Sequence sequence = open(engine, 0).sequence;
  must(sequence.extend(2));
  for (std::uint32_t block = 0; block < 2; ++block) {
    const auto frame = must(sequence.map(block));
    for (std::size_t page = 0; page < engine.info.pages_per_block; ++page) {
      std::memset(frame.data() + page * engine.info.page_bytes, static_cast<int>(block * 32 + page),
                  engine.info.page_bytes);
    }
    const std::string name = key(static_cast<int>(block));
    must(sequence.seal(block, std::as_bytes(std::span(name))));
  }
  must(engine.cache.wait_pinned(kPinTimeoutUs));
  PlanLists lists;
  Plan plan = must(Plan::create(engine.actor, lists.desc(SLUICE_ITEM_ROW, 16)));  // layer 1
  lists.put({{0, 15, 16, 31}}, {must(sequence.row())});
  must(engine.actor.begin_step());
  must(plan.launch());
  EXPECT_TRUE(engine.filled(lists.slot(0, 0), 16));
  EXPECT_TRUE(engine.filled(lists.slot(0, 1), 31));
  EXPECT_TRUE(engine.filled(lists.slot(0, 2), 32 + 16));
  EXPECT_TRUE(engine.filled(lists.slot(0, 3), 32 + 31));
  must(engine.actor.end_step());
}

TEST(GpuClient, APlanThatAdvancesKeepsItsActorInAStep) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 12);
  PlanLists lists;
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 0);
  desc.flags = SLUICE_PLAN_ADVANCE;
  Plan plan = must(Plan::create(engine.actor, desc));
  must(engine.actor.begin_step());
  for (int i = 0; i < 100; ++i) {
    lists.put({{i % 12, (i + 5) % 12}}, {must(sequence.row())});
    must(plan.launch());
    EXPECT_TRUE(engine.filled(lists.slot(0, 0), i % 12 + 1));
    EXPECT_TRUE(engine.filled(lists.slot(0, 1), (i + 5) % 12 + 1));
  }
  EXPECT_EQ(lists.without_slot.get()[0], 0u);
  must(engine.actor.end_step());
}

// More than DRAM holds, over a store.
class OverAStore : public testing::Test {
 public:
  OverAStore() {
    DaemonProcess::Options options = on_gpu();
    options.dram = "1MiB";
    options.extra += "\n[tiers.nvme]\ndirectories = [\"" + store + ":1GiB\"]\n";
    daemon.emplace(options);
    engine.emplace(*daemon);
  }
  ~OverAStore() override {
    engine.reset();
    daemon.reset();
    std::filesystem::remove_all(store);
  }

 protected:
  static constexpr int kBlocks = 200;
  static constexpr std::uint64_t kWaitUs = 100'000;
  static constexpr int kMostSteps = 100;

  // Few at a time: what is not sealed needs DRAM.
  Sequence long_sequence() {
    Sequence sequence = prefilled(*engine, 4);
    for (int blocks = 8; blocks <= kBlocks; blocks += 4) prefill(*engine, sequence, blocks);
    return sequence;
  }

  std::string store = testing::TempDir() + "sluice-store-" + std::to_string(getpid());
  std::optional<DaemonProcess> daemon;
  std::optional<Engine> engine;
  PlanLists lists;
};

TEST_F(OverAStore, APlanWaitsForWhatIsOnNvme) {
  const Sequence sequence = long_sequence();
  Plan plan = must(Plan::create(engine->actor, lists.desc(SLUICE_ITEM_BLOCK, 2)));
  const std::uint32_t row = must(sequence.row());
  std::uint64_t absent_at_first = 0;
  for (int first = 0; first < kBlocks; first += 4) {
    lists.put({{first, first + 1, first + 2, first + 3}}, {row});
    must(engine->actor.begin_step());
    absent_at_first += must(plan.launch_wait(0));
    // What a step may still read keeps its place in DRAM until the step has ended.
    for (int steps = 0; must(plan.launch_wait(kWaitUs)) != 0 && steps < kMostSteps; ++steps) {
      must(engine->actor.end_step());
      must(engine->actor.begin_step());
    }
    for (int i = 0; i < 4; ++i) {
      EXPECT_TRUE(engine->filled(lists.slot(0, static_cast<std::uint32_t>(i)), first + i + 1))
          << "block " << first + i;
    }
    must(engine->actor.end_step());
  }
  EXPECT_GT(absent_at_first, 0u) << "DRAM holds all of it";
}

TEST_F(OverAStore, APlanWaitsInItsStream) {
  const Sequence sequence = long_sequence();
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 2);
  desc.wait_us = kWaitUs;
  Plan plan = must(Plan::create(engine->actor, desc));
  Plan once = must(Plan::create(engine->actor, lists.desc(SLUICE_ITEM_BLOCK, 2)));
  const std::uint32_t row = must(sequence.row());
  const auto all_there = [&] {
    const auto outcomes = lists.outcomes.get();
    return std::count(outcomes.begin(), outcomes.begin() + 2, SLUICE_ABSENT) == 0;
  };
  int away_at_first = 0;
  int came = 0;  // while the launch waited
  for (int first = 0; first < kBlocks; first += 2) {
    lists.put({{first, first + 1}}, {row});
    // What a step may still read keeps its place in DRAM until the step has ended.
    bool there = false;
    for (int steps = 0; !there && steps < kMostSteps; ++steps) {
      must(engine->actor.begin_step());
      must(once.launch());
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      const bool away = !all_there();
      away_at_first += away && steps == 0 ? 1 : 0;
      must(plan.launch());
      must(engine->actor.end_step());
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      there = all_there();
      came += away && there ? 1 : 0;
    }
    for (int i = 0; i < 2; ++i) {
      EXPECT_TRUE(engine->filled(lists.slot(0, static_cast<std::uint32_t>(i)), first + i + 1))
          << "block " << first + i;
    }
  }
  EXPECT_GT(came, 0);
  EXPECT_GE(came * 2, away_at_first) << "who does not wait meets a block only by chance";
}

// A block that nobody has sealed never comes; the plan's own wait is not that of its host.
TEST_F(OverAStore, TheHostWaitsNoLongerThanItSays) {
  Sequence sequence = prefilled(*engine, 2);
  must(sequence.extend(1));
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 2);
  desc.wait_us = SLUICE_MAX_PLAN_WAIT_US;
  Plan plan = must(Plan::create(engine->actor, desc));
  lists.put({{0, 2}}, {must(sequence.row())});
  must(engine->actor.begin_step());
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(must(plan.launch_wait(1'000)), 1u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  must(engine->actor.end_step());
}

TEST_F(OverAStore, APlanDoesNotWaitForWhatIsLost) {
  const Sequence sequence = long_sequence();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(store)) {
    if (!entry.is_regular_file()) continue;
    const std::string garbage(entry.file_size(), 'Z');
    std::fstream(entry.path(), std::ios::in | std::ios::out | std::ios::binary) << garbage;
  }
  Plan plan = must(Plan::create(engine->actor, lists.desc(SLUICE_ITEM_BLOCK, 2)));
  const std::uint32_t row = must(sequence.row());
  int lost = 0;
  for (int first = 0; lost == 0 && first < kBlocks; first += 4) {
    lists.put({{first, first + 1, first + 2, first + 3}}, {row});
    must(engine->actor.begin_step());
    // A minute: who waits all of it fails by the time that a test may take.
    EXPECT_EQ(must(plan.launch_wait(60'000'000)), 0u);
    const auto outcomes = lists.outcomes.get();
    lost += static_cast<int>(std::count(outcomes.begin(), outcomes.begin() + 4, SLUICE_LOST));
    must(engine->actor.end_step());
  }
  EXPECT_GT(lost, 0) << "DRAM holds all of it";
}

TEST_F(OverAStore, APlanThatTellsNoOutcomesCannotWait) {
  const Sequence sequence = prefilled(*engine, 4);
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 2);
  desc.outcomes = nullptr;
  Plan plan = must(Plan::create(engine->actor, desc));
  lists.put({{0}}, {must(sequence.row())});
  must(engine->actor.begin_step());
  EXPECT_EQ(status_of(plan.launch_wait(1000)), SLUICE_INVALID_ARGUMENT);
  must(engine->actor.end_step());
}

TEST(GpuClient, PlansThatDoNotFitTheCacheAreRefused) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  PlanLists lists;
  const auto refused = [&](const sluice_plan_desc& desc) {
    return status_of(Plan::create(engine.actor, desc));
  };
  EXPECT_EQ(refused(lists.desc(SLUICE_ITEM_BLOCK, kLayers)), SLUICE_INVALID_ARGUMENT)
      << "no such page";
  EXPECT_EQ(refused(lists.desc(SLUICE_ITEM_ROW, 0)), SLUICE_INVALID_ARGUMENT)
      << "its pages are no rows";
  int pageable = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, 0), cudaSuccess);
  if (pageable == 0) {
    std::vector<std::int32_t> heap(PlanLists::kLists * PlanLists::kCapacity);
    sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 0);
    desc.slots = heap.data();
    EXPECT_EQ(refused(desc), SLUICE_INVALID_ARGUMENT) << "memory of the CPU";
  }
}

TEST(GpuClient, APlanForecastsWithoutResults) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 20);
  Actor forecaster = must(engine.cache.open_actor());
  OnDevice<std::int32_t> items({3, 4, 5, 6});
  OnDevice<std::uint32_t> sequences({must(sequence.row())});
  sluice_plan_desc desc = SLUICE_PLAN_DESC_INIT;
  desc.flags = SLUICE_PLAN_FORECAST;
  desc.max_lists = 1;
  desc.list_capacity = 4;
  desc.items = items.data();
  desc.sequences = sequences.data();
  desc.budget_bytes = 3 * engine.info.page_bytes;
  desc.confidence = 100;
  Plan plan = must(Plan::create(forecaster, desc));
  must(forecaster.begin_step());
  must(plan.launch());
  must(forecaster.end_step());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const auto stats = must(engine.cache.stats());
  EXPECT_EQ(stats.forecast_issued, 3u) << "its budget";
  EXPECT_EQ(stats.forecast_dropped, 1u);
}

}  // namespace
}  // namespace sluice::test
