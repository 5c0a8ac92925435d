// Actors and steps (rules 3 and 4): who may still be using which slots.
//
// An actor is one stream of work. Inside a step every slot that it resolved keeps its page; after
// it has left, none is promised. The *cut* of a sweep is a step that nobody is in any more and
// nobody will enter again: a word stamped before it may be freed.
//
// Thread-safety: an actor is driven by one thread at a time; the rest from anywhere.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/frame_log.h"
#include "kernels/seeded_bug.h"
#include "kernels/table.h"
#include "kernels/words.h"

namespace sluice::kernels {

// How far steps may lie apart, all well below kHalfRange = 2^29, so that they always compare:
//  - a sweep drops every word older than kMaxWordAge that nobody uses,
//  - resolve sweeps when the clock is kSweepDueSteps past the last complete sweep's cut,
//  - and the clock stands still when it is kMaxClockLead past it (an actor never leaves, say).
// Actors that enter while the clock stands share a step number, which rules 3 and 4 allow.
inline constexpr Step kMaxWordAge = Step{1} << 27;
inline constexpr Step kSweepDueSteps = kMaxWordAge + (Step{1} << 26);
inline constexpr Step kMaxClockLead = Step{1} << 28;

inline constexpr std::uint32_t kIdle = 0;
SLUICE_HD constexpr std::uint32_t active_in(Step step) { return (step << 1) | 1; }
SLUICE_HD constexpr bool is_active(std::uint32_t active) { return (active & 1) != 0; }
SLUICE_HD constexpr Step active_step(std::uint32_t active) { return (active >> 1) & kStepMask; }

SLUICE_HD inline Step clock_of(const HotTable& table) {
  return load_relaxed(&table.header->clock) & kStepMask;
}

// Advances the clock and returns what it was: the T of rules 6 and 7.
SLUICE_HD inline Step tick(const HotTable& table) {
  return fetch_add(&table.header->clock, 1u) & kStepMask;
}

// Enters a step and returns it. The actor, below sizes.actors, is idle.
SLUICE_HD inline Step enter_step(const HotTable& table, std::uint32_t actor) {
  ActorLine* line = actor_line(table, actor);
  const Step before = clock_of(table);
  store_relaxed(&line->active, active_in(before));

  // Pairs with the fences in grace_cut() and Grace::start(). Either they see us active in a step
  // that is not above ours, or we see, below, what they had read or written before: the clock of a
  // sweep, and the end of the log of a grace.
  fence_seq_cst();

  store_relaxed(&line->log_position, apply_log(table));
  store_relaxed(&line->entries, load_relaxed(&line->entries) + 1);

  // Both ways the clock is read after the fence, so no sweep that missed us has a cut above it.
  const Step lead = steps_between(load_relaxed(&table.header->swept), before);
  const bool advance = lead < kMaxClockLead || lead >= kHalfRange;
  const Step step = advance ? (tick(table) + 1) & kStepMask : clock_of(table);

  // Release: a grace that reads this step also reads the log position of this entry, or a later
  // one.
  store_release(&line->active, active_in(step));
  return step;
}

// Leaves the step. Release: our last reads of slots come before; whoever sees us idle (acquire, in
// grace_cut) and frees a word passes that on to the one who claims it and writes the slot.
SLUICE_HD inline void leave_step(const HotTable& table, std::uint32_t actor) {
  store_release(&actor_line(table, actor)->active, kIdle);
}

// The actor's process is gone, and nothing that it started runs any more (rule 8).
SLUICE_HD inline void reset_actor(const HotTable& table, std::uint32_t actor) {
  leave_step(table, actor);
}

struct Cut {
  Step clock = 0;  // when it was taken
  Step step = 0;   // words stamped before this may be freed
};

// Reads the clock first, then each actor exactly once.
SLUICE_HD inline Cut grace_cut(const HotTable& table) {
  Cut cut;
  cut.clock = clock_of(table);
  cut.step = cut.clock;
  if constexpr (kSeededBug == SeededBug::no_grace) return cut;
  // Pairs with the fence in enter_step: an actor that we do not see below takes its step from a
  // clock that is not behind ours.
  fence_seq_cst();
  for (std::uint32_t i = 0; i < table.sizes.actors; ++i) {
    // Acquire: pairs with leave_step, see there.
    const std::uint32_t active = load_acquire(&actor_line(table, i)->active);
    if (!is_active(active)) continue;
    if (step_before(active_step(active), cut.step)) cut.step = active_step(active);
  }
  return cut;
}

}  // namespace sluice::kernels
