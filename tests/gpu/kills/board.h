// What the processes of the kill test share: memory in which engines say how far they are, and the
// driver what they are to do. It is made before the first fork, and an engine that is killed leaves
// it as it was.
//
// Thread-safety: each member has one writer, and any number of readers.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "tests/gpu/engines/cache.h"

namespace sluice::test::kills {

inline constexpr std::uint32_t kMostEngines = 16;
inline constexpr std::size_t kTextBytes = 512;

// The cache of each tenant, and its memory; the arena is at least so large.
inline constexpr std::uint32_t kTenants = 2;
inline constexpr engines::CacheShape kShape{64, std::uint64_t{32} << 20, std::uint64_t{256} << 20};
// All engines of a tenant read these, which are half as many again as the least arena has room for.
inline constexpr std::uint32_t kSharedBlocks = 768;
inline constexpr std::uint32_t kStepsPerBlock = 16;  // between blocks of an engine's own

constexpr engines::CacheShape shape_of(std::uint64_t arena_bytes) {
  return {kShape.head_dim, arena_bytes, kShape.dram_bytes};
}

// A child that the engine forks, which calls nothing of CUDA and lives on with what it inherited.
enum class Child : std::uint32_t { none, holds_all, closes_sockets };

enum class Phase : std::uint32_t { starting, running, finished };

struct EngineRow {
  // by the engine
  std::atomic<Phase> phase;
  std::atomic<std::uint64_t> session;  // 0: not connected yet
  std::atomic<std::uint64_t> steps;
  std::atomic<std::uint64_t> pages;  // compared
  std::atomic<std::uint64_t> misses;
  std::atomic<std::uint64_t> no_slot;
  std::atomic<std::uint64_t> absent;
  std::atomic<std::uint64_t> sealed;      // blocks of its own
  std::atomic<std::uint64_t> mismatches;  // pages
  std::atomic<std::uint64_t> longest_step_us;
  char text[kTextBytes];  // why it failed, written before it ends

  std::atomic<std::int32_t> child;  // its pid, once it is as it is to stay; 0: there is none

  // by the driver
  std::atomic<bool> stop;
  std::atomic<bool> without_daemon;  // calls that ask the daemon may fail from now on
  std::atomic<bool> go_wild;         // make a kernel write where nothing is
  std::atomic<Child> leave_child;
  std::atomic<bool> end_child;

  void reset();
};

struct Board {
  EngineRow engines[kMostEngines];
};

struct EngineJob {
  std::uint32_t number = 0;  // of its row
  std::uint64_t seed = 0;
  bool cuda = true;
  std::uint64_t arena_bytes = kShape.hbm_bytes;
  std::string tenant;
  std::string socket;
};

// How an engine ends.
inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kWild = 3;  // its context was lost, as it was told to make it

// The life of an engine: decode steps with random lists over sealed blocks, every byte compared,
// and now and then a block of its own. Returns the exit status.
int run_engine(const EngineJob& job, EngineRow& row);

}  // namespace sluice::test::kills
