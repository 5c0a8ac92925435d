// What a daemon says in its answers is checked before it becomes an address.
#include <gtest/gtest.h>

#include <limits>

#include "client/actor.h"
#include "client/sequence.h"
#include "tests/client/fake_daemon.h"

namespace sluice::client::internal {
namespace {

using ipc::Errc;

// A client with a sequence of one block, and an actor in a step.
class HostileDaemonTest : public testing::Test {
 protected:
  void open() {
    auto connected = Client::connect({.socket_path = daemon.socket(), .client_name = "test"});
    ASSERT_OK(connected);
    client = std::move(*connected);
    auto opened = Cache::open(*client, FakeDaemon::cache());
    ASSERT_OK(opened);
    cache = std::move(*opened);
    std::uint32_t matched = 0;
    auto made = Sequence::open(*cache, {}, matched);
    ASSERT_OK(made);
    sequence = std::move(*made);
    ASSERT_OK(sequence->extend(1));
    auto acting = Actor::open(*cache);
    ASSERT_OK(acting);
    actor = std::move(*acting);
    ASSERT_OK(actor->begin_step());
  }

  ipc::Result<std::int32_t> resolve() {
    const std::uint32_t block = 0;
    std::int32_t slot = 0;
    const PageList list{sequence.get(), 0, 1, &block, &slot, nullptr};
    Counts counts{};
    if (auto ok = actor->resolve({&list, 1}, counts); !ok) return std::unexpected(ok.error());
    return slot;
  }

  FakeDaemon daemon;
  std::unique_ptr<Client> client;
  std::unique_ptr<Cache> cache;
  std::unique_ptr<Sequence> sequence;
  std::unique_ptr<Actor> actor;
};

TEST_F(HostileDaemonTest, ASlotOutsideOfTheArenaIsNotPassedOn) {
  open();
  constexpr std::int32_t kEnd = FakeDaemon::kSlots;
  for (const std::int32_t good : {-1, 0, kEnd - 1}) {
    daemon.slot = good;
    EXPECT_EQ(resolve().value(), good);
  }
  for (const std::int32_t bad : {-2, kEnd, std::numeric_limits<std::int32_t>::min(),
                                 std::numeric_limits<std::int32_t>::max()}) {
    daemon.slot = bad;
    EXPECT_ERROR(resolve(), Errc::peer_violation);
  }
}

TEST_F(HostileDaemonTest, ASealDoesNotCopyToAFrameThatDoesNotExist) {
  daemon.frame = FakeDaemon::kFrames;
  open();
  std::int32_t slots[2] = {};
  ASSERT_OK(sequence->pin(0, *actor, slots));
  EXPECT_ERROR(sequence->seal(0, std::as_bytes(std::span("key")), 0, actor.get()),
               Errc::peer_violation);
}

}  // namespace
}  // namespace sluice::client::internal
