// Two processes that wake each other by nothing but two cache lines of shared memory: the ceiling
// of every request over the rings.
//
// Both look at their line in a loop; where the library would yield between looks (few cores), so do
// they. The partner sleeps between volleys. It ends with this process. Thread-safety: one thread.
#pragma once

#include <sys/types.h>

#include <memory>

#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/mapping.h"

namespace sluice::tools {

class PingPong {
 public:
  // Forks the partner: call before this process has threads or connections. Errors: no_memory,
  // io_error.
  static ipc::Result<std::unique_ptr<PingPong>> start();
  ~PingPong();

  // Nanoseconds per round trip, of `count` of them. Errors: daemon_away (the partner is gone),
  // timed_out.
  ipc::Result<double> volley(std::uint32_t count);

 private:
  struct Lines;
  PingPong() = default;
  [[noreturn]] void partner(pid_t parent);

  ipc::Mapping memory_;
  Lines* lines_ = nullptr;
  ipc::Fd ours_;  // a byte through here wakes the partner for a volley
  ipc::Fd theirs_;
  pid_t pid_ = -1;
  bool yields_ = false;
};

}  // namespace sluice::tools
