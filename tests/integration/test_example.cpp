// The README's example, run as a user would.
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>

#include "tests/integration/daemon_process.h"

namespace sluice::test {
namespace {

int run_example(const std::string& socket, const char* executor) {
  const std::string program =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "example";
  const int status = std::system((program + " " + socket + " " + executor).c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Example, FindsItsPromptAgainWithEitherExecutor) {
  const DaemonProcess daemon;
  for (const char* executor : {"daemon", "direct", "daemon"}) {
    EXPECT_EQ(run_example(daemon.socket('a'), executor), 0) << executor;
  }
}

TEST(Example, SaysThatTheDaemonIsAway) {
  EXPECT_EQ(run_example("/nonexistent/s.sock", "direct"), 1);
}

}  // namespace
}  // namespace sluice::test
