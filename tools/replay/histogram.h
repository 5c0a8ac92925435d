// Durations in buckets whose width is 1/32 of their value: percentiles to 3.2 per cent, bounded
// memory.
//
// The buckets are plain counters in memory that one process writes and another reads when the
// writer is done (or dead): a killed engine leaves valid counts.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace sluice::tools {

class Histogram {
 public:
  void add(std::uint64_t ns) {
    ++counts_[bucket_of(ns)];
    if (ns > max_) max_ = ns;
  }

  void merge(const Histogram& other) {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    if (other.max_ > max_) max_ = other.max_;
  }

  std::uint64_t max() const { return max_; }
  std::uint64_t count() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t count : counts_) sum += count;
    return sum;
  }

  // The upper end of the bucket that holds the given fraction (0..1) of all values; 0 without
  // values.
  std::uint64_t percentile(double fraction) const {
    const std::uint64_t total = count();
    if (total == 0) return 0;
    const auto wanted = static_cast<std::uint64_t>(fraction * static_cast<double>(total - 1)) + 1;
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen >= wanted) return upper_end(i) < max_ ? upper_end(i) : max_;
    }
    return max_;
  }

 private:
  static constexpr unsigned kSubBits = 5;
  static constexpr std::uint64_t kSub = std::uint64_t{1} << kSubBits;

  static std::size_t bucket_of(std::uint64_t ns) {
    if (ns < kSub) return static_cast<std::size_t>(ns);
    const auto shift = static_cast<unsigned>(std::bit_width(ns)) - 1 - kSubBits;
    return static_cast<std::size_t>((std::uint64_t{shift} + 1) * kSub + ((ns >> shift) - kSub));
  }
  static std::uint64_t upper_end(std::size_t bucket) {
    if (bucket < kSub) return bucket;
    const std::uint64_t shift = bucket / kSub - 1;
    return ((kSub + bucket % kSub + 1) << shift) - 1;
  }

  std::array<std::uint64_t, (64 - kSubBits + 1) * kSub> counts_{};
  std::uint64_t max_ = 0;
};

}  // namespace sluice::tools
