// A daemon that goes away, or ends the session: what goes on without it, and what does not.
#include <gtest/gtest.h>

#include <cstring>

#include "client/sluice.hpp"
#include "tests/client/fake_daemon.h"
#include "tests/status_of.h"

namespace sluice::client {
namespace {

using internal::FakeDaemon;
using ipc::Errc;
using test::status_of;

// A client with a sequence of two private blocks, of which the first was pinned, and an actor that
// has made a step.
class AwayTest : public testing::Test {
 protected:
  void open(sluice_executor executor) {
    daemon.slot = 1;  // what the pins have, too
    sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
    where.socket_path = daemon.socket().c_str();
    client.emplace(Client::connect(where).value());
    const sluice_cache_desc desc = FakeDaemon::cache_desc(executor);
    cache.emplace(client->open_cache(desc).value());
    sequence.emplace(cache->open_sequence({}).value().sequence);
    ASSERT_EQ(sequence->extend(2).value(), 0u);
    actor.emplace(cache->open_actor().value());
    ASSERT_EQ(step(), SLUICE_OK);
  }

  // The first block is pinned, so that its pages are found.
  sluice_status step() {
    if (auto begun = actor->begin_step(); !begun) return begun.error().code;
    std::int32_t pinned[2] = {-1, -1};
    const sluice_status pin = status_of(sequence->pin(0, *actor, pinned));
    const std::uint32_t block = 0;
    std::int32_t slot = -1;
    const PageList list{sequence->get(), 1, 1, &block, &slot, nullptr};
    const sluice_status resolved = status_of(actor->resolve({&list, 1}));
    const sluice_status ended = status_of(actor->end_step());
    if (pin != SLUICE_OK) return pin;
    if (resolved != SLUICE_OK) return resolved;
    EXPECT_EQ(slot, pinned[1]);
    return ended;
  }

  // The library looks at the socket now and then, unless it is asked.
  sluice_client_info look() const { return client->info().value(); }

  sluice_status eventual_step() {
    sluice_status status = SLUICE_OK;
    const ipc::Deadline deadline = ipc::soon();
    while (status == SLUICE_OK && ipc::Clock::now() < deadline) status = step();
    return status;
  }

  FakeDaemon daemon;
  std::optional<Client> client;
  std::optional<Cache> cache;
  std::optional<Sequence> sequence;
  std::optional<Actor> actor;
};

// More steps than fit between two looks at the socket, which are 100 ms apart.
constexpr std::chrono::milliseconds kSeveralLooks{250};

TEST_F(AwayTest, DirectStepsGoOnWithoutADaemon) {
  open(SLUICE_EXECUTOR_DIRECT);
  daemon.go_away();
  const auto end = ipc::Clock::now() + kSeveralLooks;
  do {
    ASSERT_EQ(step(), SLUICE_OK);
  } while (ipc::Clock::now() < end);
  EXPECT_EQ(look().connected, 0u);
  EXPECT_EQ(look().end_reason, static_cast<std::uint32_t>(SLUICE_DAEMON_AWAY));
  const auto frame = sequence->map(1);
  ASSERT_TRUE(frame.has_value()) << frame.error().text;
  std::memset(frame->data(), 1, frame->size());
  EXPECT_EQ(status_of(cache->arena()), SLUICE_OK);
  EXPECT_EQ(status_of(cache->wait_pinned(0)), SLUICE_OK);
  EXPECT_GT(cache->stats().value().hits, 0u);
  EXPECT_EQ(step(), SLUICE_OK);
}

TEST_F(AwayTest, WhatAsksTheDaemonFailsWithoutOneAndDirectStepsGoOn) {
  open(SLUICE_EXECUTOR_DIRECT);
  daemon.go_away();
  EXPECT_EQ(status_of(cache->open_sequence({})), SLUICE_DAEMON_AWAY);
  EXPECT_EQ(status_of(cache->open_actor()), SLUICE_DAEMON_AWAY);
  EXPECT_EQ(status_of(sequence->extend(1)), SLUICE_DAEMON_AWAY);
  EXPECT_EQ(status_of(sequence->fork()), SLUICE_DAEMON_AWAY);
  EXPECT_EQ(status_of(sequence->truncate(1)), SLUICE_DAEMON_AWAY);
  EXPECT_EQ(status_of(sequence->seal(1, std::as_bytes(std::span("key")))), SLUICE_DAEMON_AWAY);
  EXPECT_EQ(status_of(client->ping()), SLUICE_DAEMON_AWAY);
  EXPECT_EQ(step(), SLUICE_OK) << "the sequence is what it was";
  EXPECT_EQ(sequence->info().value().blocks, 2u);
}

TEST_F(AwayTest, DirectStepsGoOnAfterADaemonThatStoppedInGoodOrder) {
  open(SLUICE_EXECUTOR_DIRECT);
  daemon.go_away(ipc::Error{Errc::shutting_down, "the daemon is stopping"});
  EXPECT_EQ(look().end_reason, static_cast<std::uint32_t>(SLUICE_SHUTTING_DOWN));
  const auto end = ipc::Clock::now() + kSeveralLooks;
  do {
    ASSERT_EQ(step(), SLUICE_OK);
  } while (ipc::Clock::now() < end);
}

// It may give the memory to others.
TEST_F(AwayTest, DirectStepsEndWithASessionThatTheDaemonEnded) {
  open(SLUICE_EXECUTOR_DIRECT);
  daemon.go_away(ipc::Error{Errc::peer_violation, "a request that no library makes"});
  EXPECT_EQ(eventual_step(), SLUICE_PEER_VIOLATION);
  EXPECT_EQ(step(), SLUICE_PEER_VIOLATION) << "for good";
}

TEST_F(AwayTest, StepsOfTheDaemonsExecutorEndWithIt) {
  open(SLUICE_EXECUTOR_DAEMON);
  daemon.go_away();
  EXPECT_EQ(eventual_step(), SLUICE_DAEMON_AWAY);
  EXPECT_EQ(step(), SLUICE_DAEMON_AWAY);
  EXPECT_EQ(look().connected, 0u);
}

}  // namespace
}  // namespace sluice::client
