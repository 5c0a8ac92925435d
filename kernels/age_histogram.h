// How many words have which age, in buckets that are exact for young words and 1/32 of their age
// wide for old ones (as in HdrHistogram), so that one pass over the words finds a cut for any span.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/words.h"

namespace sluice::kernels {

inline constexpr std::uint32_t kAgeOctaveBits = 5;
inline constexpr std::uint32_t kAgeOctave = 1u << kAgeOctaveBits;
inline constexpr std::uint32_t kAgeBuckets = (kStepBits - kAgeOctaveBits + 1) * kAgeOctave;

// Monotone in `age`, which is below 2^30.
SLUICE_HD constexpr std::uint32_t age_bucket(Step age) {
  if (age < 2 * kAgeOctave) return age;
  const auto shift = static_cast<std::uint32_t>(std::bit_width(age)) - kAgeOctaveBits - 1;
  return shift * kAgeOctave + (age >> shift);
}

// The least age in a bucket.
SLUICE_HD constexpr Step bucket_age(std::uint32_t bucket) {
  if (bucket < 2 * kAgeOctave) return bucket;
  const std::uint32_t shift = bucket / kAgeOctave - 1;
  return (bucket - shift * kAgeOctave) << shift;
}

}  // namespace sluice::kernels
