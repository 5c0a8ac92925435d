#include "client/control.h"

#include <gtest/gtest.h>
#include <sys/ioctl.h>

#include "ipc/protocol.h"
#include "tests/ipc/support.h"

namespace sluice::client::internal {
namespace {

using ipc::Errc;
using ipc::soon;
namespace wire = ipc::wire;

// A control connection, with the test as the daemon at its other end.
class ControlTest : public testing::Test {
 protected:
  ControlTest() : sockets(ipc::socket_pair()), control(std::move(sockets.left)) {}

  void send(const std::vector<std::byte>& message) {
    ASSERT_OK(ipc::send_frame(sockets.right.get(), message, {}, soon()));
  }

  void send_closing(Errc code) {
    send(ipc::make_message(0, [&](auto& builder) {
      return wire::CreateClosingDirect(builder, static_cast<std::uint16_t>(code), "why");
    }));
    sockets.right.reset();
  }

  ipc::Result<Reply> call(ipc::Deadline deadline) {
    return control.call([](auto& builder) { return wire::CreateBye(builder); }, deadline);
  }

  int unread_bytes() const {
    int bytes = 0;
    EXPECT_EQ(ioctl(control.fd(), FIONREAD, &bytes), 0);
    return bytes;
  }

  ipc::SocketPair sockets;
  Control control;
};

constexpr std::uint64_t kOldRequest = 1'000'000;

TEST_F(ControlTest, StepsOverAnswersThatCameTooLateForTheirCalls) {
  for (int i = 0; i < 10; ++i) send(ipc::make_done(kOldRequest));
  send(ipc::make_done(1));
  EXPECT_TRUE(call(soon()).has_value());
}

TEST_F(ControlTest, LateAnswersDoNotHoldACallUpAfterItsDeadline) {
  for (int i = 0; i < 10; ++i) send(ipc::make_done(kOldRequest));
  EXPECT_ERROR(call(ipc::Clock::now()), Errc::timed_out);
  EXPECT_GT(unread_bytes(), 0) << "it read on although its time was over";
}

TEST_F(ControlTest, LateAnswersDoNotHoldUpTheSearchForTheReasonOfTheEnd) {
  for (int i = 0; i < 100; ++i) send(ipc::make_done(kOldRequest));
  EXPECT_EQ(control.end_reason().code, Errc::daemon_away);
  EXPECT_GT(unread_bytes(), 0) << "a daemon that goes on sending would keep it reading";
}

TEST_F(ControlTest, SaysWhyTheDaemonEndedTheSession) {
  send_closing(Errc::limit_reached);
  EXPECT_EQ(control.end_reason().code, Errc::limit_reached);
  EXPECT_EQ(control.end_reason().text, "why");
  EXPECT_ERROR(call(soon()), Errc::limit_reached);
}

// Callers try again after a time-out.
TEST_F(ControlTest, ASessionThatEndedIsNeverATimeOut) {
  send_closing(Errc::timed_out);
  EXPECT_ERROR(call(soon()), Errc::daemon_away);
  EXPECT_EQ(control.end_reason().code, Errc::daemon_away);
  EXPECT_EQ(control.end_reason().text, "why");
}

}  // namespace
}  // namespace sluice::client::internal
