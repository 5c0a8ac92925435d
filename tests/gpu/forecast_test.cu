// forecast on the device: it brings in the right bytes, within its budget, at nobody's cost; and
// resolves count what it was good for.
#include <memory>
#include <set>

#include "kernels/forecast.h"
#include "kernels/wanted.h"
#include "tests/gpu/world.h"

namespace sluice::kernels {
namespace {

// An actor that forecasts lists of at most `items` pages.
class Forecaster : public User {
 public:
  Forecaster(World& world, std::uint32_t actor, std::uint32_t most)
      : User(world, actor, 1, most), world_(world), actor_(actor), scratch_(4) {}

  void set(std::vector<std::int32_t> pages) {
    pages.resize(items.size(), -1);
    items.set(pages);
    outcomes.set(std::vector<Outcome>(items.size(), Outcome::invalid));
  }
  void launch_forecast() {
    ASSERT_EQ(cuda::forecast(world_.table_, world_.store_, actor_, batch, goal, scratch_.data(),
                             stream()),
              0);
  }
  // Enters, forecasts and leaves; returns how many pages had this outcome.
  std::int64_t forecast(const std::vector<std::int32_t>& pages, Outcome counted) {
    set(pages);
    enter();
    launch_forecast();
    leave();
    finish();
    return count(counted);
  }
  std::int64_t count(Outcome counted) const {
    const auto all = outcomes.get();
    return std::count(all.begin(), all.end(), counted);
  }

  cuda::ForecastGoal goal{std::uint64_t{1} << 30, 1, 0};

 private:
  World& world_;
  std::uint32_t actor_;
  DeviceArray<std::uint32_t> scratch_;
};

TableHeader header_of(const World& world) {
  TableHeader header;
  EXPECT_EQ(cudaMemcpy(&header, world.table_.header, sizeof header, cudaMemcpyDeviceToHost),
            cudaSuccess);
  return header;
}

// Where the page is, whether its bytes are there or not; kNoSlot.
Slot slot_with(const std::vector<Word>& words, std::int32_t page) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (page_of(words[i]) == static_cast<Page>(page)) return static_cast<Slot>(i);
  }
  return kNoSlot;
}

std::vector<std::int32_t> pages_from(std::int32_t first, std::size_t count) {
  std::vector<std::int32_t> pages(count);
  std::iota(pages.begin(), pages.end(), first);
  return pages;
}

class ForecastOfEverySize : public testing::TestWithParam<std::uint64_t> {};

TEST_P(ForecastOfEverySize, BringsInPagesThatTheNextResolveCountsAsUsed) {
  World world({.slots = 1024, .page_bytes = GetParam()});
  constexpr std::uint32_t kItems = 600;  // more than a block of threads takes at a time
  Forecaster forecaster(world, 1, kItems);
  std::mt19937 random(1);
  const auto pages = random_pages(random, world.table_.pages, kItems);
  EXPECT_EQ(forecaster.forecast(pages, Outcome::filled), kItems);
  EXPECT_EQ(world.wrong(pages, forecaster.slots.get()), 0u);
  const ActorCounters issued = world.counters(1);
  EXPECT_EQ(issued.forecast_issued, kItems);
  EXPECT_EQ(issued.forecast_bytes, kItems * GetParam());
  EXPECT_EQ(issued.fills, 0u);
  EXPECT_EQ(header_of(world).forecasts, kItems);
  EXPECT_EQ(world.daemons_.header->forecasts, kItems) << "mirrored";

  User user(world, 0, 1, kItems);
  for (int step = 0; step < 2; ++step) {
    const auto slots = user.step(pages);
    EXPECT_EQ(world.wrong(pages, slots), 0u);
    for (const Outcome outcome : user.outcomes.get()) ASSERT_EQ(outcome, Outcome::hit);
    EXPECT_EQ(world.counters(0).forecast_used, kItems) << "once each";
    EXPECT_EQ(header_of(world).forecasts, 0u);
  }
  EXPECT_EQ(header_of(world).forecast_wasted, 0u);
  EXPECT_EQ(actor_line(world.daemons_, 0)->counters.forecast_used, kItems) << "mirrored";
}

INSTANTIATE_TEST_SUITE_P(Pages, ForecastOfEverySize,
                         testing::Values(256u, 656u, 1000u, 1001u, 32768u));

