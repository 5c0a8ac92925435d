// Requests that a client of ours would not make.
#include "daemon/lane_session.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "daemon/coordinator.h"
#include "daemon/session.h"
#include "ipc/ring.h"
#include "tests/daemon/test_session.h"
#include "tests/ipc/support.h"

namespace sluice::daemon {
namespace {

using ipc::Errc;
namespace wire = ipc::wire;

// A session with a cache, with the test as its client.
class LaneSessionTest : public testing::Test {
 protected:
  static constexpr std::uint32_t kCapacity = 32;
  static constexpr std::uint32_t kRequestBytes = 1 << 20;

  void SetUp() override {
    coordinator = std::move(*Coordinator::create(
        config, one_device(make_host_device(HugePages::never, HugePages::never))));
    session = std::make_shared<test::TestSession>(*coordinator, 0, kCapacity, kRequestBytes);
    requests = ipc::SubmissionProducer(session->memory.submission_ring());
    completions = ipc::CompletionConsumer(session->memory.completion_ring());
    const auto opened = test::open_small_cache(*coordinator, *session);
    ASSERT_TRUE(opened.has_value());
    cache = opened->handle.bits();
    lane = std::make_unique<LaneSession>(session, *coordinator);
  }

  void TearDown() override {
    lane.reset();
    coordinator->end_session(session, true, std::chrono::steady_clock::now());
  }

  Errc ask(wire::Op op, std::uint32_t actor) {
    const wire::Submission request(0, cache, 0, static_cast<std::uint16_t>(op), 0, actor, 0, 0, 0,
                                   0, 0, 0);
    EXPECT_TRUE(requests.push(request).value());
    (void)requests.publish();
    EXPECT_TRUE(lane->serve(1).value());
    return static_cast<Errc>(completions.next().value()->code());
  }

  // A request that one turn answers. Its lists are in the first half of request memory and the
  // reply goes to the second.
  wire::Completion run(wire::Op op, std::uint64_t handle, std::uint32_t actor, std::uint32_t count,
                       std::uint32_t length = 0) {
    push(op, handle, actor, count, length);
    EXPECT_TRUE(lane->serve(1).value());
    return completions.next().value().value();
  }

  void push(wire::Op op, std::uint64_t handle, std::uint32_t actor, std::uint32_t count,
            std::uint32_t length, std::uint64_t value = 0) {
    const wire::Submission request(0, handle, value, static_cast<std::uint16_t>(op), 0, actor,
                                   count, 0, length, kRequestBytes / 2, kRequestBytes / 2, 0);
    EXPECT_TRUE(requests.push(request).value());
    (void)requests.publish();
  }

  template <class T>
  void write(std::size_t at, const T& value) {
    std::memcpy(session->memory.request_memory().data() + at, &value, sizeof(T));
  }

  // Of the last resolve.
  wire::ResolveCounts counts() {
    wire::ResolveCounts found;
    std::memcpy(&found, session->memory.request_memory().data() + kRequestBytes / 2, sizeof(found));
    return found;
  }

  // A sequence of one block, which is sealed.
  std::uint64_t sealed_sequence() {
    write(0, wire::OpenSpec(cache, 8, 0));
    const std::uint64_t sequence =
        run(wire::Op::sequence_open, 0, 0, 0, sizeof(wire::OpenSpec)).value0();
    const auto deadline = ipc::soon();
    while (run(wire::Op::sequence_extend, sequence, 0, 1).code() != 0) {
      if (ipc::Clock::now() >= deadline) ADD_FAILURE() << "no block";
      std::this_thread::yield();
    }
    write(0, wire::KeySpec(8, 1));
    write(sizeof(wire::KeySpec), std::uint64_t{1});
    EXPECT_EQ(run(wire::Op::seal, sequence, 0, 0, sizeof(wire::KeySpec) + 8).code(), 0);
    return sequence;
  }

