// Children that an engine has forked and that outlive it: a session is over when its process is
// dead and nobody has its socket any more.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/integration/daemon_process.h"

namespace sluice::test {
namespace {

using nlohmann::json;

enum class Child { holds_all, closes_sockets };

void close_sockets() {
  for (int fd = 0; fd < 1024; ++fd) {
    struct stat status{};
    if (fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode)) close(fd);
  }
}

// An engine with two private blocks, and its child, which lives until it is told to end.
class Family {
 public:
  Family(const DaemonProcess& daemon, Child child) {
    int ready[2];
    int end[2];
    EXPECT_EQ(pipe(ready), 0);
    EXPECT_EQ(pipe(end), 0);
    engine_ = fork();
    if (engine_ == 0) {
      close(end[1]);
      run(daemon, child, ready[1], end[0]);
    }
    close(ready[1]);
    close(end[0]);
    end_ = end[1];
    char byte = 0;
    EXPECT_EQ(read(ready[0], &byte, 1), 1) << "the engine did not come up";
    close(ready[0]);
  }
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;
  ~Family() {
    if (engine_ > 0) kill_engine();
    end_child();
  }

  void kill_engine() {
    kill(engine_, SIGKILL);
    waitpid(engine_, nullptr, 0);
    engine_ = -1;
  }
  void end_child() {
    if (end_ >= 0) close(end_);
    end_ = -1;
  }

 private:
  [[noreturn]] static void run(const DaemonProcess& daemon, Child child, int ready, int end) {
    client::Client client = daemon.connect('a');
    client::Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
    client::Sequence sequence = must(cache.open_sequence({})).sequence;
    (void)must(sequence.extend(2));
    const client::Actor actor = must(cache.open_actor());
    if (fork() == 0) {
      if (child == Child::closes_sockets) close_sockets();
      char byte = '+';
      (void)!write(ready, &byte, 1);
      (void)!read(end, &byte, 1);  // until the test closes its end
      _exit(0);
    }
    while (true) pause();
  }

  pid_t engine_ = -1;
  int end_ = -1;
};

json sessions(const DaemonProcess& daemon) {
  return json::parse(daemon.admin("sessions"))["sessions"];
}

bool is_quarantined(const DaemonProcess& daemon) {
  const json all = sessions(daemon);
  return all.size() == 1 && all[0]["state"] == "quarantined";
}

std::uint64_t private_blocks(const DaemonProcess& daemon) {
  std::uint64_t blocks = 0;
  const json residency = json::parse(daemon.admin("residency"));
  for (const json& tenant : residency["tenants"]) {
    blocks += tenant["blocks"]["private"].get<std::uint64_t>();
  }
  return blocks;
}

TEST(AForkedChild, KeepsWhatItsDeadEngineHad) {
  const DaemonProcess daemon;
  Family family(daemon, Child::holds_all);
  EXPECT_EQ(private_blocks(daemon), 2U);
  family.kill_engine();
  ASSERT_TRUE(eventually([&] { return is_quarantined(daemon); }));
  // Whoever comes now is served, and gets none of it.
  {
    client::Client other = daemon.connect('a');
    client::Cache cache = must(other.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
    client::Sequence sequence = must(cache.open_sequence({})).sequence;
    (void)must(sequence.extend(3));
    EXPECT_EQ(private_blocks(daemon), 5U);
  }
  EXPECT_TRUE(eventually([&] { return private_blocks(daemon) == 2; }));
  EXPECT_TRUE(eventually([&] { return is_quarantined(daemon); }))
      << "alone, when the other is gone";
  family.end_child();
  EXPECT_TRUE(eventually([&] { return sessions(daemon).empty(); }));
  EXPECT_TRUE(eventually([&] { return private_blocks(daemon) == 0; }));
}

TEST(AForkedChild, KeepsNothingWhenItHasClosedTheSocket) {
  const DaemonProcess daemon;
  Family family(daemon, Child::closes_sockets);
  EXPECT_EQ(sessions(daemon)[0]["state"], "open") << "the engine has its own";
  family.kill_engine();
  EXPECT_TRUE(eventually([&] { return sessions(daemon).empty(); }));
  EXPECT_TRUE(eventually([&] { return private_blocks(daemon) == 0; }));
}

}  // namespace
}  // namespace sluice::test
