#include "tests/integration/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/integration/daemon_process.h"

namespace sluice::test {

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

Program::Program(const std::string& folder, std::vector<std::string> arguments, Stdout to)
    : out_(folder + "/ctl.out"), err_(folder + "/ctl.err") {
  const std::string path =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "sluicectl";
  pid_ = fork();
  if (pid_ != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  if (to.kind == Stdout::Kind::file) {
    to.fd = open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  }
  if (to.kind == Stdout::Kind::closed) {
    close(STDOUT_FILENO);
  } else {
    dup2(to.fd, STDOUT_FILENO);
  }
  dup2(open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), STDERR_FILENO);
  arguments.insert(arguments.begin(), "sluicectl");
  std::vector<char*> pointers;
  pointers.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  execv(path.c_str(), pointers.data());
  _exit(127);
}

Program::~Program() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Program::interrupt() const { kill(pid_, SIGINT); }

int Program::wait() {
  int status = -1;
  const bool ended = eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; });
  if (!ended) return -1;
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace sluice::test
