// What the blocks of threads of one resolve hand to each other, in the actor's scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::kernels::cuda {

inline constexpr std::uint32_t kMostLookers = 1024;  // blocks of threads that look up
inline constexpr std::uint32_t kMostItems = 1024;    // that one of them looks up

// A page to be copied.
struct alignas(16) Fill {
  std::uint64_t from;  // in the frames' range
  std::int32_t slot;
  std::uint32_t pieces;  // that are copied
};

struct Scratch {
  std::uint32_t pages[2];  // handed over, by the parity of launches
  std::uint32_t reserved[2];
  Fill fills[];
};

inline constexpr std::size_t scratch_bytes(std::uint64_t items) {
  return sizeof(Scratch) + sizeof(Fill) * items;
}

}  // namespace sluice::kernels::cuda
