// Faults that tests compile into the real code, to prove that they would notice them.
//
// A build of the product never sets SLUICE_SEEDED_BUG. Each fault breaks one rule of DESIGN §5.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#ifdef SLUICE_SEEDED_BUG
#include <thread>
#endif

namespace sluice::kernels {

enum class SeededBug : std::uint8_t {
  none,
  no_grace,      // sweep: the cut is the clock, whoever is in a step
  trust_hint,    // resolve: a hinted slot is taken to hold the page
  stamp_back,    // resolve: a stamp may lower the step of a word
  evict_pinned,  // sweep: pinned words are freed like any other
  blind_evict,   // sweep: a word is freed by a store
  early_ready,   // resolve: ready is set before the bytes are there
  plain_log,     // frame log: an entry is applied by a store, whatever is there
  no_id_grace,   // grace: over at once
};

#ifdef SLUICE_SEEDED_BUG
inline constexpr SeededBug kSeededBug = SeededBug::SLUICE_SEEDED_BUG;
#else
inline constexpr SeededBug kSeededBug = SeededBug::none;
#endif

// The place where a fault lets others come in between. In a build with that fault, threads give up
// the processor there now and then, so that it is not left to chance and to the machine whether
// they do.
template <SeededBug kBug>
SLUICE_HD inline void seeded_window() {
#if defined(SLUICE_SEEDED_BUG) && !defined(__CUDA_ARCH__)
  if constexpr (kBug == kSeededBug) {
    constexpr unsigned kCallsPerYield = 8;
    thread_local unsigned calls = 0;
    if (++calls % kCallsPerYield == 0) std::this_thread::yield();
  }
#endif
}

}  // namespace sluice::kernels
