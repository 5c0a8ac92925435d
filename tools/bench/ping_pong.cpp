#include "tools/bench/ping_pong.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <new>

#include "ipc/deadline.h"
#include "ipc/memfd.h"
#include "ipc/waiter.h"
#include "tools/bench/measure.h"

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr double kVolleySeconds = 10;  // after which the other side is taken for gone
constexpr int kLooksPerClock = 4096;

void pause(bool yields) {
  if (yields) {
    sched_yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

bool wait_for(const std::atomic<std::uint64_t>& line, std::uint64_t number, bool yields) {
  const Stopwatch watch;
  do {
    for (int look = 0; look < kLooksPerClock; ++look) {
      if (line.load(std::memory_order_acquire) == number) return true;
      pause(yields);
    }
  } while (watch.seconds() < kVolleySeconds);
  return false;
}

}  // namespace

struct PingPong::Lines {
  alignas(64) std::atomic<std::uint64_t> ping{0};
  alignas(64) std::atomic<std::uint64_t> pong{0};
};

ipc::Result<std::unique_ptr<PingPong>> PingPong::start() {
  std::unique_ptr<PingPong> made(new PingPong);
  made->yields_ = ipc::usable_processors() <= ipc::AdaptiveSpin::kFewCores;
  auto fd = ipc::create_memfd("sluice-bench", ipc::kMapGranularity, ipc::Populate::yes);
  if (!fd) return std::unexpected(std::move(fd.error()));
  auto memory = ipc::Mapping::map(fd->get(), 0, ipc::kMapGranularity, ipc::Access::read_write,
                                  "two cache lines");
  if (!memory) return std::unexpected(std::move(memory.error()));
  made->memory_ = std::move(*memory);
  made->lines_ = new (made->memory_.data()) Lines;
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return ipc::fail_errno("socketpair");
  }
  made->ours_ = ipc::Fd(ends[0]);
  made->theirs_ = ipc::Fd(ends[1]);
  const pid_t parent = ::getpid();
  made->pid_ = ::fork();
  if (made->pid_ < 0) return ipc::fail_errno("fork");
  if (made->pid_ == 0) made->partner(parent);
  return made;
}

PingPong::~PingPong() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void PingPong::partner(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  std::uint32_t count = 0;
  std::uint64_t number = 0;
  while (::read(theirs_.get(), &count, sizeof(count)) == sizeof(count)) {
    for (std::uint32_t i = 0; i < count; ++i) {
      if (!wait_for(lines_->ping, ++number, yields_)) ::_exit(1);
      lines_->pong.store(number, std::memory_order_release);
    }
  }
  ::_exit(0);
}

ipc::Result<double> PingPong::volley(std::uint32_t count) {
  if (::write(ours_.get(), &count, sizeof(count)) != sizeof(count)) {
    return ipc::fail_errno("waking the partner of the ping-pong");
  }
  std::uint64_t number = lines_->ping.load(std::memory_order_relaxed);
  // The first one wakes the partner, and does not count.
  Stopwatch watch;
  for (std::uint32_t i = 0; i < count; ++i) {
    lines_->ping.store(++number, std::memory_order_release);
    if (!wait_for(lines_->pong, number, yields_)) {
      return fail(Errc::timed_out, "the partner of the ping-pong does not answer");
    }
    if (i == 0) watch = Stopwatch();
  }
  return watch.nanoseconds() / (count - 1);
}

}  // namespace sluice::tools
