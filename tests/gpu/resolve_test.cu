// resolve on the device: right bytes in every slot, whatever the lists and whoever else is at work;
// and the same hits as the CPU's resolve.
#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <set>

#include "kernels/cuda/lists.cuh"
#include "kernels/wanted.h"
#include "tests/gpu/world.h"

namespace sluice::kernels {
namespace {

// What comes next in the stream may begin, and a while passes: a kernel that does not wait for its
// predecessor would be seen to run before it is through.
__device__ void wait_20_us() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
  const long long begin = clock64();
  while (clock64() - begin < 40'000) {
  }
}
__global__ void nap() { wait_20_us(); }
__global__ void make_list(std::int32_t* items, std::int32_t first, std::int32_t second) {
  wait_20_us();
  items[0] = first;
  items[1] = second;
}

// With more items than the bound on copying blocks times what one looks up (1,024), blocks hand
// over.
struct Case {
  std::uint64_t page_bytes;
  std::uint32_t copiers;
  bool advance;
  std::uint32_t items = 200;
  std::uint64_t far_bytes = cuda::kFarBytes;
  bool only_if_far = false;
};

class EveryShape : public testing::TestWithParam<Case> {};

TEST_P(EveryShape, SlotsHoldTheBytesOfTheirPagesAndHitsAreThoseThatWereThere) {
  const Case& c = GetParam();
  const std::uint32_t items = c.items;
  constexpr std::uint32_t kPagesPerBlock = 16;
  World world({.slots = items * 3 / 2,
               .blocks = std::max(64u, items * 2 / kPagesPerBlock),
               .pages_per_block = kPagesPerBlock,
               .page_bytes = c.page_bytes});
  User user(world, 1, 1, items);
  user.arrangement = {c.copiers, c.advance, c.only_if_far, c.far_bytes};
  std::mt19937 random(1);
  if (c.advance) user.enter();
  const int steps = items > 1024 ? 10 : 30;
  for (int step = 0; step < steps; ++step) {
    const std::vector<Word> before = world.words();
    std::set<Page> held;
    for (const Word word : before) {
      if (!is_free(word) && is_ready(word)) held.insert(page_of(word));
    }
    const auto pages = random_pages(random, world.table_.pages, items);
    const auto slots = c.advance ? user.resolve(pages) : user.step(pages);
    const auto outcomes = user.outcomes.get();
    ASSERT_EQ(world.wrong(pages, slots), 0u) << "step " << step;
    std::set<std::int32_t> distinct;
    for (std::size_t i = 0; i < pages.size(); ++i) {
      ASSERT_GE(slots[i], 0) << "step " << step << ", outcome " << static_cast<int>(outcomes[i]);
      distinct.insert(slots[i]);
      // A page that was there may have been taken from us by a claim before we came to it.
      if (outcomes[i] == Outcome::hit) {
        EXPECT_TRUE(held.contains(static_cast<Page>(pages[i])));
      } else {
        EXPECT_EQ(outcomes[i], Outcome::filled);
      }
    }
    EXPECT_EQ(distinct.size(), pages.size());
    const std::vector<Word> after = world.words();
    for (const std::int32_t slot : slots) {
      ASSERT_TRUE(is_ready(after[static_cast<std::size_t>(slot)])) << "step " << step;
    }
  }
  const ActorCounters counters = world.counters(1);
  EXPECT_EQ(counters.hits + counters.fills, static_cast<std::uint64_t>(steps) * items);
  EXPECT_EQ(counters.filled_bytes, counters.fills * c.page_bytes);
  EXPECT_EQ(user.none.get()[0], 0u);
}

INSTANTIATE_TEST_SUITE_P(Pages, EveryShape,
                         testing::Values(Case{256, 0, false}, Case{656, 0, false},
                                         Case{656, 8, false}, Case{656, 0, true},
                                         Case{656, 8, true}, Case{1000, 0, false},
                                         Case{1001, 0, false}, Case{1001, 3, true},
                                         Case{32768, 0, false}, Case{32768, 8, true},
                                         Case{65536, 32, false}, Case{1u << 20, 8, false, 40},
                                         Case{1u << 20, 0, true, 40}, Case{656, 1, false, 2500},
                                         Case{656, 2, true, 2500}, Case{1000, 1, true, 1500},
                                         Case{1001, 1, false, 1500}, Case{32768, 1, true, 1100},
                                         // Pages in parts that several copiers take.
                                         Case{32768, 2, true, 2200}, Case{16384, 3, false, 3200},
                                         // Rows that lie far apart, as it is posed.
                                         Case{656, 2, true, 2500, 1}, Case{656, 1, false, 2500, 1},
                                         Case{656, 2, true, 2500, 1, true},
                                         Case{656, 2, false, 2500, cuda::kFarBytes, true}));

TEST(Resolve, RowsThatLieFarApartAreHandedOverInOrderOfTheirAddresses) {
  constexpr std::uint32_t kItems = 2500;
  World world({.slots = 2 * kItems, .blocks = 512, .page_bytes = 656});
  User user(world, 0, 1, kItems);
  user.arrangement = {1, false, true, 1};
  std::mt19937 random(17);
  const auto order = random_pages(random, world.table_.pages, std::size_t{2} * kItems);
  const auto copied_from = [&](int half) {
    const auto begin = order.begin() + half * static_cast<int>(kItems);
    const std::vector<std::int32_t> pages(begin, begin + kItems);
    EXPECT_EQ(world.wrong(pages, user.step(pages)), 0u);
    std::vector<std::uint8_t> bytes = user.scratch_.get();
    std::vector<cuda::Fill> fills(kItems);
    std::memcpy(fills.data(), bytes.data() + offsetof(cuda::Scratch, fills),
                fills.size() * sizeof(cuda::Fill));
    return fills;
  };
  for (const cuda::Fill& fill : copied_from(0)) {
    ASSERT_EQ(fill.slot, 0) << "nobody knew it, so nothing was handed over";
  }
  const std::vector<cuda::Fill> fills = copied_from(1);
  std::size_t descents = 0;
  for (std::size_t i = 1; i < fills.size(); ++i) {
    ASSERT_EQ(fills[i].seen, 0u);
    descents += fills[i].from < fills[i - 1].from ? 1 : 0;
  }
  EXPECT_GT(descents, 0u);
  EXPECT_LE(descents, kItems / 32 + 1) << "at most where another looker's begin";
}

// The same table on the CPU, for comparison.
class Reference {
 public:
  explicit Reference(const World& world)
      : memory_(table_bytes(world.sizes_) + kAlignment),
        arena_(world.shape_.slots * world.shape_.page_bytes),
        current_(world.shape_.blocks, 0),
        store_(world.store_) {
    void* at = memory_.data();
    std::size_t space = memory_.size();
    table_ =
        format_table(std::align(kAlignment, table_bytes(world.sizes_), at, space), world.sizes_);
    store_.arena = arena_.data();
    store_.frames_ready = &ready_;
    writer_.current = current_.data();
    for (Block block = 0; block < world.shape_.blocks; ++block) {
      append_log(table_, writer_, block, block);
      apply_log(table_);
    }
  }
  Reference(const Reference&) = delete;

