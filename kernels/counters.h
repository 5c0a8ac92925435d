// The counters of a table, added up over its actors.
//
// Thread-safety: any. Each number is whole, but they are not of one instant. From shared memory, so
// good for showing, not for deciding.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/table.h"

namespace sluice::kernels {

struct TableCounters {
  ActorCounters pages;
  std::uint64_t sweeps = 0;
  std::uint64_t freed_slots = 0;
  std::uint64_t forecast_wasted = 0;
};

inline ActorCounters read_actor_counters(const HotTable& table, std::uint32_t actor) {
  const ActorCounters& from = actor_line(table, actor)->counters;
  return {load_relaxed(&from.hits),
          load_relaxed(&from.fills),
          load_relaxed(&from.refills),
          load_relaxed(&from.no_slot),
          load_relaxed(&from.absent),
          load_relaxed(&from.pinned),
          load_relaxed(&from.filled_bytes),
          load_relaxed(&from.forecast_issued),
          load_relaxed(&from.forecast_used),
          load_relaxed(&from.forecast_bytes),
          load_relaxed(&from.forecast_dropped)};
}

inline TableCounters read_counters(const HotTable& table) {
  TableCounters sum;
  for (std::uint32_t i = 0; i < table.sizes.actors; ++i) {
    const ActorCounters actor = read_actor_counters(table, i);
    sum.pages.hits += actor.hits;
    sum.pages.fills += actor.fills;
    sum.pages.refills += actor.refills;
    sum.pages.no_slot += actor.no_slot;
    sum.pages.absent += actor.absent;
    sum.pages.pinned += actor.pinned;
    sum.pages.filled_bytes += actor.filled_bytes;
    sum.pages.forecast_issued += actor.forecast_issued;
    sum.pages.forecast_used += actor.forecast_used;
    sum.pages.forecast_bytes += actor.forecast_bytes;
    sum.pages.forecast_dropped += actor.forecast_dropped;
  }
  sum.sweeps = load_relaxed(&table.header->sweeps);
  sum.freed_slots = load_relaxed(&table.header->freed);
  sum.forecast_wasted = load_relaxed(&table.header->forecast_wasted);
  return sum;
}

}  // namespace sluice::kernels
