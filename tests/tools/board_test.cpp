#include "tools/replay/board.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>
#include <vector>

namespace sluice::tools {
namespace {

// Runs `body(engine)` in a process of its own.
template <class Body>
pid_t in_process(Body&& body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body() ? 0 : 1);
  return pid;
}

bool ended_well(pid_t pid) {
  int status = 0;
  return ::waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(Board, NobodyIsAheadByMoreThanOneIteration) {
  auto board = Board::create(3).value();
  std::vector<pid_t> pids;
  pids.reserve(3);
  for (std::uint32_t engine = 0; engine < 3; ++engine) {
    pids.push_back(in_process([&] {
      for (std::uint64_t iteration = 1; iteration <= 500; ++iteration) {
        if (!board.meet(engine, iteration)) return false;
        for (const EngineBoard& other : board.engines()) {
          if (other.iteration.load() < iteration) return false;
        }
      }
      board.leave(engine);
      return true;
    }));
  }
  for (const pid_t pid : pids) EXPECT_TRUE(ended_well(pid));
}

TEST(Board, AKilledEngineIsNotWaitedForOnceItLeft) {
  auto board = Board::create(2).value();
  const pid_t dead = in_process([] {
    ::pause();
    return true;
  });
  const pid_t waiter = in_process([&] { return board.meet(0, 5).has_value(); });
  ::kill(dead, SIGKILL);
  ::waitpid(dead, nullptr, 0);
  board.leave(1);
  EXPECT_TRUE(ended_well(waiter));
}

TEST(Board, StopReleasesTheBarrier) {
  auto board = Board::create(2).value();
  const pid_t waiter = in_process([&] { return board.meet(0, 5).has_value(); });
  board.stop();
  EXPECT_TRUE(ended_well(waiter));
}

// The two fields of a snapshot are of one publication, also when the writer dies in the middle.
TEST(Board, SnapshotsAreWholeWhileAnEnginePublishesAndIsKilled) {
  auto board = Board::create(1).value();
  EngineBoard& mine = board.engines()[0];
  const pid_t writer = in_process([&] {
    Counters counters;
    for (;;) {
      ++counters.requests_done;
      counters.forecast_wasted_bytes = counters.requests_done;
      mine.publish(counters);
    }
    return true;
  });
  std::uint64_t last = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
  while (std::chrono::steady_clock::now() < until) {
    const Counters seen = mine.snapshot();
    ASSERT_EQ(seen.requests_done, seen.forecast_wasted_bytes);
    ASSERT_GE(seen.requests_done, last);
    last = seen.requests_done;
  }
  ::kill(writer, SIGKILL);
  ::waitpid(writer, nullptr, 0);
  const Counters seen = mine.snapshot();
  EXPECT_EQ(seen.requests_done, seen.forecast_wasted_bytes);
  EXPECT_GT(seen.requests_done, 0u);
}

TEST(Board, KeepsTheFirstMismatchesAndCutsLongTexts) {
  auto board = Board::create(1).value();
  EngineBoard& mine = board.engines()[0];
  for (std::uint64_t i = 0; i < 2 * kMaxMismatches; ++i) mine.record({i, 0, 0, 0, 0, 0});
  EXPECT_EQ(mine.mismatch_count.load(), kMaxMismatches);
  EXPECT_EQ(mine.mismatch[kMaxMismatches - 1].request, kMaxMismatches - 1);
  mine.fail_with(std::string(5000, 'x'));
  EXPECT_EQ(std::string(mine.failure).size(), sizeof mine.failure - 1);
}

}  // namespace
}  // namespace sluice::tools
