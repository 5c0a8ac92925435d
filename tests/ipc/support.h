// What the tests of ipc share.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <type_traits>
#include <utility>

#include "ipc/deadline.h"
#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::ipc {

// Longer than anything takes, also under sanitizers on a busy machine.
inline Deadline soon() { return deadline_in(std::chrono::seconds(60)); }

// ASSERT_OK(x), EXPECT_ERROR(x, Errc::busy): the text of an unexpected error is in the message.
#define ASSERT_OK(expression)                                                        \
  do {                                                                               \
    const auto& checked = (expression);                                              \
    ASSERT_TRUE(checked.has_value()) << #expression << ": " << checked.error().text; \
  } while (false)

#define EXPECT_ERROR(expression, expected)                            \
  do {                                                                \
    const auto& checked = (expression);                               \
    EXPECT_FALSE(checked.has_value()) << #expression << " succeeded"; \
    if (!checked.has_value()) {                                       \
      EXPECT_EQ(::sluice::ipc::to_string(checked.error().code),       \
                ::sluice::ipc::to_string(expected))                   \
          << checked.error().text;                                    \
    }                                                                 \
  } while (false)

struct SocketPair {
  Fd left, right;
};

inline SocketPair socket_pair() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {Fd(ends[0]), Fd(ends[1])};
}

// A private folder, removed at the end.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "sluice-XXXXXX").string();
    path_ = mkdtemp(name.data()) == nullptr ? "" : name;
    EXPECT_FALSE(path_.empty());
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() { std::filesystem::remove_all(path_); }

  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A child process that runs `body` and ends with the status that it returns; killed at the latest
// with this object.
class Child {
 public:
  template <class Body>
    requires std::is_invocable_r_v<int, Body>
  explicit Child(Body&& body) : pid_(fork()) {
    if (pid_ == 0) _exit(std::forward<Body>(body)());
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) kill_and_reap();
  }

  pid_t pid() const { return pid_; }
  // The exit status; -1 if a signal ended it.
  int wait() {
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  void kill_and_reap() {
    kill(pid_, SIGKILL);
    wait();
  }

 private:
  pid_t pid_;
};

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    count += entry.exists() || entry.is_symlink() ? 1 : 0;
  }
  return count;
}

inline ino_t inode_of(int fd) {
  struct stat status{};
  EXPECT_EQ(fstat(fd, &status), 0);
  return status.st_ino;
}

}  // namespace sluice::ipc
