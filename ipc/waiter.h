// Waiting for a ring to have something: spin while that pays, then sleep on the doorbell.
//
// Spinning answers in about a hundred nanoseconds and burns a core; sleeping costs the peer a
// system call and us a wake-up of several microseconds. AdaptiveSpin learns: a spin that succeeded
// doubles the next one's time, one that was in vain halves it, between kLeastSpin and kMostSpin.
// Where cores are few, the peer may need ours: there it yields between looks.
//
// Thread-safety: one thread per object.
#pragma once

#include <algorithm>
#include <chrono>
#include <utility>

#include "ipc/deadline.h"
#include "ipc/doorbell.h"
#include "ipc/error.h"
#include "ipc/ring.h"

namespace sluice::ipc {

class AdaptiveSpin {
 public:
  static constexpr std::chrono::nanoseconds kLeastSpin{1'000};
  static constexpr std::chrono::nanoseconds kMostSpin{64'000};
  // Processors for this process up to which it yields while it spins.
  static constexpr int kFewCores = 2;

  AdaptiveSpin();
  explicit AdaptiveSpin(bool yields) : yields_(yields) {}

  // Looks until `ready()` (a Result<bool>) is true or an error, the spin's time is over, or the
  // deadline.
  template <class Ready>
  Result<bool> operator()(Ready&& ready, Deadline deadline = kNoDeadline);

  std::chrono::nanoseconds bound() const { return bound_; }

 private:
  static constexpr int kLooksPerClock = 16;  // looks between two readings of the clock

  void pause() const;

  std::chrono::nanoseconds bound_ = kMostSpin;
  bool yields_ = false;
};

enum class WaitOutcome : std::uint8_t { ready, timed_out, peer_gone };

// Processors that this thread may run on.
int usable_processors();

class Waiter {
 public:
  Waiter() = default;
  // For a peer whose process may be on another core (`yields` = false) or not.
  explicit Waiter(bool yields) : spin_(yields) {}

  // Waits until the ring has a descriptor. `control_socket`: the control connection, or -1; its
  // hang-up means that the peer is gone, as does the doorbell's. What a peer published before it
  // went is still `ready`. Errors: peer_violation, io_error.
  template <class Descriptor>
  Result<WaitOutcome> wait(RingConsumer<Descriptor>& ring, const Doorbell& bell, int control_socket,
                           Deadline deadline);

 private:
  // One sleep: until the bell rings, a hang-up, or the deadline. Drains the bell.
  static Result<WaitOutcome> sleep(const Doorbell& bell, int control_socket, Deadline deadline);

  AdaptiveSpin spin_;
};

// ---- implementation

template <class Ready>
Result<bool> AdaptiveSpin::operator()(Ready&& ready, Deadline deadline) {
  Result<bool> found = ready();
  if (!found || *found) return found;
  const Deadline end = std::min(deadline, Clock::now() + bound_);
  do {
    for (int look = 0; look < kLooksPerClock; ++look) {
      pause();
      found = ready();
      if (!found) return found;
      if (*found) {
        bound_ = std::min(kMostSpin, bound_ * 2);
        return true;
      }
    }
  } while (Clock::now() < end);
  bound_ = std::max(kLeastSpin, bound_ / 2);
  return false;
}

template <class Descriptor>
Result<WaitOutcome> Waiter::wait(RingConsumer<Descriptor>& ring, const Doorbell& bell,
                                 int control_socket, Deadline deadline) {
  auto found = spin_([&] { return ring.ready(); }, deadline);
  while (found && !*found) {
    auto empty = ring.prepare_to_sleep();
    if (!empty) return std::unexpected(std::move(empty.error()));
    if (!*empty) return WaitOutcome::ready;
    const auto outcome = sleep(bell, control_socket, deadline);
    ring.awake();
    if (!outcome) return outcome;
    found = ring.ready();
    if (!found || *found) break;
    if (*outcome != WaitOutcome::ready) return outcome;
    // A peer that rings for nothing, or a bell that cannot be silenced, does not hold us up.
    if (Clock::now() >= deadline) return WaitOutcome::timed_out;
  }
  if (!found) return std::unexpected(std::move(found.error()));
  return WaitOutcome::ready;
}

}  // namespace sluice::ipc
