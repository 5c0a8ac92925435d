#include "ipc/deadline.h"

#include <cerrno>
#include <ctime>

namespace sluice::ipc {

Result<int> poll_until(pollfd* fds, unsigned long count, Deadline deadline) {
  while (true) {
    timespec left{};
    if (deadline != kNoDeadline) {
      const auto now = Clock::now();
      const auto rest = deadline > now ? deadline - now : Clock::duration::zero();
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(rest);
      left.tv_sec = seconds.count();
      left.tv_nsec = std::chrono::nanoseconds(rest - seconds).count();
    }
    const int events = ppoll(fds, count, deadline == kNoDeadline ? nullptr : &left, nullptr);
    if (events >= 0) return events;
    if (errno != EINTR) return fail_errno("poll");
  }
}

}  // namespace sluice::ipc
