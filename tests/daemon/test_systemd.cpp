#include "daemon/systemd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <string>

namespace sluice::daemon {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// What systemd does: a datagram socket with a name.
class Manager {
 public:
  explicit Manager(const std::string& name) : name_(name) {
    fd_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    name.copy(address.sun_path, sizeof address.sun_path);
    if (name[0] == '@') address.sun_path[0] = '\0';
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    bound_ = ::bind(fd_, reinterpret_cast<const sockaddr*>(&address), length) == 0;
  }
  ~Manager() {
    ::close(fd_);
    if (name_[0] == '/') ::unlink(name_.c_str());
  }
  Manager(const Manager&) = delete;
  Manager& operator=(const Manager&) = delete;

  bool bound() const { return bound_; }

  // Nothing blocks on a test that failed: a message was sent before this is called.
  std::string next() {
    pollfd waiting = {fd_, POLLIN, 0};
    if (::poll(&waiting, 1, 5000) != 1) return "(no message)";
    char buffer[512];
    const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    return {buffer, static_cast<std::size_t>(n < 0 ? 0 : n)};
  }

 private:
  std::string name_;
  int fd_ = -1;
  bool bound_ = false;
};

class Systemd : public ::testing::Test {
 public:
  Systemd() { clear(); }
  ~Systemd() override { clear(); }

 protected:
  static void clear() {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) ::unsetenv(name);
  }
  static void set(const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); }
  static std::string abstract_name() { return "@sluice-test-" + std::to_string(::getpid()); }
};

TEST_F(Systemd, IsToldEachStateInADatagram) {
  Manager manager(abstract_name());
  ASSERT_TRUE(manager.bound());
  set("NOTIFY_SOCKET", abstract_name());
  const auto notifier = SystemdNotifier::from_environment();
  ASSERT_TRUE(notifier);
  EXPECT_TRUE(notifier->active());

  ASSERT_TRUE(notifier->ready("serving 2 tenants"));
  EXPECT_EQ(manager.next(), "READY=1\nSTATUS=serving 2 tenants");
  ASSERT_TRUE(notifier->reloading());
  EXPECT_THAT(manager.next(), MatchesRegex("RELOADING=1\nMONOTONIC_USEC=[0-9]+"));
  ASSERT_TRUE(notifier->status("5 sessions"));
  EXPECT_EQ(manager.next(), "STATUS=5 sessions");
  ASSERT_TRUE(notifier->watchdog());
  EXPECT_EQ(manager.next(), "WATCHDOG=1");
  ASSERT_TRUE(notifier->stopping("SIGTERM"));
  EXPECT_EQ(manager.next(), "STOPPING=1\nSTATUS=SIGTERM");
}

TEST_F(Systemd, IsReachedByPathToo) {
  const std::string path = ::testing::TempDir() + "sluice-notify-" + std::to_string(::getpid());
  Manager manager(path);
  ASSERT_TRUE(manager.bound());
  set("NOTIFY_SOCKET", path);
  const auto notifier = SystemdNotifier::from_environment();
  ASSERT_TRUE(notifier);
  ASSERT_TRUE(notifier->ready("up"));
  EXPECT_EQ(manager.next(), "READY=1\nSTATUS=up");
}

TEST_F(Systemd, TakesNoOtherFieldFromAStatus) {
  Manager manager(abstract_name());
  set("NOTIFY_SOCKET", abstract_name());
  const auto notifier = SystemdNotifier::from_environment();
  ASSERT_TRUE(notifier);
  ASSERT_TRUE(notifier->status("tenant x\nMAINPID=1\rfoo"));
  EXPECT_EQ(manager.next(), "STATUS=tenant x MAINPID=1 foo");
}

TEST_F(Systemd, MayBeAbsentAndNobodyNotices) {
  const auto notifier = SystemdNotifier::from_environment();
  ASSERT_TRUE(notifier);
  EXPECT_FALSE(notifier->active());
  EXPECT_FALSE(notifier->watchdog_interval());
  EXPECT_TRUE(notifier->ready("up"));
  EXPECT_TRUE(notifier->watchdog());
}

TEST_F(Systemd, ThatIsGoneIsAnErrorThatNamesTheSocket) {
  set("NOTIFY_SOCKET", abstract_name() + "-gone");
  const auto notifier = SystemdNotifier::from_environment();
  ASSERT_TRUE(notifier);
  const auto status = notifier->ready("up");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ipc::Errc::io_error);
  EXPECT_THAT(status.error().text, HasSubstr(abstract_name() + "-gone"));
}

TEST_F(Systemd, ThatDoesNotReadCannotHoldUsUp) {
  Manager manager(abstract_name());
  set("NOTIFY_SOCKET", abstract_name());
  const auto notifier = SystemdNotifier::from_environment();
  ASSERT_TRUE(notifier);
  ipc::Status status;
  for (int sent = 0; status && sent < 100'000; ++sent) status = notifier->watchdog();
  ASSERT_FALSE(status);  // its queue is full, and the call came back
  EXPECT_EQ(status.error().code, ipc::Errc::io_error);
}

TEST_F(Systemd, NeedsASocketNameThatCanBe) {
  const std::string too_long = "/" + std::string(107, 'x');
  for (const char* name : {"relative", "@", "/", too_long.c_str(), "vsock:1:2"}) {
    set("NOTIFY_SOCKET", name);
    const auto notifier = SystemdNotifier::from_environment();
    ASSERT_FALSE(notifier) << name;
    EXPECT_EQ(notifier.error().code, ipc::Errc::invalid_argument);
  }
}

TEST_F(Systemd, WantsAPingTwiceAWatchdogPeriod) {
  set("NOTIFY_SOCKET", abstract_name());
  set("WATCHDOG_USEC", "3000000");
  EXPECT_EQ(SystemdNotifier::from_environment()->watchdog_interval(),
            std::chrono::microseconds(1'500'000));
  set("WATCHDOG_PID", std::to_string(::getpid()));
  EXPECT_TRUE(SystemdNotifier::from_environment()->watchdog_interval());
}

TEST_F(Systemd, WatchdogOfAnotherProcessOrWithoutSenseIsNone) {
  set("NOTIFY_SOCKET", abstract_name());
  set("WATCHDOG_USEC", "3000000");
  set("WATCHDOG_PID", std::to_string(::getpid() + 1));
  EXPECT_FALSE(SystemdNotifier::from_environment()->watchdog_interval());
  ::unsetenv("WATCHDOG_PID");
  for (const char* usec : {"", "0", "-5", "3s"}) {
    set("WATCHDOG_USEC", usec);
    EXPECT_FALSE(SystemdNotifier::from_environment()->watchdog_interval()) << usec;
  }
}

}  // namespace
}  // namespace sluice::daemon
