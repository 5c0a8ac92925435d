// Pins (rule 5): slots of unsealed blocks, whose only copy is the slot.
//
// The owner claims with the pin bit, writes the slot, raises its step on every use, and at the seal
// turns the pin into {same page, our step, ready}. Sweeps skip pinned words, nobody fills one, and
// anyone else who meets one gets none. Pins grow from the bottom of the arena, so that capacity can
// be called back from the top.
//
// Order of a seal: slot bytes complete → written to the frame → the daemon publishes the key →
// seal_pin.
//
// Thread-safety: the pins of a block are its owner's; otherwise any. The caller is in a step.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/claim.h"
#include "kernels/steps.h"
#include "kernels/table.h"

namespace sluice::kernels {

inline constexpr std::uint32_t kPinWindow = 64;  // unpinned words from which the oldest is taken
inline constexpr std::uint32_t kMaxPinProbes = 1u << 16;  // words looked at by one claim

namespace detail {
struct PinCandidate {
  Slot slot = kNoSlot;
  Word word = kFreeWord;
  Step age = 0;
};

SLUICE_HD inline PinCandidate find_place_for_pin(const HotTable& table, std::uint32_t slots,
                                                 std::uint32_t from, const Cut& cut) {
  PinCandidate best;
  std::uint32_t seen = 0;
  for (std::uint32_t i = 0; i < kMaxPinProbes && i < slots && seen < kPinWindow; ++i) {
    const auto slot = static_cast<Slot>(from + i < slots ? from + i : from + i - slots);
    const Word word = load_acquire(&table.words[slot]);
    if (is_free(word)) return {slot, word, 0};
    if (is_pinned(word)) continue;
    seen += best.slot != kNoSlot ? 1 : 0;
    const Step age = steps_between(step_of(word), cut.clock);
    if (step_before(step_of(word), cut.step) && (best.slot == kNoSlot || age > best.age)) {
      best = {slot, word, age};
    }
  }
  return best;
}
}  // namespace detail

// A slot for a page of an unsealed block of the caller's: free, or taken from an unpinned page that
// nobody uses. `mapped`: slots mapped in this process. kNoSlot: none was found.
SLUICE_HD inline Slot claim_pinned(const HotTable& table, std::uint32_t mapped, Page page,
                                   Step step) {
  constexpr int kMaxTries = 8;
  const std::uint32_t limit = limit_of(table);
  const std::uint32_t slots = limit < mapped ? limit : mapped;
  if (page >= table.pages || slots == 0) return kNoSlot;
  for (int i = 0; i < kMaxTries; ++i) {
    const std::uint32_t from = load_relaxed(&table.header->pin_from) % slots;
    const detail::PinCandidate place =
        detail::find_place_for_pin(table, slots, from, grace_cut(table));
    if (place.slot == kNoSlot) {
      // Nothing in this stretch: the next call looks further on.
      store_relaxed(&table.header->pin_from, from + (kMaxPinProbes < slots ? kMaxPinProbes : 0));
      return kNoSlot;
    }
    if (!detail::claim_word(table, place.slot, place.word, page, step, true)) continue;
    if (!is_free(place.word)) waste_forecast_mark(table, place.slot);
    set_slot_hint(table, page, place.slot);
    store_relaxed(&table.header->pin_from, static_cast<std::uint32_t>(place.slot) + 1);
    return place.slot;
  }
  return kNoSlot;
}

// The slot pinned for `page`, or kNoSlot. The hint finds it; a hint that was scribbled over costs a
// scan.
SLUICE_HD inline Slot find_pinned(const HotTable& table, Page page) {
  if (page >= table.pages) return kNoSlot;
  const auto holds = [&](Slot slot) {
    const Word word = load_acquire(&table.words[slot]);
    return page_of(word) == page && is_pinned(word);
  };
  const Slot hint = slot_hint(table, page);
  if (hint != kNoSlot && holds(hint)) return hint;
  for (std::uint32_t i = 0; i < table.sizes.slots; ++i) {
    if (holds(static_cast<Slot>(i))) return static_cast<Slot>(i);
  }
  return kNoSlot;
}

namespace detail {
// A pin is gone from this slot: the next one may go there.
SLUICE_HD inline void look_for_pins_from(const HotTable& table, Slot slot) {
  const auto at = static_cast<std::uint32_t>(slot);
  if (at < load_relaxed(&table.header->pin_from)) store_relaxed(&table.header->pin_from, at);
}

// Replaces the word of a pinned page by {same page, the later step, pin, ready}.
SLUICE_HD inline bool replace_pinned(const HotTable& table, Slot slot, Page page, Step step,
                                     bool pin) {
  constexpr int kMaxTries = 64;
  if (!is_slot(table, slot)) return false;
  Word word = load_acquire(&table.words[slot]);
  for (int i = 0; i < kMaxTries; ++i) {
    if (page_of(word) != page || !is_pinned(word)) return false;
    const Step later = step_before(step_of(word), step) ? step : step_of(word);
    // Release (at a seal): the slot's bytes are complete, to everyone who meets the ready word.
    if (cas(&table.words[slot], word, make_word(page, later, pin, !pin))) return true;
  }
  return false;
}
}  // namespace detail

// The owner uses the slot in this step. False: the slot is not pinned for this page (any more).
SLUICE_HD inline bool raise_pin(const HotTable& table, Slot slot, Page page, Step step) {
  return detail::replace_pinned(table, slot, page, step, true);
}

// The block is sealed: the page becomes one like any other, in use in this step.
SLUICE_HD inline bool seal_pin(const HotTable& table, Slot slot, Page page, Step step) {
  if (!detail::replace_pinned(table, slot, page, step, false)) return false;
  detail::look_for_pins_from(table, slot);
  return true;
}

// The owner gives the page up (truncated, or deduplicated). False: it was not pinned for it.
SLUICE_HD inline bool drop_pin(const HotTable& table, Slot slot, Page page) {
  if (!is_slot(table, slot)) return false;
  Word word = load_acquire(&table.words[slot]);
  if (page_of(word) != page || !is_pinned(word)) return false;
  if (!free_slot(table, slot, word)) return false;
  detail::look_for_pins_from(table, slot);
  store_relaxed(&table.header->exhausted, 0u);
  return true;
}

// Pins slots for all pages of a block, all or none. `slots` takes pages_per_block entries.
SLUICE_HD inline bool claim_pins(const HotTable& table, std::uint32_t mapped, Block block,
                                 Step step, Slot* slots) {
  for (std::uint32_t i = 0; i < table.sizes.pages_per_block; ++i) {
    slots[i] = claim_pinned(table, mapped, page_number(table, block, i), step);
    if (slots[i] != kNoSlot) continue;
    for (std::uint32_t j = 0; j < i; ++j) drop_pin(table, slots[j], page_number(table, block, j));
    return false;
  }
  return true;
}

// The block is sealed: seals the pins of all its pages.
SLUICE_HD inline void seal_pins(const HotTable& table, Block block, Step step, const Slot* slots) {
  for (std::uint32_t i = 0; i < table.sizes.pages_per_block; ++i) {
    seal_pin(table, slots[i], page_number(table, block, i), step);
  }
}

}  // namespace sluice::kernels
