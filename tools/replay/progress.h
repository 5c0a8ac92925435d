// The live line on stderr: how far the run is, how fast, and whether anything is wrong.
#pragma once

#include <chrono>
#include <cstdint>

#include "tools/replay/board.h"
#include "tools/replay/options.h"

namespace sluice::tools {

class ProgressLine {
 public:
  ProgressLine(Progress mode, std::uint64_t total_steps);
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // Draws at most a few times a second.
  void update(const Counters& total);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool enabled_;
  bool drawn_ = false;
  std::uint64_t total_steps_;
  Clock::time_point drawn_at_{};
  std::uint64_t pages_at_ = 0;
  double pages_per_s_ = 0;
};

}  // namespace sluice::tools
