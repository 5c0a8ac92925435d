// sluice-bench gpu, as far as it needs no GPU: what is resolved, targets, reports, the command
// line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <set>
#include <unordered_map>

#include "tests/tools/parse_bench.h"
#include "tools/bench/gpu_plan.h"
#include "tools/bench/gpu_report.h"
#include "tools/bench/gpu_words.h"

namespace sluice::tools {
namespace {

using ::testing::HasSubstr;

// Slots that give up the page that was used longest ago.
class Lru {
 public:
  explicit Lru(std::size_t slots) : slots_(slots) {}
  bool use(std::uint32_t page) {  // whether it was there
    const auto found = where_.find(page);
    const bool hit = found != where_.end();
    if (hit) order_.erase(found->second);
    order_.push_front(page);
    where_[page] = order_.begin();
    if (where_.size() > slots_) {
      where_.erase(order_.back());
      order_.pop_back();
    }
    return hit;
  }

 private:
  std::size_t slots_;
  std::list<std::uint32_t> order_;
  std::unordered_map<std::uint32_t, std::list<std::uint32_t>::iterator> where_;
};

// The misses of each step of two cycles, after one that fills the pool.
std::set<std::size_t> misses_of(const StepPlan& plan, std::size_t pool, bool varying = false) {
  const Windows windows(plan, 20);
  Lru lru(pool);
  std::set<std::size_t> seen;
  for (std::uint32_t s = 0; s < 3 * plan.steps; ++s) {
    const std::uint32_t step = s % plan.steps;
    const std::uint32_t count = varying && step % 2 == 1 ? plan.items * 3 / 4 : plan.items;
    std::size_t misses = 0;
    for (const std::uint32_t page : windows.list(step, 3, count).items) {
      misses += lru.use(page) ? 0 : 1;
    }
    if (s >= plan.steps) seen.insert(misses);
  }
  return seen;
}

TEST(BenchWindows, EachStepMissesExactlyThePartThatWasAskedFor) {
  for (const double misses : {0.02, 0.07, 0.13, 0.3}) {
    const StepPlan plan = plan_steps(512, misses, 0, 1024);
    EXPECT_EQ(plan.fresh, static_cast<std::uint32_t>(std::lround(512 * misses)));
    EXPECT_EQ(misses_of(plan, 1024), std::set<std::size_t>{plan.fresh}) << misses;
  }
}

TEST(BenchWindows, WithoutMissesThereIsOneStep) {
  const StepPlan plan = plan_steps(96, 0, 0, 192);
  EXPECT_EQ(plan.steps, 1u);
  EXPECT_EQ(plan.fresh, 0u);
  EXPECT_EQ(misses_of(plan, 192), std::set<std::size_t>{0});
  EXPECT_TRUE(Windows(plan, 1).list(0, 0, 96).fresh.empty());
}

TEST(BenchWindows, ThePagesThatCameInAreThoseThatAreGathered) {
  const StepPlan plan = plan_steps(512, 0.13, 0, 1024);
  const Windows windows(plan, 20);
  const StepList before = windows.list(4, 2, 512);
  const StepList step = windows.list(5, 2, 512);
  std::vector<std::uint32_t> came;
  std::ranges::set_difference(step.items, before.items, std::back_inserter(came));
  EXPECT_EQ(step.fresh, came);
}

TEST(BenchWindows, DuplicatesAreOfPagesOfTheSameList) {
  const StepPlan plan = plan_steps(512, 0.13, 0.25, 1024);
  const auto list = Windows(plan, 20).list(7, 0, 512).items;
  EXPECT_EQ(list.size(), 512u);
  EXPECT_EQ(std::set(list.begin(), list.end()).size(), 384u);
  EXPECT_EQ(misses_of(plan, 1024), std::set<std::size_t>{plan.fresh});
}

TEST(BenchWindows, ShorterListsMissAsMuch) {
  const StepPlan plan = plan_steps(512, 0.13, 0, 1024);
  const StepList list = Windows(plan, 20).list(1, 0, 300);
  EXPECT_EQ(list.items.size(), 300u);
  EXPECT_EQ(list.fresh.size(), plan.fresh);
  EXPECT_EQ(misses_of(plan, 1024, true), std::set<std::size_t>{plan.fresh});
}

TEST(BenchShapes, AreThoseOfTheIssue) {
  const auto shapes = page_shapes();
  ASSERT_EQ(shapes.size(), 3u);
  EXPECT_EQ(shapes[0].page_bytes(), 656u);
  EXPECT_EQ(shapes[0].pages_per_block(), 64u);
  EXPECT_EQ(shapes[1].page_bytes(), 32u << 10);
  EXPECT_EQ(shapes[1].pages_per_block(), 2u);
  EXPECT_EQ(shapes[2].page_bytes(), 64u << 10);
  EXPECT_EQ(shapes[2].pages_per_block(), 1u);
  for (const PageShape& shape : shapes) EXPECT_EQ(shape.page_bytes() % 16, 0u) << shape.name;
}

TEST(BenchShapes, AnArenaIsWholeExtentsOfWholePages) {
  const auto shapes = page_shapes();
  EXPECT_EQ(arena_slots(shapes[0], 64, 2), 262144u);
  EXPECT_EQ(arena_slots(shapes[0], 1, 2), 131072u) << "656 B and 2 MiB meet at 82 MiB";
  EXPECT_EQ(arena_slots(shapes[0], 42, 1.5), 131072u);
  EXPECT_EQ(arena_slots(shapes[1], 1, 2), 384u);
  EXPECT_EQ(arena_slots(shapes[1], 32, 1.5), 9216u);
}

TEST(BenchTargets, AreThoseOfTheIssue) {
  EXPECT_DOUBLE_EQ(resolve_limit({1, 0, false}, 100), 5.5 + 105);
  EXPECT_DOUBLE_EQ(resolve_limit({64, 0, false}, 0), 6);
  EXPECT_DOUBLE_EQ(resolve_limit({32, 8, false}, 100), 6.5 + 105);
  EXPECT_DOUBLE_EQ(resolve_limit({64, 8, false}, 100), 10 + 105);
  EXPECT_DOUBLE_EQ(resolve_limit({1, 0, true}, 100), 8.5 + 105);
}

TEST(BenchGpuReport, ARowSaysWhichTargetsAreMet) {
  GpuRow row = gpu_row("resolve");
  row["us"] = 12.5;
  EXPECT_TRUE(is_met(row));
  add_most(row, "us", 12.5, 12.5);
  add_least(row, "link_share", 0.7, 0.6);
  EXPECT_TRUE(is_met(row));
  add_most(row, "no_slot", 1, 0);
  EXPECT_FALSE(is_met(row));
  EXPECT_THAT(words_for(row), HasSubstr("resolve: us 12.5; us 12.5 <= 12.5 met"));
  EXPECT_THAT(words_for(row), HasSubstr("no_slot 1 <= 0 MISSED"));
}

TEST(BenchGpuReport, AFigureThatIsNoNumberMisses) {
  GpuRow row = gpu_row("resolve");
  add_most(row, "us", std::nan(""), 10);
  EXPECT_FALSE(is_met(row));
}

TEST(BenchGpuReport, RowsThatMissAreRemembered) {
  GpuReport report(true);
  GpuRow row = gpu_row("a");
  report.add(row);
  add_least(row, "ratio", 0.5, 0.85);
  report.add(row);
  ASSERT_EQ(report.missed().size(), 1u);
  EXPECT_THAT(report.missed()[0], HasSubstr("ratio 0.5 >= 0.85 MISSED"));
}

TEST(BenchWordsOfPages, DifferBetweenPagesAndPlaces) {
  std::set<std::uint64_t> words;
  for (std::uint64_t page = 0; page < 50; ++page) {
    for (std::uint32_t word = 0; word < 82; ++word) words.insert(bench_word(page, word));
  }
  EXPECT_EQ(words.size(), 50u * 82);
}

TEST(BenchGpuOptions, AreOfTheSubcommand) {
  BenchOptions options;
  EXPECT_EQ(parse({"gpu", "--only", "steps", "--seconds", "0.5", "--quick", "--json", "--check"},
                  options),
            std::nullopt);
  EXPECT_TRUE(options.gpu);
  EXPECT_EQ(options.gpu_options.only, "steps");
  EXPECT_EQ(options.gpu_options.seconds, 0.5);
  EXPECT_TRUE(options.gpu_options.quick);
  EXPECT_TRUE(options.gpu_options.json);
  EXPECT_TRUE(options.gpu_options.check);
  BenchOptions others;
  EXPECT_EQ(parse({"step", "--json"}, others), std::nullopt);
  EXPECT_FALSE(others.gpu);
  BenchOptions wrong;
  EXPECT_EQ(parse({"gpu", "--only", "nothing"}, wrong), kBenchUsage);
  EXPECT_EQ(parse({"gpu", "--shape", "round"}, wrong), kBenchUsage);
}

}  // namespace
}  // namespace sluice::tools
