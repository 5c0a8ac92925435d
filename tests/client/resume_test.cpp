// A daemon that dies and comes back: what goes on meanwhile, what waits, and what the session has
// afterwards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <cstring>
#include <functional>
#include <future>
#include <thread>

#include "client/actor.h"
#include "client/sequence.h"
#include "tests/client/mortal_daemon.h"
#include "tests/eventually.h"

namespace sluice::client::internal {
namespace {

using ipc::Errc;
using ipc::fail;
using ipc::wire::Executor;
using test::eventually;
using testing::Contains;
using testing::ElementsAre;
using When = MortalDaemon::When;

std::span<const std::byte> key_of(const char* text) {
  return {reinterpret_cast<const std::byte*>(text), std::strlen(text)};
}

Keys one_key(const char* text) {
  return {reinterpret_cast<const std::byte*>(text), static_cast<std::uint32_t>(std::strlen(text)),
          std::strlen(text), 1};
}

// A client with a sequence of two private blocks, and an actor.
class ResumeTest : public testing::Test {
 protected:
  void open(Executor executor, std::chrono::microseconds timeout = std::chrono::seconds(60)) {
    auto connected =
        Client::connect({.socket_path = daemon.socket(), .client_name = "t", .timeout = timeout});
    ASSERT_OK(connected);
    client = std::move(*connected);
    auto opened = Cache::open(*client, MortalDaemon::cache(executor));
    ASSERT_OK(opened);
    cache = std::move(*opened);
    auto made = open_sequence();
    ASSERT_OK(made);
    sequence = std::move(*made);
    ASSERT_OK(sequence->extend(2));
    auto acting = Actor::open(*cache);
    ASSERT_OK(acting);
    actor = std::move(*acting);
  }

  ipc::Result<std::unique_ptr<Sequence>> open_sequence(const Keys& keys = {}) {
    std::uint32_t matched = 0;
    return Sequence::open(*cache, keys, matched);
  }

  // Of the first page of a block.
  ipc::Result<std::int32_t> resolve(std::uint32_t block) {
    std::int32_t slot = -1;
    const PageList list{sequence.get(), 0, 1, &block, &slot, nullptr};
    Counts counts{};
    if (auto ok = actor->resolve({&list, 1}, counts); !ok) return std::unexpected(ok.error());
    return slot;
  }

  ipc::Status step() {
    if (auto ok = actor->begin_step(); !ok) return ok;
    auto slot = resolve(0);
    auto ended = actor->end_step();
    if (!slot) return std::unexpected(slot.error());
    return ended;
  }

  ipc::Result<std::vector<std::int32_t>> pin(std::uint32_t block) {
    std::vector<std::int32_t> slots(2, -1);
    if (auto ok = sequence->pin(block, *actor, slots.data()); !ok) {
      return std::unexpected(ok.error());
    }
    return slots;
  }

  bool is_away() const {
    const auto state = client->gate().state();
    return state == Gate::State::away || state == Gate::State::resuming;
  }
  void wait_until_away() const {
    ASSERT_TRUE(eventually([&] { return is_away(); }));
  }
  void wait_until_back(std::uint32_t resumes = 1) const {
    ASSERT_TRUE(eventually([&] {
      return client->gate().state() == Gate::State::connected &&
             client->gate().resumes() == resumes;
    })) << client->gate().reason().text;
  }
  void wait_until_ended() const {
    ASSERT_TRUE(eventually([&] { return client->gate().state() == Gate::State::ended; }));
  }
  void outage() {
    daemon.die();
    wait_until_away();
    daemon.come_back();
    wait_until_back();
  }

  std::vector<std::uint32_t> ids(const Sequence& of) const {
    std::vector<std::uint32_t> all;
    all.reserve(of.blocks());
    for (std::uint32_t i = 0; i < of.blocks(); ++i) all.push_back(of.id(i));
    return all;
  }
  void expect_same_blocks() const {
    EXPECT_EQ(daemon.blocks_of(sequence->handle()), ids(*sequence));
  }