TEST(Forecast, StaysWithinItsBudgetInEveryReplayOfAGraph) {
  World world({.slots = 1024});
  constexpr std::uint32_t kItems = 1000;
  constexpr std::uint32_t kBudget = 10;
  Forecaster forecaster(world, 1, kItems);
  forecaster.goal.budget_bytes = kBudget * world.shape_.page_bytes + 1;
  EXPECT_EQ(forecaster.forecast({}, Outcome::filled), 0);  // loads the kernels
  forecaster.set(pages_from(0, kItems));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  CUDA_OK(cudaStreamBeginCapture(forecaster.stream(), cudaStreamCaptureModeThreadLocal));
  forecaster.enter();
  forecaster.launch_forecast();
  forecaster.leave();
  CUDA_OK(cudaStreamEndCapture(forecaster.stream(), &graph));
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  std::uint32_t there = 0;
  for (int i = 0; i < 5; ++i) {
    forecaster.none.set({0});
    CUDA_OK(cudaGraphLaunch(exec, forecaster.stream()));
    forecaster.finish();
    EXPECT_EQ(forecaster.count(Outcome::hit), there);
    EXPECT_EQ(forecaster.count(Outcome::filled), kBudget);
    EXPECT_EQ(forecaster.count(Outcome::no_slot), kItems - kBudget - there);
    EXPECT_EQ(forecaster.none.get()[0], kItems - kBudget - there);
    there += kBudget;
    EXPECT_EQ(world.wrong(pages_from(0, kItems), forecaster.slots.get()), 0u);
  }
  EXPECT_EQ(world.counters(1).forecast_issued, 5 * kBudget);
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
}

TEST(Forecast, LeavesPagesThatAreThereAsTheyAre) {
  World world({.slots = 256});
  User user(world, 0, 1, 64);
  Forecaster forecaster(world, 1, 64);
  user.step(pages_from(0, 64));
  const auto before = world.words();
  EXPECT_EQ(forecaster.forecast(pages_from(0, 64), Outcome::hit), 64);
  EXPECT_EQ(world.words(), before);
  EXPECT_EQ(world.counters(1).forecast_issued, 0u);
  EXPECT_EQ(header_of(world).forecasts, 0u);
}

TEST(Forecast, MarksBlocksOfAbsentPagesAsWanted) {
  World world({});
  Forecaster forecaster(world, 1, 4);
  world.set_frame(5, kNoFrame);
  const auto page = static_cast<std::int32_t>(world.page(5, 3));
  EXPECT_EQ(
      forecaster.forecast({page, static_cast<std::int32_t>(world.page(6, 3))}, Outcome::absent), 1);
  EXPECT_EQ(forecaster.count(Outcome::filled), 1);
  EXPECT_EQ(forecaster.none.get()[0], 1u);
  WantedBlock wanted;
  EXPECT_NE(wanted_bell(world.daemons_), 0u);
  ASSERT_EQ(collect_wanted(world.daemons_, &wanted, 1), 1u);
  EXPECT_EQ(wanted.block, 5u);
  EXPECT_FALSE(wanted.now);
}

TEST(Forecast, AsksForNoLostBlock) {
  World world({});
  Forecaster forecaster(world, 1, 4);
  world.set_frame(5, kLostFrame);
  EXPECT_EQ(forecaster.forecast({static_cast<std::int32_t>(world.page(5, 3))}, Outcome::lost), 1);
  WantedBlock wanted;
  EXPECT_EQ(collect_wanted(world.daemons_, &wanted, 1), 0u);
}

TEST(Forecast, TakesNoSlotOfAPageThatWasUsedLately) {
  World world({.slots = 128});
  User user(world, 0, 1, 128);
  Forecaster forecaster(world, 1, 16);
  user.step(pages_from(0, 128));
  const auto before = world.words();
  forecaster.goal.min_age = 1000;
  EXPECT_EQ(forecaster.forecast(pages_from(500, 16), Outcome::no_slot), 16);
  EXPECT_EQ(world.words(), before);
  EXPECT_EQ(world.counters(1).forecast_dropped, 16u);

  forecaster.goal.min_age = 1;
  EXPECT_EQ(forecaster.forecast(pages_from(500, 16), Outcome::filled), 16);
  EXPECT_EQ(world.wrong(pages_from(500, 16), forecaster.slots.get()), 0u);
  EXPECT_EQ(world.daemons_.header->freed, 16u) << "displaced, and mirrored";
}

TEST(Forecast, TakesNoSlotThatARunningStepUses) {
  World world({.slots = 128});
  User user(world, 0, 1, 100);
  Forecaster forecaster(world, 1, 64);
  user.enter();
  const auto slots = user.resolve(pages_from(0, 100));
  const auto before = world.words();
  // 28 slots are free; nothing else is to be had, of its own step neither.
  EXPECT_EQ(forecaster.forecast(pages_from(500, 64), Outcome::filled), 28);
  EXPECT_EQ(forecaster.count(Outcome::no_slot), 36);
  const auto after = world.words();
  for (const std::int32_t slot : slots) {
    ASSERT_GE(slot, 0);
    EXPECT_EQ(after[static_cast<std::size_t>(slot)], before[static_cast<std::size_t>(slot)]);
  }
  EXPECT_EQ(world.wrong(pages_from(0, 100), slots), 0u);
  user.leave();
  user.finish();
  EXPECT_EQ(forecaster.forecast(pages_from(600, 64), Outcome::filled), 64);
}

