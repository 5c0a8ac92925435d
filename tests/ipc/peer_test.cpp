#include "ipc/peer.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>

#include "ipc/unix_socket.h"
#include "tests/ipc/support.h"

namespace sluice::ipc {
namespace {

constexpr uid_t kNobody = 65534;

// A child that connects to a listener and then waits to be killed.
class PeerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = UnixListener::bind({.path = folder.file("s")});
    ASSERT_OK(made);
    listener = std::move(*made);
  }

  int connect_and_wait() const {
    const auto socket = connect_unix(listener.path(), soon());
    if (!socket) return 1;
    pause();
    return 0;
  }

  Fd accepted() {
    pollfd wait{listener.fd(), POLLIN, 0};
    EXPECT_EQ(poll_until(&wait, 1, soon()).value(), 1);
    return std::move(listener.accept().value().value());
  }

  TempFolder folder;
  UnixListener listener;
};

TEST_F(PeerTest, KnowsTheProcessThatConnected) {
  Child child([&] { return connect_and_wait(); });
  const Fd socket = accepted();
  const auto peer = peer_identity(socket.get());
  ASSERT_OK(peer);
  EXPECT_EQ(peer->pid, child.pid());
  EXPECT_EQ(peer->uid, getuid());
  EXPECT_EQ(peer->gid, getgid());
  std::vector<gid_t> own(1024);
  own.resize(static_cast<std::size_t>(std::max(getgroups(1024, own.data()), 0)));
  EXPECT_TRUE(std::ranges::is_permutation(peer->groups, own));
  EXPECT_FALSE(process_is_dead(peer->pidfd.get()).value());
  child.kill_and_reap();
  EXPECT_TRUE(process_is_dead(peer->pidfd.get()).value());
}

TEST_F(PeerTest, TheDeathOfAPeerWakesWhoPollsItsPidfd) {
  Child child([&] { return connect_and_wait(); });
  const Fd socket = accepted();
  const auto peer = peer_identity(socket.get());
  ASSERT_OK(peer);
  kill(child.pid(), SIGKILL);
  pollfd wait{peer->pidfd.get(), POLLIN, 0};
  EXPECT_EQ(poll_until(&wait, 1, soon()).value(), 1);
}

TEST_F(PeerTest, OnAnOldKernelThePidfdIsOpenedByNumber) {
  Child child([&] { return connect_and_wait(); });
  const Fd socket = accepted();
  const auto pidfd = open_peer_pidfd(socket.get(), child.pid(), getuid());
  ASSERT_OK(pidfd);
  EXPECT_FALSE(process_is_dead(pidfd->get()).value());
}

TEST_F(PeerTest, APidThatIsGoneIsNotTaken) {
  Child child([&] { return connect_and_wait(); });
  const Fd socket = accepted();
  const pid_t pid = child.pid();
  child.kill_and_reap();
  EXPECT_ERROR(open_peer_pidfd(socket.get(), pid, getuid()), Errc::peer_violation);
}

TEST_F(PeerTest, ALivingProcessThatTookOverThePidOfADeadPeerIsNotTaken) {
  Child child([&] { return connect_and_wait(); });
  const Fd socket = accepted();
  child.kill_and_reap();
  // As if the child's number had been given to this process, which lives and has the same user.
  EXPECT_ERROR(open_peer_pidfd(socket.get(), getpid(), getuid()), Errc::peer_violation);
}

TEST_F(PeerTest, AProcessOfAnotherUserIsNotTaken) {
  Child child([&] { return connect_and_wait(); });
  const Fd socket = accepted();
  EXPECT_ERROR(open_peer_pidfd(socket.get(), child.pid(), getuid() + 1), Errc::peer_violation);
}

TEST_F(PeerTest, AnotherUserIsSeenAsSuch) {
  if (getuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
  ASSERT_EQ(chmod(listener.path().c_str(), 0666), 0);
  Child child(
      [&] { return setgid(kNobody) == 0 && setuid(kNobody) == 0 ? connect_and_wait() : 2; });
  const Fd socket = accepted();
  const auto peer = peer_identity(socket.get());
  ASSERT_OK(peer);
  EXPECT_EQ(peer->uid, kNobody);
  EXPECT_EQ(peer->gid, kNobody);
}

}  // namespace
}  // namespace sluice::ipc
