#include "tests/gpu/engines/processes.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <thread>

namespace sluice::test::engines {

namespace {

constexpr std::chrono::milliseconds kPoll{2};
constexpr int kMostFds = 4096;  // of an engine

}  // namespace

double ms_since(Clock::time_point from) {
  return std::chrono::duration<double, std::milli>(Clock::now() - from).count();
}

bool eventually(std::chrono::nanoseconds within, const std::function<bool()>& condition) {
  const auto deadline = Clock::now() + within;
  while (!condition()) {
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

pid_t start_process(const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    _exit(body());
  }
  return pid;
}

std::optional<int> await_process(pid_t pid, std::chrono::nanoseconds within) {
  int status = 0;
  if (pid <= 0) return std::nullopt;
  if (!eventually(within, [&] { return waitpid(pid, &status, WNOHANG) == pid; })) {
    return std::nullopt;
  }
  return status;
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) return "was ended by signal " + std::to_string(WTERMSIG(status));
  return "exited with " + std::to_string(WEXITSTATUS(status));
}

void send_signal(pid_t pid, int signal) {
  if (pid > 0) kill(pid, signal);
}

void close_sockets() {
  for (int fd = 0; fd < kMostFds; ++fd) {
    struct stat status{};
    if (fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode)) close(fd);
  }
}

}  // namespace sluice::test::engines
