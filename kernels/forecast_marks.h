// One bit per slot: brought in because of a forecast, and not used since.
//
// The header counts the bits that are set (or about to be), so that nobody looks at bits while
// there are none. A death between count and bit leaves the count too high, which costs a look and
// nothing else.
//
// Thread-safety: any.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/table.h"

namespace sluice::kernels {

SLUICE_HD inline bool any_forecasts(const HotTable& table) {
  return load_relaxed(&table.header->forecasts) != 0;
}

SLUICE_HD inline void set_forecast_mark(const HotTable& table, Slot slot) {
  fetch_add(&table.header->forecasts, 1u);
  fetch_or(&table.forecast_bits[slot / 64], std::uint64_t{1} << (slot % 64));
}

// Whether the mark was there; exactly one of those who clear it is told so.
SLUICE_HD inline bool clear_forecast_mark(const HotTable& table, Slot slot) {
  const std::uint64_t bit = std::uint64_t{1} << (slot % 64);
  std::uint64_t* bits = &table.forecast_bits[slot / 64];
  if ((load_relaxed(bits) & bit) == 0 || (fetch_and(bits, ~bit) & bit) == 0) return false;
  fetch_sub(&table.header->forecasts, 1u);
  return true;
}

// The slot is being freed: a mark that is still there was for nothing.
SLUICE_HD inline void waste_forecast_mark(const HotTable& table, Slot slot) {
  if (any_forecasts(table) && clear_forecast_mark(table, slot)) {
    fetch_add(&table.header->forecast_wasted, std::uint64_t{1});
  }
}

}  // namespace sluice::kernels
