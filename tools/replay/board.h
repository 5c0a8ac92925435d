// Memory that the parent and its engine processes share: what each engine has done, and where it
// is.
//
// The parent maps it before it forks. An engine writes only its own board; a killed engine leaves
// the last state that it published, and nobody waits for it for longer than the parent needs to
// notice.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "ipc/error.h"
#include "tools/replay/histogram.h"

namespace sluice::tools {

// What an engine has counted. All fields are 64-bit, since they are published word by word.
struct Counters {
  std::uint64_t requests_done = 0;
  std::uint64_t steps = 0;
  std::uint64_t pages_requested = 0;
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t no_slot = 0;
  std::uint64_t absent = 0;
  std::uint64_t lost = 0;             // of the absent: the block store could not give them back
  std::uint64_t steps_for_store = 0;  // that were ended early, for blocks on NVMe to come
  // For the hit rate: pages of steps after a request's first, without the first use of a decode
  // block.
  std::uint64_t rated_pages = 0;
  std::uint64_t rated_hits = 0;
  std::uint64_t bytes_filled = 0;
  std::uint64_t verified_pages = 0;
  std::uint64_t verified_bytes = 0;
  std::uint64_t mismatches = 0;
  std::uint64_t blocks_opened = 0;  // keys asked for by sequence_open
  std::uint64_t blocks_matched = 0;
  std::uint64_t blocks_deduplicated = 0;
  std::uint64_t blocks_sealed = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t memory_waits = 0;  // steps or admissions put off for lack of memory or slots
  std::uint64_t preemptions = 0;
  std::uint64_t forecast_issued = 0;
  std::uint64_t forecast_used = 0;
  std::uint64_t forecast_late = 0;
  std::uint64_t forecast_wasted_bytes = 0;

  Counters& operator+=(const Counters& other);
};

struct Mismatch {
  std::uint64_t request = 0;
  std::uint32_t step = 0;
  std::uint32_t page = 0;
  std::uint32_t block = 0;
  std::int32_t slot = 0;
  std::uint64_t offset = 0;  // of the first byte that differs, in the page
};

inline constexpr std::size_t kMaxMismatches = 8;  // kept per engine
inline constexpr std::uint64_t kLeft = ~std::uint64_t{0};

struct EngineBoard {
  std::atomic<std::uint64_t> iteration{0};  // reached in lockstep; kLeft: takes no part any more
  std::atomic<std::uint64_t> steps{0};
  std::atomic<std::uint64_t> longest_step_us{0};
  std::atomic<std::uint64_t> session{0};
  std::atomic<std::uint32_t> finished{0};
  std::atomic<std::uint32_t> published{0};  // copies[published % 2] is whole
  Counters copies[2];
  Histogram resolve;
  std::atomic<std::uint32_t> mismatch_count{0};
  std::array<Mismatch, kMaxMismatches> mismatch;
  std::atomic<std::uint64_t> slots{0};  // of the arena
  char tenant[64] = {};
  char failure[1024] = {};  // why the engine gave up; empty: it did not

  void note_step(std::chrono::steady_clock::duration took) {
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
    const std::uint64_t longest = longest_step_us.load(std::memory_order_relaxed);
    longest_step_us.store(std::max(longest, static_cast<std::uint64_t>(us)),
                          std::memory_order_relaxed);
  }
  void publish(const Counters& counters);
  Counters snapshot() const;
  void fail_with(std::string_view text);
  void record(const Mismatch& what);
};

struct BoardHeader {
  std::atomic<std::uint32_t> bell{
      0};  // a futex: rung when an engine reaches an iteration or leaves
  std::atomic<std::uint32_t> stop{0};  // the parent asks everybody to end
  // Times that the daemon was killed and what it had thrown away.
  std::atomic<std::uint32_t> cold_restarts{0};
};

struct UnmapBoard {
  std::size_t bytes = 0;
  void operator()(std::byte* memory) const;
};

class Board {
 public:
  static ipc::Result<Board> create(std::uint32_t engines);

  std::span<EngineBoard> engines() const { return {engines_, count_}; }
  std::atomic<std::uint32_t>& cold_restarts() const { return header_->cold_restarts; }
  bool stopping() const { return header_->stop.load(std::memory_order_relaxed) != 0; }
  void stop();

  // Engine `engine` reached `iteration`; returns when all that take part have reached it. Bounded:
  // an engine that stays behind for kBarrierTimeout is an error that names it.
  ipc::Status meet(std::uint32_t engine, std::uint64_t iteration);
  // The engine ended or died: nobody waits for it.
  void leave(std::uint32_t engine);

 private:
  Board() = default;
  void ring();

  std::unique_ptr<std::byte, UnmapBoard> memory_;
  BoardHeader* header_ = nullptr;
  EngineBoard* engines_ = nullptr;
  std::uint32_t count_ = 0;
};

}  // namespace sluice::tools
