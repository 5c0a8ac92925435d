// The one way in which a slot becomes free: by compare-and-swap of the word that was examined.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/forecast_marks.h"
#include "kernels/seeded_bug.h"
#include "kernels/table.h"

namespace sluice::kernels {

// Whether the slot was freed: its word was still `seen`. Release and acquire: what the caller knows
// (everybody who used the page has left) passes to the next claim.
SLUICE_HD inline bool free_slot(const HotTable& table, Slot slot, Word seen) {
  if constexpr (kSeededBug == SeededBug::blind_evict) {
    seeded_window<SeededBug::blind_evict>();
    store_release(&table.words[slot], kFreeWord);
  } else if (!cas(&table.words[slot], seen, kFreeWord)) {
    return false;
  }
  waste_forecast_mark(table, slot);
  return true;
}

}  // namespace sluice::kernels