  // Outcomes of a resolve that is a step of its own.
  std::vector<Outcome> step(const std::vector<std::int32_t>& pages) {
    const std::vector<Page> list(pages.begin(), pages.end());
    std::vector<Slot> slots(list.size());
    std::vector<Outcome> outcomes(list.size());
    const Step now = enter_step(table_, 0);
    resolve(table_, store_, 0, now,
            {.pages = list.data(),
             .count = static_cast<std::uint32_t>(list.size()),
             .slots = slots.data(),
             .outcomes = outcomes.data(),
             .own = {}});
    leave_step(table_, 0);
    return outcomes;
  }

 private:
  static constexpr std::size_t kAlignment = 64;
  std::vector<std::byte> memory_;
  std::vector<std::byte> arena_;
  std::vector<std::uint64_t> current_;
  std::uint32_t ready_ = ~0u;
  FrameLogWriter writer_;
  PageStore store_;
  HotTable table_;
};

TEST(Resolve, HitsAreThoseOfTheCpuWhereNothingHasToLeave) {
  World world({.slots = 1024});
  constexpr std::uint32_t kItems = 128;
  User user(world, 0, 1, kItems);
  Reference reference(world);
  std::mt19937 random(2);
  for (int step = 0; step < 20; ++step) {
    const auto pages = random_pages(random, world.table_.pages, kItems);
    user.step(pages);
    ASSERT_EQ(user.outcomes.get(), reference.step(pages)) << "step " << step;
  }
}

TEST(Resolve, RecencyIsCloseToThatOfTheCpu) {
  // A working set that drifts, in a pool of 1.5 steps.
  World world({.slots = 384, .blocks = 256});
  constexpr std::uint32_t kItems = 256;
  constexpr int kSteps = 200;
  User user(world, 0, 1, kItems);
  Reference reference(world);
  std::mt19937 random(3);
  const auto order = random_pages(random, world.table_.pages, world.table_.pages);
  std::vector<std::int32_t> set(order.begin(), order.begin() + kItems);
  std::int64_t ours = 0;
  std::int64_t theirs = 0;
  const auto hits = [](const std::vector<Outcome>& outcomes) {
    return std::count(outcomes.begin(), outcomes.end(), Outcome::hit);
  };
  for (int step = 0; step < kSteps; ++step) {
    for (int i = 0; i < 20; ++i) {
      std::int32_t& one = set[random() % kItems];
      const std::int32_t next = order[random() % order.size()];
      if (std::find(set.begin(), set.end(), next) == set.end()) one = next;
    }
    ASSERT_EQ(world.wrong(set, user.step(set)), 0u);
    ASSERT_EQ(user.none.get()[0], 0u) << "step " << step;
    ours += hits(user.outcomes.get());
    theirs += hits(reference.step(set));
  }
  constexpr double kAll = double{kSteps} * kItems;
  EXPECT_NEAR(static_cast<double>(ours) / kAll, static_cast<double>(theirs) / kAll, 0.01);
}

TEST(Recency, OldPagesGoFirstWhereverTheyLie) {
  // Every page comes back when everything in a pool of two steps could have been replaced twice.
  // With 8 copying blocks of threads 128 warps claim from 96 windows: some share one, most do not.
  constexpr std::uint32_t kItems = 6144;
  constexpr std::uint32_t kFresh = 128;
  constexpr std::uint32_t kCycle = 240;
  constexpr std::uint32_t kPages = kCycle * kFresh;
  World world({.slots = 2 * kItems, .blocks = kPages / 16, .page_bytes = 256});
  ASSERT_EQ(world.table_.pages, kPages);
  std::mt19937 random(9);
  const auto order = random_pages(random, kPages, kPages);
  for (const std::uint32_t copiers : {0u, 8u}) {
    User user(world, 0, 1, kItems);
    user.arrangement.copying_ctas = copiers;
    std::uint64_t before = 0;
    for (std::uint32_t step = 0; step < 3 * kCycle; ++step) {
      if (step == 2 * kCycle) before = world.counters(0).fills;
      std::vector<std::int32_t> pages;
      for (std::uint32_t i = 0; i < kItems; ++i) {
        pages.push_back(order[(step * kFresh + i) % kPages]);
      }
      std::ranges::sort(pages);
      user.step(pages);
    }
    EXPECT_GE(world.counters(0).fills - before, kPages * 97 / 100) << copiers;
    EXPECT_EQ(user.none.get()[0], 0u);
  }
}

TEST(Resolve, DuplicatesGetSlotsWithTheRightBytes) {
  World world({.slots = 400});
  constexpr std::uint32_t kItems = 256;
  for (const std::uint32_t copiers : {0u, 8u}) {
    User user(world, 0, 1, kItems);
    user.arrangement.copying_ctas = copiers;
    std::mt19937 random(4);
    for (int step = 0; step < 20; ++step) {
      std::vector<std::int32_t> pages;
      for (std::uint32_t i = 0; i < kItems; ++i) {
        pages.push_back(
            static_cast<std::int32_t>(random() % 100 + 37 * static_cast<unsigned>(step)) % 1000);
      }
      const auto slots = user.step(pages);
      ASSERT_EQ(world.wrong(pages, slots), 0u);
      ASSERT_EQ(std::count_if(slots.begin(), slots.end(), [](auto s) { return s < 0; }), 0);
    }
  }
}

TEST(Resolve, APoolSmallerThanAStepServesWhatItCanAndCountsTheRest) {
  World world({.slots = 100});
  constexpr std::uint32_t kItems = 256;
  User user(world, 0, 1, kItems);
  std::mt19937 random(5);
  for (int step = 0; step < 5; ++step) {
    const auto pages = random_pages(random, world.table_.pages, kItems);
    user.none.set({0});
    const auto slots = user.step(pages);
    EXPECT_EQ(world.wrong(pages, slots), 0u);
    const auto outcomes = user.outcomes.get();
    std::uint32_t none = 0;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      EXPECT_EQ(slots[i] < 0, outcomes[i] == Outcome::no_slot);
      none += slots[i] < 0 ? 1 : 0;
    }
    EXPECT_EQ(none, kItems - 100);
    EXPECT_EQ(user.none.get()[0], none);
  }
}

