#include "client/channel.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "ipc/message.h"
#include "tests/eventually.h"
#include "tests/ipc/support.h"

namespace sluice::client::internal {
namespace {

using ipc::Deadline;
using ipc::Errc;
using ipc::soon;
namespace wire = ipc::wire;

// The rings of a client, with the test as its daemon.
class ChannelTest : public testing::Test {
 protected:
  static constexpr std::uint32_t kCapacity = 2;
  static constexpr std::size_t kRequestBytes = 4096;

  void SetUp() override {
    auto made = ipc::SessionMemory::create(kCapacity, kRequestBytes);
    ASSERT_OK(made);
    memory = std::move(*made);
    auto mine =
        ipc::SessionMemory::attach(ipc::Fd(dup(memory.fd().get())), kCapacity, kRequestBytes);
    ASSERT_OK(mine);
    auto bells = ipc::make_doorbell();
    ASSERT_OK(bells);
    bell = std::move(bells->daemon_end);
    ipc::SocketPair sockets = ipc::socket_pair();
    socket = std::move(sockets.left);
    control.emplace(std::move(sockets.right));
    channel.emplace(std::move(*mine), std::move(bells->client_end), *control);
    requests = ipc::SubmissionConsumer(memory.submission_ring());
    answers = ipc::CompletionProducer(memory.completion_ring());
  }

  Channel::Ticket submit(const Channel::Request& request = {}, ipc::RequestPiece piece = {}) {
    auto ticket = channel->submit(request, std::move(piece), soon());
    EXPECT_TRUE(ticket.has_value()) << ticket.error().text;
    return ticket.value_or(Channel::Ticket{});
  }

  ipc::RequestPiece allocate(std::size_t bytes) {
    auto piece = channel->allocate(bytes, soon());
    EXPECT_TRUE(piece.has_value());
    return piece ? std::move(*piece) : ipc::RequestPiece();
  }

  // ---- as the daemon

  std::optional<wire::Submission> take() { return requests.next().value(); }

  // The request must be there.
  wire::Submission take_one() { return take().value(); }

  void answer(std::uint64_t user_data, Errc code = Errc::ok, std::uint64_t value0 = 0) {
    const wire::Completion completion(user_data, value0, 0, static_cast<std::uint16_t>(code), 0, 0);
    ASSERT_TRUE(answers.push(completion).value());
    if (answers.publish()) bell.ring();
  }

  // Makes the client read what is answered so far.
  void read_answers() {
    const Channel::Ticket last = submit();
    answer(take_one().user_data());
    EXPECT_TRUE(channel->wait(last, soon()).has_value());
  }

  // Answers everything, asleep whenever nothing is there, until the client hangs up.
  void serve() {
    while (true) {
      while (const auto request = take()) answer(request->user_data());
      if (!requests.prepare_to_sleep().value()) continue;
      pollfd wait{bell.fd(), POLLIN, 0};
      ASSERT_EQ(ipc::poll_until(&wait, 1, soon()).value(), 1) << "a lost wake-up";
      requests.awake();
      if (bell.drain() == ipc::Doorbell::Drained::peer_gone) return;
    }
  }

