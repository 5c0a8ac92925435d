// Caches on a GPU, posed by fake_device.h: what the library asks of it, and when.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/actor.h"
#include "client/sequence.h"
#include "tests/client/fake_daemon.h"
#include "tests/client/fake_device.h"

namespace sluice::client::internal {
namespace {

using ipc::Errc;
using testing::Contains;
using testing::ElementsAre;
using testing::StartsWith;

std::span<const std::byte> key() { return std::as_bytes(std::span("key")); }

class DeviceCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    reset_fake_device();
    auto connected = Client::connect({.socket_path = daemon.socket(),
                                      .client_name = "test",
                                      .timeout = std::chrono::seconds(30)});
    ASSERT_OK(connected);
    client = std::move(*connected);
  }

  static CacheOptions options() {
    CacheOptions wanted = FakeDaemon::cache();
    wanted.executor = ipc::wire::Executor::direct;
    wanted.cuda_device = 3;
    return wanted;
  }

  void open() {
    auto opened = Cache::open(*client, options());
    ASSERT_OK(opened);
    cache = std::move(*opened);
    std::uint32_t matched = 0;
    auto made = Sequence::open(*cache, {}, matched);
    ASSERT_OK(made);
    sequence = std::move(*made);
    auto acting = Actor::open(*cache);
    ASSERT_OK(acting);
    actor = std::move(*acting);
    device.calls.clear();
  }

  ipc::Status pin(std::uint32_t block) {
    std::int32_t slots[2] = {};
    return sequence->pin(block, *actor, slots);
  }

  FakeDaemon daemon;
  FakeDevice& device = fake_device();
  std::unique_ptr<Client> client;
  std::unique_ptr<Cache> cache;
  std::unique_ptr<Sequence> sequence;
  std::unique_ptr<Actor> actor;
};

TEST_F(DeviceCacheTest, IsMappedByExtentsAndHasATableOfTwoParts) {
  auto opened = Cache::open(*client, options());
  ASSERT_OK(opened);
  EXPECT_TRUE(daemon.opened_on_device);
  const std::string host_end =
      std::to_string(kernels::split_offsets_of(FakeDaemon::table()).host_end);
  EXPECT_THAT(device.calls,
              ElementsAre("reserve arena of 8192", "map arena at 0, 8192",
                          "attach table of " + std::to_string(2 << 20) + " and " + host_end,
                          "start pinning"));
  EXPECT_EQ((*opened)->device()->pinned(), 1u) << "the extents that were there";
  ASSERT_OK((*opened)->close());
  EXPECT_FALSE(device.open) << "given back before the daemon is told";
}

TEST_F(DeviceCacheTest, ATableThatIsTooSmallIsNotAttached) {
  daemon.table_bytes_missing = 1;
  EXPECT_ERROR(Cache::open(*client, options()), Errc::peer_violation);
  EXPECT_THAT(device.calls, Not(Contains(StartsWith("attach"))));
  EXPECT_FALSE(device.open);
}

TEST_F(DeviceCacheTest, OfTheDaemonsExecutorMapsTheArenaAlone) {
  CacheOptions wanted = options();
  wanted.executor = ipc::wire::Executor::daemon;
  auto opened = Cache::open(*client, wanted);
  ASSERT_OK(opened);
  EXPECT_TRUE(daemon.opened_on_device);
  EXPECT_THAT(device.calls, ElementsAre("reserve arena of 8192", "map arena at 0, 8192"));
  EXPECT_EQ((*opened)->device()->pinned(), 0u);
  auto acting = Actor::open(**opened);
  ASSERT_OK(acting);
  EXPECT_ERROR((*acting)->set_stream({}), Errc::not_supported);
  ASSERT_OK((*acting)->begin_step());
  ASSERT_OK((*acting)->end_step());
  EXPECT_THAT(device.calls, testing::SizeIs(2)) << "the daemon steps and resolves";
}

