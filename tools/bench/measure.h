// How a figure and its ceiling are measured on a machine that does other things too: in short
// rounds that take turns, of which the median counts.
//
// Thread-safety: one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "ipc/error.h"

namespace sluice::tools {

// What the rounds of one side gave.
class Series {
 public:
  void add(double figure) { figures_.push_back(figure); }
  std::size_t rounds() const { return figures_.size(); }
  // Of at least one round.
  double min() const;
  double median() const;
  double max() const;
  // The least figure that `part` of all are not above: quantile(0.95).
  double quantile(double part) const;
  double mean() const;

 private:
  std::vector<double> figures_;
};

// Does a round's worth of work, a few milliseconds, and returns its figure in the benchmark's unit.
using RoundFunction = std::function<ipc::Result<double>()>;

inline constexpr std::size_t kLeastRounds = 3;
inline constexpr std::size_t kMostRounds = 100'000;

// One Series per side, in order. Every side runs once before the first round that counts; then each
// runs once in every turn, until `budget` is used up, and at least kLeastRounds times. Errors: of
// the rounds.
ipc::Result<std::vector<Series>> take_turns(std::chrono::duration<double> budget,
                                            std::span<const RoundFunction> sides);

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  double nanoseconds() const { return seconds() * 1e9; }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace sluice::tools