TEST(Forecast, WhatIsDisplacedUnusedIsWasted) {
  World world({.slots = 128});
  User user(world, 0, 1, 128);
  Forecaster forecaster(world, 1, 64);
  EXPECT_EQ(forecaster.forecast(pages_from(0, 64), Outcome::filled), 64);
  const auto slots = user.step(pages_from(500, 128));
  EXPECT_EQ(std::count(slots.begin(), slots.end(), kNoSlot), 0);
  EXPECT_EQ(header_of(world).forecast_wasted, 64u);
  EXPECT_EQ(header_of(world).forecasts, 0u);
  EXPECT_EQ(world.daemons_.header->forecast_wasted, 64u) << "mirrored";
  EXPECT_EQ(world.daemons_.header->freed, 64u) << "displaced, and mirrored";
  EXPECT_EQ(world.counters(0).forecast_used, 0u);

  // By another forecast, too; what it brings in is marked again.
  user.step(pages_from(500, 128));
  EXPECT_EQ(forecaster.forecast(pages_from(0, 64), Outcome::filled), 64);
  auto half = pages_from(0, 32);
  half.resize(128, -1);
  user.step(half);
  EXPECT_EQ(world.counters(0).forecast_used, 32u);
  EXPECT_EQ(header_of(world).forecasts, 32u);
}

