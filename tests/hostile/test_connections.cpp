// Connections and sessions are shared fairly: no user takes the room of the others.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/hostile/raw_peer.h"
#include "tests/integration/daemon_process.h"
#include "tests/status_of.h"

namespace sluice::test {
namespace {

using client::Client;
using ipc::Errc;
using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Users that nobody is. `kFirstUid` on are made a tenant by the tests that need it.
constexpr uid_t kStranger = 54'321;
constexpr uid_t kFirstUid = 54'400;

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

client::Result<Client> try_connect(const std::string& socket) {
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  where.socket_path = socket.c_str();
  return Client::connect(where);
}

std::size_t sessions_of(const DaemonProcess& daemon) {
  return json::parse(daemon.admin("sessions"))["sessions"].size();
}

// An operator's connection that was greeted.
RawPeer operator_at(const DaemonProcess& daemon) {
  RawPeer peer(daemon.admin_socket());
  EXPECT_TRUE(peer.hello(true));
  EXPECT_TRUE(peer.receive());
  return peer;
}

// The daemon's sockets lie in a folder of this user alone: lets others in.
void let_others_in(const DaemonProcess& daemon) {
  ASSERT_EQ(chmod(daemon.folder().c_str(), 0711), 0);
}

class OtherUsers : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "only root can connect as another user";
  }
};

TEST(Connections, AUserHasSoManyWithoutASession) {
  DaemonProcess::Options options;
  options.extra = "[limits]\nconnections_per_user = 3\nadmin_idle = \"1h\"";
  const DaemonProcess daemon(options);
  std::vector<RawPeer> peers;
  peers.reserve(3);
  for (int i = 0; i < 3; ++i) peers.push_back(operator_at(daemon));
  const ipc::Error refused = RawPeer(daemon.admin_socket()).end();
  EXPECT_EQ(refused.code, Errc::limit_reached);
  EXPECT_TRUE(has(refused.text, "limits.connections_per_user")) << refused.text;
  EXPECT_EQ(status_of(try_connect(daemon.socket('a'))), SLUICE_LIMIT_REACHED)
      << "a tenant's socket is no way around it";

  // Sessions are not counted: each leaves its place at once.
  peers.pop_back();
  ASSERT_TRUE(eventually([&] { return try_connect(daemon.socket('a')).has_value(); }));
  std::vector<Client> engines;
  engines.reserve(5);
  for (int i = 0; i < 5; ++i) engines.push_back(daemon.connect('a'));
  EXPECT_EQ(sessions_of(daemon), 5U);
}

TEST(Connections, OneThatSaysNothingIsToldSoAndClosed) {
  const DaemonProcess daemon;
  const ipc::Error ended = RawPeer(daemon.socket('a')).end();
  EXPECT_EQ(ended.code, Errc::timed_out);
  EXPECT_TRUE(has(ended.text, "Hello")) << ended.text;
}

TEST(Connections, AnOperatorsThatAsksNothingIsClosed) {
  DaemonProcess::Options options;
  options.extra = "[limits]\nadmin_idle = \"100ms\"";
  const DaemonProcess daemon(options);
  const ipc::Error ended = operator_at(daemon).end();
  EXPECT_EQ(ended.code, Errc::timed_out);
  EXPECT_TRUE(has(ended.text, "limits.admin_idle")) << ended.text;
}

TEST(Connections, AnOperatorsThatSendsByteByByteIsClosedToo) {
  DaemonProcess::Options options;
  options.extra = "[limits]\nadmin_idle = \"100ms\"";
  const DaemonProcess daemon(options);
  RawPeer peer = operator_at(daemon);
  // The length of a frame that does not become whole in time: of the largest that there may be.
  const std::array<std::byte, 4> length = {std::byte{0}, std::byte{0}, std::byte{16}, std::byte{0}};
  ASSERT_TRUE(peer.send_raw(length));
  const std::byte one{1};
  EXPECT_TRUE(eventually([&] { return !peer.send_raw({&one, 1}); }));
  EXPECT_EQ(peer.end().code, Errc::timed_out);
}

TEST(Connections, AnOperatorsThatTakesNoAnswersIsClosed) {
  DaemonProcess::Options options;
  options.extra = "[limits]\nadmin_idle = \"100ms\"";
  const DaemonProcess daemon(options);
  RawPeer peer = operator_at(daemon);
  // The daemon stops reading when its answers are not read, and sending fails when it has closed.
  while (peer.ask("config")) {
  }
  EXPECT_EQ(peer.end().code, Errc::daemon_away) << "there was no room for a last word";
}

