// What the blocks of threads of one resolve hand to each other, in the actor's scratch memory.
#pragma once

#include <cstdint>

namespace sluice::kernels::cuda {

inline constexpr std::uint32_t kMostItems = 1024;  // that one block of threads looks up

// A page to be copied.
struct alignas(16) Fill {
  std::uint64_t from;  // in the frames' range
  std::int32_t slot;
  std::uint32_t pieces;  // that are copied
};

}  // namespace sluice::kernels::cuda
