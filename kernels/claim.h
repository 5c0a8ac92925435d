// Claims: how a page that is not in HBM gets a slot.
//
// First a hinted free slot; with no hints left, a sweep; then a bounded number of probes for a word
// that a sweep could free. A claim that finds nothing gives kNoSlot: the pool is full of pages in
// use.
//
// Thread-safety: a Claimer belongs to one thread, which is in a step.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/free_hints.h"
#include "kernels/steps.h"
#include "kernels/sweep.h"
#include "kernels/table.h"

namespace sluice::kernels {

// Sweeps free this part of the slots, and at least kMinFreeStock, or what the call still needs if
// that is more. Small: free slots are slots that do not cache.
inline constexpr std::uint32_t kFreeStockFraction = 256;
inline constexpr std::uint32_t kMinFreeStock = 64;
inline constexpr std::uint32_t kMaxProbes = 32;
// Sweeps per ring of hints that a call needs. One is enough alone; beside others, what a sweep
// found may be taken by them before the sweeper comes to it. A full pool ends the tries at once
// (exhausted_mark).
inline constexpr std::uint32_t kMaxSweepsPerRing = 8;
inline constexpr std::uint32_t kHintBatch = 64;

// Full pools are found out once per cut: no sweep frees anything until somebody leaves a step, or
// slots are dropped or added. header->exhausted holds the mark of that cut, or 0.
SLUICE_HD constexpr std::uint32_t exhausted_mark(Step cut) { return (cut << 1) | 1; }

struct Claimer {
  std::uint32_t slots = 0;     // claim below
  std::uint32_t expected = 0;  // claims still to come
  Step step = 0;
  Step min_age = 1;  // words younger than this are not taken from others
  std::uint32_t sweeps_left = 0;
  bool exhausted = false;
  std::uint32_t count = 0;
  Slot hints[kHintBatch];
};

namespace detail {

SLUICE_HD inline bool claim_word(const HotTable& table, Slot slot, Word seen, Page page, Step step,
                                 bool pin) {
  // Acquire: everything that those who used this slot before did with it is behind us.
  return cas(&table.words[slot], seen, make_word(page, step, pin, false));
}

// Takes the oldest of a few words that a sweep could free.
SLUICE_HD inline Slot probe(const HotTable& table, const Claimer& claimer, const Cut& cut,
                            Page page) {
  Slot best = kNoSlot;
  Word best_word = kFreeWord;
  Step best_age = 0;
  std::uint32_t at = static_cast<std::uint32_t>((page * 0x9E3779B9ull) % claimer.slots);
  for (std::uint32_t i = 0; i < kMaxProbes && i < claimer.slots; ++i) {
    const auto slot = static_cast<Slot>(at);
    at = at + 1 == claimer.slots ? 0 : at + 1;
    const Word word = load_acquire(&table.words[slot]);
    if (is_free(word)) {
      if (claim_word(table, slot, word, page, claimer.step, false)) return slot;
      continue;
    }
    const Step age = steps_between(step_of(word), cut.clock);
    if (is_pinned(word) || !step_before(step_of(word), cut.step) || age < claimer.min_age ||
        age <= best_age) {
      continue;
    }
    best = slot;
    best_word = word;
    best_age = age;
  }
  if (best == kNoSlot || !claim_word(table, best, best_word, page, claimer.step, false)) {
    return kNoSlot;
  }
  waste_forecast_mark(table, best);
  return best;
}

SLUICE_HD inline bool refill_hints(const HotTable& table, Claimer& claimer) {
  const std::uint32_t want = claimer.expected < kHintBatch ? claimer.expected : kHintBatch;
  claimer.count = take_hints(table, claimer.hints, want == 0 ? 1 : want);
  return claimer.count != 0;
}

SLUICE_HD inline std::uint32_t free_stock(const HotTable& table) {
  const std::uint32_t part = table.sizes.slots / kFreeStockFraction;
  return part > kMinFreeStock ? part : kMinFreeStock;
}

SLUICE_HD inline void sweep_for(const HotTable& table, Claimer& claimer) {
  --claimer.sweeps_left;
  const Step cut = grace_cut(table).step;
  if (load_relaxed(&table.header->exhausted) == exhausted_mark(cut)) {
    claimer.sweeps_left = 0;
    return;
  }
  const std::uint32_t stock = free_stock(table);
  Sweep sweep;
  const std::uint32_t found = sweep_whole(
      table, sweep,
      {.wanted = claimer.expected > stock ? claimer.expected : stock, .min_age = claimer.min_age});
  if (found == 0 && claimer.min_age <= 1) {
    store_relaxed(&table.header->exhausted, exhausted_mark(sweep.cut.step));
    claimer.sweeps_left = 0;
  }
}

}  // namespace detail

// For a call that will claim about `expected` slots below `slots`.
SLUICE_HD inline Claimer begin_claims(const HotTable& table, std::uint32_t slots, Step step,
                                      std::uint32_t expected) {
  Claimer claimer;
  const std::uint32_t limit = limit_of(table);
  claimer.slots = limit < slots ? limit : slots;
  claimer.expected = expected;
  claimer.step = step;
  claimer.sweeps_left = kMaxSweepsPerRing * (1 + expected / table.sizes.hint_capacity);
  return claimer;
}

// A slot whose word is now {page, our step, not ready}, or kNoSlot.
SLUICE_HD inline Slot claim_slot(const HotTable& table, Claimer& claimer, Page page) {
  if (claimer.exhausted || claimer.slots == 0) return kNoSlot;
  // Each turn uses up hints or a sweep; the bound is for a ring in which others write nonsense.
  for (std::uint32_t turn = 0; turn < kHintBatch; ++turn) {
    while (claimer.count != 0) {
      const Slot slot = claimer.hints[--claimer.count];
      if (static_cast<std::uint32_t>(slot) >= claimer.slots) continue;
      const Word word = load_relaxed(&table.words[slot]);
      if (is_free(word) && detail::claim_word(table, slot, word, page, claimer.step, false)) {
        if (claimer.expected != 0) --claimer.expected;
        return slot;
      }
    }
    if (detail::refill_hints(table, claimer)) continue;
    if (claimer.sweeps_left == 0) break;
    detail::sweep_for(table, claimer);
  }
  const Slot slot = detail::probe(table, claimer, grace_cut(table), page);
  if (slot == kNoSlot && claimer.sweeps_left == 0) claimer.exhausted = true;
  if (slot != kNoSlot && claimer.expected != 0) --claimer.expected;
  return slot;
}

// Hints that were taken and not used go back.
SLUICE_HD inline void end_claims(const HotTable& table, Claimer& claimer) {
  give_hints(table, claimer.hints, claimer.count);
  claimer.count = 0;
}

}  // namespace sluice::kernels
