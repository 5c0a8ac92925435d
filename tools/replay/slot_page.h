// A piece of a page in a slot: what is to be written there, or to be compared with it.
#pragma once

#include <cstdint>

namespace sluice::tools {

struct SlotPage {
  std::uint64_t seed = 0;  // of the block's payload
  std::int32_t slot = 0;
  std::uint32_t page = 0;  // in the block
  std::uint32_t first_token = 0;
  std::uint32_t end_token = 0;
};

}  // namespace sluice::tools
