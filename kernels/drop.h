// Scans that drop all pages of given blocks: retired ids (rule 6), and pins of dead owners (rule
// 5).
//
// Thread-safety: beside any number of users. The caller has waited for the grace of what it drops.
#pragma once

#include <cstdint>

#include "kernels/block_set.h"
#include "kernels/free_hints.h"
#include "kernels/free_slot.h"
#include "kernels/table.h"

namespace sluice::kernels {

enum class DropWhat : std::uint8_t {
  pages,  // every page of the blocks, pinned or not
  pins,   // pinned pages only
};

// Drops what is in slots [first, first + count); returns how many slots came free. An id may be
// given to another block when a scan of all slots, begun after its grace, is complete.
SLUICE_HD inline std::uint32_t drop_blocks(const HotTable& table, const BlockSet& blocks,
                                           DropWhat what, std::uint32_t first,
                                           std::uint32_t count) {
  constexpr int kMaxTries = 64;
  const std::uint32_t slots = table.sizes.slots;
  if (first >= slots) return 0;
  const std::uint32_t end = count < slots - first ? first + count : slots;
  const std::uint32_t limit = limit_of(table);
  std::uint32_t dropped = 0;
  for (std::uint32_t at = first; at < end; ++at) {
    const auto slot = static_cast<Slot>(at);
    for (int i = 0; i < kMaxTries; ++i) {
      const Word word = load_acquire(&table.words[slot]);
      if (is_free(word) || (what == DropWhat::pins && !is_pinned(word)) ||
          !blocks.contains(block_of(table, page_of(word)))) {
        break;
      }
      if (!free_slot(table, slot, word)) continue;
      ++dropped;
      if (at < limit) give_hints(table, &slot, 1);
      break;
    }
  }
  if (dropped != 0) {
    store_relaxed(&table.header->exhausted, 0u);
    if (what == DropWhat::pins) store_relaxed(&table.header->pin_from, 0u);
  }
  return dropped;
}

SLUICE_HD inline std::uint32_t drop_blocks(const HotTable& table, const BlockSet& blocks) {
  return drop_blocks(table, blocks, DropWhat::pages, 0, table.sizes.slots);
}

SLUICE_HD inline std::uint32_t drop_pins(const HotTable& table, const BlockSet& blocks) {
  return drop_blocks(table, blocks, DropWhat::pins, 0, table.sizes.slots);
}

}  // namespace sluice::kernels
