#include "ipc/waiter.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <atomic>
#include <thread>

#include "ipc/session_memory.h"
#include "tests/ipc/support.h"

namespace sluice::ipc {
namespace {

using std::chrono::milliseconds;

// A session in which the test plays both ends.
class WaiterTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = SessionMemory::create(4, 4096);
    ASSERT_OK(made);
    memory = std::move(*made);
    auto pair = make_doorbell();
    ASSERT_OK(pair);
    bells = std::move(*pair);
    control = socket_pair();
    completions = CompletionConsumer(memory.completion_ring());
    producer = CompletionProducer(memory.completion_ring());
  }

  void complete(std::uint64_t user_data) {
    ASSERT_TRUE(producer.push({user_data, 0, 0, 0, 0, 0}).value());
    if (producer.publish()) bells.daemon_end.ring();
  }

  Result<WaitOutcome> wait(Deadline deadline) {
    return waiter.wait(completions, bells.client_end, control.left.get(), deadline);
  }

  SessionMemory memory;
  DoorbellPair bells;
  SocketPair control;
  CompletionConsumer completions;
  CompletionProducer producer;
  Waiter waiter;
};

TEST_F(WaiterTest, ReturnsAtOnceWhenSomethingIsThere) {
  complete(1);
  EXPECT_EQ(wait(Deadline::min()).value(), WaitOutcome::ready);
}

TEST_F(WaiterTest, EndsAtTheDeadlineWhenNothingComes) {
  const Deadline deadline = deadline_in(milliseconds(20));
  EXPECT_EQ(wait(deadline).value(), WaitOutcome::timed_out);
  EXPECT_GE(Clock::now(), deadline);
}

TEST_F(WaiterTest, ADeadlineThatHasPassedIsNoWait) {
  EXPECT_EQ(wait(Deadline::min()).value(), WaitOutcome::timed_out);
}

TEST_F(WaiterTest, IsWokenByEachOfManyCompletionsFromAnotherThread) {
  constexpr std::uint64_t kRounds = 5'000;
  std::atomic<std::uint64_t> taken = 0;
  std::thread daemon([&] {
    for (std::uint64_t i = 0; i < kRounds; ++i) {
      complete(i);
      while (taken.load() <= i) std::this_thread::yield();
    }
  });
  for (std::uint64_t i = 0; i < kRounds; ++i) {
    ASSERT_EQ(wait(soon()).value(), WaitOutcome::ready);
    ASSERT_EQ(completions.next().value()->user_data(), i);
    taken = i + 1;
  }
  daemon.join();
}

TEST_F(WaiterTest, ALateRingOfTheBellIsNotTakenForACompletion) {
  bells.daemon_end.ring();
  EXPECT_EQ(wait(deadline_in(milliseconds(20))).value(), WaitOutcome::timed_out);
}

TEST_F(WaiterTest, ABellThatNeverFallsSilentDoesNotHoldItUpAfterItsDeadline) {
  bells.client_end = Doorbell(Fd(eventfd(1, EFD_CLOEXEC)));
  const Deadline deadline = deadline_in(milliseconds(20));
  EXPECT_EQ(wait(deadline).value(), WaitOutcome::timed_out);
  EXPECT_GE(Clock::now(), deadline);
}

TEST_F(WaiterTest, AMessageOnTheControlSocketDoesNotEndTheWait) {
  ASSERT_EQ(write(control.right.get(), "x", 1), 1);
  EXPECT_EQ(wait(deadline_in(milliseconds(20))).value(), WaitOutcome::timed_out);
}

TEST_F(WaiterTest, SaysThatThePeerIsGoneWhenTheControlSocketHangsUp) {
  control.right.reset();
  EXPECT_EQ(wait(soon()).value(), WaitOutcome::peer_gone);
}

TEST_F(WaiterTest, SaysThatThePeerIsGoneWhenTheDoorbellHangsUp) {
  bells.daemon_end = Doorbell();
  EXPECT_EQ(wait(soon()).value(), WaitOutcome::peer_gone);
}

TEST_F(WaiterTest, WhatThePeerPublishedBeforeItWentIsStillReady) {
  complete(7);
  control.right.reset();
  bells.daemon_end = Doorbell();
  EXPECT_EQ(wait(soon()).value(), WaitOutcome::ready);
  EXPECT_EQ(completions.next().value()->user_data(), 7u);
  EXPECT_EQ(wait(soon()).value(), WaitOutcome::peer_gone);
}

TEST_F(WaiterTest, WhatAPeerPublishesDuringTheSleepIsReadyEvenIfItGoesBeforeItRings) {
  std::thread daemon([&] {
    while (memory.completion_ring().control->need_wakeup == 0) std::this_thread::yield();
    EXPECT_TRUE(producer.push({7, 0, 0, 0, 0, 0}).value());
    EXPECT_TRUE(producer.publish());
    control.right.reset();
  });
  EXPECT_EQ(wait(soon()).value(), WaitOutcome::ready);
  daemon.join();
  EXPECT_EQ(completions.next().value()->user_data(), 7u);
}

TEST_F(WaiterTest, APeerThatIsKilledEndsTheWait) {
  SocketPair started = socket_pair();
  Child daemon([&] {
    started.right.reset();
    control.left.reset();
    bells.client_end = Doorbell();
    if (write(started.left.get(), "x", 1) != 1) return 1;
    pause();
    return 0;
  });
  control.right.reset();
  bells.daemon_end = Doorbell();
  started.left.reset();
  char byte = 0;
  ASSERT_EQ(read(started.right.get(), &byte, 1), 1);
  EXPECT_EQ(wait(deadline_in(milliseconds(20))).value(), WaitOutcome::timed_out);
  std::thread killing([&] { kill(daemon.pid(), SIGKILL); });
  EXPECT_EQ(wait(soon()).value(), WaitOutcome::peer_gone);
  killing.join();
}

TEST_F(WaiterTest, AnImpossibleCursorEndsTheWait) {
  memory.completion_ring().control->tail = 1000;
  EXPECT_ERROR(wait(soon()), Errc::peer_violation);
}

TEST(AdaptiveSpin, ShrinksWhenInVainAndGrowsWhenItHelped) {
  AdaptiveSpin spin(true);
  const auto never = [] { return Result<bool>(false); };
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(spin(never).value());
  EXPECT_EQ(spin.bound(), AdaptiveSpin::kLeastSpin);
  for (int i = 0; i < 20; ++i) {
    int looks = 0;
    EXPECT_TRUE(spin([&] { return Result<bool>(++looks == 3); }).value());
  }
  EXPECT_EQ(spin.bound(), AdaptiveSpin::kMostSpin);
}

}  // namespace
}  // namespace sluice::ipc
