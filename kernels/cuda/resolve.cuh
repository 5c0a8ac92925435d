// The memory that launches of one actor keep between them.
#pragma once

#include <cstdint>

namespace sluice::kernels::cuda {

// Counters that only grow, so that no launch has to reset them.
struct Scratch {
  std::uint32_t looked = 0;  // blocks of threads that ended their look-ups, of all launches
  std::uint32_t base = 0;    // what it was when this launch began
};

}  // namespace sluice::kernels::cuda
