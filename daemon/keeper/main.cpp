// sluice-keeper: holds the file descriptors of sluiced's memory while sluiced is away. It does
// nothing else, so that it has no reason to die. sluiced starts it; what is started returns when
// the keeper, a process apart, listens.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/keeper/serve.h"
#include "ipc/kill_point.h"

namespace sluice::keeper {
namespace {

constexpr const char* kUsage =
    "usage: sluice-keeper --socket PATH [--idle SECONDS]\n"
    "\n"
    "Holds the file descriptors that sluiced puts into it, so that memory outlives sluiced. Goes "
    "into\n"
    "the background and returns when it listens. sluiced starts it when it needs it.\n"
    "\n"
    "  --socket PATH    where it listens: an absolute path, for processes of this user\n"
    "  --idle SECONDS   frees all and ends when no sluiced was there for so long (default 600; 0: "
    "never)\n"
    "\n"
    "SIGTERM ends it, and frees what nobody else holds. Exit status: 0 it listens, 1 it cannot,\n"
    "2 usage, 3 another keeper listens there.\n";

std::optional<Options> options_of(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view key = argv[i];
    const std::string_view value = argv[i + 1];
    if (key == "--socket") {
      options.socket_path = value;
    } else if (key == "--idle") {
      unsigned seconds = 0;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
      if (error != std::errc() || end != value.data() + value.size()) return std::nullopt;
      options.idle = std::chrono::seconds(seconds);
    } else {
      return std::nullopt;
    }
  }
  if (argc % 2 == 0 || !options.socket_path.starts_with('/')) return std::nullopt;
  return options;
}

// Nothing of the daemon stays open here; in particular not its sockets, locks and pipes.
void leave_descriptors() {
  (void)close_range(STDERR_FILENO + 1, ~0U, 0);
  const int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO}) (void)dup2(nowhere, stream);
  if (nowhere > STDERR_FILENO) (void)close(nowhere);
}

// What ends a daemon, or its terminal, does not end its keeper. Returns a signalfd for SIGTERM.
int take_signals() {
  for (const int number : {SIGINT, SIGHUP, SIGPIPE, SIGQUIT}) (void)signal(number, SIG_IGN);
  (void)signal(SIGTERM, SIG_DFL);
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  // Whatever the daemon's thread had blocked.
  (void)sigprocmask(SIG_SETMASK, &term, nullptr);
  return signalfd(-1, &term, SFD_CLOEXEC | SFD_NONBLOCK);
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

// The keeper itself: a session of its own, so that neither a terminal nor the end of a process
// group reaches it.
int keep(const Options& options, int ready) {
  (void)setsid();
  (void)umask(0077);
  const int signals = take_signals();
  raise_descriptor_limit();
  auto listener = listen_at(options.socket_path);
  if (!listener || signals < 0 || chdir("/") != 0) {
    const std::string text = listener ? std::strerror(errno) : listener.error().text;
    std::fprintf(stderr, "sluice-keeper: %s\n", text.c_str());
    const bool is_taken = !listener && listener.error().code == ipc::Errc::address_in_use;
    return is_taken ? kExitInUse : kExitFailed;
  }
  (void)dup2(STDIN_FILENO, STDERR_FILENO);
  SLUICE_KILL_POINT("keeper.listening");
  const char there = 0;
  (void)!write(ready, &there, 1);
  (void)close(ready);
  serve(*listener, signals, options);
  return 0;
}

int start(const Options& options) {
  leave_descriptors();
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return kExitFailed;
  const pid_t child = fork();
  if (child < 0) {
    std::fprintf(stderr, "sluice-keeper: fork: %s\n", std::strerror(errno));
    return kExitFailed;
  }
  if (child == 0) {
    (void)close(ends[0]);
    return keep(options, ends[1]);
  }
  (void)close(ends[1]);
  char there = 0;
  if (read(ends[0], &there, 1) == 1) return 0;
  int status = 0;
  const bool is_known = waitpid(child, &status, 0) == child && WIFEXITED(status);
  return is_known && WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : kExitFailed;
}

}  // namespace
}  // namespace sluice::keeper

int main(int argc, char** argv) {
  using namespace sluice::keeper;  // NOLINT(google-build-using-namespace): its entry
  if (argc == 2 && std::string_view(argv[1]) == "--help") {
    std::fputs(kUsage, stdout);
    return 0;
  }
  const auto options = options_of(argc, argv);
  if (!options) {
    std::fputs(kUsage, stderr);
    return kExitUsage;
  }
  return start(*options);
}
