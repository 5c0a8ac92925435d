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
    config.hbm = {.capacity_bytes = 1 << 20, .extent_bytes = 64 << 10};
    config.dram = {.capacity_bytes = 4 << 20, .extent_bytes = 256 << 10};
    TenantConfig tenant;
    tenant.name = "t";
    tenant.hbm.limit_bytes = config.hbm.capacity_bytes;
    tenant.dram.limit_bytes = config.dram.capacity_bytes;
    config.tenants.push_back(tenant);
    coordinator = std::move(*Coordinator::create(
        config, one_device(make_host_device(HugePages::never, HugePages::never))));
    session = std::make_shared<Session>();
    session->id = *coordinator->open_session(ipc::TenantId{0});
    session->memory = std::move(*ipc::SessionMemory::create(kCapacity, kRequestBytes));
    session->bell = std::move(ipc::make_doorbell()->daemon_end);
    requests = ipc::SubmissionProducer(session->memory.submission_ring());
    completions = ipc::CompletionConsumer(session->memory.completion_ring());
    cache = open_cache();
    lane = std::make_unique<LaneSession>(session, *coordinator);
  }

  void TearDown() override {
    lane.reset();
    coordinator->end_session(session, true, std::chrono::steady_clock::now());
  }

  // The memory worker makes it meanwhile.
  std::uint64_t open_cache() {
    const auto opening = std::make_shared<CacheOpening>();
    opening->request.model = "m";
    opening->request.layout = {2, 1, 16, 4, 2, 2, ipc::PageKind::layer};
    opening->request.hbm_bytes = 64 << 10;
    const auto deadline = ipc::soon();
    while (ipc::Clock::now() < deadline) {
      const auto opened = coordinator->open_cache(*session, opening);
      if (!opened) break;
      if (opened->has_value()) return (*opened)->handle.bits();
      std::this_thread::yield();
    }
    ADD_FAILURE() << "no cache";
    return 0;
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
            std::uint32_t length) {
    const wire::Submission request(0, handle, 0, static_cast<std::uint16_t>(op), 0, actor, count, 0,
                                   length, kRequestBytes / 2, kRequestBytes / 2, 0);
    EXPECT_TRUE(requests.push(request).value());
    (void)requests.publish();
  }

  template <class T>
  void write(std::size_t at, const T& value) {
    std::memcpy(session->memory.request_memory().data() + at, &value, sizeof(T));
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

  Config config;
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

}  // namespace
}  // namespace sluice::daemon