TEST(Resolve, CountsBoundListsAndPaddingIsNothing) {
  World world({});
  User user(world, 0, 4, 8);
  DeviceArray<std::uint32_t> counts(std::vector<std::uint32_t>{8, 3, 0, 8});
  DeviceArray<std::uint32_t> lists(std::vector<std::uint32_t>{3});
  user.batch.counts = counts.data();
  user.batch.list_count = lists.data();
  std::vector<std::int32_t> pages(32);
  std::iota(pages.begin(), pages.end(), 0);
  pages[2] = -1;
  pages[4] = 1 << 30;  // no page of the table
  const auto slots = user.step(pages);
  const auto outcomes = user.outcomes.get();
  EXPECT_EQ(world.wrong(pages, slots), 0u);
  for (int i = 0; i < 32; ++i) {
    const bool real = i < 8 || (i >= 8 && i < 11);
    if (!real) {
      EXPECT_EQ(slots[static_cast<std::size_t>(i)], -2) << i;
    } else if (i == 2 || i == 4) {
      EXPECT_EQ(slots[static_cast<std::size_t>(i)], kNoSlot) << i;
      EXPECT_EQ(outcomes[static_cast<std::size_t>(i)], Outcome::invalid) << i;
    } else {
      EXPECT_GE(slots[static_cast<std::size_t>(i)], 0) << i;
    }
  }
}

TEST(Resolve, BlocksAndRowsOfSequencesAreFoundByTheirIds) {
  World world({});
  const std::vector<std::uint32_t> first = {7, 3, 9};
  const std::vector<std::uint32_t> second = {60, 2};
  DeviceArray<std::uint32_t> ids0(first);
  DeviceArray<std::uint32_t> ids1(second);
  DeviceArray<cuda::SequenceRow> rows(
      std::vector<cuda::SequenceRow>{{ids0.data(), 3, 0}, {ids1.data(), 2, 0}});
  DeviceArray<std::uint32_t> sequences(std::vector<std::uint32_t>{1, 0});
  User user(world, 0, 4, 3);  // two sequences with two pages (heads) each
  user.batch.kind = cuda::ItemKind::block;
  user.batch.rows = rows.data();
  user.batch.row_limit = 2;
  user.batch.sequences = sequences.data();
  user.batch.lists_per_sequence = 2;
  user.batch.first_page = 4;
  const auto slots = user.step({0, 1, 2, 1, 0, -1, 0, 1, 2, 2, 2, 3});
  EXPECT_TRUE(world.holds(slots[0], 60, 4));
  EXPECT_TRUE(world.holds(slots[1], 2, 4));
  EXPECT_EQ(slots[2], kNoSlot);  // the sequence has two blocks
  EXPECT_TRUE(world.holds(slots[3], 2, 5));
  EXPECT_TRUE(world.holds(slots[6], 7, 4));
  EXPECT_TRUE(world.holds(slots[8], 9, 4));
  EXPECT_TRUE(world.holds(slots[9], 9, 5));
  EXPECT_EQ(slots[11], kNoSlot);

  user.batch.kind = cuda::ItemKind::row;
  user.batch.lists_per_sequence = 1;
  DeviceArray<std::uint32_t> of_lists(std::vector<std::uint32_t>{0, 1, 0, 9});
  user.batch.sequences = of_lists.data();
  user.batch.first_page = 8;
  user.batch.rows_per_block = 8;
  const auto rows_found = user.step({0, 8 + 5, 16 + 7, 3, 8, 16, 24, 1, 2, 0, 0, 0});
  EXPECT_TRUE(world.holds(rows_found[0], 7, 8));
  EXPECT_TRUE(world.holds(rows_found[1], 3, 13));
  EXPECT_TRUE(world.holds(rows_found[2], 9, 15));
  EXPECT_TRUE(world.holds(rows_found[3], 60, 11));
  EXPECT_TRUE(world.holds(rows_found[4], 2, 8));
  EXPECT_EQ(rows_found[5], kNoSlot);
  EXPECT_EQ(rows_found[6], kNoSlot);
  EXPECT_EQ(rows_found[9], kNoSlot);  // no such row of the table of sequences
}

