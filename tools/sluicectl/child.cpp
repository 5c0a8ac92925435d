#include "tools/sluicectl/child.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace sluice::tools {
namespace {

using ipc::Errc;

constexpr std::size_t kMostOutput = 1u << 20;  // what comes after it is read and dropped
constexpr int kCannotExec = 127;               // as shells have it

std::string read_all(int fd) {
  std::string all;
  std::array<char, 4096> part{};
  while (true) {
    const ssize_t got = ::read(fd, part.data(), part.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return all;
    all.append(part.data(), std::min(static_cast<std::size_t>(got), kMostOutput - all.size()));
  }
}

// Runs `program --config=FILE FLAG`.
ipc::Result<ProgramResult> ask_about_config(const std::string& program,
                                            const std::string& config_file, const char* flag) {
  if (::access(program.c_str(), X_OK) != 0) {
    return ipc::fail(Errc::not_found,
                     program + " cannot be started: " + std::strerror(errno) +
                         "; sluicectl needs sluiced beside itself to check a file");
  }
  const std::string config = "--config=" + config_file;
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return ipc::fail_errno("a pipe to " + program);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    const char* const file = config_file.empty() ? nullptr : config.c_str();
    ::execl(program.c_str(), "sluiced", flag, file, static_cast<char*>(nullptr));
    ::_exit(kCannotExec);
  }
  ::close(ends[1]);
  if (child < 0) {
    ::close(ends[0]);
    return ipc::fail_errno("fork for " + program);
  }
  ProgramResult result;
  result.output = read_all(ends[0]);
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status)) {
    return ipc::fail(Errc::internal, program + " was ended by signal " +
                                         std::to_string(WTERMSIG(status)) + ": " + result.output);
  }
  result.exit_code = WEXITSTATUS(status);
  if (result.exit_code == kCannotExec) {
    return ipc::fail(Errc::not_found, program + " cannot be started");
  }
  return result;
}

}  // namespace

std::string beside_this_program(const std::string& name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? name : (self.parent_path() / name).string();
}

ipc::Result<ProgramResult> check_config_with(const std::string& program,
                                             const std::string& config_file) {
  return ask_about_config(program, config_file, "--check");
}

ipc::Result<ProgramResult> list_config_with(const std::string& program,
                                            const std::string& config_file) {
  return ask_about_config(program, config_file, "--list");
}

}  // namespace sluice::tools
