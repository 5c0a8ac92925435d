#include "kernels/frame_log.h"

#include <gtest/gtest.h>

#include "kernels/grace.h"
#include "tests/kernels/pool.h"

namespace sluice::kernels::test {
namespace {

TEST(FrameLog, IsAppliedByWhoeverEntersAStep) {
  Pool pool({});
  append_log(pool.table, pool.log, 3, 8);
  EXPECT_EQ(frame_of(pool.table, 3), kNoFrame);
  enter_step(pool.table, 0);
  EXPECT_EQ(frame_of(pool.table, 3), 8u);
  append_log(pool.table, pool.log, 3, kNoFrame);
  enter_step(pool.table, 1);
  EXPECT_EQ(frame_of(pool.table, 3), kNoFrame);
}

TEST(FrameLog, ALateApplierDoesNotBringBackAnOldFrame) {
  Pool pool({});
  append_log(pool.table, pool.log, 3, 8);
  append_log(pool.table, pool.log, 3, kNoFrame);
  apply_log(pool.table);
  detail::apply_entry(pool.table, 0);
  EXPECT_EQ(frame_of(pool.table, 3), kNoFrame);
}

TEST(FrameLog, LosesNothingWhenNobodyAppliesItForManyRings) {
  Pool pool({});
  for (std::uint32_t i = 0; i < 1000; ++i) append_log(pool.table, pool.log, i % 16, i);
  apply_log(pool.table);
  for (Block block = 0; block < 16; ++block) {
    EXPECT_EQ(frame_of(pool.table, block), frame_in(pool.current[block]));
  }
}

TEST(FrameLog, APrivateViewDoesNotSeeWhatOthersScribble) {
  Pool pool({});
  HotTable own = pool.table;
  use_private_frames(own, pool.log);
  append_log(pool.table, pool.log, 2, 5);
  pool.table.frame_of[2] = make_frame_entry(9, 77);
  pool.table.header->log_end = 1u << 30;
  enter_step(own, 0);
  EXPECT_EQ(frame_of(own, 2), 5u);
  EXPECT_EQ(actor_line(own, 0)->log_position, 1u);
}

TEST(FrameLog, ATableThatComesLaterBeginsWithTheFramesOfAnother) {
  Pool first({});
  for (std::uint32_t i = 0; i < 1000; ++i) append_log(first.table, first.log, i % 16, i);
  append_log(first.table, first.log, 3, kNoFrame);
  Pool second({});
  adopt_frames(second.table, second.log, first.log);
  enter_step(second.table, 0);
  for (Block block = 0; block < 16; ++block) {
    EXPECT_EQ(frame_of(second.table, block), frame_in(first.current[block]));
    EXPECT_EQ(frame_in(second.current[block]), frame_in(first.current[block]));
  }
  // From 0 that is more than half a ring, so that a device's copy takes the original.
  EXPECT_GT(*second.table.log_end, second.table.sizes.log_capacity / 2);

  append_log(second.table, second.log, 3, 8);
  append_log(second.table, second.log, 4, kNoFrame);
  enter_step(second.table, 1);
  EXPECT_EQ(frame_of(second.table, 3), 8u);
  EXPECT_EQ(frame_of(second.table, 4), kNoFrame);
}

TEST(Grace, WaitsForActorsThatWereInAStepAndForNoOther) {
  Pool pool({});
  enter_step(pool.table, 0);
  Grace grace;
  append_log(pool.table, pool.log, 1, kNoFrame);
  grace.start(pool.table, pool.log.end);
  enter_step(pool.table, 1);
  EXPECT_FALSE(grace.poll(pool.table));
  EXPECT_TRUE(grace.waits_for(0));
  EXPECT_FALSE(grace.waits_for(1)) << "it entered later, and has applied the log";
  leave_step(pool.table, 0);
  EXPECT_TRUE(grace.poll(pool.table));
}

TEST(Grace, RemembersThatAnActorWasSeenIdle) {
  Pool pool({});
  enter_step(pool.table, 0);
  Grace grace;
  grace.start(pool.table, 0);
  EXPECT_FALSE(grace.poll(pool.table));
  EXPECT_FALSE(grace.waits_for(2));
  reset_actor(pool.table, 0);
  EXPECT_TRUE(grace.poll(pool.table));
}

TEST(Grace, IsNotOverForAnActorWhoseEntryReadTheLogTooEarly) {
  Pool pool({});
  Grace grace;
  append_log(pool.table, pool.log, 1, kNoFrame);
  grace.start(pool.table, pool.log.end);
  ActorLine* line = actor_line(pool.table, 0);
  line->active = active_in(clock_of(pool.table) + 1);
  line->log_position = 0;
  EXPECT_FALSE(grace.poll(pool.table));
  line->log_position = pool.log.end;
  EXPECT_TRUE(grace.poll(pool.table));
}

}  // namespace
}  // namespace sluice::kernels::test