TEST(Resolve, AGraphReplaysWithOtherLists) {
  World world({.slots = 300});
  constexpr std::uint32_t kItems = 100;
  User user(world, 2, 1, kItems);
  DeviceArray<std::uint32_t> counts(std::vector<std::uint32_t>{kItems});
  user.batch.counts = counts.data();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  user.step(std::vector<std::int32_t>(kItems, -1));  // loads the kernels
  CUDA_OK(cudaStreamBeginCapture(user.stream(), cudaStreamCaptureModeThreadLocal));
  user.enter();
  user.launch();
  user.leave();
  CUDA_OK(cudaStreamEndCapture(user.stream(), &graph));
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  std::mt19937 random(6);
  for (int step = 0; step < 20; ++step) {
    auto pages = random_pages(random, world.table_.pages, kItems);
    const auto count = static_cast<std::uint32_t>(random() % (kItems + 1));
    user.items.set(pages);
    counts.set({count});
    user.slots.set(std::vector<std::int32_t>(kItems, -2));
    CUDA_OK(cudaGraphLaunch(exec, user.stream()));
    user.finish();
    const auto slots = user.slots.get();
    ASSERT_EQ(world.wrong(pages, slots), 0u);
    for (std::uint32_t i = 0; i < kItems; ++i) ASSERT_EQ(slots[i] >= 0, i < count);
  }
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
}

// A process that goes on with the step of another one, which died over it.
TEST(Resolve, AFillOfItsOwnStepIsDoneAgainWhereTheStepIsShared) {
  World world({.slots = 256});
  User user(world, 0, 1, 3);
  constexpr std::int32_t kPage = 77;
  constexpr Slot kSlot = 5;
  user.enter();
  user.finish();
  pose_unfinished(world, kPage, kSlot, step_of_actor(world, 0));
  CUDA_OK(cuda::share_step(world.table_, 0, user.stream()));
  const std::vector<std::int32_t> pages = {kPage, kPage + 1, kPage};
  const auto slots = user.resolve(pages);
  EXPECT_EQ(slots[0], kSlot);
  EXPECT_EQ(slots[2], kSlot);
  EXPECT_EQ(world.wrong(pages, slots), 0u);
  EXPECT_EQ(user.outcomes.get()[1], Outcome::filled);
  EXPECT_TRUE(is_ready(world.words()[kSlot]));
  user.leave();
  user.step({kPage, kPage + 1, -1});
  EXPECT_EQ(user.outcomes.get()[0], Outcome::hit);
  EXPECT_EQ(world.counters(0).fills, 3u) << "two for the duplicate: nobody leaves one to another";
}

TEST(FrameLog, WhatTheDaemonLoggedHoldsInTheNextStep) {
  World world({});
  User user(world, 0, 1, 1);
  const Page page = world.page(5, 3);
  world.set_frame(5, kNoFrame);
  auto slots = user.step({static_cast<std::int32_t>(page)});
  EXPECT_EQ(slots[0], kNoSlot);
  EXPECT_EQ(user.outcomes.get()[0], Outcome::absent);
  WantedBlock wanted;
  EXPECT_NE(wanted_bell(world.daemons_), 0u);
  ASSERT_EQ(collect_wanted(world.daemons_, &wanted, 1), 1u);
  EXPECT_EQ(wanted.block, 5u);
  EXPECT_TRUE(wanted.now);

  world.fill_frame(63, 5);  // the block's bytes in another frame
  world.set_frame(5, 63);
  slots = user.step({static_cast<std::int32_t>(page)});
  ASSERT_GE(slots[0], 0);
  EXPECT_TRUE(world.holds(slots[0], 5, 3));
}

TEST(FrameLog, WhoAsksAgainInTheSameStepIsHeardAgain) {
  World world({});
  User user(world, 0, 1, 1);
  const std::vector<std::int32_t> pages{static_cast<std::int32_t>(world.page(5, 3))};
  world.set_frame(5, kNoFrame);
  user.enter();
  user.resolve(pages);
  const std::uint32_t bell = wanted_bell(world.daemons_);
  user.resolve(pages);
  EXPECT_NE(wanted_bell(world.daemons_), bell);
}

