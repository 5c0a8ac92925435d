// The bytes of a benchmark's pages: words that are the same on the CPU and on a GPU, and different
// in every page. Pure.
#pragma once

#include <cstdint>

namespace sluice::tools {

// Word `word`, of 8 bytes, of the `page`th page of a cache.
constexpr std::uint64_t bench_word(std::uint64_t page, std::uint32_t word) {
  return (page << 20 | word) * 0x9E3779B97F4A7C15U;
}

}  // namespace sluice::tools
