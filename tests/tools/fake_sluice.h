// A libsluice without a daemon, for tests of the tools: the calls that they use, in plain memory of
// the calling process, with exact LRU and faults on demand. Linked in place of the real one.
#pragma once

#include <cstdint>

namespace sluice::tools::fake {

struct Faults {
  std::uint64_t corrupt_fill = 0;   // flip a bit in this fill, counted from 1; 0: never
  std::uint64_t stale_fill = 0;     // leave the old bytes in the slot
  std::uint64_t wrong_slot = 0;     // name another slot in this answer
  std::uint64_t lie_in_counts = 0;  // report one hit too many in this resolve
  std::uint64_t corrupt_seal = 0;   // flip a bit of the block sealed by this call
  std::uint64_t fail_resolve = 0;   // return an error
};

struct Settings {
  Faults faults;
  std::uint64_t max_frames = ~std::uint64_t{0};  // more: QUOTA_EXCEEDED
};

Settings& settings();
// Forgets all settings and what was counted.
void reset();

}  // namespace sluice::tools::fake