TEST(FrameLog, WhoIsFarBehindTakesTheOriginalAndKeepsUpAfterwards) {
  World world({.log_capacity = 16});  // 64 entries were logged before anybody entered
  User user(world, 0, 1, 64);
  std::vector<std::int32_t> pages;
  for (Block block = 0; block < 64; ++block)
    pages.push_back(static_cast<std::int32_t>(world.page(block, 1)));
  EXPECT_EQ(world.wrong(pages, user.step(pages)), 0u);
  EXPECT_EQ(user.none.get()[0], 0u);
  std::uint64_t applied = 0;
  CUDA_OK(cudaMemcpy(&applied, world.table_.log_applied, 8, cudaMemcpyDeviceToHost));
  EXPECT_EQ(applied, world.writer_.end);
  EXPECT_EQ(actor_line(world.daemons_, 0)->log_position, world.writer_.end);
}

TEST(Resolve, FindsSlotsFarFromALongRunOfPagesInUse) {
  // Slots that were never used are given in order: the pages of the second step fill 768 windows
  // of 128 words that lie side by side, more than a claim looks at; the first step's 256 are free.
  constexpr std::uint32_t kOld = 256 * 128;
  constexpr std::uint32_t kUsed = 768 * 128;
  constexpr std::uint32_t kNew = 2048;
  World world({.slots = kOld + kUsed,
               .blocks = (kOld + kUsed + kNew) / 16,
               .pages_per_block = 16,
               .page_bytes = 256});
  User user(world, 0, 1, kUsed + kNew);
  const auto pages = [](std::uint32_t first, std::uint32_t count) {
    std::vector<std::int32_t> all(kUsed + kNew, -1);
    std::iota(all.begin(), all.begin() + count, static_cast<std::int32_t>(first));
    return all;
  };
  user.step(pages(0, kOld));
  user.step(pages(kOld, kUsed));
  EXPECT_EQ(world.counters(0).no_slot, 0u);
  const auto all = pages(kOld, kUsed + kNew);
  EXPECT_EQ(world.wrong(all, user.step(all)), 0u);
  EXPECT_EQ(world.counters(0).no_slot, 0u);
  EXPECT_EQ(world.counters(0).fills, kOld + kUsed + kNew);
}

TEST(Steps, AnAdvancingLaunchTakesANewStepWhateverCameBetween) {
  World world({});
  User user(world, 0, 1, 4);
  const std::vector<std::int32_t> pages{1, 2, 3, 4};
  user.enter();
  std::set<Step> steps;
  constexpr int kAdvances = 6;
  for (int i = 0; i < kAdvances; ++i) {
    // As layers of an engine: one launch of a round advances, an odd number of others do not.
    for (int layer = 0; layer < 4; ++layer) {
      user.arrangement.advance = layer == 0;
      user.resolve(pages);
    }
    const auto slots = user.slots.get();
    ASSERT_GE(slots[0], 0);
    steps.insert(step_of(world.words()[static_cast<std::size_t>(slots[0])]));
  }
  EXPECT_EQ(steps.size(), kAdvances);
  user.leave();
  user.finish();
}

TEST(FrameLog, AnAdvancingLaunchSeesWhatWasLoggedBeforeIt) {
  World world({});
  User user(world, 0, 1, 1);
  user.arrangement.advance = true;
  user.enter();
  user.resolve({3});
  world.set_frame(5, kNoFrame);
  user.resolve({3});
  user.resolve({3});
  EXPECT_EQ(user.resolve({5})[0], kNoSlot);
  world.set_frame(5, 5);
  const auto slots = user.resolve({5});
  ASSERT_GE(slots[0], 0);
  EXPECT_TRUE(world.holds(slots[0], 5, 0));
  user.leave();
  user.finish();
}

TEST(Resolve, CountsWhatHasNoSlotButPadding) {
  World world({});
  User user(world, 0, 1, 4);
  const auto slots = user.step({1, -1, static_cast<std::int32_t>(world.table_.pages), 2});
  EXPECT_GE(slots[0], 0);
  EXPECT_EQ(slots[1], kNoSlot);
  EXPECT_EQ(slots[2], kNoSlot);
  EXPECT_EQ(user.none.get()[0], 1u);
}

TEST(Resolve, TellsALostBlockAndAsksForItNoMore) {
  World world({});
  User user(world, 0, 1, 2);
  const auto page = static_cast<std::int32_t>(world.page(5, 3));
  world.set_frame(5, kNoFrame);
  user.enter();
  // In a step that does not know of it yet, and in one that does.
  world.set_frame(5, kLostFrame);
  for (int step = 0; step < 2; ++step) {
    const auto slots = user.resolve({page, 3});
    EXPECT_EQ(slots[0], kNoSlot);
    EXPECT_GE(slots[1], 0);
    EXPECT_EQ(user.outcomes.get()[0], Outcome::lost);
    EXPECT_EQ(user.none.get()[0], 1u + static_cast<unsigned>(step));
    user.leave();
    user.enter();
  }
  user.leave();
  user.finish();
  EXPECT_EQ(world.counters(0).absent, 2u);
  WantedBlock wanted;
  EXPECT_EQ(collect_wanted(world.daemons_, &wanted, 1), 0u);
}

