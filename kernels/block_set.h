// A set of attached ids: a bitmap in memory that belongs to the caller.
//
// Thread-safety: a value; whoever changes the bitmap sees to it that nobody reads it meanwhile.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/words.h"

namespace sluice::kernels {

struct BlockSet {
  const std::uint64_t* bits = nullptr;  // bit (block % 64) of bits[block / 64]
  std::uint32_t blocks = 0;             // ids at and above are not in the set

  SLUICE_HD constexpr bool contains(Block block) const {
    return block < blocks && ((bits[block / 64] >> (block % 64)) & 1) != 0;
  }
};

inline constexpr BlockSet kNoBlocks{};

}  // namespace sluice::kernels
