// A grace period (rules 6 and 7): waits until nobody can still use what was withdrawn before it
// began.
//
// Withdraw first (no references left, "none" logged), then start, then poll until it is over. It is
// over when every actor was seen, once, idle or in a step that began after the start and whose
// entry had applied the log that far. Actors that die are reset by whoever notices (reset_actor).
//
// Thread-safety: a Grace belongs to one thread.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/seeded_bug.h"
#include "kernels/steps.h"
#include "kernels/table.h"

namespace sluice::kernels {

class Grace {
 public:
  // `log_position`: the end of the log after the withdrawals.
  void start(const HotTable& table, std::uint64_t log_position) {
    actors_ = table.sizes.actors;
    log_position_ = log_position;
    for (std::uint32_t i = 0; i < actors_; ++i) pending_[i / 64] |= std::uint64_t{1} << (i % 64);
    start_ = tick(table);
    // Pairs with the fence in enter_step: an actor that poll() does not see active reads the log,
    // and takes its step, after what we wrote.
    fence_seq_cst();
  }

  // For a split table, whose clock is the device's: `host_part` is view_host_part's, and
  // `log_position` is above that of every step entered before the withdrawals (they were logged).
  // An actor's mirror of the position says by itself that its entry came later.
  void start_by_log(const HotTable& host_part, std::uint64_t log_position) {
    by_log_ = true;
    actors_ = host_part.sizes.actors;
    log_position_ = log_position;
    for (std::uint32_t i = 0; i < actors_; ++i) pending_[i / 64] |= std::uint64_t{1} << (i % 64);
    fence_seq_cst();
  }

  // Whether it is over. Looks at each actor that it still waits for once.
  bool poll(const HotTable& table) {
    if constexpr (kSeededBug == SeededBug::no_id_grace) return true;
    bool over = true;
    for (std::uint32_t i = 0; i < actors_; ++i) {
      const std::uint64_t bit = std::uint64_t{1} << (i % 64);
      if ((pending_[i / 64] & bit) == 0) continue;
      if (has_passed(table, i)) {
        pending_[i / 64] &= ~bit;
      } else {
        over = false;
      }
    }
    return over;
  }

  bool waits_for(std::uint32_t actor) const {
    return actor < actors_ && ((pending_[actor / 64] >> (actor % 64)) & 1) != 0;
  }

 private:
  bool has_passed(const HotTable& table, std::uint32_t actor) const {
    const ActorLine* line = actor_line(table, actor);
    // Acquire: pairs with leave_step and the second store of enter_step. What the actor read in
    // steps before is behind us, and the position below belongs to this entry or a later one.
    const std::uint32_t active = load_acquire(&line->active);
    return !is_active(active) || ((by_log_ || step_before(start_, active_step(active))) &&
                                  load_relaxed(&line->log_position) >= log_position_);
  }

  std::uint64_t pending_[kMaxActors / 64] = {};
  std::uint64_t log_position_ = 0;
  std::uint32_t actors_ = 0;
  Step start_ = 0;
  bool by_log_ = false;
};

}  // namespace sluice::kernels