// Launches that are launched early wait for all that a captured stream joins, kernels and others.
TEST(Resolve, AGraphMayJoinStreamsBetweenItsLaunches) {
  World world({});
  User user(world, 0, 1, 2);
  DeviceArray<std::int32_t> lists(std::vector<std::int32_t>{3, 70});
  cudaStream_t other = nullptr;
  cudaEvent_t fork = nullptr;
  cudaEvent_t join = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  CUDA_OK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  CUDA_OK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  user.step({-1, -1});  // loads the kernels
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  CUDA_OK(cudaStreamBeginCapture(user.stream(), cudaStreamCaptureModeThreadLocal));
  user.enter();
  CUDA_OK(cudaEventRecord(fork, user.stream()));
  CUDA_OK(cudaStreamWaitEvent(other, fork, 0));
  nap<<<1, 1, 0, other>>>();
  CUDA_OK(cudaMemcpyAsync(user.items.data(), lists.data(), 2 * sizeof(std::int32_t),
                          cudaMemcpyDeviceToDevice, other));
  CUDA_OK(cudaEventRecord(join, other));
  nap<<<1, 1, 0, user.stream()>>>();
  CUDA_OK(cudaStreamWaitEvent(user.stream(), join, 0));
  user.launch();
  CUDA_OK(cudaEventRecord(fork, user.stream()));
  CUDA_OK(cudaStreamWaitEvent(other, fork, 0));
  nap<<<1, 1, 0, other>>>();
  CUDA_OK(cudaEventRecord(join, other));
  CUDA_OK(cudaStreamWaitEvent(user.stream(), join, 0));
  user.leave();
  CUDA_OK(cudaStreamEndCapture(user.stream(), &graph));
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 50; ++i) {
    const std::vector<std::int32_t> pages{i, i + 100};
    lists.set(pages);
    user.items.set({-1, -1});
    CUDA_OK(cudaGraphLaunch(exec, user.stream()));
    user.finish();
    const auto slots = user.slots.get();
    ASSERT_GE(slots[0], 0) << i;
    ASSERT_GE(slots[1], 0) << i;
    ASSERT_EQ(world.wrong(pages, slots), 0u);
  }
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
  CUDA_OK(cudaEventDestroy(join));
  CUDA_OK(cudaEventDestroy(fork));
  CUDA_OK(cudaStreamDestroy(other));
}

// What a kernel before it stores late is read by a resolve that was launched early.
TEST(Resolve, ReadsListsThatTheKernelBeforeItMakes) {
  World world({});
  User user(world, 0, 1, 2);
  user.step({-1, -1});
  user.enter();
  for (int i = 0; i < 200; ++i) {
    make_list<<<1, 1, 0, user.stream()>>>(user.items.data(), i, i + 100);
    user.launch();
    user.finish();
    const auto slots = user.slots.get();
    ASSERT_EQ(user.none.get()[0], 0u) << i;
    ASSERT_EQ(world.wrong({i, i + 100}, slots), 0u) << i;
  }
  user.leave();
  user.finish();
}

class ResolveWaiting : public testing::Test {
 public:
  ResolveWaiting() : state(1) { state.set({cuda::WaitState{}}); }

  void enqueue(std::uint64_t wait_us) {
    ASSERT_EQ(cuda::resolve_waiting(world.table_, world.store_, 0, user.batch, user.arrangement,
                                    user_scratch.data(), wait_us, state.data(), user.stream()),
              0);
  }
  std::int32_t page_of(Block block, std::uint32_t in_block) const {
    return static_cast<std::int32_t>(world.page(block, in_block));
  }
  void want(const std::vector<std::int32_t>& pages) {
    user.items.set(pages);
    user.slots.set(std::vector<std::int32_t>(pages.size(), -2));
  }

  World world{{}};
  User user{world, 0, 1, 3};
  DeviceArray<std::uint8_t> user_scratch{cuda::resolve_scratch_bytes(1, 3, 0)};
  DeviceArray<cuda::WaitState> state;
};

TEST_F(ResolveWaiting, AGraphWaitsForABlockThatComes) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  user.step({-1, -1, -1});  // loads the kernels
  CUDA_OK(cudaStreamBeginCapture(user.stream(), cudaStreamCaptureModeThreadLocal));
  user.enter();
  enqueue(5'000'000);
  user.leave();
  CUDA_OK(cudaStreamEndCapture(user.stream(), &graph));
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  world.set_frame(6, kLostFrame);
  for (std::uint32_t round = 0; round < 3; ++round) {
    world.set_frame(5, kNoFrame);
    want({page_of(5, round), page_of(6, 0), 9});
    CUDA_OK(cudaGraphLaunch(exec, user.stream()));
    // When it has asked for the block, it waits.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(4);
    WantedBlock wanted;
    while (collect_wanted(world.daemons_, &wanted, 1) == 0) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    }
    EXPECT_EQ(wanted.block, 5u);
    EXPECT_EQ(cudaStreamQuery(user.stream()), cudaErrorNotReady);
    world.fill_frame(62 + round % 2, 5);
    world.set_frame(5, 62 + round % 2);
    user.finish();
    EXPECT_LT(std::chrono::steady_clock::now(), deadline);
    const auto slots = user.slots.get();
    ASSERT_GE(slots[0], 0);
    EXPECT_TRUE(world.holds(slots[0], 5, round));
    EXPECT_EQ(slots[1], kNoSlot);
    // What the first look brought in is told as that.
    EXPECT_EQ(user.outcomes.get(), (std::vector{Outcome::filled, Outcome::lost,
                                                round == 0 ? Outcome::filled : Outcome::hit}));
    EXPECT_EQ(user.none.get()[0], round + 1) << "of the last look";
  }
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
  const ActorCounters counters = world.counters(0);
  EXPECT_EQ(counters.hits + counters.fills + counters.absent, 3u * 3 + 3) << "nothing twice";
}

