// Deadlines of calls that wait: points of the monotonic clock, so that a wait that is resumed after
// a signal or a partial transfer does not start anew.
#pragma once

#include <poll.h>

#include <chrono>

#include "ipc/error.h"

namespace sluice::ipc {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

inline constexpr Deadline kNoDeadline = Deadline::max();

inline Deadline deadline_in(Clock::duration timeout) {
  const Deadline now = Clock::now();
  return timeout < kNoDeadline - now ? now + timeout : kNoDeadline;
}

// poll(2) until an event or the deadline, resumed after signals. Returns how many of `fds` have
// events, 0 at the deadline. Errors: io_error.
Result<int> poll_until(pollfd* fds, unsigned long count, Deadline deadline);

}  // namespace sluice::ipc
