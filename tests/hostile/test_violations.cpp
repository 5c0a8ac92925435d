// Misconduct ends a session, and is counted for its tenant under what it was.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/hostile/raw_peer.h"
#include "tests/integration/daemon_process.h"

namespace sluice::test {

namespace wire = ipc::wire;
namespace {

using ipc::Errc;
using nlohmann::json;

constexpr std::uint32_t kRing = 16;
constexpr std::uint16_t kNoSuchOperation = 999;

json tenant_a(const DaemonProcess& daemon) {
  return json::parse(daemon.admin("tenants"))["tenants"][0];
}

DaemonProcess::Options small_rings() {
  DaemonProcess::Options options;
  options.extra = "[rings]\ncapacity = 16\n[limits]\nstep_deadline = \"100ms\"";
  return options;
}

class Misconduct : public testing::Test {
 protected:
  // How often each reason is counted once `reason` is: nothing else may be.
  void expect_counted(const std::string& reason, int count) {
    EXPECT_TRUE(eventually([&] {
      return tenant_a(daemon)["violations_by_reason"][reason] == count;
    })) << tenant_a(daemon);
    const json tenant = tenant_a(daemon);
    EXPECT_EQ(tenant["violations"], count) << tenant;
    must(bystander.ping());
  }

  wire::Submission submission(std::uint16_t op, std::uint32_t reply_offset = 0) const {
    return {1, 0, 0, op, 0, 0, 0, 0, 0, reply_offset, 64, 0};
  }
  // One request of a session of its own; what the daemon says to it.
  ipc::Error end_after(const wire::Submission& request) {
    RawPeer peer(daemon.socket('a'));
    const RawPeer::Session session = peer.open_session();
    ipc::SubmissionProducer requests(session.memory.submission_ring());
    EXPECT_TRUE(requests.push(request).value_or(false));
    if (requests.publish()) session.bell.ring();
    return peer.end();
  }

  DaemonProcess daemon{small_rings()};
  client::Client bystander{daemon.connect('a')};
};

TEST_F(Misconduct, AnImpossibleCursorIsOne) {
  RawPeer peer(daemon.socket('a'));
  const RawPeer::Session session = peer.open_session();
  session.memory.submission_ring().control->tail.store(kRing + 1);
  session.bell.ring();
  EXPECT_EQ(peer.end().code, Errc::peer_violation);
  expect_counted("cursor", 1);
}

TEST_F(Misconduct, AnUnknownOperationAndARangeOutsideAreDescriptors) {
  EXPECT_EQ(end_after(submission(kNoSuchOperation)).code, Errc::peer_violation);
  expect_counted("descriptor", 1);
  EXPECT_EQ(end_after(submission(0, 0xFFFFFFC0)).code, Errc::peer_violation);
  expect_counted("descriptor", 2);
}

TEST_F(Misconduct, AFrameThatDoesNotVerifyIsAMessage) {
  RawPeer garbage(daemon.socket('a'));
  garbage.open_session();
  ASSERT_TRUE(garbage.send(std::vector<std::byte>(100, std::byte{7})));
  EXPECT_EQ(garbage.end().code, Errc::peer_violation);
  expect_counted("message", 1);
  RawPeer empty(daemon.socket('a'));
  empty.open_session();
  ASSERT_TRUE(empty.send_raw(std::vector<std::byte>(4)));  // a length of 0
  EXPECT_EQ(empty.end().code, Errc::peer_violation);
  expect_counted("message", 2);
}

TEST_F(Misconduct, AnswersThatNobodyTakesAreAFlood) {
  RawPeer peer(daemon.socket('a'));
  const RawPeer::Session session = peer.open_session();
  ipc::SubmissionProducer requests(session.memory.submission_ring());
  std::uint32_t made = 0;
  ASSERT_TRUE(eventually([&] {
    const auto pushed = requests.push(submission(0));
    made += pushed.value_or(false) ? 1 : 0;
    if (requests.publish()) session.bell.ring();
    return made > kRing;
  }));
  EXPECT_EQ(peer.end().code, Errc::peer_violation);
  expect_counted("flood", 1);
}

TEST_F(Misconduct, AStepThatNeverEndsIsAStepDeadline) {
  client::Client client = daemon.connect('a');
  client::Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  client::Actor actor = must(cache.open_actor());
  must(actor.begin_step());
  EXPECT_TRUE(eventually([&] { return !client.ping(); }));
  EXPECT_EQ(client.ping().error().code, SLUICE_LIMIT_REACHED);
  expect_counted("step_deadline", 1);
}

TEST_F(Misconduct, AnOperatorsKillAndAGoodbyeAreNone) {
  client::Client client = daemon.connect('a');
  daemon.admin("kill", json{{"session", must(client.info()).session}}.dump());
  EXPECT_TRUE(eventually([&] { return !client.ping(); }));
  daemon.connect('a');
  const json tenant = tenant_a(daemon);
  EXPECT_EQ(tenant["violations"], 0) << tenant;
}

}  // namespace
}  // namespace sluice::test
