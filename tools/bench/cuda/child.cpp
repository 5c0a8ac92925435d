#include "tools/bench/cuda/child.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <utility>

namespace sluice::tools::cuda {
namespace {

using ipc::Errc;
using ipc::fail;

// What a child says begins with this.
constexpr char kDone = '+';
constexpr char kFailed = '-';

void write_all(int fd, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t wrote = ::write(fd, text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return;
    done += static_cast<std::size_t>(wrote);
  }
}

// Until the other end is closed.
std::string read_all(int fd) {
  std::string text;
  std::array<char, 512> buffer{};
  for (;;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

[[noreturn]] void run(const Child::Work& work, int answer, int hold, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  bool said = false;
  const Child::Say say = [&](const std::string& text) {
    write_all(answer, kDone + text);
    ::close(answer);
    said = true;
    (void)read_all(hold);
  };
  const ipc::Status done = work(say);
  if (!said) {
    write_all(answer, kFailed +
                          std::to_string(static_cast<int>(done ? Errc::ok : done.error().code)) +
                          " " + (done ? "it said nothing" : done.error().text));
  }
  ::_exit(done ? 0 : 1);
}

}  // namespace

ipc::Result<Child> Child::start(const Work& work) {
  int answer[2], hold[2];
  if (::pipe2(answer, O_CLOEXEC) != 0) return ipc::fail_errno("pipe");
  ipc::Fd answer_out(answer[0]), answer_in(answer[1]);
  if (::pipe2(hold, O_CLOEXEC) != 0) return ipc::fail_errno("pipe");
  ipc::Fd hold_out(hold[0]), hold_in(hold[1]);
  std::fflush(nullptr);
  const pid_t parent = ::getpid();
  Child child;
  child.pid_ = ::fork();
  if (child.pid_ < 0) return ipc::fail_errno("fork");
  if (child.pid_ == 0) {
    hold_in.reset();
    answer_out.reset();
    run(work, answer_in.get(), hold_out.get(), parent);
  }
  answer_in.reset();
  child.held_by_ = std::move(hold_in);
  const std::string text = read_all(answer_out.get());
  if (!text.empty() && text[0] == kDone) {
    child.said_ = text.substr(1);
    return child;
  }
  child.let_go();
  int code = 0, at = 0;
  if (std::sscanf(text.c_str(), "-%d %n", &code, &at) == 1 && code != 0) {
    return fail(static_cast<Errc>(code), text.substr(static_cast<std::size_t>(at)));
  }
  return fail(Errc::io_error, "a process that uses the GPU died before it could say what it found");
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      held_by_(std::move(other.held_by_)),
      said_(std::move(other.said_)) {}

Child::~Child() { let_go(); }

void Child::let_go() {
  held_by_.reset();
  if (pid_ <= 0) return;
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

}  // namespace sluice::tools::cuda
