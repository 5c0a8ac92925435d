#include "ipc/waiter.h"

#include <poll.h>
#include <sched.h>

namespace sluice::ipc {

int usable_processors() {
  cpu_set_t processors;
  CPU_ZERO(&processors);
  // Fails on more processors than the set has room for: not few, then.
  if (sched_getaffinity(0, sizeof(processors), &processors) != 0) return CPU_SETSIZE;
  return CPU_COUNT(&processors);
}

AdaptiveSpin::AdaptiveSpin() : yields_(usable_processors() <= kFewCores) {}

void AdaptiveSpin::pause() const {
  if (yields_) {
    sched_yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

Result<WaitOutcome> Waiter::sleep(const Doorbell& bell, int control_socket, Deadline deadline) {
  // Of the control socket only the hang-up counts: its messages have a reader of their own.
  pollfd fds[] = {{bell.fd(), POLLIN, 0}, {control_socket, POLLRDHUP, 0}};
  const auto events = poll_until(fds, 2, deadline);
  if (!events) return std::unexpected(events.error());
  if (*events == 0) return WaitOutcome::timed_out;
  const bool rang = fds[0].revents != 0;
  const bool gone = (rang && bell.drain() == Doorbell::Drained::peer_gone) || fds[1].revents != 0;
  return gone ? WaitOutcome::peer_gone : WaitOutcome::ready;
}

}  // namespace sluice::ipc
