// sweep: frees the least recently used slots, and gives them as hints (rule 4).
//
// Two passes over the words. The first counts ages; from that follows how old a word must be so
// that about `wanted` slots come free. The second frees by compare-and-swap: everything beyond the
// boundary age, and at the boundary only what is still needed, so that the free stock stays small.
// Free words that no hint knows of are found in the first pass; if they are enough, nothing is
// freed.
//
// Never freed: pinned words, words of a step at or after the cut of rule 4, words younger than
// `min_age`. Always freed if allowed: slots at and above the limit, words older than kMaxWordAge.
//
// A sweep publishes its cut when it has run to its end. One that is dropped half-way (or whose
// process dies) publishes nothing.
//
// The sweeper is an actor in a step: then the clock cannot run away from it (kMaxClockLead),
// however long it takes between two parts.
//
// Thread-safety: any number of sweeps beside any number of users; a Sweep belongs to one thread.
#pragma once

#include <cstdint>

#include "kernels/age_histogram.h"
#include "kernels/atomic.h"
#include "kernels/free_hints.h"
#include "kernels/free_slot.h"
#include "kernels/seeded_bug.h"
#include "kernels/steps.h"
#include "kernels/table.h"

namespace sluice::kernels {

struct SweepGoal {
  std::uint32_t wanted = 0;  // slots that should be free at the end
  Step min_age = 1;          // steps; younger words stay
};

struct Sweep {
  SweepGoal goal;
  Cut cut;
  std::uint32_t visited = 0;  // words of this pass
  std::uint32_t first = 0;    // where the pass began; it goes down from there, and around
  std::uint32_t found = 0;    // free slots: hints held at the start, met, and made
  std::uint32_t freed = 0;    // made
  bool collect = false;       // give hints for free words that were met
  bool second_pass = false;
  bool complete = false;             // went through all words, so its cut was published
  std::uint32_t boundary = 0;        // bucket: older words go
  std::uint32_t boundary_quota = 0;  // words of the boundary bucket that go
  std::uint32_t pending_count = 0;
  Slot pending[64];                 // free slots not given as hints yet
  std::uint32_t ages[kAgeBuckets];  // of words that may be freed
};

namespace detail {

enum class Verdict : std::uint8_t { keep, may_free, must_free };

// A step that lies this far in the future is none: nobody can have taken it.
inline constexpr Step kImpossibleLead = kMaxClockLead + (Step{1} << 20);

SLUICE_HD inline Verdict judge(const Sweep& sweep, Word word, bool above_limit, Step* age) {
  if (kSeededBug != SeededBug::evict_pinned && is_pinned(word)) return Verdict::keep;
  const Step step = step_of(word);
  *age = steps_between(step, sweep.cut.clock);
  if (*age >= kHalfRange) {
    if (steps_between(sweep.cut.clock, step) < kImpossibleLead) return Verdict::keep;
    *age = kHalfRange;
    return Verdict::must_free;
  }
  if (!step_before(step, sweep.cut.step)) return Verdict::keep;
  if (above_limit || *age > kMaxWordAge) return Verdict::must_free;
  return *age < sweep.goal.min_age ? Verdict::keep : Verdict::may_free;
}

SLUICE_HD inline void flush_hints(const HotTable& table, Sweep& sweep) {
  give_hints(table, sweep.pending, sweep.pending_count);
  sweep.pending_count = 0;
}

SLUICE_HD inline void note_free(const HotTable& table, Sweep& sweep, Slot slot) {
  sweep.pending[sweep.pending_count++] = slot;
  if (sweep.pending_count == sizeof(sweep.pending) / sizeof(Slot)) flush_hints(table, sweep);
}

// A pinned word that its owner has not touched for long keeps comparable: its step may always be
// raised, and the cut is not above anybody's.
SLUICE_HD inline void redate_pin(const HotTable& table, const Sweep& sweep, Slot slot, Word word) {
  if (steps_between(step_of(word), sweep.cut.step) <= kMaxWordAge) return;
  if (step_before(step_of(word), sweep.cut.step)) {
    cas(&table.words[slot], word, with_step(word, sweep.cut.step));
  }
}

SLUICE_HD inline void count_word(const HotTable& table, Sweep& sweep, Slot slot, bool above) {
  // Acquire, here and below: a word that was freed meanwhile comes with what its freeing knew.
  const Word word = load_acquire(&table.words[slot]);
  if (is_free(word)) {
    if (above || !sweep.collect) return;
    note_free(table, sweep, slot);
    ++sweep.found;
    return;
  }
  Step age = 0;
  const Verdict verdict = judge(sweep, word, above, &age);
  if (verdict == Verdict::may_free) {
    ++sweep.ages[age_bucket(age)];
  } else if (verdict == Verdict::must_free && !above) {
    ++sweep.found;
  } else if (is_pinned(word)) {
    redate_pin(table, sweep, slot, word);
  }
}

// From the counts: which bucket is the boundary, and how much of it goes.
SLUICE_HD inline void choose_boundary(Sweep& sweep) {
  std::uint32_t missing = sweep.goal.wanted > sweep.found ? sweep.goal.wanted - sweep.found : 0;
  std::uint32_t bucket = kAgeBuckets;
  while (missing != 0 && bucket != 0) {
    --bucket;
    if (sweep.ages[bucket] >= missing) break;
    missing -= sweep.ages[bucket];
  }
  sweep.boundary = bucket;
  sweep.boundary_quota = missing;
}

SLUICE_HD inline void free_word(const HotTable& table, Sweep& sweep, Slot slot, bool above) {
  const Word word = load_acquire(&table.words[slot]);
  if (is_free(word)) return;
  Step age = 0;
  const Verdict verdict = judge(sweep, word, above, &age);
  if (verdict == Verdict::keep) return;
  bool boundary = false;
  if (verdict == Verdict::may_free) {
    const std::uint32_t bucket = age_bucket(age);
    boundary = bucket == sweep.boundary;
    if (bucket < sweep.boundary || (boundary && sweep.boundary_quota == 0)) return;
  }
  if (!free_slot(table, slot, word)) return;
  if (boundary) --sweep.boundary_quota;
  ++sweep.freed;
  if (!above) note_free(table, sweep, slot);
}

SLUICE_HD inline void raise_swept(const HotTable& table, Step step) {
  constexpr int kMaxTries = 64;
  std::uint32_t seen = load_relaxed(&table.header->swept);
  for (int i = 0; i < kMaxTries && step_before(seen & kStepMask, step); ++i) {
    if (cas(&table.header->swept, seen, step)) return;
  }
}

// The second pass went through all words: none is left that is older than the boundary or
// kMaxWordAge.
SLUICE_HD inline void publish_sweep(const HotTable& table, const Sweep& sweep) {
  std::uint32_t bucket = sweep.boundary < kAgeBuckets ? sweep.boundary + 1 : kAgeBuckets;
  while (bucket != 0 && sweep.ages[bucket - 1] == 0) --bucket;
  Step oldest = bucket == kAgeBuckets ? kMaxWordAge : bucket_age(bucket);
  if (oldest < sweep.goal.min_age) oldest = sweep.goal.min_age;
  if (oldest > kMaxWordAge) oldest = kMaxWordAge;
  const Step cut = (sweep.cut.clock - oldest) & kStepMask;
  raise_swept(table, step_before(cut, sweep.cut.step) ? cut : sweep.cut.step);
}

}  // namespace detail

SLUICE_HD inline void begin_sweep(const HotTable& table, Sweep& sweep, const SweepGoal& goal) {
  sweep = Sweep{};
  sweep.goal = goal;
  sweep.cut = grace_cut(table);
  sweep.found = hints_held(table);
  sweep.collect = sweep.found == 0;
  sweep.first = load_relaxed(&table.header->scan_from) % table.sizes.slots;
}

// Goes on with at most `max_words` words. Returns whether the sweep is over.
SLUICE_HD inline bool sweep_part(const HotTable& table, Sweep& sweep, std::uint32_t max_words) {
  const std::uint32_t slots = table.sizes.slots;
  const std::uint32_t limit = limit_of(table);
  for (; max_words != 0; --max_words) {
    const std::uint32_t down = sweep.visited;
    const std::uint32_t at = down <= sweep.first ? sweep.first - down : sweep.first + slots - down;
    if (sweep.second_pass) {
      detail::free_word(table, sweep, static_cast<Slot>(at), at >= limit);
    } else {
      detail::count_word(table, sweep, static_cast<Slot>(at), at >= limit);
    }
    const bool enough = sweep.collect && !sweep.second_pass && sweep.found >= sweep.goal.wanted &&
                        sweep.found >= table.sizes.hint_capacity;
    if (++sweep.visited < slots && !enough) continue;

    if (!sweep.second_pass && !enough) {
      detail::choose_boundary(sweep);
      sweep.second_pass = true;
      sweep.visited = 0;
      continue;
    }
    detail::flush_hints(table, sweep);
    store_relaxed(&table.header->scan_from, at == 0 ? slots - 1 : at - 1);
    if (!enough) {
      detail::publish_sweep(table, sweep);
      sweep.complete = true;
    }
    fetch_add(&table.header->sweeps, std::uint64_t{1});
    fetch_add(&table.header->freed, std::uint64_t{sweep.freed});
    return true;
  }
  return false;
}

// A whole sweep. Returns how many free slots it knows of at its end.
SLUICE_HD inline std::uint32_t sweep_whole(const HotTable& table, Sweep& sweep,
                                           const SweepGoal& goal) {
  begin_sweep(table, sweep, goal);
  while (!sweep_part(table, sweep, table.sizes.slots)) {
  }
  return sweep.found + sweep.freed;
}

}  // namespace sluice::kernels
