#include "ipc/doorbell.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <cstring>

#include "tests/ipc/support.h"

namespace sluice::ipc {
namespace {

bool rings(const Doorbell& bell) {
  pollfd wait{bell.fd(), POLLIN, 0};
  return poll(&wait, 1, 0) == 1;
}

class DoorbellTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = make_doorbell();
    ASSERT_OK(made);
    bells = std::move(*made);
  }
  DoorbellPair bells;
};

TEST_F(DoorbellTest, RingsAtTheOtherEndOnly) {
  bells.client_end.ring();
  EXPECT_TRUE(rings(bells.daemon_end));
  EXPECT_FALSE(rings(bells.client_end));
  bells.daemon_end.ring();
  EXPECT_TRUE(rings(bells.client_end));
}

TEST_F(DoorbellTest, OneDrainSilencesSeveralRings) {
  for (int i = 0; i < 3; ++i) bells.client_end.ring();
  EXPECT_EQ(bells.daemon_end.drain(), Doorbell::Drained::ok);
  EXPECT_FALSE(rings(bells.daemon_end));
  EXPECT_EQ(bells.daemon_end.drain(), Doorbell::Drained::ok);
}

// The attack that an eventfd cannot withstand: see doorbell.h.
TEST_F(DoorbellTest, APeerThatMakesItsEndBlockingAndNeverDrainsCannotHoldTheDaemonUp) {
  ASSERT_EQ(fcntl(bells.client_end.fd(), F_SETFL, 0), 0);
  for (int i = 0; i < 100'000; ++i) bells.daemon_end.ring();
  EXPECT_EQ(bells.daemon_end.drain(), Doorbell::Drained::ok);
  EXPECT_TRUE(rings(bells.client_end));
}

TEST_F(DoorbellTest, TellsThatThePeerIsGone) {
  bells.client_end.ring();
  bells.daemon_end.ring();
  bells.client_end = Doorbell();
  EXPECT_TRUE(rings(bells.daemon_end));
  bells.daemon_end.ring();  // no signal
  while (bells.daemon_end.drain() != Doorbell::Drained::peer_gone) {
    ASSERT_TRUE(rings(bells.daemon_end));
  }
}

TEST_F(DoorbellTest, DescriptorsThatAPeerSendsThroughItAreNotInstalled) {
  const std::size_t before = open_descriptors();
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  char byte = 0;
  iovec place{&byte, 1};
  msghdr message{};
  message.msg_iov = &place;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  const int number = bells.client_end.fd();
  std::memcpy(CMSG_DATA(part), &number, sizeof(int));
  ASSERT_EQ(sendmsg(bells.client_end.fd(), &message, 0), 1);
  EXPECT_EQ(bells.daemon_end.drain(), Doorbell::Drained::ok);
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace sluice::ipc
