#include "kernels/resolve.h"

#include <gtest/gtest.h>

#include <set>

#include "kernels/counters.h"
#include "kernels/drop.h"
#include "kernels/forecast.h"
#include "kernels/pins.h"
#include "tests/kernels/pool.h"

namespace sluice::kernels::test {
namespace {

TEST(Resolve, BringsInWhatIsMissingAndFindsItAgain) {
  Pool pool({});
  pool.place_all_blocks();
  const Step step = enter_step(pool.table, 0);
  const Resolved first = resolve_pages(pool, 0, step, {0, 5, 9});
  EXPECT_EQ(first.counts.fills, 3u);
  EXPECT_EQ(first.counts.filled_bytes, 3 * pool.shape.page_bytes);
  EXPECT_TRUE(pool.slot_holds_placed(first.slots[1], 5));
  const Resolved again = resolve_pages(pool, 0, step, {9, 5, 0});
  EXPECT_EQ(again.counts.hits, 3u);
  EXPECT_EQ(again.slots[0], first.slots[2]);
  leave_step(pool.table, 0);
  EXPECT_EQ(read_counters(pool.table).pages.hits, 3u);
  EXPECT_EQ(read_counters(pool.table).pages.fills, 3u);
}

TEST(Resolve, FillsADuplicateOnceAndGivesItOneSlot) {
  Pool pool({});
  pool.place_all_blocks();
  const Step step = enter_step(pool.table, 0);
  const Resolved got = resolve_pages(pool, 0, step, {3, 3, 4, 3, 4});
  EXPECT_EQ(got.counts.fills, 2u);
  EXPECT_EQ(got.counts.hits, 3u);
  EXPECT_EQ(got.slots[0], got.slots[1]);
  EXPECT_EQ(got.slots[0], got.slots[3]);
  EXPECT_EQ(got.slots[2], got.slots[4]);
}

TEST(Resolve, FillsADuplicateOnceAlsoFarApartInALongList) {
  Pool pool({.slots = 600, .blocks = 100, .pages_per_block = 4, .frames = 100});
  pool.place_all_blocks();
  std::vector<Page> pages;
  for (int turn = 0; turn < 3; ++turn) {
    for (Page page = 0; page < 400; ++page) pages.push_back(page);
  }
  const Step step = enter_step(pool.table, 0);
  const Resolved got = resolve_pages(pool, 0, step, pages);
  EXPECT_EQ(got.counts.fills, 400u);
  EXPECT_EQ(got.counts.hits, 800u);
  EXPECT_EQ(std::set<Slot>(got.slots.begin(), got.slots.end()).size(), 400u);
}

TEST(Resolve, ServesWhatItCanOfAListThatExceedsThePool) {
  Pool pool({.slots = 8});
  pool.place_all_blocks();
  std::vector<Page> pages(20);
  for (Page i = 0; i < 20; ++i) pages[i] = i;
  const Step step = enter_step(pool.table, 0);
  const Resolved got = resolve_pages(pool, 0, step, pages);
  EXPECT_EQ(got.counts.fills, 8u);
  EXPECT_EQ(got.counts.no_slot, 12u);
  for (std::size_t i = 0; i < pages.size(); ++i) {
    EXPECT_EQ(got.slots[i] == kNoSlot, got.outcomes[i] == Outcome::no_slot);
    if (got.slots[i] != kNoSlot) {
      EXPECT_TRUE(pool.slot_holds_placed(got.slots[i], pages[i]));
    }
  }
  leave_step(pool.table, 0);
  const Step next = enter_step(pool.table, 0);
  EXPECT_EQ(resolve_pages(pool, 0, next, {19, 18}).counts.fills, 2u) << "the next step has room";
}

TEST(Resolve, MarksTheBlockOfAnAbsentPageAsWanted) {
  Pool pool({});
  const Step step = enter_step(pool.table, 0);
  const std::uint32_t bell = wanted_bell(pool.table);
  const Resolved got =
      resolve_pages(pool, 0, step, {pool.page(3, 1), pool.page(3, 2), pool.page(7, 0)});
  EXPECT_EQ(got.counts.absent, 3u);
  EXPECT_NE(wanted_bell(pool.table), bell);
  WantedBlock blocks[8];
  ASSERT_EQ(collect_wanted(pool.table, blocks, 1), 1u);
  EXPECT_EQ(blocks[0].block, 3u);
  EXPECT_TRUE(blocks[0].now);
  ASSERT_EQ(collect_wanted(pool.table, blocks, 8), 1u);
  EXPECT_EQ(blocks[0].block, 7u);
  EXPECT_EQ(collect_wanted(pool.table, blocks, 8), 0u);
}

TEST(Resolve, TellsALostBlockAndAsksForItNoMore) {
  Pool pool({});
  append_log(pool.table, pool.log, 3, kLostFrame);
  const Step step = enter_step(pool.table, 0);
  const std::uint32_t bell = wanted_bell(pool.table);
  const Resolved got = resolve_pages(pool, 0, step, {pool.page(3, 1), pool.page(7, 0)});
  EXPECT_EQ(got.outcomes[0], Outcome::lost);
  EXPECT_EQ(got.slots[0], kNoSlot);
  EXPECT_EQ(got.outcomes[1], Outcome::absent);
  EXPECT_EQ(got.counts.lost, 1u);
  EXPECT_EQ(got.counts.absent, 1u);
  EXPECT_EQ(load_relaxed(&actor_line(pool.table, 0)->counters.absent), 2u);
  EXPECT_NE(wanted_bell(pool.table), bell);
  WantedBlock blocks[8];
  ASSERT_EQ(collect_wanted(pool.table, blocks, 8), 1u);
  EXPECT_EQ(blocks[0].block, 7u);
}

TEST(Resolve, TreatsAFrameInAnExtentThatIsNotMappedHereAsAbsent) {
  Pool pool({});
  pool.place_all_blocks();
  pool.frames_ready = 2;
  const Step step = enter_step(pool.table, 0);
  EXPECT_EQ(resolve_pages(pool, 0, step, {pool.page(2, 0)}).counts.absent, 1u);
  pool.frames_ready = 3;
  EXPECT_EQ(resolve_pages(pool, 0, step, {pool.page(2, 0)}).counts.fills, 1u);
}

TEST(Resolve, RefusesNumbersThatAreNoPages) {
  Pool pool({});
  const Step step = enter_step(pool.table, 0);
  const Resolved got = resolve_pages(pool, 0, step, {pool.table.pages, kNoPage});
  EXPECT_EQ(got.counts.invalid, 2u);
  EXPECT_EQ(got.slots[0], kNoSlot);
}

TEST(Resolve, FillsAgainWhatSomebodyElseClaimedAndNeverCompleted) {
  Pool pool({});
  pool.place_all_blocks();
  const Slot slot = 4;
  pool.table.words[slot] = make_word(5, 0, false, false);
  set_slot_hint(pool.table, 5, slot);
  const Step step = enter_step(pool.table, 0);
  const Resolved got = resolve_pages(pool, 0, step, {5, 5});
  EXPECT_EQ(got.counts.fills, 1u);
  EXPECT_EQ(got.counts.refills, 1u);
  EXPECT_EQ(got.counts.hits, 1u);
  EXPECT_EQ(got.slots[0], slot);
  EXPECT_TRUE(pool.slot_holds_placed(slot, 5));
  EXPECT_TRUE(is_ready(pool.table.words[slot]));
}

TEST(Resolve, KeepsThePagesOfEveryoneWhoIsInAStep) {
  Pool pool({.slots = 8});
  pool.place_all_blocks();
  const Step first = enter_step(pool.table, 0);
  const Resolved mine = resolve_pages(pool, 0, first, {0, 1, 2, 3});
  for (int i = 0; i < 10; ++i) {
    const Step other = enter_step(pool.table, 1);
    const auto p = static_cast<Page>(8 + 4 * i % 40);
    // What others used since then stays too, as long as actor 0 does not leave: they may get none.
    resolve_pages(pool, 1, other, {p, p + 1, p + 2, p + 3});
    leave_step(pool.table, 1);
  }
  for (Page i = 0; i < 4; ++i) EXPECT_TRUE(pool.slot_holds_placed(mine.slots[i], i));
}

TEST(Resolve, DoesNotClaimAtOrAboveTheLimit) {
  Pool pool({.slots = 16});
  pool.place_all_blocks();
  set_limit(pool.table, 5);
  std::vector<Page> pages(16);
  for (Page i = 0; i < 16; ++i) pages[i] = i;
  const Step step = enter_step(pool.table, 0);
  const Resolved got = resolve_pages(pool, 0, step, pages);
  EXPECT_EQ(got.counts.fills, 5u);
  for (const Slot slot : got.slots) EXPECT_LT(slot, 5);
  set_limit(pool.table, 16);
  EXPECT_EQ(resolve_pages(pool, 0, step, pages).counts.fills, 11u);
}

TEST(Resolve, NeverTouchesSlotsThatAreNotMappedHere) {
  Pool pool({.slots = 16});
  pool.place_all_blocks();
  pool.table.words[12] = make_word(1, 0, false, true);
  set_slot_hint(pool.table, 1, 12);
  pool.store.slots = 6;
  const Step step = enter_step(pool.table, 0);
  const Resolved got = resolve_pages(pool, 0, step, {0, 1, 2, 3, 4, 5, 6, 7, 8});
  for (const Slot slot : got.slots) EXPECT_LT(slot, 6);
  EXPECT_EQ(got.counts.fills, 6u);
}

TEST(Sweep, VacatesTheSlotsAboveTheLimit) {
  Pool pool({.slots = 16});
  pool.place_all_blocks();
  std::vector<Page> pages(16);
  for (Page i = 0; i < 16; ++i) pages[i] = i;
  resolve_pages(pool, 0, enter_step(pool.table, 0), pages);
  leave_step(pool.table, 0);
  set_limit(pool.table, 10);
  enter_step(pool.table, 1);
  Sweep sweep;
  sweep_whole(pool.table, sweep, {});
  EXPECT_EQ(sweep.freed, 6u);
  for (Slot slot = 0; slot < 16; ++slot) EXPECT_EQ(is_free(pool.table.words[slot]), slot >= 10);
}

TEST(Sweep, FreesTheLeastRecentlyUsedAndNoMoreThanWanted) {
  Pool pool({.slots = 16});
  pool.place_all_blocks();
  for (Page page = 0; page < 16; ++page) {
    resolve_pages(pool, 0, enter_step(pool.table, 0), {page});
    leave_step(pool.table, 0);
  }
  resolve_pages(pool, 0, enter_step(pool.table, 0), {0, 1});
  leave_step(pool.table, 0);
  enter_step(pool.table, 1);
  Sweep sweep;
  begin_sweep(pool.table, sweep, {.wanted = hints_held(pool.table) + 3});
  while (!sweep_part(pool.table, sweep, 5)) {
  }
  EXPECT_EQ(sweep.freed, 3u);
  std::set<Page> left;
  for (Slot slot = 0; slot < 16; ++slot) left.insert(page_of(pool.table.words[slot]));
  EXPECT_FALSE(left.contains(2));
  EXPECT_FALSE(left.contains(3));
  EXPECT_FALSE(left.contains(4));
  EXPECT_TRUE(left.contains(0) && left.contains(5));
}

TEST(Sweep, PublishesItsCutOnlyAtItsEnd) {
  Pool pool({});
  pool.place_all_blocks();
  for (int i = 0; i < 5; ++i) {
    resolve_pages(pool, 0, enter_step(pool.table, 0), {0});
    leave_step(pool.table, 0);
  }
  enter_step(pool.table, 1);
  const std::uint32_t before = pool.table.header->swept;
  Sweep dropped;
  begin_sweep(pool.table, dropped, {});
  EXPECT_FALSE(sweep_part(pool.table, dropped, pool.shape.slots + 3));
  EXPECT_EQ(pool.table.header->swept, before);
  Sweep whole;
  sweep_whole(pool.table, whole, {});
  EXPECT_NE(pool.table.header->swept, before);
}

TEST(Steps, StayComparableAcrossTheWrapOfTheClock) {
  Pool pool({.slots = 8});
  pool.place_all_blocks();
  pool.table.header->clock = kStepMask - 2;
  pool.table.header->swept = kStepMask - 2;
  for (int lap = 0; lap < 12; ++lap) {
    for (Page page = 0; page < 40; page += 4) {
      const Step step = enter_step(pool.table, 0);
      const Resolved got = resolve_pages(pool, 0, step, {page, page + 1, page + 2, page + 3, 0});
      ASSERT_EQ(got.counts.no_slot, 0u);
      for (std::uint32_t i = 0; i < 4; ++i) {
        ASSERT_TRUE(pool.slot_holds_placed(got.slots[i], page + i));
      }
      leave_step(pool.table, 0);
    }
    pool.table.header->clock += kHalfRange / 2;  // a quarter of the range
  }
}

TEST(Steps, TheClockStandsStillRatherThanOutrunAnActorThatNeverLeaves) {
  Pool pool({.slots = 8});
  pool.place_all_blocks();
  const Step held = enter_step(pool.table, 0);
  const Resolved mine = resolve_pages(pool, 0, held, {0, 1});
  pool.table.header->clock += kMaxClockLead;
  for (Page page = 8; page < 40; page += 2) {
    const Step step = enter_step(pool.table, 1);
    EXPECT_LE(steps_between(held, step), kMaxClockLead + 2);
    resolve_pages(pool, 1, step, {page, page + 1});
    leave_step(pool.table, 1);
  }
  EXPECT_TRUE(pool.slot_holds_placed(mine.slots[0], 0));
  EXPECT_TRUE(pool.slot_holds_placed(mine.slots[1], 1));
}

TEST(Pins, AreServedToTheirOwnerAndToNobodyElse) {
  Pool pool({});
  pool.place_all_blocks();
  const Step step = enter_step(pool.table, 0);
  const Page page = pool.page(6, 1);
  const Slot slot = claim_pinned(pool.table, pool.store.slots, page, step);
  ASSERT_EQ(slot, 0) << "pins grow from the bottom";
  const std::uint64_t own = std::uint64_t{1} << 6;
  EXPECT_EQ(resolve_pages(pool, 0, step, {page}, {&own, 16}).slots[0], slot);
  const Resolved other = resolve_pages(pool, 1, enter_step(pool.table, 1), {page, page});
  EXPECT_EQ(other.counts.pinned, 2u);
  EXPECT_EQ(other.slots[0], kNoSlot);
  EXPECT_EQ(find_pinned(pool.table, page), slot);
  set_slot_hint(pool.table, page, kNoSlot);
  EXPECT_EQ(find_pinned(pool.table, page), slot) << "a lost hint costs time and nothing else";
  EXPECT_TRUE(seal_pin(pool.table, slot, page, step));
  EXPECT_FALSE(seal_pin(pool.table, slot, page, step));
  EXPECT_EQ(find_pinned(pool.table, page), kNoSlot);
}

TEST(Pins, OutliveEverySweepUntilTheyAreDropped) {
  Pool pool({.slots = 6});
  pool.place_all_blocks();
  const Page page = pool.page(9, 0);
  const Slot slot = claim_pinned(pool.table, pool.store.slots, page, enter_step(pool.table, 0));
  leave_step(pool.table, 0);
  for (Page other = 0; other < 30; ++other) {
    resolve_pages(pool, 1, enter_step(pool.table, 1), {other});
    leave_step(pool.table, 1);
  }
  EXPECT_EQ(find_pinned(pool.table, page), slot);
  const std::uint64_t blocks = std::uint64_t{1} << 9;
  EXPECT_EQ(drop_pins(pool.table, {&blocks, 16}), 1u);
  EXPECT_EQ(find_pinned(pool.table, page), kNoSlot);
  EXPECT_EQ(drop_pins(pool.table, {&blocks, 16}), 0u);
}

TEST(DropBlocks, DropsEveryPageOfTheBlocksAndNoOther) {
  Pool pool({});
  pool.place_all_blocks();
  std::vector<Page> pages(16);
  for (std::uint32_t i = 0; i < 16; ++i) pages[i] = pool.page(i / 4, i % 4);
  resolve_pages(pool, 0, enter_step(pool.table, 0), pages);
  leave_step(pool.table, 0);
  const std::uint64_t blocks = 0b1010;
  std::uint32_t dropped = 0;
  for (std::uint32_t first = 0; first < 16; first += 5) {
    dropped += drop_blocks(pool.table, {&blocks, 16}, DropWhat::pages, first, 5);
  }
  EXPECT_EQ(dropped, 8u);
  const Resolved again = resolve_pages(pool, 0, enter_step(pool.table, 0), {0, 1, 2, 3});
  EXPECT_EQ(again.counts.hits, 2u);
}

TEST(Forecast, BringsInPagesThatTheNextResolveCountsAsUsed) {
  Pool pool({});
  pool.place_all_blocks();
  const Page pages[] = {1, 2, 3};
  const Step step = enter_step(pool.table, 1);
  const ForecastCounts counts =
      forecast(pool.table, pool.store, 1, step, {.pages = pages, .count = 3, .budget_bytes = 128});
  leave_step(pool.table, 1);
  EXPECT_EQ(counts.issued, 2u) << "the budget is two pages";
  EXPECT_EQ(counts.dropped, 1u);
  const Resolved got = resolve_pages(pool, 0, enter_step(pool.table, 0), {1, 2, 3});
  EXPECT_EQ(got.counts.hits, 2u);
  EXPECT_EQ(got.counts.forecast_used, 2u);
  EXPECT_FALSE(any_forecasts(pool.table));
}

TEST(Forecast, AsksForAbsentBlocksLessUrgentlyThanAResolve) {
  Pool pool({});
  const Page pages[] = {pool.page(3, 1), pool.page(7, 0)};
  const auto forecast_both = [&] {
    forecast(pool.table, pool.store, 1, enter_step(pool.table, 1),
             {.pages = pages, .count = 2, .budget_bytes = 1024});
    leave_step(pool.table, 1);
  };
  WantedBlock blocks[8];
  forecast_both();
  ASSERT_EQ(collect_wanted(pool.table, blocks, 8), 2u);
  EXPECT_FALSE(blocks[0].now);
  EXPECT_FALSE(blocks[1].now);
  forecast_both();
  resolve_pages(pool, 0, enter_step(pool.table, 0), {pool.page(3, 1)});
  forecast_both();
  ASSERT_EQ(collect_wanted(pool.table, blocks, 8), 2u);
  EXPECT_EQ(blocks[0].block, 3u);
  EXPECT_TRUE(blocks[0].now) << "a resolve needs it, whoever named it before or after";
  EXPECT_FALSE(blocks[1].now);
}

TEST(Forecast, CountsWhatIsDroppedUnusedAsWasted) {
  Pool pool({.slots = 4});
  pool.place_all_blocks();
  const Page pages[] = {1, 2};
  forecast(pool.table, pool.store, 1, enter_step(pool.table, 1),
           {.pages = pages, .count = 2, .budget_bytes = 1024});
  leave_step(pool.table, 1);
  const Resolved got = resolve_pages(pool, 0, enter_step(pool.table, 0), {8, 9, 10, 11});
  EXPECT_EQ(got.counts.fills, 4u);
  EXPECT_EQ(read_counters(pool.table).forecast_wasted, 2u);
}

TEST(Forecast, TakesNoSlotOfAPageThatWasUsedLately) {
  Pool pool({.slots = 4});
  pool.place_all_blocks();
  resolve_pages(pool, 0, enter_step(pool.table, 0), {8, 9, 10, 11});
  leave_step(pool.table, 0);
  const Page pages[] = {1, 2};
  const ForecastCounts counts =
      forecast(pool.table, pool.store, 1, enter_step(pool.table, 1),
               {.pages = pages, .count = 2, .budget_bytes = 1024, .min_age = 10});
  leave_step(pool.table, 1);
  EXPECT_EQ(counts.issued, 0u);
  EXPECT_EQ(resolve_pages(pool, 0, enter_step(pool.table, 0), {8, 9, 10, 11}).counts.hits, 4u);
}

}  // namespace
}  // namespace sluice::kernels::test
