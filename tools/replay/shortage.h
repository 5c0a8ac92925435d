// Waiting for memory: what counts as a shortage, and how long an engine has waited for its end.
#pragma once

#include <chrono>
#include <cstdint>

#include "client/sluice.hpp"
#include "tools/replay/board.h"

namespace sluice::tools {

// Not enough memory now; another request's end may change that.
inline bool is_shortage(const client::Error& error) {
  return error.code == SLUICE_QUOTA_EXCEEDED || error.code == SLUICE_BUSY ||
         error.code == SLUICE_NO_MEMORY;
}

// How long an engine waits while no engine of the run gets anywhere, before it gives up.
inline constexpr std::chrono::milliseconds kShortageTimeout{60'000};
// How long engine 0 waits before it preempts its youngest request; engine n waits n + 1 times as
// long.
inline constexpr std::chrono::milliseconds kPreemptAfter{1'000};
inline constexpr std::chrono::milliseconds kShortagePause{5};

class ShortageClock {
 public:
  // This engine got on.
  void restart() { engine_at_ = run_at_ = Clock::now(); }

  std::chrono::milliseconds for_this_engine() const { return since(engine_at_); }

  // Also restarted by a step of any engine since the last call.
  std::chrono::milliseconds for_any_engine(const Board& board) {
    std::uint64_t steps = 0;
    for (const EngineBoard& engine : board.engines()) steps += engine.steps.load();
    if (steps != steps_) run_at_ = Clock::now();
    steps_ = steps;
    return since(run_at_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static std::chrono::milliseconds since(Clock::time_point begin) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
  }

  Clock::time_point engine_at_ = Clock::now();
  Clock::time_point run_at_ = Clock::now();
  std::uint64_t steps_ = 0;
};

}  // namespace sluice::tools