  MortalDaemon daemon;
  std::unique_ptr<Client> client;
  std::unique_ptr<Cache> cache;
  std::unique_ptr<Sequence> sequence;
  std::unique_ptr<Actor> actor;
};

// ---- at rest

TEST_F(ResumeTest, AnIdleClientNoticesAndGoesOn) {
  open(Executor::direct);
  ASSERT_OK(sequence->seal(0, key_of("a"), 0, nullptr));
  const std::uint64_t before = cache->handle();
  outage();
  EXPECT_NE(cache->handle(), before);
  expect_same_blocks();
  EXPECT_EQ(daemon.private_blocks(), 1u);
  ASSERT_OK(sequence->extend(1));
  ASSERT_OK(open_sequence(one_key("a")));
  expect_same_blocks();
}

TEST_F(ResumeTest, ADaemonThatStopsInGoodOrderIsWaitedForToo) {
  open(Executor::daemon);
  daemon.die(ipc::Error{Errc::shutting_down, "the daemon is stopping"});
  wait_until_away();
  EXPECT_ERROR(client->look(), Errc::shutting_down);
  daemon.come_back();
  wait_until_back();
  ASSERT_OK(client->look());
  ASSERT_OK(step());
}

TEST_F(ResumeTest, ASessionThatTheDaemonEndedIsNotResumed) {
  open(Executor::direct);
  daemon.die(ipc::Error{Errc::peer_violation, "a request that no library makes"});
  wait_until_ended();
  EXPECT_ERROR(step(), Errc::peer_violation);
  EXPECT_ERROR(sequence->extend(1), Errc::peer_violation);
  daemon.come_back();
  EXPECT_ERROR(open_sequence(), Errc::peer_violation);
  EXPECT_EQ(daemon.hellos(), 1u);
}

TEST_F(ResumeTest, WithoutATokenNothingIsResumed) {
  daemon.resumable = false;
  open(Executor::direct);
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  ASSERT_OK(actor->end_step());
  daemon.die();
  EXPECT_ERROR(sequence->extend(1), Errc::daemon_away);
  EXPECT_ERROR(sequence->seal(1, key_of("a"), 0, nullptr), Errc::daemon_away);
  ASSERT_OK(step());
  daemon.come_back();
  EXPECT_ERROR(sequence->extend(1), Errc::daemon_away);
  EXPECT_EQ(daemon.hellos(), 1u);
}

TEST_F(ResumeTest, ASequenceWithoutBlocksIsAdopted) {
  open(Executor::direct);
  ASSERT_OK(sequence->truncate(0));
  outage();
  EXPECT_THAT(daemon.sequences(), ElementsAre(sequence->handle()));
  ASSERT_OK(sequence->extend(1));
  expect_same_blocks();
}

TEST_F(ResumeTest, GoesOnAsOftenAsTheDaemonDies) {
  open(Executor::direct);
  for (std::uint32_t death = 1; death <= 5; ++death) {
    daemon.die();
    wait_until_away();
    daemon.come_back();
    wait_until_back(death);
    ASSERT_OK(sequence->extend(1));
    expect_same_blocks();
  }
}

// ---- while it is away

TEST_F(ResumeTest, DirectStepsGoOnOverAnOutage) {
  open(Executor::direct);
  ASSERT_OK(actor->begin_step());
  const auto pinned = pin(0);
  ASSERT_OK(pinned);
  ASSERT_OK(actor->end_step());
  daemon.die();
  wait_until_away();
  for (int i = 0; i < 100; ++i) ASSERT_OK(step());
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(1));
  EXPECT_EQ(resolve(0).value(), (*pinned)[0]);
  daemon.come_back();
  while (client->gate().resumes() == 0) {
    EXPECT_EQ(resolve(0).value(), (*pinned)[0]);
    ASSERT_OK(actor->end_step());
    ASSERT_OK(actor->begin_step());
  }
  ASSERT_OK(actor->end_step());
  wait_until_back();
  expect_same_blocks();
}

TEST_F(ResumeTest, CallsThatAskTheDaemonWaitForIt) {
  open(Executor::daemon);
  daemon.die();
  wait_until_away();
  auto steps = std::async(std::launch::async, [&] { return step(); });
  auto opened = std::async(std::launch::async, [&] { return open_sequence(); });
  auto cache_opened = std::async(std::launch::async, [&] {
    return Cache::open(*client, MortalDaemon::cache(Executor::daemon));
  });
  EXPECT_EQ(steps.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  daemon.come_back();
  ASSERT_OK(steps.get());
  ASSERT_OK(opened.get());
  ASSERT_OK(cache_opened.get());
  expect_same_blocks();
}

// Its time is what all that opens takes on a busy machine, and is waited for four times.
TEST_F(ResumeTest, AfterTheDeadlineACallFailsAndTheSequenceIsWhatItWas) {
  open(Executor::daemon, std::chrono::milliseconds(500));
  daemon.die();
  EXPECT_ERROR(sequence->extend(1), Errc::daemon_away);
  EXPECT_ERROR(sequence->seal(0, key_of("a"), 0, nullptr), Errc::daemon_away);
  EXPECT_ERROR(step(), Errc::daemon_away);
  EXPECT_ERROR(open_sequence(), Errc::daemon_away);
  EXPECT_EQ(sequence->blocks(), 2u);
  daemon.come_back();
  wait_until_back();
  expect_same_blocks();
}

TEST_F(ResumeTest, WhatIsCutOffOrReleasedMeanwhileIsGoneAfterwards) {
  for (const Executor executor : {Executor::direct, Executor::daemon}) {
    open(executor);
    auto other = open_sequence();
    ASSERT_OK(other);
    ASSERT_OK((*other)->extend(3));
    const std::uint32_t kept = sequence->id(0);
    daemon.die();
    wait_until_away();
    ASSERT_OK(sequence->truncate(1));
    ASSERT_OK((*other)->release());
    other->reset();
    daemon.come_back();
    wait_until_back();
    EXPECT_THAT(daemon.blocks_of(sequence->handle()), ElementsAre(kept));
    EXPECT_EQ(daemon.private_blocks(), 1u);
    actor.reset();
    sequence.reset();
    cache.reset();
    client.reset();
  }
}

TEST_F(ResumeTest, AnActorThatIsClosedMeanwhileIsClosedAfterwards) {
  open(Executor::direct);
  EXPECT_EQ(daemon.actors(), 1u);
  daemon.die();
  wait_until_away();
  ASSERT_OK(actor->close());
  daemon.come_back();
  wait_until_back();
  EXPECT_EQ(daemon.actors(), 0u);
}

TEST_F(ResumeTest, ACacheThatIsClosedMeanwhileIsNotOpenedAgain) {
  open(Executor::direct);
  ASSERT_OK(actor->close());
  actor.reset();
  daemon.die();
  wait_until_away();
  ASSERT_OK(sequence->release());
  sequence.reset();
  ASSERT_OK(cache->close());
  cache.reset();
  (void)daemon.requests();
  daemon.come_back();
  wait_until_back();
  EXPECT_THAT(daemon.requests(), ElementsAre("Hello", "ResumeDone"));
}

// ---- blocks in advance

// 4 blocks of 16 tokens for each sequence.
class StockTest : public ResumeTest {
 protected:
  static constexpr std::uint32_t kOutageMs = 1000;
  StockTest() { daemon.outage_ms = kOutageMs; }
};

TEST(BlocksForOutage, AreWhatASequenceFillsAtATokenPer20Ms) {
  EXPECT_EQ(blocks_for_outage(5000, 16), 16u);
  EXPECT_EQ(blocks_for_outage(5000, 64), 4u);
  EXPECT_EQ(blocks_for_outage(1, 16), 1u);
  EXPECT_EQ(blocks_for_outage(320, 16), 1u);
  EXPECT_EQ(blocks_for_outage(321, 16), 2u);
}

TEST_F(StockTest, ServesExtendsWhileTheDaemonIsAwayAndIsFilledAgain) {
  open(Executor::direct);
  EXPECT_EQ(cache->stock()->blocks(), 4u);
  EXPECT_EQ(daemon.private_blocks(), 6u);
  daemon.die();
  wait_until_away();
  EXPECT_EQ(sequence->extend(3).value(), 2u);
  EXPECT_EQ(sequence->extend(1).value(), 5u);
  const auto mapped = sequence->map(5);
  ASSERT_OK(mapped);
  (*mapped)[0] = std::byte{1};
  auto waiting = std::async(std::launch::async, [&] { return sequence->extend(1); });
  EXPECT_EQ(waiting.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  daemon.come_back();
  EXPECT_EQ(waiting.get().value(), 6u);
  wait_until_back();
  expect_same_blocks();
  EXPECT_EQ(sequence->map(5).value()[0], std::byte{1});
  EXPECT_EQ(cache->stock()->blocks(), 4u);
  EXPECT_EQ(daemon.private_blocks(), 11u);
}

TEST_F(StockTest, ADecodeLoopDoesNotStop) {
  open(Executor::direct);
  daemon.die();
  wait_until_away();
  const auto decode = [&](std::uint32_t block, const char* key) -> ipc::Status {
    if (auto ok = actor->begin_step(); !ok) return ok;
    if (auto first = sequence->extend(1); !first) return std::unexpected(first.error());
    if (auto slots = pin(block); !slots) return std::unexpected(slots.error());
    auto sealed = sequence->seal(block, key_of(key), 0, actor.get());
    if (!sealed) return std::unexpected(sealed.error());
    auto slot = resolve(block);
    auto ended = actor->end_step();
    return slot && *slot >= 0 ? ended : fail(Errc::no_slot, "nothing was found");
  };
  ASSERT_OK(decode(2, "c"));
  ASSERT_OK(decode(3, "d"));
  daemon.come_back();
  wait_until_back();
  ASSERT_OK(decode(4, "e"));
  EXPECT_EQ(sequence->sealed(), 3u);
  EXPECT_EQ(daemon.block(sequence->id(3))->key, "d");
  expect_same_blocks();
}

TEST_F(StockTest, AnExtendThatTheDaemonDiesOverIsServed) {
  for (const When when : {When::before, When::after}) {
    open(Executor::direct);
    daemon.die_at("sequence_extend", when);
    ASSERT_OK(sequence->extend(1));
    EXPECT_EQ(client->gate().resumes(), 0u);
    daemon.wait_until_dead();
    daemon.come_back();
    wait_until_back();
    expect_same_blocks();
    EXPECT_EQ(daemon.private_blocks(), 7u) << "what the daemon gave and nobody learned of is back";
    ASSERT_OK(sequence->release());
    actor.reset();
    sequence.reset();
    cache.reset();
    client.reset();
  }
}

TEST_F(StockTest, FollowsTheNumberOfSequences) {
  open(Executor::direct);
  std::vector<std::unique_ptr<Sequence>> more;
  more.reserve(3);
  for (int i = 0; i < 3; ++i) more.push_back(std::move(*open_sequence()));
  EXPECT_EQ(cache->stock()->blocks(), 16u);
  auto child = sequence->fork(nullptr);
  ASSERT_OK(child);
  EXPECT_EQ(cache->stock()->blocks(), 20u);
  ASSERT_OK((*child)->release());
  child->reset();
  EXPECT_EQ(cache->stock()->blocks(), 20u) << "one may come again";
  for (auto& one : more) ASSERT_OK(one->release());
  more.clear();
  EXPECT_LE(cache->stock()->blocks(), 8u);
  EXPECT_GE(cache->stock()->blocks(), 4u);
}

TEST_F(StockTest, IsGivenBackWhenMemoryIsShortOtherwise) {
  daemon.room = 9;
  open(Executor::direct);
  EXPECT_EQ(daemon.private_blocks(), 6u);
  ASSERT_OK(sequence->extend(5));
  EXPECT_EQ(cache->stock()->blocks(), 0u);
  EXPECT_EQ(daemon.private_blocks(), 7u);
  EXPECT_ERROR(sequence->extend(3), Errc::quota_exceeded);
  EXPECT_EQ(sequence->blocks(), 7u);
  ASSERT_OK(open_sequence());
  EXPECT_EQ(cache->stock()->blocks(), 0u) << "not at once";
}

TEST_F(StockTest, IsSmallerWhereMemoryIsShort) {
  daemon.room = 4;
  daemon.know("somebody's");
  open(Executor::direct);
  EXPECT_EQ(sequence->blocks(), 2u);
  EXPECT_LE(cache->stock()->blocks(), 1u);
}

TEST_F(StockTest, IsForExecutorDirectOnly) {
  open(Executor::daemon);
  EXPECT_EQ(cache->stock(), nullptr);
  EXPECT_EQ(daemon.private_blocks(), 2u);
}

TEST_F(StockTest, IsReleasedWithTheCache) {
  open(Executor::direct);
  ASSERT_OK(actor->close());
  actor.reset();
  ASSERT_OK(sequence->release());
  sequence.reset();
  ASSERT_OK(cache->close());
  EXPECT_EQ(daemon.private_blocks(), 0u);
}

// ---- seals that are put off

TEST_F(ResumeTest, SealsArePutOffAndDoneInOrder) {
  open(Executor::direct);
  ASSERT_OK(sequence->extend(1));
  ASSERT_OK(sequence->map(1));
  daemon.die();
  wait_until_away();
  EXPECT_EQ(sequence->seal(1, key_of("b"), 0, nullptr).value(), false);
  EXPECT_EQ(sequence->seal(0, key_of("a"), 0, nullptr).value(), false);
  EXPECT_EQ(sequence->seal(0, key_of("a"), 0, nullptr).value(), false) << "once more";
  EXPECT_ERROR(sequence->seal(0, key_of("c"), 0, nullptr), Errc::wrong_state);
  EXPECT_ERROR(sequence->map(1), Errc::wrong_state);
  EXPECT_EQ(sequence->sealed(), 0u);
  EXPECT_EQ(sequence->to_be_sealed(), 2u);
  daemon.come_back();
  wait_until_back();
  (void)daemon.requests();
  ASSERT_OK(sequence->seal(2, key_of("c"), 0, nullptr));
  EXPECT_EQ(sequence->sealed(), 3u);
  EXPECT_EQ(sequence->to_be_sealed(), 0u);
  const auto requests = daemon.requests();
  std::vector<std::string> sealed;
  for (const auto& request : requests) {
    if (request.starts_with("sealed ")) sealed.push_back(request);
  }
  EXPECT_THAT(sealed, ElementsAre("sealed b", "sealed a", "sealed c"));
}

TEST_F(ResumeTest, ABlockWhoseSealIsPutOffIsResolvedLikeOthers) {
  open(Executor::direct);
  const auto frame = sequence->map(0);
  ASSERT_OK(frame);
  std::memset(frame->data(), 0x5A, frame->size());
  daemon.die();
  wait_until_away();
  ASSERT_OK(sequence->seal(0, key_of("a"), 0, nullptr));
  ASSERT_OK(actor->begin_step());
  const auto slot = resolve(0);
  ASSERT_OK(slot);
  ASSERT_GE(*slot, 0);
  EXPECT_EQ(std::memcmp(cache->slot(*slot), frame->data(), cache->geometry().page_bytes), 0);
  daemon.come_back();
  wait_until_back();
  EXPECT_EQ(resolve(0).value(), *slot);
  EXPECT_EQ(sequence->sealed(), 1u);
  ASSERT_OK(actor->end_step());
}

TEST_F(ResumeTest, APinnedBlockIsSealedByTheNextResolveAndKeepsItsSlots) {
  open(Executor::direct);
  ASSERT_OK(actor->begin_step());
  const auto pinned = pin(0);
  ASSERT_OK(pinned);
  daemon.die();
  wait_until_away();
  EXPECT_EQ(sequence->seal(0, key_of("a"), 0, actor.get()).value(), false);
  EXPECT_EQ(resolve(0).value(), (*pinned)[0]);
  daemon.come_back();
  wait_until_back();
  ASSERT_OK(sequence->extend(1));
  EXPECT_EQ(sequence->sealed(), 0u) << "unpinning needs a step";
  EXPECT_EQ(resolve(0).value(), (*pinned)[0]);
  EXPECT_EQ(sequence->sealed(), 1u);
  EXPECT_EQ(sequence->pinned(0), nullptr);
  EXPECT_EQ(resolve(0).value(), (*pinned)[0]) << "an ordinary page now";
  ASSERT_OK(actor->end_step());
}

TEST_F(ResumeTest, APutOffSealOfAKnownKeyTakesTheKnownBlock) {
  open(Executor::direct);
  const std::uint32_t known = daemon.know("a");
  daemon.die();
  wait_until_away();
  EXPECT_EQ(sequence->seal(0, key_of("a"), 0, nullptr).value(), false);
  daemon.come_back();
  wait_until_back();
  ASSERT_OK(sequence->extend(1));
  EXPECT_EQ(sequence->id(0), known);
  EXPECT_EQ(sequence->sealed(), 1u);
  expect_same_blocks();
}

TEST_F(ResumeTest, APutOffSealThatFailsIsToldOnceAndTheBlockIsPrivateThen) {
  open(Executor::direct);
  daemon.die();
  wait_until_away();
  ASSERT_OK(sequence->seal(0, key_of("a"), 0, nullptr));
  daemon.seal_error = static_cast<std::uint32_t>(Errc::size_mismatch);
  daemon.come_back();
  wait_until_back();
  const auto extended = sequence->extend(1);
  EXPECT_ERROR(extended, Errc::size_mismatch);
  EXPECT_NE(extended.error().text.find("block 0"), std::string::npos) << extended.error().text;
  EXPECT_EQ(sequence->blocks(), 2u);
  ASSERT_OK(sequence->extend(1));
  EXPECT_ERROR(sequence->map(0), Errc::wrong_state);  // pages of it may be in HBM
  auto copy = sequence->fork(nullptr);
  ASSERT_OK(copy);
  ASSERT_OK((*copy)->map(0));  // which nobody resolved
  daemon.seal_error = 0;
  ASSERT_OK(sequence->seal(0, key_of("b"), 0, nullptr));
  EXPECT_EQ(sequence->sealed(), 1u);
}

TEST_F(ResumeTest, ASequenceThatIsReleasedIsSealedFirst) {
  open(Executor::direct);
  daemon.die();
  wait_until_away();
  ASSERT_OK(sequence->seal(0, key_of("a"), 0, nullptr));
  daemon.come_back();
  wait_until_back();
  ASSERT_OK(sequence->release());
  sequence.reset();
  auto again = open_sequence(one_key("a"));
  ASSERT_OK(again);
  EXPECT_EQ((*again)->blocks(), 1u);
}

// ---- requests in flight

// The daemon dies at the request, before it carries it out or after, and comes back.
class InFlightTest : public ResumeTest, public testing::WithParamInterface<When> {
 protected:
  template <class Call>
  void dies_over(const std::string& request, Call&& call) {
    daemon.die_at(request, GetParam());
    auto called = std::async(std::launch::async, std::forward<Call>(call));
    daemon.wait_until_dead();
    daemon.come_back();
    ASSERT_OK(called.get());
    wait_until_back();
    if (sequence) expect_same_blocks();
  }
};

TEST_P(InFlightTest, AnOpenIsMadeAgain) {
  open(Executor::daemon);
  const std::uint32_t known = daemon.know("a");
  dies_over("sequence_open", [&]() -> ipc::Status {
    auto opened = open_sequence(one_key("a"));
    if (!opened) return std::unexpected(opened.error());
    EXPECT_THAT(ids(**opened), ElementsAre(known));
    EXPECT_THAT(daemon.blocks_of((*opened)->handle()), ElementsAre(known));
    return (*opened)->release();
  });
  EXPECT_EQ(daemon.sequences().size(), 1u);
}

TEST_P(InFlightTest, AnExtendIsMadeAgainAndNothingIsLeftOver) {
  open(Executor::daemon);
  dies_over("sequence_extend", [&]() -> ipc::Status {
    auto first = sequence->extend(3);
    if (!first) return std::unexpected(first.error());
    EXPECT_EQ(*first, 2u);
    return {};
  });
  EXPECT_EQ(daemon.private_blocks(), 5u);
}

TEST_P(InFlightTest, AForkIsMadeAgainAndNothingIsLeftOver) {
  open(Executor::daemon);
  ASSERT_OK(sequence->seal(0, key_of("a"), 0, nullptr));
  const auto mapped = sequence->map(1);
  ASSERT_OK(mapped);
  (*mapped)[7] = std::byte{9};
  dies_over("sequence_fork", [&]() -> ipc::Status {
    auto child = sequence->fork(nullptr);
    if (!child) return std::unexpected(child.error());
    EXPECT_EQ((*child)->id(0), sequence->id(0));
    EXPECT_NE((*child)->id(1), sequence->id(1));
    EXPECT_EQ((*child)->map(1).value()[7], std::byte{9});
    EXPECT_EQ(daemon.blocks_of((*child)->handle()), ids(**child));
    return (*child)->release();
  });
  EXPECT_EQ(daemon.private_blocks(), 1u);
}

TEST_P(InFlightTest, ATruncateIsDone) {
  open(Executor::daemon);
  dies_over("sequence_truncate", [&] { return sequence->truncate(1); });
  EXPECT_EQ(sequence->blocks(), 1u);
  EXPECT_EQ(daemon.private_blocks(), 1u);
}

TEST_P(InFlightTest, AReleaseIsDone) {
  open(Executor::daemon);
  dies_over("sequence_release", [&] {
    auto released = sequence->release();
    sequence.reset();
    return released;
  });
  EXPECT_EQ(daemon.sequences().size(), 0u);
  EXPECT_EQ(daemon.private_blocks(), 0u);
}

TEST_P(InFlightTest, ASealIsMadeAgain) {
  open(Executor::daemon);
  dies_over("seal", [&]() -> ipc::Status {
    auto sealed = sequence->seal(1, key_of("a"), 0, nullptr);
    if (!sealed) return std::unexpected(sealed.error());
    EXPECT_FALSE(*sealed);
    return {};
  });
  EXPECT_EQ(daemon.block(sequence->id(1))->key, "a");
  EXPECT_EQ(sequence->sealed(), 1u);
}

TEST_P(InFlightTest, ASealOfAKnownKeyTakesTheKnownBlock) {
  open(Executor::daemon);
  const std::uint32_t known = daemon.know("a");
  dies_over("seal", [&]() -> ipc::Status {
    auto sealed = sequence->seal(1, key_of("a"), 0, nullptr);
    if (!sealed) return std::unexpected(sealed.error());
    EXPECT_TRUE(*sealed);
    return {};
  });
  EXPECT_EQ(sequence->id(1), known);
  EXPECT_EQ(sequence->sealed(), 1u);
  EXPECT_EQ(daemon.sequences().size(), 1u) << "nothing is borrowed any more";
}

// With executor direct the seal does not wait; and a step finds the known block afterwards.
TEST_P(InFlightTest, ADirectSealGoesOnAndTheKnownBlockIsTakenByTheNextStep) {
  open(Executor::direct);
  const std::uint32_t known = daemon.know("a");
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  daemon.die_at("seal", GetParam());
  EXPECT_EQ(sequence->seal(0, key_of("a"), 0, actor.get()).value(), false);
  daemon.wait_until_dead();
  ASSERT_OK(resolve(0));
  EXPECT_EQ(sequence->to_be_sealed(), 1u);
  daemon.come_back();
  wait_until_back();
  ASSERT_OK(actor->end_step());
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(resolve(0));
  EXPECT_EQ(sequence->id(0), known);
  EXPECT_EQ(sequence->pinned(0), nullptr);
  EXPECT_EQ(sequence->sealed(), 1u);
  EXPECT_EQ(sequence->to_be_sealed(), 0u);
  EXPECT_EQ(cache->stats().blocks_deduplicated, 1u);
  expect_same_blocks();
  ASSERT_OK(actor->end_step());
}

TEST_P(InFlightTest, ADirectExtendWithoutAStockWaits) {
  open(Executor::direct);
  dies_over("sequence_extend", [&]() -> ipc::Status {
    auto first = sequence->extend(3);
    if (!first) return std::unexpected(first.error());
    return {};
  });
  EXPECT_EQ(daemon.private_blocks(), 5u);
}

TEST_P(InFlightTest, ABeginOfAStepIsMadeAgain) {
  open(Executor::daemon);
  dies_over("step_begin", [&] { return actor->begin_step(); });
  ASSERT_OK(actor->end_step());
}

TEST_P(InFlightTest, AnEndOfAStepIsMadeAgain) {
  open(Executor::daemon);
  ASSERT_OK(actor->begin_step());
  dies_over("step_end", [&] { return actor->end_step(); });
  ASSERT_OK(step());
}

TEST_P(InFlightTest, APinIsMadeAgain) {
  open(Executor::daemon);
  ASSERT_OK(actor->begin_step());
  dies_over("tail_slots", [&]() -> ipc::Status {
    auto slots = pin(1);
    if (!slots) return std::unexpected(slots.error());
    EXPECT_THAT(*slots, ElementsAre(0, 1));
    return {};
  });
}

TEST_P(InFlightTest, AResolveIsMadeAgain) {
  open(Executor::daemon);
  ASSERT_OK(actor->begin_step());
  dies_over("resolve", [&]() -> ipc::Status {
    auto slot = resolve(1);
    if (!slot) return std::unexpected(slot.error());
    EXPECT_EQ(*slot, 1);
    return {};
  });
  EXPECT_EQ(cache->stats().hits, 1u) << "counted once";
}

TEST_P(InFlightTest, AResolveThatIsNotWaitedForIsMadeAgainByTheWait) {
  open(Executor::daemon);
  ASSERT_OK(actor->begin_step());
  daemon.die_at("resolve", GetParam());
  const std::uint32_t block = 1;
  std::int32_t slot = -1;
  const PageList list{sequence.get(), 0, 1, &block, &slot, nullptr};
  auto operation = actor->start({&list, 1});
  ASSERT_OK(operation);
  daemon.wait_until_dead();
  EXPECT_ERROR(actor->finish(**operation, ipc::Clock::now()), Errc::timed_out);
  EXPECT_ERROR(actor->finish(**operation, ipc::Clock::now()), Errc::timed_out);
  daemon.come_back();
  ASSERT_OK(actor->finish(**operation, ipc::soon()));
  EXPECT_EQ(slot, 1);
}

TEST_P(InFlightTest, OpeningACacheOrAnActorIsMadeAgain) {
  open(Executor::daemon);
  dies_over("OpenActor", [&]() -> ipc::Status {
    auto another = Actor::open(*cache);
    if (!another) return std::unexpected(another.error());
    return (*another)->close();
  });
}

TEST_P(InFlightTest, ClosingAnActorIsDone) {
  open(Executor::daemon);
  dies_over("CloseActor", [&] { return actor->close(); });
  EXPECT_EQ(daemon.actors(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Deaths, InFlightTest, testing::Values(When::before, When::after),
                         [](const auto& death) {
                           return death.param == When::before ? "BeforeIt" : "AfterIt";
                         });

// ---- deaths in the middle of a resume

class SecondDeathTest : public ResumeTest,
                        public testing::WithParamInterface<std::tuple<const char*, When>> {};

TEST_P(SecondDeathTest, IsSurvived) {
  open(Executor::direct);
  ASSERT_OK(sequence->seal(0, key_of("a"), 0, nullptr));
  daemon.die();
  wait_until_away();
  ASSERT_OK(sequence->seal(1, key_of("b"), 0, nullptr));
  daemon.come_back_to_die_at(std::get<0>(GetParam()), std::get<1>(GetParam()));
  daemon.wait_until_dead();
  ASSERT_OK(step());
  daemon.come_back();
  wait_until_back();
  ASSERT_OK(sequence->extend(1));
  EXPECT_EQ(sequence->sealed(), 2u);
  expect_same_blocks();
  EXPECT_EQ(daemon.private_blocks(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Points, SecondDeathTest,
                         testing::Combine(testing::Values("Hello", "OpenCache", "sequence_adopt",
                                                          "ResumeDone"),
                                          testing::Values(When::before, When::after)));

// ---- what is lost

TEST_F(ResumeTest, AColdStartEndsEverythingAndSaysSo) {
  open(Executor::direct);
  daemon.die();
  wait_until_away();
  daemon.knows_sessions = false;
  daemon.come_back();
  wait_until_ended();
  const auto extended = sequence->extend(1);
  EXPECT_ERROR(extended, Errc::stale_handle);
  EXPECT_NE(extended.error().text.find("connect anew"), std::string::npos) << extended.error().text;
  EXPECT_ERROR(step(), Errc::stale_handle);
  EXPECT_ERROR(open_sequence(), Errc::stale_handle);
  EXPECT_ERROR(sequence->seal(0, key_of("a"), 0, nullptr), Errc::stale_handle);
  EXPECT_ERROR(client->look(), Errc::stale_handle);
}

TEST_F(ResumeTest, AColdStartEndsCallsThatWait) {
  open(Executor::daemon);
  daemon.die();
  wait_until_away();
  auto waiting = std::async(std::launch::async, [&] { return step(); });
  daemon.knows_sessions = false;
  daemon.come_back();
  EXPECT_ERROR(waiting.get(), Errc::stale_handle);
}

TEST_F(ResumeTest, ACacheWithOtherMemoryIsLostAndNothingElse) {
  open(Executor::direct);
  daemon.die();
  wait_until_away();
  daemon.incarnation = 8;
  daemon.come_back();
  wait_until_back();
  EXPECT_ERROR(step(), Errc::stale_handle);
  EXPECT_ERROR(sequence->extend(1), Errc::stale_handle);
  EXPECT_ERROR(sequence->map(0), Errc::stale_handle);
  EXPECT_ERROR(open_sequence(), Errc::stale_handle);
  EXPECT_ERROR(Actor::open(*cache), Errc::stale_handle);
  EXPECT_THAT(daemon.requests(), Contains("CloseCache"));
  ASSERT_OK(sequence->release());
  sequence.reset();
  ASSERT_OK(actor->close());
  actor.reset();
  ASSERT_OK(cache->close());
  ASSERT_OK(Cache::open(*client, MortalDaemon::cache(Executor::direct)));
}

TEST_F(ResumeTest, ADaemonThatCannotTellItsMemoryLosesTheCache) {
  daemon.incarnation = 0;
  open(Executor::direct);
  outage();
  EXPECT_ERROR(step(), Errc::stale_handle);
}

TEST_F(ResumeTest, ASequenceWithABlockThatIsGoneIsLostAndOthersAreNot) {
  open(Executor::direct);
  auto other = open_sequence();
  ASSERT_OK(other);
  ASSERT_OK((*other)->extend(1));
  daemon.die();
  wait_until_away();
  daemon.forget(sequence->id(1));
  daemon.come_back();
  wait_until_back();
  EXPECT_ERROR(sequence->extend(1), Errc::stale_handle);
  EXPECT_ERROR(step(), Errc::stale_handle);
  ASSERT_OK((*other)->extend(1));
  ASSERT_OK(sequence->release());
  EXPECT_EQ(daemon.private_blocks(), 2u);
}

// ---- lives of the client

TEST_F(ResumeTest, AClientIsClosedWhileTheDaemonIsAway) {
  open(Executor::direct);
  daemon.die();
  wait_until_away();
  actor.reset();
  sequence.reset();
  cache.reset();
  client.reset();
}

// Its hello is not answered.
TEST_F(ResumeTest, AClientIsClosedWhileADaemonThatHangsIsComingBack) {
  open(Executor::direct);
  daemon.die();
  wait_until_away();
  auto hanging = ipc::UnixListener::bind({.path = daemon.socket(), .mode = 0600});
  ASSERT_OK(hanging);
  pollfd incoming{hanging->fd(), POLLIN, 0};
  ASSERT_EQ(ipc::poll_until(&incoming, 1, ipc::soon()).value(), 1);
  const auto before = ipc::Clock::now();
  actor.reset();
  sequence.reset();
  cache.reset();
  client.reset();
  EXPECT_LT(ipc::Clock::now() - before, std::chrono::seconds(5));
}

TEST_F(ResumeTest, AForkedChildNeitherReconnectsNorHangs) {
  open(Executor::direct);
  daemon.die();
  wait_until_away();
  ipc::Child child([&] {
    const auto extended = sequence->check();
    if (!extended || client->check().has_value()) return 1;
    actor.reset();
    sequence.reset();
    cache.reset();
    client.reset();
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
  daemon.come_back();
  wait_until_back();
  EXPECT_EQ(daemon.hellos(), 2u) << "the parent's";
  ASSERT_OK(sequence->extend(1));
}

TEST_F(ResumeTest, ThreadsGoOnOverManyDeaths) {
  open(Executor::daemon);
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  threads.reserve(3);
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        auto mine = open_sequence();
        ASSERT_OK(mine);
        ASSERT_OK((*mine)->extend(2));
        ASSERT_OK((*mine)->truncate(1));
        ASSERT_OK((*mine)->release());
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop) ASSERT_OK(step());
  });
  for (std::uint32_t death = 1; death <= 10; ++death) {
    daemon.die();
    wait_until_away();
    daemon.come_back();
    wait_until_back(death);
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  expect_same_blocks();
  EXPECT_EQ(daemon.private_blocks(), 2u);
}

}  // namespace
}  // namespace sluice::client::internal
