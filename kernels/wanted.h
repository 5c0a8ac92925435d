// wanted[block]: marks by which resolvers ask the daemon to bring a block into DRAM.
//
// Marks are plain stores; a summary byte per kWantedGroup blocks saves the daemon from reading all
// of them. A forecast leaves a mark alone that is there; one that comes between its look and its
// store may be taken for a forecast's, until the resolver asks again. The bell counts calls that
// marked something: whoever waits compares it.
//
// Thread-safety: mark from anywhere; collect from one thread.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/table.h"

namespace sluice::kernels {

// Values of marks. Clients of before marked by a step, which was never kWantedSoon: taken for
// kWantedNow.
inline constexpr std::uint32_t kNotWanted = 0;
inline constexpr std::uint32_t kWantedSoon = 1;  // a forecast
inline constexpr std::uint32_t kWantedNow = 2;   // a step cannot go on without it

struct WantedBlock {
  Block block = 0;
  bool now = false;
};

SLUICE_HD inline void mark_wanted(const HotTable& table, Block block, std::uint32_t mark) {
  if (mark == kWantedSoon && load_relaxed(&table.wanted[block]) != kNotWanted) return;
  store_relaxed(&table.wanted[block], mark);
  // Release: whoever takes the summary byte sees the mark. Collect clears the byte first, so a mark
  // that it missed leaves the byte set.
  store_release(&table.wanted_groups[block / kWantedGroup], std::uint8_t{1});
}

SLUICE_HD inline void ring_wanted_bell(const HotTable& table) {
  fetch_add(&table.header->wanted_bell, 1u);
}

SLUICE_HD inline std::uint32_t wanted_bell(const HotTable& table) {
  return load_acquire(&table.header->wanted_bell);
}

// Takes up to `capacity` marks and returns how many; the rest stays for the next call.
inline std::uint32_t collect_wanted(const HotTable& table, WantedBlock* blocks,
                                    std::uint32_t capacity) {
  const std::uint32_t groups = (table.sizes.blocks + kWantedGroup - 1) / kWantedGroup;
  std::uint32_t count = 0;
  for (std::uint32_t group = 0; group < groups && count < capacity; ++group) {
    if (load_relaxed(&table.wanted_groups[group]) == 0) continue;
    exchange(&table.wanted_groups[group], std::uint8_t{0});
    const Block begin = group * kWantedGroup;
    const Block end =
        begin + kWantedGroup < table.sizes.blocks ? begin + kWantedGroup : table.sizes.blocks;
    for (Block block = begin; block < end; ++block) {
      const std::uint32_t mark = load_relaxed(&table.wanted[block]);
      if (mark == kNotWanted) continue;
      if (count == capacity) {
        store_release(&table.wanted_groups[group], std::uint8_t{1});
        break;
      }
      store_relaxed(&table.wanted[block], kNotWanted);
      blocks[count++] = {block, mark != kWantedSoon};
    }
  }
  return count;
}

}  // namespace sluice::kernels
