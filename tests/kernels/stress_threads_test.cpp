// Actors as threads, on the real code. Built once as it is, and once for every seeded bug, which
// must then be found: SLUICE_SEEDED_BUG says which.

#include <gtest/gtest.h>

#include <chrono>
#include <iostream>
#include <thread>
#include <vector>

#include "kernels/seeded_bug.h"
#include "tests/kernels/stress_world.h"

namespace sluice::kernels::test {
namespace {

constexpr auto kCleanRun = std::chrono::seconds(8);
constexpr auto kBugDeadline = std::chrono::seconds(90);

TEST(ThreadStress, EverySlotKeepsItsPageWhileItsActorIsInTheStep) {
  StressWorld world;
  StressDaemon daemon(world, 1);
  std::vector<std::thread> threads;
  threads.reserve(kStressActors);
  for (std::uint32_t actor = 0; actor < kStressActors; ++actor) {
    threads.emplace_back([&world, actor] { StressActor(world, actor, 100 + actor).run(); });
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto limit = kSeededBug == SeededBug::none ? kCleanRun : kBugDeadline;
  const Findings& findings = world.shared->findings;
  while (!findings.any() && std::chrono::steady_clock::now() - begin < limit) {
    daemon.turn();
    std::this_thread::yield();
  }
  world.shared->stop = true;
  for (std::thread& thread : threads) thread.join();

  std::cout << "verified " << findings.verified << " pages, sealed " << findings.sealed
            << " blocks, reused " << findings.reused_ids << " ids, took " << findings.taken_frames
            << " frames; wrong pages " << findings.wrong_pages << ", lost pins "
            << findings.lost_pins << "\n";
  EXPECT_EQ(findings.any(), kSeededBug != SeededBug::none);
  if (kSeededBug == SeededBug::none) {
    EXPECT_GT(findings.verified, 1000u);
    EXPECT_GT(findings.sealed, 5u);
    EXPECT_GT(findings.reused_ids, 20u);
    EXPECT_GT(findings.taken_frames, 20u);
  }
}

}  // namespace
}  // namespace sluice::kernels::test
