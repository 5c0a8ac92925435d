// The bytes of KV and queries of `sluice-bench decode`: bf16 numbers between 1/2 and 2 of either
// sign, the same on the CPU and on a GPU, and different in every page. Pure.
#pragma once

#include <cstdint>

#include "tools/bench/gpu_words.h"

namespace sluice::tools {

// Word `word` of the `page`th page of all: four numbers, the first in the lowest bits.
constexpr std::uint64_t decode_word(std::uint64_t page, std::uint32_t word) {
  // The low bits of a product know nothing of the high bits of its factors.
  constexpr unsigned kHalf = 32;
  constexpr std::uint64_t kSignAndFraction = 0x80FF80FF80FF80FFU;  // and the exponent's last bit
  constexpr std::uint64_t kExponents = 0x3F003F003F003F00U;
  const std::uint64_t mixed = bench_word(page, word);
  return ((mixed ^ mixed >> kHalf) & kSignAndFraction) | kExponents;
}

// Pages of queries, which are no pages of KV.
inline constexpr std::uint64_t kFirstQueryPage = std::uint64_t{1} << 42;

}  // namespace sluice::tools