  ipc::SessionMemory memory;
  ipc::Doorbell bell;
  ipc::Fd socket;
  std::optional<Control> control;
  std::optional<Channel> channel;
  ipc::SubmissionConsumer requests;
  ipc::CompletionProducer answers;
};

TEST_F(ChannelTest, CarriesRequestsOfMoreThreadsThanItHasTickets) {
  constexpr int kThreads = 4;
  constexpr int kCalls = 2'000;
  std::thread daemon([&] { serve(); });
  std::atomic<int> answered = 0;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int call = 0; call < kCalls; ++call) {
        const Deadline deadline = soon();
        const auto answer = channel->call({}, ipc::RequestPiece(), deadline);
        answered += answer.has_value() && ipc::Clock::now() < deadline ? 1 : 0;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(answered, kThreads * kCalls);
  channel.reset();
  daemon.join();
}

// It sleeps on the ring, where nothing will come: all that was in flight is answered. (On a busy
// machine it may look again before it gets to sleep; that is as good.)
TEST_F(ChannelTest, TheThreadThatReadsForAllGetsATicketThatAnotherThreadGivesBack) {
  const Channel::Ticket first = submit();
  submit();
  answer(take_one().user_data());
  answer(take_one().user_data());
  std::thread waiting([&] {
    const Deadline deadline = ipc::deadline_in(test::kDeadline);
    EXPECT_TRUE(channel->submit({}, ipc::RequestPiece(), deadline).has_value());
    EXPECT_LT(ipc::Clock::now(), deadline);
  });
  const ipc::RingControl& ring = *memory.completion_ring().control;
  EXPECT_TRUE(test::eventually([&] { return ring.head == 2; }));
  (void)test::eventually([&] { return ring.need_wakeup != 0; }, std::chrono::seconds(1));
  EXPECT_TRUE(channel->wait(first, soon()).has_value());
  waiting.join();
}

TEST_F(ChannelTest, HoldsTheMemoryOfAnAbandonedRequestUntilItIsAnswered) {
  const Channel::Ticket ticket = submit({}, allocate(kRequestBytes));
  channel->abandon(ticket);
  EXPECT_ERROR(channel->allocate(1, ipc::Clock::now()), Errc::timed_out);
  answer(take_one().user_data());
  EXPECT_TRUE(channel->allocate(1, soon()).has_value());
}

TEST_F(ChannelTest, ReleasesTheSequenceThatAnAbandonedRequestMade) {
  for (const auto op : {wire::Op::sequence_open, wire::Op::sequence_fork}) {
    channel->abandon(submit({.op = op}));
    answer(take_one().user_data(), Errc::ok, 77);
    read_answers();
    const wire::Submission release = take_one();
    EXPECT_EQ(release.op(), static_cast<std::uint16_t>(wire::Op::sequence_release));
    EXPECT_EQ(release.handle(), 77u);
    answer(release.user_data());
    read_answers();
  }
}

// Another thread reads its answer between the time-out of a wait and the end of it.
TEST_F(ChannelTest, ReleasesTheSequenceOfARequestThatIsAbandonedAfterItsAnswer) {
  const Channel::Ticket open = submit({.op = wire::Op::sequence_open});
  answer(take_one().user_data(), Errc::ok, 77);
  read_answers();
  channel->abandon(open);
  const auto release = take();
  ASSERT_TRUE(release.has_value());
  EXPECT_EQ(release->op(), static_cast<std::uint16_t>(wire::Op::sequence_release));
  EXPECT_EQ(release->handle(), 77u);
  answer(release->user_data());
  read_answers();
}

TEST_F(ChannelTest, ReleasesNothingForAbandonedRequestsThatMadeNoSequence) {
  channel->abandon(submit({.op = wire::Op::sequence_open}));
  answer(take_one().user_data(), Errc::limit_reached, 77);
  channel->abandon(submit({.op = wire::Op::sequence_extend}));
  answer(take_one().user_data(), Errc::ok, 77);
  read_answers();
  EXPECT_FALSE(take().has_value());
}

TEST_F(ChannelTest, AnswersToRequestsThatTheDaemonHasNotTakenEndTheSession) {
  for (std::uint32_t i = 0; i < kCapacity; ++i) {
    const Channel::Ticket ticket = submit();
    answer(ticket.user_data);
    ASSERT_OK(channel->wait(ticket, soon()));
  }
  EXPECT_ERROR(channel->submit({}, ipc::RequestPiece(), soon()), Errc::peer_violation);
  EXPECT_EQ(channel->end_code(), Errc::peer_violation);
}

// The ticket would stay valid in the eyes of its owner, and be another request's soon.
TEST_F(ChannelTest, AnAnswerThatIsATimeOutEndsTheSession) {
  const Channel::Ticket ticket = submit();
  answer(take_one().user_data(), Errc::timed_out);
  EXPECT_ERROR(channel->wait(ticket, soon()), Errc::peer_violation);
}

TEST_F(ChannelTest, AnswersThatNobodyAskedForEndTheSession) {
  const Channel::Ticket ticket = submit();
  answer(take_one().user_data());
  ASSERT_OK(channel->wait(ticket, soon()));
  answer(ticket.user_data);
  EXPECT_ERROR(channel->wait(submit(), soon()), Errc::peer_violation);
}

}  // namespace
}  // namespace sluice::client::internal