  const Config config = test::small_config();
  std::unique_ptr<Coordinator> coordinator;
  std::shared_ptr<Session> session;
  ipc::SubmissionProducer requests;
  ipc::CompletionConsumer completions;
  std::uint64_t cache = 0;
  std::unique_ptr<LaneSession> lane;
};

TEST_F(LaneSessionTest, StepsAreOfActorsThatTheSessionOpenedAndNotOfItsLanesOwn) {
  const std::uint32_t own =
      coordinator->open_actor(*session, ipc::Handle::from_bits(cache)).value();
  EXPECT_EQ(ask(wire::Op::forecast, own), Errc::ok);
  EXPECT_TRUE(lane->serve(1).value()) << "runs the forecast, with an actor of its own";
  EXPECT_EQ(ask(wire::Op::step_begin, own + 1), Errc::stale_handle);
  EXPECT_EQ(ask(wire::Op::step_begin, own), Errc::ok);
  EXPECT_EQ(ask(wire::Op::step_begin, own), Errc::wrong_state);
  EXPECT_EQ(ask(wire::Op::step_end, own), Errc::ok);
}

// All of them hits, and all in the same bytes of request memory.
TEST_F(LaneSessionTest, LongListsEndTheTurnOfASession) {
  constexpr std::uint32_t kPages = 100'000;
  const std::uint64_t sequence = sealed_sequence();
  const std::uint32_t actor =
      coordinator->open_actor(*session, ipc::Handle::from_bits(cache)).value();
  ASSERT_EQ(ask(wire::Op::step_begin, actor), Errc::ok);
  write(0, wire::ListSpec(sequence, 0, kPages));
  constexpr std::uint32_t kLength = sizeof(wire::ListSpec) + kPages * sizeof(std::uint32_t);
  for (std::uint32_t i = 0; i < kCapacity; ++i) push(wire::Op::resolve, cache, actor, 1, kLength);
  int turns = 0;
  int answers = 0;
  for (; answers < static_cast<int>(kCapacity) && turns < 100; ++turns) {
    ASSERT_TRUE(lane->serve(kCapacity).value());
    while (const auto answer = completions.next().value()) answers += answer->code() == 0 ? 1 : 0;
  }
  EXPECT_EQ(answers, static_cast<int>(kCapacity));
  EXPECT_GE(turns, static_cast<int>(kCapacity)) << "one turn serves one of them";
}

TEST_F(LaneSessionTest, APageIsLateIfItsForecastStillWaitsWhenItIsResolved) {
  const std::uint64_t sequence = sealed_sequence();
  const std::uint32_t actor =
      coordinator->open_actor(*session, ipc::Handle::from_bits(cache)).value();
  ASSERT_EQ(ask(wire::Op::step_begin, actor), Errc::ok);
  write(0, wire::ListSpec(sequence, 0, 2));  // two pages, of which both are the same one
  write(sizeof(wire::ListSpec), std::uint64_t{0});
  constexpr std::uint32_t kLength = sizeof(wire::ListSpec) + 2 * sizeof(std::uint32_t);
  ASSERT_EQ(run(wire::Op::forecast, cache, actor, 1, kLength).code(), 0);
  ASSERT_EQ(run(wire::Op::resolve, cache, actor, 1, kLength).code(), 0);
  EXPECT_EQ(counts().forecast_late(), 1U);
  EXPECT_EQ(counts().forecast_dropped(), 0U);
  while (lane->serve(1).value()) {
  }
  ASSERT_EQ(run(wire::Op::resolve, cache, actor, 1, kLength).code(), 0);
  EXPECT_EQ(counts().forecast_late(), 0U);
  EXPECT_EQ(counts().forecast_dropped(), 0U) << "it is counted once";
}

TEST_F(LaneSessionTest, TheNextResolveTellsWhatBecameOfForecasts) {
  const std::uint64_t sequence = sealed_sequence();
  const std::uint32_t actor =
      coordinator->open_actor(*session, ipc::Handle::from_bits(cache)).value();
  ASSERT_EQ(ask(wire::Op::step_begin, actor), Errc::ok);
  constexpr std::uint32_t kOnePage = sizeof(wire::ListSpec) + sizeof(std::uint32_t);
  const auto forecast = [&](std::uint32_t page, std::uint64_t deadline_us) {
    write(0, wire::ListSpec(sequence, page, 1));
    write(sizeof(wire::ListSpec), std::uint32_t{0});
    push(wire::Op::forecast, cache, actor, 1, kOnePage, deadline_us);
    while (lane->serve(1).value()) {
    }
    EXPECT_EQ(completions.next().value().value().code(), 0);
  };
  forecast(0, 0);  // over when its turn comes
  forecast(1, 50'000'000);
  for (const std::uint32_t once : {1U, 0U}) {
    ASSERT_EQ(run(wire::Op::resolve, cache, actor, 0).code(), 0);
    EXPECT_EQ(counts().forecast_dropped(), once);
    EXPECT_EQ(counts().forecast_issued(), once);
  }
  write(0, wire::ListSpec(sequence, 0, 1));
  ASSERT_EQ(run(wire::Op::resolve, cache, actor, 1, kOnePage).code(), 0);
  EXPECT_EQ(counts().misses(), 1U);
  EXPECT_EQ(counts().forecast_late(), 0U) << "it was dropped already";
}

}  // namespace
}  // namespace sluice::daemon
