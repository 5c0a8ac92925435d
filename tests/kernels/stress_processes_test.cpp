// Actors as processes that are killed at random moments. The daemon buries them and starts others.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <iostream>
#include <random>

#include "tests/kernels/stress_world.h"

namespace sluice::kernels::test {
namespace {

constexpr auto kRun = std::chrono::seconds(8);

pid_t start_actor(StressWorld& world, std::uint32_t actor, std::uint64_t seed) {
  const pid_t child = fork();
  if (child == 0) {
    StressActor(world, actor, seed).run();
    _exit(0);
  }
  return child;
}

TEST(ProcessStress, KilledActorsCostNobodyAWrongByte) {
  StressWorld world;
  StressDaemon daemon(world, 2);
  std::mt19937_64 random(3);
  std::uint64_t seed = 1000;
  pid_t children[kStressActors];
  for (std::uint32_t actor = 0; actor < kStressActors; ++actor) {
    children[actor] = start_actor(world, actor, seed++);
    ASSERT_GT(children[actor], 0);
  }

  std::uint64_t killed = 0;
  const auto begin = std::chrono::steady_clock::now();
  const Findings& findings = world.shared->findings;
  while (!findings.any() && std::chrono::steady_clock::now() - begin < kRun) {
    for (std::uint64_t turns = random() % 64; turns != 0; --turns) {
      daemon.turn();
      std::this_thread::yield();
    }
    const auto actor = static_cast<std::uint32_t>(random() % kStressActors);
    ASSERT_EQ(kill(children[actor], SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(children[actor], &status, 0), children[actor]);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "it died by itself";
    daemon.bury(actor);
    ++killed;
    children[actor] = start_actor(world, actor, seed++);
    ASSERT_GT(children[actor], 0);
  }
  world.shared->stop = true;
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }

  std::cout << "killed " << killed << " actors; verified " << findings.verified << " pages, sealed "
            << findings.sealed << " blocks, reused " << findings.reused_ids << " ids, took "
            << findings.taken_frames << " frames\n";
  EXPECT_EQ(findings.wrong_pages, 0u);
  EXPECT_EQ(findings.lost_pins, 0u);
  EXPECT_GT(killed, 10u);
  EXPECT_GT(findings.verified, 100u);
  EXPECT_GT(findings.reused_ids, 10u);
}

}  // namespace
}  // namespace sluice::kernels::test