TEST(Forecast, WhatIsDroppedUnusedIsWasted) {
  World world({});
  Forecaster forecaster(world, 1, 64);
  forecaster.forecast(pages_from(0, 64), Outcome::filled);        // page 0 of every block
  DeviceArray<std::uint64_t> set(std::vector<std::uint64_t>{5});  // blocks 0 and 2
  CUDA_OK(cuda::drop_blocks(world.table_, {set.data(), 64}, cuda::Drop::pages, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  EXPECT_EQ(header_of(world).forecast_wasted, 2u);
  EXPECT_EQ(header_of(world).forecasts, 62u);
}

TEST(Forecast, AResolveThatMeetsAnUnfinishedOneFillsItAgain) {
  for (const bool resolver_first : {false, true}) {
    World world({.slots = 256});
    User user(world, 0, 1, 1);
    Forecaster forecaster(world, 1, 1);
    constexpr std::int32_t kPage = 77;
    constexpr Slot kSlot = 5;
    if (resolver_first) user.enter();
    user.finish();
    forecaster.enter();
    forecaster.finish();
    pose_unfinished(world, kPage, kSlot, step_of_actor(world, 1));
    if (!resolver_first) user.enter();
    const auto slots = user.resolve({kPage});
    EXPECT_EQ(slots[0], kSlot);
    EXPECT_EQ(user.outcomes.get()[0], Outcome::filled);
    EXPECT_EQ(world.wrong({kPage}, slots), 0u);
    EXPECT_TRUE(is_ready(world.words()[kSlot]));
    user.leave();
    forecaster.leave();
    user.finish();
    forecaster.finish();
  }
}

TEST(Forecast, LeavesAFillThatSomebodyElseBegan) {
  World world({.slots = 256});
  User user(world, 0, 1, 1);
  Forecaster forecaster(world, 1, 1);
  constexpr std::int32_t kPage = 77;
  constexpr Slot kSlot = 5;
  user.enter();
  user.finish();
  pose_unfinished(world, kPage, kSlot, step_of_actor(world, 0));
  const auto before = world.words();
  EXPECT_EQ(forecaster.forecast({kPage}, Outcome::hit), 1);
  EXPECT_EQ(world.words(), before);
  user.leave();
}

TEST(Forecast, DuplicatesAreBroughtInOnce) {
  World world({.slots = 1024});
  constexpr std::uint32_t kItems = 1024;  // several blocks of threads
  Forecaster forecaster(world, 1, kItems);
  std::vector<std::int32_t> pages;
  for (std::uint32_t i = 0; i < kItems; ++i) pages.push_back(static_cast<std::int32_t>(i % 50));
  forecaster.set(pages);
  forecaster.enter();
  forecaster.launch_forecast();
  forecaster.leave();
  forecaster.finish();
  EXPECT_EQ(world.wrong(pages, forecaster.slots.get()), 0u);
  std::multiset<Page> held;
  for (const Word word : world.words()) {
    if (!is_free(word)) held.insert(page_of(word));
  }
  EXPECT_EQ(held.size(), 50u);
  for (std::int32_t page = 0; page < 50; ++page) {
    EXPECT_NE(slot_with(world.words(), page), kNoSlot) << page;
  }
  EXPECT_EQ(world.counters(1).forecast_issued, 50u);
  EXPECT_EQ(header_of(world).forecasts, 50u);
}

TEST(Forecast, TakesBlocksOfSequencesAndNeedsNoResults) {
  World world({});
  DeviceArray<std::uint32_t> ids(std::vector<std::uint32_t>{60, 2});
  DeviceArray<cuda::SequenceRow> rows(std::vector<cuda::SequenceRow>{{ids.data(), 2, 0}});
  DeviceArray<std::uint32_t> sequences(1);
  Forecaster forecaster(world, 0, 4);
  forecaster.set({1, 0, 2});
  forecaster.batch.kind = cuda::ItemKind::block;
  forecaster.batch.rows = rows.data();
  forecaster.batch.row_limit = 1;
  forecaster.batch.sequences = sequences.data();
  forecaster.batch.first_page = 4;
  forecaster.batch.slots = nullptr;
  forecaster.batch.outcomes = nullptr;
  forecaster.batch.without_slot = nullptr;
  forecaster.enter();
  forecaster.launch_forecast();
  forecaster.leave();
  forecaster.finish();
  EXPECT_EQ(world.counters(0).forecast_issued, 2u);
  const auto words = world.words();
  const Slot first = slot_with(words, static_cast<std::int32_t>(world.page(60, 4)));
  const Slot second = slot_with(words, static_cast<std::int32_t>(world.page(2, 4)));
  ASSERT_NE(first, kNoSlot);
  ASSERT_NE(second, kNoSlot);
  EXPECT_TRUE(world.holds(first, 60, 4));
  EXPECT_TRUE(world.holds(second, 2, 4));
}

// Streams that resolve share a table of few slots with one that forecasts what they will want.
TEST(ForecastStress, ResolvesAreRightBesideForecasts) {
  World world({.slots = 512});
  constexpr std::uint32_t kItems = 64;
  User first(world, 0, 1, kItems);
  User second(world, 1, 1, kItems);
  second.arrangement.copying_ctas = 4;
  Forecaster forecaster(world, 2, 2 * kItems);
  std::mt19937 random(8);
  for (int step = 0; step < 200; ++step) {
    std::vector<std::int32_t> announced;
    std::vector<std::vector<std::int32_t>> pages;
    for (User* const user : {&first, &second}) {
      pages.push_back(random_pages(random, 1024, kItems));
      user->items.set(pages.back());
      announced.insert(announced.end(), pages.back().begin(), pages.back().end());
    }
    forecaster.set(announced);
    forecaster.enter();
    forecaster.launch_forecast();
    forecaster.leave();
    for (User* const user : {&first, &second}) {
      user->enter();
      user->launch();
    }
    int at = 0;
    for (User* const user : {&first, &second}) {
      user->finish();
      const auto slots = user->slots.get();
      ASSERT_EQ(world.wrong(pages[static_cast<std::size_t>(at++)], slots), 0u) << step;
      ASSERT_EQ(std::count(slots.begin(), slots.end(), kNoSlot), 0) << step;
    }
    forecaster.finish();
    first.leave();
    second.leave();
    first.finish();
    second.finish();
  }
  EXPECT_GT(world.counters(2).forecast_issued, 0u);
  EXPECT_GT(world.counters(0).forecast_used + world.counters(1).forecast_used, 0u);
}

// Whoever scribbles on a table gets wrong slots, never a fault.
TEST(Forecast, ATableOfNoiseDoesNoHarm) {
  World world({.slots = 256});
  Forecaster forecaster(world, 0, 128);
  std::mt19937_64 random(9);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::uint8_t> noise(world.device_part_.size());
    for (auto& byte : noise) byte = static_cast<std::uint8_t>(random());
    world.device_part_.set(noise);
    std::vector<std::int32_t> pages(128);
    for (auto& page : pages) page = static_cast<std::int32_t>(random() % world.table_.pages);
    forecaster.slots.set(std::vector<std::int32_t>(128, -2));
    forecaster.forecast(pages, Outcome::filled);
    for (const std::int32_t slot : forecaster.slots.get()) {
      ASSERT_TRUE(slot == -2 || slot == kNoSlot || static_cast<std::uint32_t>(slot) < 256u) << slot;
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
