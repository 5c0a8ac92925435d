#include "tools/bench/measure.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace sluice::tools {

double Series::min() const { return *std::min_element(figures_.begin(), figures_.end()); }
double Series::max() const { return *std::max_element(figures_.begin(), figures_.end()); }

double Series::median() const {
  std::vector<double> sorted = figures_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  if (sorted.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(sorted.begin(), middle)) / 2;
}

double Series::quantile(double part) const {
  std::vector<double> sorted = figures_;
  const double rank = std::ceil(part * static_cast<double>(sorted.size()));
  const auto place = static_cast<std::size_t>(std::max(rank, 1.0)) - 1;
  const auto at = sorted.begin() + static_cast<std::ptrdiff_t>(std::min(place, sorted.size() - 1));
  std::nth_element(sorted.begin(), at, sorted.end());
  return *at;
}

double Series::mean() const {
  return std::accumulate(figures_.begin(), figures_.end(), 0.0) /
         static_cast<double>(figures_.size());
}

ipc::Result<std::vector<Series>> take_turns(std::chrono::duration<double> budget,
                                            std::span<const RoundFunction> sides) {
  for (const RoundFunction& side : sides) {
    if (auto warm = side(); !warm) return std::unexpected(std::move(warm.error()));
  }
  std::vector<Series> series(sides.size());
  const Stopwatch watch;
  for (std::size_t turn = 0; turn < kMostRounds; ++turn) {
    if (turn >= kLeastRounds && watch.seconds() >= budget.count()) break;
    for (std::size_t i = 0; i < sides.size(); ++i) {
      auto figure = sides[i]();
      if (!figure) return std::unexpected(std::move(figure.error()));
      series[i].add(*figure);
    }
  }
  return series;
}

}  // namespace sluice::tools
