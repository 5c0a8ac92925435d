// forecast: brings pages in before they are asked for, if that costs nobody anything.
//
// A hint: it fills only free slots, and slots whose pages nobody has used for `min_age` steps; it
// leaves the recency of pages that are there already as it is; it stops at its budget. A page that
// it brought in is marked; the first resolve that hits it counts it as used, and whoever drops it
// before that as wasted.
//
// Thread-safety: as resolve; the caller is an actor in a step.
#pragma once

#include <cstdint>

#include "kernels/resolve.h"

namespace sluice::kernels {

// Pages make room for a forecast one step later for every so many per cent that it is less than
// sure.
inline constexpr std::uint32_t kConfidencePerStep = 20;

// min_age for a forecast of `confidence` 0 to 100 per cent: the less sure, the older what it
// displaces.
SLUICE_HD constexpr Step forecast_min_age(std::uint32_t confidence) {
  return 1 + (confidence < 100 ? 100 - confidence : 0) / kConfidencePerStep;
}

struct ForecastList {
  const Page* pages = nullptr;
  std::uint32_t count = 0;
  std::uint64_t budget_bytes = 0;
  Step min_age = 1;  // steps since its last use after which a page makes room for a forecast
};

// Pages of a list by outcome; their sum is what was named.
struct ForecastCounts {
  std::uint64_t present = 0;
  std::uint64_t issued = 0;   // brought in
  std::uint64_t absent = 0;   // not in DRAM, or not mapped here; the block is marked wanted
  std::uint64_t dropped = 0;  // no spare slot, no budget left, or lost
  std::uint64_t issued_bytes = 0;
};

namespace detail {

enum class Forecasted : std::uint8_t { present, issued, absent, lost, dropped };

SLUICE_HD inline Forecasted forecast_page(const HotTable& table, const PageStore& store, Page page,
                                          Claimer& claimer) {
  const Slot hint = slot_hint(table, page);
  if (hint != kNoSlot && page_of(load_relaxed(&table.words[hint])) == page) {
    return Forecasted::present;
  }
  const Block block = block_of(table, page);
  const Frame frame = frame_of(table, block);
  if (!frame_readable(store, frame)) {
    return without_frame(table, block, frame, kWantedSoon) == Outcome::lost ? Forecasted::lost
                                                                            : Forecasted::absent;
  }
  const Slot slot = claim_slot(table, claimer, page);
  if (slot == kNoSlot) return Forecasted::dropped;
  set_forecast_mark(table, slot);
  set_slot_hint(table, page, slot);
  copy_page(slot_bytes(store, slot), frame_bytes(store, frame, page_in_block(table, page)),
            store.page_bytes);
  set_ready(table, slot, page);
  return Forecasted::issued;
}

}  // namespace detail

SLUICE_HD inline ForecastCounts forecast(const HotTable& table, const PageStore& store,
                                         std::uint32_t actor, Step step, const ForecastList& list) {
  Claimer claimer = begin_claims(table, store.slots, step, list.count);
  claimer.min_age = list.min_age == 0 ? 1 : list.min_age;
  claimer.sweeps_left = 1;
  ForecastCounts counts;
  for (std::uint32_t i = 0; i < list.count; ++i) {
    const bool affordable = counts.issued_bytes + store.page_bytes <= list.budget_bytes;
    const Page page = list.pages[i];
    if (!affordable || page >= table.pages) {
      ++counts.dropped;
      continue;
    }
    switch (detail::forecast_page(table, store, page, claimer)) {
      case detail::Forecasted::present:
        ++counts.present;
        break;
      case detail::Forecasted::issued:
        ++counts.issued;
        counts.issued_bytes += store.page_bytes;
        break;
      case detail::Forecasted::absent:
        ++counts.absent;
        break;
      case detail::Forecasted::lost:
      case detail::Forecasted::dropped:
        ++counts.dropped;
        break;
    }
  }
  end_claims(table, claimer);
  if (counts.absent != 0) ring_wanted_bell(table);
  ActorCounters& total = actor_line(table, actor)->counters;
  detail::add(&total.forecast_issued, counts.issued);
  detail::add(&total.forecast_bytes, counts.issued_bytes);
  detail::add(&total.forecast_dropped, counts.dropped);
  return counts;
}

}  // namespace sluice::kernels
