#include "tools/replay/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

namespace sluice::tools {
namespace {

TEST(Histogram, PercentilesAreWithinFivePerCent) {
  const auto histogram = std::make_unique<Histogram>();
  std::vector<std::uint64_t> values;
  values.reserve(100000);
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> spread(9, 3);
  for (int i = 0; i < 100000; ++i) values.push_back(static_cast<std::uint64_t>(spread(random)));
  for (const std::uint64_t value : values) histogram->add(value);
  std::sort(values.begin(), values.end());
  for (const double fraction : {0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const auto index = static_cast<std::size_t>(fraction * static_cast<double>(values.size() - 1));
    const auto exact = static_cast<double>(values[index]);
    EXPECT_NEAR(static_cast<double>(histogram->percentile(fraction)), exact, 0.05 * exact + 1)
        << fraction;
  }
  EXPECT_EQ(histogram->max(), values.back());
  EXPECT_EQ(histogram->count(), values.size());
}

TEST(Histogram, HoldsEveryValue) {
  const auto histogram = std::make_unique<Histogram>();
  EXPECT_EQ(histogram->percentile(0.5), 0u);
  for (const std::uint64_t value :
       {std::uint64_t{0}, std::uint64_t{31}, std::uint64_t{32}, ~std::uint64_t{0}}) {
    histogram->add(value);
  }
  EXPECT_EQ(histogram->percentile(0), 0u);
  EXPECT_EQ(histogram->percentile(1), ~std::uint64_t{0});
}

TEST(Histogram, MergesAsIfOneHadSeenAll) {
  const auto one = std::make_unique<Histogram>();
  const auto other = std::make_unique<Histogram>();
  for (std::uint64_t i = 0; i < 100; ++i) (i % 2 == 0 ? one : other)->add(i * 1000);
  one->merge(*other);
  EXPECT_EQ(one->count(), 100u);
  EXPECT_EQ(one->max(), 99000u);
  EXPECT_NEAR(static_cast<double>(one->percentile(0.5)), 49000, 2500);
}

}  // namespace
}  // namespace sluice::tools
