// Caches on a GPU, posed by fake_device.h, whose daemon dies and comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/actor.h"
#include "client/sequence.h"
#include "tests/client/fake_device.h"
#include "tests/client/mortal_daemon.h"
#include "tests/eventually.h"

namespace sluice::client::internal {
namespace {

using ipc::Errc;
using testing::ElementsAre;
using testing::IsEmpty;

std::span<const std::byte> sealing_key() { return std::as_bytes(std::span("key")); }

// A client with a sequence of two private blocks that plans can name, and an actor.
class DeviceResumeTest : public testing::Test {
 protected:
  void SetUp() override {
    reset_fake_device();
    auto connected = Client::connect({.socket_path = daemon.socket(), .client_name = "test"});
    ASSERT_OK(connected);
    client = std::move(*connected);
    CacheOptions wanted = MortalDaemon::cache(ipc::wire::Executor::direct);
    wanted.cuda_device = 3;
    auto opened = Cache::open(*client, wanted);
    ASSERT_OK(opened);
    cache = std::move(*opened);
    std::uint32_t matched = 0;
    auto made = Sequence::open(*cache, {}, matched);
    ASSERT_OK(made);
    sequence = std::move(*made);
    ASSERT_OK(sequence->extend(2));
    row = sequence->row().value();
    auto acting = Actor::open(*cache);
    ASSERT_OK(acting);
    actor = std::move(*acting);
    device.calls.clear();
  }

  ipc::Status pin(std::uint32_t block) {
    std::int32_t slots[2] = {};
    return sequence->pin(block, *actor, slots);
  }
  void wait_until_away() const {
    ASSERT_TRUE(test::eventually([&] { return client->gate().state() != Gate::State::connected; }));
  }
  void come_back() {
    daemon.come_back();
    ASSERT_TRUE(test::eventually([&] {
      return client->gate().resumes() == 1 && client->gate().state() == Gate::State::connected;
    }));
  }

  MortalDaemon daemon;
  FakeDevice& device = fake_device();
  std::unique_ptr<Client> client;
  std::unique_ptr<Cache> cache;
  std::unique_ptr<Sequence> sequence;
  std::unique_ptr<Actor> actor;
  std::uint32_t row = 0;
};

TEST_F(DeviceResumeTest, WhatIsMappedStaysAndRowsDoToo) {
  const auto before = device.rows.at(row);
  daemon.die();
  wait_until_away();
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  come_back();
  ASSERT_OK(actor->end_step());
  EXPECT_THAT(device.calls, ElementsAre("pin " + std::to_string(before[0])));
  EXPECT_EQ(device.rows.at(row), before);
  ASSERT_OK(sequence->extend(1));
  EXPECT_EQ(device.rows.at(row).size(), 3u);
}

// Plans name pages by id and know no pins: for them, too, it is as if it were sealed.
TEST_F(DeviceResumeTest, WhatIsPinnedIsToldAgain) {
  const auto told = [&] { return client->gate().link()->channel().memory().told_pinned(); };
  const std::uint64_t before = told();
  EXPECT_GT(before, 0u);
  daemon.die();
  wait_until_away();
  come_back();
  EXPECT_TRUE(test::eventually([&] { return told() == before; }));
}

TEST_F(DeviceResumeTest, AForkWaitsWhenAllOfItIsUnderWay) {
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  ASSERT_OK(pin(1));
  device.calls.clear();
  ASSERT_OK(sequence->fork(actor.get()));
  ASSERT_GE(device.calls.size(), 3u);
  EXPECT_THAT(device.calls[1], testing::StartsWith("copy to frame"));
  EXPECT_THAT(device.calls[2], testing::StartsWith("wait for copy to frame"));
  EXPECT_EQ(device.run, device.enqueued);
}

TEST_F(DeviceResumeTest, ABlockWhoseSealIsPutOffIsExposedAndUnpinned) {
  const std::string id = std::to_string(sequence->id(0));
  const std::string frame = std::to_string(sequence->id(0));
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  daemon.die();
  wait_until_away();
  ASSERT_OK(sequence->seal(0, sealing_key(), 0, actor.get()));
  EXPECT_THAT(device.calls,
              ElementsAre("pin " + id, "copy to frame " + id, "wait for copy to frame " + id,
                          "await the begin", "expose " + id + " in " + frame, "unpin " + id));
  EXPECT_ERROR(pin(0), Errc::wrong_state);
  come_back();
  ASSERT_OK(sequence->row());
  EXPECT_EQ(sequence->sealed(), 0u) << "a step that begins later could have the block";
  EXPECT_EQ(device.calls.size(), 6u) << "so far nobody waited";
  ASSERT_OK(sequence->settle(actor.get()));
  EXPECT_EQ(sequence->sealed(), 1u);
  EXPECT_EQ(device.calls[6], "await the begin");
  EXPECT_EQ(device.calls[7], "wait for unpin " + id) << "the id could be given up";
}

TEST_F(DeviceResumeTest, ASealThatIsPutOffIsDoneByTheReleaseAtTheLatest) {
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  daemon.die();
  wait_until_away();
  ASSERT_OK(sequence->seal(0, sealing_key(), 0, actor.get()));
  ASSERT_OK(actor->end_step());
  come_back();
  ASSERT_OK(sequence->settle(actor.get()));
  EXPECT_EQ(sequence->sealed(), 0u) << "it is in no step";
  ASSERT_OK(sequence->release());
  EXPECT_EQ(sequence->sealed(), 1u);
}

// Plans read the row without asking the library: it is right before the daemon gives the old block
// up.
TEST_F(DeviceResumeTest, ARowNamesTheKnownBlockBeforeTheOldOneIsGivenUp) {
  const std::uint32_t known =
      daemon.know({reinterpret_cast<const char*>(sealing_key().data()), sealing_key().size()});
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  daemon.die_at("seal", MortalDaemon::When::after);
  ASSERT_OK(sequence->seal(0, sealing_key(), 0, actor.get()));
  daemon.wait_until_dead();
  const std::uint32_t other = sequence->id(1);
  daemon.come_back_to_die_at("ResumeDone", MortalDaemon::When::before);
  daemon.wait_until_dead();
  EXPECT_THAT(device.rows.at(row), ElementsAre(known, other));
  come_back();
  ASSERT_OK(sequence->check());
  EXPECT_EQ(sequence->id(0), known);
  ASSERT_OK(sequence->extend(1));
  EXPECT_EQ(device.rows.at(row).front(), known);
}

TEST_F(DeviceResumeTest, TheRowOfASequenceThatIsLostHasNoBlocks) {
  daemon.die();
  wait_until_away();
  daemon.forget(sequence->id(1));
  come_back();
  EXPECT_THAT(device.rows.at(row), IsEmpty());
  EXPECT_ERROR(sequence->row(), Errc::stale_handle);
}

TEST_F(DeviceResumeTest, WhatIsLostIsNotGivenUpWhileStreamsStillUseIt) {
  ASSERT_OK(actor->begin_step());
  ASSERT_OK(pin(0));
  ASSERT_OK(sequence->store(0, actor.get()));
  EXPECT_FALSE(sequence->stored(0).value());
  daemon.die();
  wait_until_away();
  daemon.forget(sequence->id(1));
  come_back();
  EXPECT_EQ(device.run, device.enqueued);
  EXPECT_ERROR(sequence->store(0, actor.get()), Errc::stale_handle);
}

}  // namespace
}  // namespace sluice::client::internal