TEST_F(ResolveWaiting, WaitsNoLongerThanItMay) {
  world.set_frame(5, kNoFrame);
  user.enter();
  want({page_of(5, 3), 9, 10});
  const auto begin = std::chrono::steady_clock::now();
  enqueue(20'000);
  user.finish();
  const auto waited = std::chrono::steady_clock::now() - begin;
  EXPECT_GE(waited, std::chrono::milliseconds(20));
  EXPECT_LT(waited, std::chrono::seconds(1));
  EXPECT_EQ(user.slots.get()[0], kNoSlot);
  EXPECT_EQ(user.outcomes.get()[0], Outcome::absent);
  EXPECT_EQ(user.none.get()[0], 1u);
  user.leave();
  user.finish();
}

TEST_F(ResolveWaiting, LooksOnceIfNothingIsAbsent) {
  user.enter();
  want({page_of(5, 3), 9, static_cast<std::int32_t>(world.table_.pages)});
  enqueue(5'000'000);
  user.finish();
  EXPECT_EQ(user.outcomes.get(), (std::vector{Outcome::filled, Outcome::filled, Outcome::invalid}));
  EXPECT_EQ(user.none.get()[0], 1u);
  user.leave();
  user.finish();
}

TEST_F(ResolveWaiting, LooksOnceIfAllThatIsMissingIsLost) {
  world.set_frame(6, kLostFrame);
  user.enter();
  want({page_of(6, 3), 9, 10});
  enqueue(5'000'000);
  user.finish();
  EXPECT_EQ(user.outcomes.get(), (std::vector{Outcome::lost, Outcome::filled, Outcome::filled}));
  EXPECT_EQ(user.none.get()[0], 1u);
  const cuda::WaitState after = state.get()[0];
  EXPECT_EQ(after.again, 0u) << "nothing was waited for";
  EXPECT_EQ(after.absent + after.without_slot, 0u) << "and nothing is left for the next launch";
  user.leave();
  user.finish();
}

TEST(FrameLog, AnExtentThatIsNotPinnedIsAbsent) {
  World world({});
  world.ready_.set({3});
  User user(world, 0, 1, 1);
  EXPECT_EQ(user.step({3})[0], kNoSlot);
  EXPECT_EQ(user.outcomes.get()[0], Outcome::absent);
  world.ready_.set({4});
  EXPECT_GE(user.step({3})[0], 0);
}

TEST(Pins, PinnedPagesAreTheOwnersUntilTheyAreSealed) {
  World world({.slots = 64});
  const std::uint32_t per_block = world.sizes_.pages_per_block;
  User user(world, 0, 1, 16);
  DeviceArray<Block> blocks(std::vector<Block>{40});
  DeviceArray<Frame> frames(std::vector<Frame>{41});
  DeviceArray<Slot> slots(per_block);
  user.enter();
  CUDA_OK(cuda::claim_pins(world.table_, world.shape_.slots, 0, blocks.data(), 1, slots.data(),
                           user.stream()));
  // The slots take block 41's bytes, from its frame.
  CUDA_OK(cuda::copy_to_slots(world.table_, world.store_, slots.data(), frames.data(), 1,
                              user.stream()));
  std::vector<std::int32_t> own;
  for (std::uint32_t i = 0; i < per_block; ++i)
    own.push_back(static_cast<std::int32_t>(world.page(40, i)));
  const auto found = user.resolve(own);
  const auto pinned = slots.get();
  for (std::uint32_t i = 0; i < per_block; ++i) {
    EXPECT_EQ(found[i], pinned[i]);
    EXPECT_TRUE(world.holds(found[i], 41, i));
  }
  user.leave();
  // Nothing displaces them.
  std::mt19937 random(7);
  for (int step = 0; step < 20; ++step) {
    std::vector<std::int32_t> others;
    for (int i = 0; i < 16; ++i)
      others.push_back(static_cast<std::int32_t>(world.page(random() % 40, random() % per_block)));
    user.step(others);
  }
  for (std::uint32_t i = 0; i < per_block; ++i) EXPECT_TRUE(world.holds(pinned[i], 41, i));

  // Written back and sealed they are pages like others.
  user.enter();
  DeviceArray<Frame> own_frame(std::vector<Frame>{40});
  CUDA_OK(cuda::copy_to_frames(world.table_, world.store_, static_cast<std::byte*>(world.frames_),
                               slots.data(), own_frame.data(), 1, user.stream()));
  CUDA_OK(cuda::seal_pins(world.table_, 0, blocks.data(), 1, slots.data(), user.stream()));
  user.leave();
  user.finish();
  const auto* const frame = static_cast<std::byte*>(world.frames_) + 40 * world.stride_;
  for (std::uint64_t i = 0; i < world.shape_.page_bytes; ++i)
    ASSERT_EQ(frame[i], byte_of(41, 0, i));
  for (const Word word : world.words()) EXPECT_FALSE(is_pinned(word));
  const auto again = user.step(own);
  for (const Outcome outcome : user.outcomes.get()) EXPECT_EQ(outcome, Outcome::hit);
  EXPECT_EQ(std::vector<std::int32_t>(again.begin(), again.end()), pinned);
}

TEST(Pins, AllOrNoneOfABlock) {
  World world({.slots = 24});  // one block and a half
  User user(world, 0, 1, 1);
  DeviceArray<Block> blocks(std::vector<Block>{1, 2});
  DeviceArray<Slot> slots(32);
  user.enter();
  CUDA_OK(cuda::claim_pins(world.table_, 24, 0, blocks.data(), 2, slots.data(), user.stream()));
  user.leave();
  user.finish();
  const auto found = slots.get();
  std::size_t pinned = 0;
  for (const Word word : world.words()) pinned += is_pinned(word) ? 1 : 0;
  std::size_t given = 0;
  for (int block = 0; block < 2; ++block) {
    const auto begin = found.begin() + block * 16;
    const auto none = std::count(begin, begin + 16, kNoSlot);
    EXPECT_TRUE(none == 0 || none == 16) << none;
    given += none == 0 ? 16 : 0;
  }
  EXPECT_LE(given, 16u);
  EXPECT_EQ(pinned, given);
}

TEST(Drop, PagesOfDroppedBlocksAreGone) {
  World world({});
  User user(world, 0, 1, 64);
  std::vector<std::int32_t> pages(64);
  std::iota(pages.begin(), pages.end(), 0);  // page 0 of every block
  user.step(pages);
  std::vector<std::uint64_t> bits = {0x8000000000000005ull};  // blocks 0, 2, 63
  DeviceArray<std::uint64_t> set(bits);
  CUDA_OK(cuda::drop_blocks(world.table_, {set.data(), 64}, cuda::Drop::pages, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  std::set<Block> left;
  for (const Word word : world.words()) {
    if (!is_free(word)) left.insert(block_of(world.table_, page_of(word)));
  }
  EXPECT_EQ(left.size(), 61u);
  EXPECT_FALSE(left.contains(0));
  EXPECT_FALSE(left.contains(2));
  EXPECT_FALSE(left.contains(63));
}

// Four streams with an actor each share a table of few slots: nobody's page leaves its slot while
// the step lasts.
TEST(Stress, StreamsShareFewSlots) {
  World world({.slots = 512, .page_bytes = 656});
  constexpr std::uint32_t kItems = 64;
  constexpr int kUsers = 4;
  std::vector<std::unique_ptr<User>> users;
  for (std::uint32_t i = 0; i < kUsers; ++i) {
    users.push_back(std::make_unique<User>(world, i, 1, kItems));
    users.back()->arrangement.copying_ctas = i % 2 == 0 ? 0 : 4;
  }
  std::mt19937 random(8);
  for (int step = 0; step < 200; ++step) {
    std::vector<std::vector<std::int32_t>> pages;
    for (auto& user : users) {
      pages.push_back(random_pages(random, 256, kItems));  // many in common
      user->items.set(pages.back());
    }
    for (auto& user : users) {
      user->enter();
      user->launch();
    }
    for (auto& user : users) user->finish();
    for (int i = 0; i < kUsers; ++i) {
      const auto slots = users[static_cast<std::size_t>(i)]->slots.get();
      ASSERT_EQ(world.wrong(pages[static_cast<std::size_t>(i)], slots), 0u) << "step " << step;
      ASSERT_EQ(std::count_if(slots.begin(), slots.end(), [](auto s) { return s < 0; }), 0);
    }
    for (auto& user : users) user->leave();
  }
}

// An actor enters, and looks for words that are too old, with a clock that it read before somebody
// else stamped one.
TEST(Steps, AWordStampedSinceTheClockWasReadIsNotAnOldOne) {
  World world({.slots = 64});
  User user(world, 0, 1, 1);
  const auto put = [&](Step step) {
    const Word word = make_word(world.page(3, 2), step & kStepMask, false, true);
    CUDA_OK(cudaMemcpy(&world.table_.words[5], &word, sizeof word, cudaMemcpyHostToDevice));
  };
  const auto step_with = [&](Step step) {
    put(step);
    user.step({-1});
    return world.words()[5];
  };
  EXPECT_FALSE(is_free(step_with(1000)));
  EXPECT_FALSE(is_free(step_with(kMaxWordAge)));
  EXPECT_TRUE(is_free(step_with(0u - kMaxWordAge - 1000))) << "one that is too old goes";
  EXPECT_TRUE(is_free(step_with(kMaxClockLead * 2 - 1))) << "and one that nobody can have stamped";
}

// Whoever scribbles on a table gets wrong slots, never a fault, and nobody waits for it.
TEST(Hostile, ATableOfNoiseDoesNoHarm) {
  constexpr std::uint32_t kItems = 1200;
  World world({.slots = 256});
  User user(world, 0, 1, kItems);
  std::mt19937_64 random(9);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::uint8_t> noise(world.device_part_.size());
    for (auto& byte : noise) byte = static_cast<std::uint8_t>(random());
    world.device_part_.set(noise);
    std::vector<std::int32_t> pages(kItems);
    for (auto& page : pages) page = static_cast<std::int32_t>(random());
    user.arrangement = {round % 2 == 0 ? 0u : 1u, false};
    for (const std::int32_t slot : user.step(pages)) {
      ASSERT_TRUE(slot == -2 || slot == kNoSlot || static_cast<std::uint32_t>(slot) < 256u) << slot;
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
