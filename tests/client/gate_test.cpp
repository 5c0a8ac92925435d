#include "client/gate.h"

#include <gtest/gtest.h>

#include <future>

#include "tests/eventually.h"
#include "tests/ipc/support.h"

namespace sluice::client::internal {
namespace {

using ipc::Errc;
using ipc::soon;
using Needs = Gate::Needs;
using State = Gate::State;

class GateTest : public testing::Test {
 protected:
  ipc::SocketPair sockets = ipc::socket_pair();
  std::shared_ptr<Link> link = std::make_shared<Link>(std::move(sockets.left));
  Gate gate{link, true};
};

TEST_F(GateTest, AResumeBeginsWhenAllAreOutAndLetsNobodyInMeanwhile) {
  auto stay = gate.enter(soon(), Needs::daemon);
  ASSERT_OK(stay);
  EXPECT_TRUE(gate.gone(*link, {Errc::daemon_away, "gone"}));
  auto begun = std::async(std::launch::async, [&] { gate.begin_resume(); });
  ASSERT_TRUE(test::eventually([&] { return gate.state() == State::resuming; }));
  EXPECT_EQ(begun.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  EXPECT_ERROR(gate.enter(ipc::Clock::now(), Needs::nothing), Errc::daemon_away);
  stay->leave();
  begun.get();
  auto entered = std::async(std::launch::async, [&] { return gate.enter(soon(), Needs::daemon); });
  auto next = std::make_shared<Link>(std::move(sockets.right));
  gate.connect(next);
  EXPECT_EQ(entered.get()->link(), next.get());
  EXPECT_EQ(gate.resumes(), 1u);
}

TEST_F(GateTest, WhoNeedsNobodyGetsInWhileTheDaemonIsAway) {
  gate.away({Errc::daemon_away, "gone"});
  EXPECT_EQ(gate.enter(ipc::Clock::now(), Needs::nothing)->link(), nullptr);
  EXPECT_ERROR(gate.enter(ipc::Clock::now(), Needs::daemon), Errc::daemon_away);
}

TEST_F(GateTest, AnOldLinkThatIsGoneIsNoNews) {
  gate.begin_resume();
  gate.connect(std::make_shared<Link>(std::move(sockets.right)));
  EXPECT_TRUE(gate.gone(*link, {Errc::daemon_away, "gone"}));
  EXPECT_EQ(gate.state(), State::connected);
}

TEST_F(GateTest, TheEndIsForGood) {
  gate.end({Errc::stale_handle, "cold"});
  EXPECT_ERROR(gate.enter(soon(), Needs::nothing), Errc::stale_handle);
  EXPECT_EQ(gate.reason().code, Errc::stale_handle);
}

}  // namespace
}  // namespace sluice::client::internal
