// The words of a payload, for the CPU and for kernels; payload.h says what they are for.
//
// Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define SLUICE_REPLAY_HD __host__ __device__
#else
#define SLUICE_REPLAY_HD
#endif

namespace sluice::tools {

// How rows lie in a block. `groups_per_page` runs of `block_tokens` rows make a page.
struct PayloadShape {
  std::uint32_t row_bytes = 0;     // head_dim * dtype_bytes
  std::uint32_t block_tokens = 0;  // rows of a group: one layer, head and plane
  std::uint32_t groups_per_page =
      0;  // heads in the page * planes (* layers, for whole-block pages)
  std::uint32_t pages_per_block = 0;

  SLUICE_REPLAY_HD std::size_t group_bytes() const { return std::size_t{row_bytes} * block_tokens; }
  SLUICE_REPLAY_HD std::size_t page_bytes() const { return group_bytes() * groups_per_page; }
  SLUICE_REPLAY_HD std::size_t block_bytes() const { return page_bytes() * pages_per_block; }
};

inline constexpr std::uint64_t kPayloadWordStride = 0x9E3779B97F4A7C15u;
inline constexpr std::uint64_t kPayloadRowStride = 0xD1342543DE82EF95u;

// splitmix64's finalizer.
SLUICE_REPLAY_HD constexpr std::uint64_t payload_mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Word i of a row is payload_word(payload_row(seed, row) + i * kPayloadWordStride).
SLUICE_REPLAY_HD constexpr std::uint64_t payload_row(std::uint64_t seed, std::uint64_t row) {
  return payload_mix(seed + row * kPayloadRowStride);
}
SLUICE_REPLAY_HD constexpr std::uint64_t payload_word(std::uint64_t state) {
  return state ^ (state >> 29);
}

}  // namespace sluice::tools