TEST(Connections, AnOperatorsThatGoesOnAskingStays) {
  DaemonProcess::Options options;
  options.extra = "[limits]\nadmin_idle = \"2s\"";
  const DaemonProcess daemon(options);
  RawPeer peer = operator_at(daemon);
  const auto start = steady_clock::now();
  while (steady_clock::now() - start < milliseconds(2500)) {
    ASSERT_TRUE(peer.ask("ping"));
    ASSERT_TRUE(peer.receive());
  }
}

TEST_F(OtherUsers, CannotLockOperatorsAndTenantsOut) {
  DaemonProcess::Options options;
  options.max_sessions = 8;
  options.daemon = "socket_mode = \"0666\"";
  const DaemonProcess daemon(options);
  let_others_in(daemon);
  std::vector<RawPeer> peers;
  // More than the daemon ever had room for, all silent.
  for (int i = 0; i < 600; ++i) {
    auto peer = connect_as(kStranger, daemon.admin_socket());
    ASSERT_TRUE(peer.has_value());
    peers.push_back(std::move(*peer));
  }
  EXPECT_EQ(peers.back().end().code, Errc::limit_reached);
  EXPECT_EQ(sessions_of(daemon), 0U) << "an operator asks";
  must(daemon.connect('a').ping());
}

// A user may command many uids (subordinate ids of a container).
TEST_F(OtherUsers, WithManyUidsPushOutTheirOwnOldest) {
  rlimit files{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_cur < 2048) GTEST_SKIP() << "too few descriptors for so many connections";
  constexpr uid_t kUids = 17;
  constexpr int kEach = 64;  // the default of limits.connections_per_user
  DaemonProcess::Options options;
  options.daemon = "socket_mode = \"0666\"";
  options.extra = "[limits]\nadmin_idle = \"1h\"";
  options.tenant_b = "uids = [";
  for (uid_t uid = 0; uid < kUids; ++uid) {
    options.tenant_b += std::to_string(kFirstUid + uid) + ", ";
  }
  options.tenant_b += "]";
  const DaemonProcess daemon(options);
  let_others_in(daemon);
  RawPeer trusted = operator_at(daemon);
  std::vector<RawPeer> peers;
  for (int i = 0; i < kEach; ++i) {
    for (uid_t uid = kFirstUid; uid < kFirstUid + kUids; ++uid) {
      auto peer = connect_as(uid, daemon.admin_socket());
      ASSERT_TRUE(peer.has_value());
      ASSERT_TRUE(peer->hello(true));
      ASSERT_TRUE(peer->receive()) << i;
      peers.push_back(std::move(*peer));
    }
  }
  const ipc::Error pushed = peers.front().end();
  EXPECT_EQ(pushed.code, Errc::busy) << pushed.text;
  ASSERT_TRUE(peers.back().ask("ping"));
  EXPECT_TRUE(peers.back().receive());
  ASSERT_TRUE(trusted.ask("ping")) << "it came before all of them";
  EXPECT_TRUE(trusted.receive());
  must(daemon.connect('a').ping());
}

TEST(Sessions, ATenantLeavesTheOthersTheirs) {
  DaemonProcess::Options options;
  options.max_sessions = 5;
  options.daemon = "reserved_sessions = 2";
  const DaemonProcess daemon(options);
  std::vector<Client> a;
  a.reserve(3);
  for (int i = 0; i < 3; ++i) a.push_back(daemon.connect('a'));
  const auto refused = try_connect(daemon.socket('a'));
  ASSERT_EQ(status_of(refused), SLUICE_LIMIT_REACHED);
  for (const char* part :
       {"tenant a has 3 of the 3", "daemon.reserved_sessions", "daemon.max_sessions"}) {
    EXPECT_TRUE(has(refused.error().text, part)) << refused.error().text;
  }
  std::vector<Client> b;
  b.reserve(2);
  for (int i = 0; i < 2; ++i) b.push_back(daemon.connect('b'));
  EXPECT_EQ(status_of(try_connect(daemon.socket('b'))), SLUICE_LIMIT_REACHED) << "all are taken";
  b.pop_back();
  ASSERT_TRUE(eventually([&] { return sessions_of(daemon) == 4; }));
  EXPECT_EQ(status_of(try_connect(daemon.socket('a'))), SLUICE_LIMIT_REACHED) << "it is b's again";
  a.pop_back();
  EXPECT_TRUE(eventually([&] { return try_connect(daemon.socket('a')).has_value(); }));
}

}  // namespace
}  // namespace sluice::test