TEST_F(DeviceCacheTest, ADaemonThatOpensItForAnotherExecutorIsNotBelieved) {
  daemon.opens_for_itself = true;
  EXPECT_ERROR(Cache::open(*client, options()), Errc::peer_violation);
  EXPECT_FALSE(device.open);
}

TEST_F(DeviceCacheTest, ARowFollowsItsSequence) {
  open();
  ASSERT_OK(sequence->extend(1));
  EXPECT_TRUE(device.rows.empty()) << "nobody asked for it";
  const std::uint32_t row = sequence->row().value();
  EXPECT_THAT(device.rows.at(row), ElementsAre(0));
  ASSERT_OK(sequence->extend(2));
  EXPECT_THAT(device.rows.at(row), ElementsAre(0, 1, 2));
  EXPECT_EQ(device.first_changed.back(), 1u);
  ASSERT_OK(sequence->truncate(2));
  EXPECT_THAT(device.rows.at(row), ElementsAre(0, 1));
  daemon.sealed_as = 3;
  ASSERT_OK(sequence->seal(1, key(), 0, nullptr));
  EXPECT_THAT(device.rows.at(row), ElementsAre(0, 3));
  EXPECT_EQ(device.first_changed.back(), 1u);
  EXPECT_EQ(sequence->row().value(), row);
  sequence.reset();
  EXPECT_TRUE(device.rows.empty());
}

TEST_F(DeviceCacheTest, ASealCopiesTheSlotsAndThenUnpins) {
  open();
  ASSERT_OK(sequence->extend(1));
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  EXPECT_ERROR(sequence->seal(0, key(), 0, nullptr), Errc::invalid_argument);
  ASSERT_OK(sequence->seal(0, key(), 0, actor.get()));
  EXPECT_THAT(device.calls, ElementsAre("pin 0", "copy to frame 0", "wait for copy to frame 0",
                                        "await the begin", "unpin 0"));
}

TEST_F(DeviceCacheTest, ASealWaitsForTheStoreThatWasBegunAndForNothingElse) {
  open();
  ASSERT_OK(sequence->extend(2));
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  EXPECT_ERROR(sequence->store(0, nullptr), Errc::invalid_argument);
  EXPECT_FALSE(sequence->stored(0).value());
  ASSERT_OK(sequence->store(0, actor.get()));
  ASSERT_OK(sequence->store(0, actor.get()));  // it is under way
  EXPECT_FALSE(sequence->stored(0).value());
  EXPECT_THAT(device.calls, ElementsAre("pin 0", "copy to frame 0"));
  device.run = device.enqueued;
  EXPECT_TRUE(sequence->stored(0).value());
  ASSERT_OK(sequence->seal(0, key(), 0, actor.get()));
  EXPECT_THAT(device.calls, ElementsAre("pin 0", "copy to frame 0", "await the begin", "unpin 0"));
  EXPECT_TRUE(sequence->stored(0).value());
  EXPECT_ERROR(sequence->store(0, actor.get()), Errc::wrong_state);
  EXPECT_TRUE(sequence->stored(1).value()) << "what it has is in its frame";
  ASSERT_OK(sequence->store(1, actor.get()));
  EXPECT_ERROR(sequence->stored(2), Errc::invalid_argument);
  EXPECT_EQ(device.calls.size(), 4u);
}

TEST_F(DeviceCacheTest, WhatIsPinnedAgainIsStoredAgainBehindTheFirstStore) {
  open();
  ASSERT_OK(sequence->extend(1));
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  ASSERT_OK(sequence->store(0, actor.get()));
  ASSERT_OK(pin(0));
  EXPECT_FALSE(sequence->stored(0).value());
  ASSERT_OK(sequence->store(0, actor.get()));
  EXPECT_THAT(device.calls, ElementsAre("pin 0", "copy to frame 0", "wait for copy to frame 0",
                                        "copy to frame 0"));
}

