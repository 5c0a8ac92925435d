// The ring of free slots: hints which slots a claim should try first.
//
// A hint may be stale, lost or doubled (an actor may die between any two of its instructions): the
// word decides. Sweeps give, claims take. Cursors and contents are untrusted; every call is
// bounded.
//
// Thread-safety: any.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/table.h"

namespace sluice::kernels {

inline constexpr int kMaxHintTries = 8;  // lost races after which we do without

// Hints in the ring. Relaxed, as all of this: what a hint says is checked by the claim.
SLUICE_HD inline std::uint32_t hints_held(const HotTable& table) {
  const std::uint32_t taken = load_relaxed(&table.header->hints_taken);
  const std::uint32_t held = load_relaxed(&table.header->hints_given) - taken;
  return held <= table.sizes.hint_capacity ? held : 0;
}

// Takes up to `want` hints; returns how many.
SLUICE_HD inline std::uint32_t take_hints(const HotTable& table, Slot* slots, std::uint32_t want) {
  std::uint32_t taken = load_relaxed(&table.header->hints_taken);
  for (int i = 0; i < kMaxHintTries; ++i) {
    std::uint32_t held = load_relaxed(&table.header->hints_given) - taken;
    if (held > table.sizes.hint_capacity) held = 0;
    const std::uint32_t count = held < want ? held : want;
    if (count == 0) return 0;
    if (!cas(&table.header->hints_taken, taken, taken + count)) continue;
    std::uint32_t good = 0;
    for (std::uint32_t j = 0; j < count; ++j) {
      const auto slot = static_cast<Slot>(
          load_relaxed(&table.hints[(taken + j) & (table.sizes.hint_capacity - 1)]));
      if (is_slot(table, slot)) slots[good++] = slot;
    }
    if (good != 0) return good;
    taken += count;
  }
  return 0;
}

// Gives `count` hints; returns how many there was room for.
SLUICE_HD inline std::uint32_t give_hints(const HotTable& table, const Slot* slots,
                                          std::uint32_t count) {
  std::uint32_t given = load_relaxed(&table.header->hints_given);
  for (int i = 0; i < kMaxHintTries && count != 0; ++i) {
    const std::uint32_t held = given - load_relaxed(&table.header->hints_taken);
    if (held > table.sizes.hint_capacity) {
      // Impossible cursors (somebody scribbled): start over with an empty ring.
      store_relaxed(&table.header->hints_taken, given);
      continue;
    }
    const std::uint32_t room = table.sizes.hint_capacity - held;
    if (count > room) count = room;
    if (count == 0 || !cas(&table.header->hints_given, given, given + count)) continue;
    for (std::uint32_t j = 0; j < count; ++j) {
      store_relaxed(&table.hints[(given + j) & (table.sizes.hint_capacity - 1)],
                    static_cast<std::uint32_t>(slots[j]));
    }
    return count;
  }
  return 0;
}

}  // namespace sluice::kernels
