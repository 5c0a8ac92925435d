// wanted[block]: marks by which resolvers ask the daemon to bring a block into DRAM.
//
// Marks are plain, idempotent stores; a summary byte per kWantedGroup blocks saves the daemon from
// reading all of them. The bell counts calls that marked something: whoever waits compares it.
//
// Thread-safety: mark from anywhere; collect from one thread.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/table.h"

namespace sluice::kernels {

SLUICE_HD inline void mark_wanted(const HotTable& table, Block block, Step step) {
  store_relaxed(&table.wanted[block], (step << 1) | 1);
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
inline std::uint32_t collect_wanted(const HotTable& table, Block* blocks, std::uint32_t capacity) {
  const std::uint32_t groups = (table.sizes.blocks + kWantedGroup - 1) / kWantedGroup;
  std::uint32_t count = 0;
  for (std::uint32_t group = 0; group < groups && count < capacity; ++group) {
    if (load_relaxed(&table.wanted_groups[group]) == 0) continue;
    exchange(&table.wanted_groups[group], std::uint8_t{0});
    const Block begin = group * kWantedGroup;
    const Block end =
        begin + kWantedGroup < table.sizes.blocks ? begin + kWantedGroup : table.sizes.blocks;
    for (Block block = begin; block < end; ++block) {
      if (load_relaxed(&table.wanted[block]) == 0) continue;
      if (count == capacity) {
        store_release(&table.wanted_groups[group], std::uint8_t{1});
        break;
      }
      store_relaxed(&table.wanted[block], 0u);
      blocks[count++] = block;
    }
  }
  return count;
}

}  // namespace sluice::kernels
