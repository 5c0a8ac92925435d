#include "ipc/unix_socket.h"

#include <gtest/gtest.h>
#include <sys/un.h>

#include <cstring>
#include <fstream>
#include <vector>

#include "tests/ipc/support.h"

namespace sluice::ipc {
namespace {

namespace fs = std::filesystem;

TEST(UnixListener, TakesConnections) {
  const TempFolder folder;
  auto listener = UnixListener::bind({.path = folder.file("s")});
  ASSERT_OK(listener);
  EXPECT_EQ(listener->accept().value(), std::nullopt);
  const auto client = connect_unix(folder.file("s"), soon());
  ASSERT_OK(client);
  auto server = listener->accept();
  ASSERT_OK(server);
  ASSERT_TRUE(server->has_value());
  ASSERT_EQ(write(client->get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(read((*server)->get(), &byte, 1), 1);
  EXPECT_NE(fcntl((*server)->get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(fcntl(client->get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(UnixListener, ASecondDaemonIsToldWhoServesTheSocket) {
  const TempFolder folder;
  const auto first = UnixListener::bind({.path = folder.file("s")});
  ASSERT_OK(first);
  const auto second = UnixListener::bind({.path = folder.file("s")});
  EXPECT_ERROR(second, Errc::address_in_use);
  EXPECT_NE(second.error().text.find("process " + std::to_string(getpid())), std::string::npos)
      << second.error().text;
  EXPECT_TRUE(connect_unix(folder.file("s"), soon()).has_value()) << "the first one still serves";
}

TEST(UnixListener, TakesOverFromADaemonThatWasKilled) {
  const TempFolder folder;
  const SocketPair started = socket_pair();
  Child daemon([&] {
    const auto listener = UnixListener::bind({.path = folder.file("s")});
    if (!listener || write(started.left.get(), "x", 1) != 1) return 1;
    pause();
    return 0;
  });
  char byte = 0;
  ASSERT_EQ(read(started.right.get(), &byte, 1), 1);
  EXPECT_ERROR(UnixListener::bind({.path = folder.file("s")}), Errc::address_in_use);
  daemon.kill_and_reap();
  EXPECT_TRUE(fs::exists(folder.file("s"))) << "a stale socket file is left";
  const auto refused = connect_unix(folder.file("s"), soon());
  EXPECT_ERROR(refused, Errc::daemon_away);
  EXPECT_NE(refused.error().text.find("nobody listens"), std::string::npos);
  EXPECT_TRUE(UnixListener::bind({.path = folder.file("s")}).has_value());
}

TEST(UnixListener, LeavesAFileAloneThatIsNoSocket) {
  const TempFolder folder;
  std::ofstream(folder.file("s")) << "precious";
  EXPECT_ERROR(UnixListener::bind({.path = folder.file("s")}), Errc::invalid_argument);
  EXPECT_TRUE(fs::is_regular_file(folder.file("s")));
}

TEST(UnixListener, RemovesItsSocketAtTheEndAndOnlyItself) {
  const TempFolder folder;
  {
    auto listener = UnixListener::bind({.path = folder.file("s")});
    ASSERT_OK(listener);
    Child forked([&] {
      listener = std::unexpected(Error{});  // the child's copy ends
      return 0;
    });
    EXPECT_EQ(forked.wait(), 0);
    EXPECT_TRUE(fs::exists(folder.file("s")));
    const UnixListener moved = std::move(*listener);
    EXPECT_TRUE(fs::exists(folder.file("s")));
  }
  EXPECT_FALSE(fs::exists(folder.file("s")));
  EXPECT_TRUE(UnixListener::bind({.path = folder.file("s")}).has_value());
}

TEST(UnixListener, SetsTheModeBitsWhateverTheUmask) {
  const TempFolder folder;
  const mode_t before = umask(0077);
  const auto listener = UnixListener::bind({.path = folder.file("s"), .mode = 0666});
  umask(before);
  ASSERT_OK(listener);
  struct stat status{};
  ASSERT_EQ(stat(folder.file("s").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0666u);
}

TEST(UnixListener, RefusesPathsThatCannotBe) {
  const TempFolder folder;
  EXPECT_ERROR(UnixListener::bind({.path = ""}), Errc::invalid_argument);
  EXPECT_ERROR(UnixListener::bind({.path = folder.file(std::string(108, 'x'))}),
               Errc::invalid_argument);
  EXPECT_ERROR(UnixListener::bind({.path = folder.file("no/such/s")}), Errc::not_found);
  const std::string longest =
      folder.file(std::string(kMaxSocketPath - folder.path().size() - 1, 'x'));
  EXPECT_TRUE(UnixListener::bind({.path = longest}).has_value());
}

TEST(ConnectUnix, SaysWhatToDoWhenThereIsNoDaemon) {
  const TempFolder folder;
  const auto none = connect_unix(folder.file("s"), soon());
  EXPECT_ERROR(none, Errc::daemon_away);
  EXPECT_NE(none.error().text.find("start sluiced"), std::string::npos);
  EXPECT_ERROR(connect_unix(std::string(108, 'x'), soon()), Errc::invalid_argument);
}

TEST(ConnectUnix, SaysWhatIsThereInstead) {
  const TempFolder folder;
  std::ofstream(folder.file("file")) << "text";
  for (const std::string& path : {folder.file("file"), folder.path()}) {
    const auto refused = connect_unix(path, soon());
    EXPECT_ERROR(refused, Errc::daemon_away);
    EXPECT_NE(refused.error().text.find("is not a socket"), std::string::npos)
        << refused.error().text;
  }
  const Fd other(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, folder.file("other").c_str());
  ASSERT_EQ(bind(other.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const auto refused = connect_unix(folder.file("other"), soon());
  EXPECT_ERROR(refused, Errc::daemon_away);
  EXPECT_NE(refused.error().text.find("another program"), std::string::npos)
      << refused.error().text;
}

TEST(ConnectUnix, SaysWhenTheUserMayNot) {
  if (getuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  const TempFolder folder;
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
  const auto listener = UnixListener::bind({.path = folder.file("s"), .mode = 0600});
  ASSERT_OK(listener);
  Child child([&] {
    if (setuid(65534) != 0) return 1;
    const auto socket = connect_unix(folder.file("s"), soon());
    return !socket && socket.error().code == Errc::permission_denied ? 0 : 2;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST(ConnectUnix, EndsAtTheDeadlineWhenTheDaemonDoesNotAccept) {
  const TempFolder folder;
  const auto listener = UnixListener::bind({.path = folder.file("s"), .backlog = 1});
  ASSERT_OK(listener);
  std::vector<Fd> waiting;
  while (true) {
    auto socket = connect_unix(folder.file("s"), deadline_in(std::chrono::milliseconds(20)));
    if (!socket) {
      EXPECT_EQ(socket.error().code, Errc::timed_out) << socket.error().text;
      break;
    }
    waiting.push_back(std::move(*socket));
    ASSERT_LT(waiting.size(), 10u);
  }
}

}  // namespace
}  // namespace sluice::ipc