TEST_F(DeviceCacheTest, WhatStreamsStillUseIsNotGivenUp) {
  open();
  ASSERT_OK(sequence->extend(3));
  ASSERT_OK(actor->begin_step());
  for (std::uint32_t block = 0; block < 3; ++block) {
    ASSERT_OK(pin(block));
    ASSERT_OK(sequence->store(block, actor.get()));
  }
  device.calls.clear();
  ASSERT_OK(sequence->truncate(2));
  EXPECT_EQ(device.run, device.enqueued);
  ASSERT_OK(sequence->seal(0, key(), 0, actor.get()));
  EXPECT_EQ(device.calls.back(), "unpin 0");
  ASSERT_OK(sequence->release());
  EXPECT_EQ(device.calls.back(), "wait for unpin 0");
}

TEST_F(DeviceCacheTest, AfterADeduplicationNothingIsUnpinned) {
  open();
  ASSERT_OK(sequence->extend(1));
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  daemon.sealed_as = 2;
  EXPECT_TRUE(sequence->seal(0, key(), 0, actor.get()).value());
  EXPECT_THAT(device.calls, ElementsAre("pin 0", "copy to frame 0", "wait for copy to frame 0",
                                        "await the begin"));
}

TEST_F(DeviceCacheTest, APinTakesAlongWhatWasWrittenOnceItsExtentIsPinned) {
  device.pinnable = 0;
  open();
  ASSERT_OK(sequence->extend(2));
  ASSERT_OK(sequence->map(0));
  ASSERT_OK(actor->begin_step());
  EXPECT_ERROR(pin(0), Errc::timed_out);
  EXPECT_TRUE(device.calls.empty()) << "nothing was claimed";
  ASSERT_OK(pin(1));
  device.pinnable = 1;
  ASSERT_OK(pin(0));
  EXPECT_THAT(device.calls, ElementsAre("pin 1", "pin 0", "copy from frame 0"));
}

TEST_F(DeviceCacheTest, AForkOfPinnedBlocksNeedsAnActorInAStep) {
  open();
  ASSERT_OK(sequence->extend(1));
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  EXPECT_ERROR(sequence->fork(nullptr), Errc::invalid_argument);
  ASSERT_OK(actor->end_step());
  EXPECT_ERROR(sequence->fork(actor.get()), Errc::invalid_argument);
}

TEST_F(DeviceCacheTest, PinningThatStoppedIsToldByTheNextExtendAndTriedAgain) {
  open();
  device.pin_failure = {Errc::limit_reached, "RLIMIT_MEMLOCK"};
  const auto extended = sequence->extend(1);
  EXPECT_ERROR(extended, Errc::limit_reached);
  EXPECT_EQ(sequence->blocks(), 0u) << "all or none";
  EXPECT_EQ(device.retries, 1u);
  std::uint32_t matched = 0;
  EXPECT_ERROR(Sequence::open(*cache, {}, matched), Errc::limit_reached);
  device.pin_failure = {Errc::ok, {}};
  ASSERT_OK(sequence->extend(1));
}

TEST_F(DeviceCacheTest, StepsGoOnWithoutADaemon) {
  open();
  ASSERT_OK(sequence->extend(1));
  daemon.go_away();
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  ASSERT_OK(actor->end_step());
  EXPECT_ERROR(client->look(), Errc::daemon_away);
  ASSERT_OK(actor->begin_step());
  EXPECT_ERROR(sequence->seal(0, key(), 0, actor.get()), Errc::daemon_away);
}

TEST_F(DeviceCacheTest, AStreamIsChangedBetweenStepsOnly) {
  open();
  ASSERT_OK(actor->begin_step());
  EXPECT_ERROR(actor->set_stream({}), Errc::wrong_state);
  ASSERT_OK(actor->end_step());
  ASSERT_OK(actor->set_stream({}));
  ASSERT_OK(actor->close());
  EXPECT_THAT(device.calls, ElementsAre("set stream", "close actor"));
}

}  // namespace
}  // namespace sluice::client::internal
