// What the coordinator has the block store do: in which order reads are served, and what is held.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/coordinator.h"
#include "daemon/nvme_tier.h"
#include "kernels/wanted.h"
#include "tests/daemon/test_session.h"
#include "tests/eventually.h"
#include "tests/storage/support.h"

namespace sluice::daemon {
namespace {

using test::eventually;
using test::TestSession;

constexpr std::uint32_t kBlocks = 64;
constexpr std::uint32_t kKeyBytes = 16;

// A node with a block store whose disk reads when the test lets it, one request at a time.
class CoordinatorMoves : public ::testing::Test {
 public:
  CoordinatorMoves() {
    config.nvme.directories.push_back({folder.path(), 32 << 20});
    config.nvme.segment_bytes = 1 << 20;
    auto opened = NvmeTier::open(config, [this](storage::StoreConfig& wanted) {
      wanted.depth = 1;
      wanted.engine = [this](std::size_t) -> ipc::Result<std::unique_ptr<storage::IoEngine>> {
        return std::make_unique<storage::PlainEngine>(
            1, [this](const storage::IoRequest& request, const storage::Perform& perform) {
              if (request.op != storage::IoOp::read) return perform(request);
              if (reads_wait) return storage::kNoAnswer;
              const std::lock_guard lock(mutex);
              reads.push_back(request.offset);
              return perform(request);
            });
      };
    });
    nvme = opened->get();
    coordinator = std::move(*Coordinator::create(
        config, one_device(make_host_device(HugePages::never, HugePages::never)),
        std::move(*opened)));
    for (std::uint32_t i = 0; i < kBlocks; ++i) {
      std::string key = "block " + std::to_string(i);
      key.resize(kKeyBytes, '.');
      keys += key;
    }
  }
  ~CoordinatorMoves() override { reads_wait = false; }

 protected:
  residency::KeyView all_keys() const {
    return {reinterpret_cast<const std::byte*>(keys.data()), kKeyBytes, kKeyBytes, kBlocks};
  }
  storage::NamespaceId scope() const {
    storage::Namespace names;
    coordinator->with_manager(
        [&](auto& manager) { names = scope_of("t", manager.caches().front().spec); });
    return *nvme->store().intern(names);
  }
  // The blocks are in DRAM, and nobody refers to them.
  void seal_blocks(TestSession& session, ipc::CacheId cache) {
    sequence = coordinator->open_sequence(session.id, cache, {}, blocks)->sequence;
    ASSERT_TRUE(eventually([&] {
      return coordinator->extend(session.id, cache, sequence, kBlocks, blocks).has_value();
    }));
    for (std::uint32_t i = 0; i < kBlocks; ++i) {
      ASSERT_TRUE(coordinator->seal(session.id, sequence, i, all_keys()[i], 0));
    }
    ASSERT_TRUE(coordinator->release(session.id, sequence));
  }
  // The blocks are in the store, and nowhere else.
  void write_blocks(TestSession& session) {
    auto opened = test::open_small_cache(*coordinator, session);
    ASSERT_TRUE(opened);
    seal_blocks(session, session.cache(opened->handle)->id);
    ASSERT_TRUE(coordinator->close_cache(session, opened->handle));
    opened.reset();  // its memory
    residency::EvictRequest all;
    all.drop_idle_caches = true;
    ASSERT_TRUE(coordinator->evict(all));
    ASSERT_TRUE(eventually([&] {
      return coordinator->with_manager([](auto& manager) { return manager.caches().empty(); });
    }));
    ASSERT_EQ(nvme->store().stats().blocks, kBlocks);
  }
  // A sequence of all of them, none of which is in DRAM.
  ipc::CacheId open_stored(TestSession& session) {
    auto opened = test::open_small_cache(*coordinator, session);
    const ipc::CacheId cache = session.cache(opened->handle)->id;
    blocks.clear();
    sequence = coordinator->open_sequence(session.id, cache, {}, blocks)->sequence;
    EXPECT_TRUE(coordinator->append_stored(session.id, cache, sequence, all_keys(), blocks));
    EXPECT_EQ(blocks.size(), kBlocks);
    return cache;
  }
  residency::TieringCounts moving() const {
    return coordinator->with_manager(
        [](auto& manager) { return manager.caches().front().tiering; });
  }
  std::uint64_t held_bytes() const { return nvme->store().stats().tenants.front().held_bytes; }

  Config config = test::small_config();
  storage::TemporaryDirectory folder;
  std::atomic<bool> reads_wait = false;
  std::mutex mutex;
  std::vector<std::uint64_t> reads;  // offsets, as they were served
  NvmeTier* nvme = nullptr;
  std::unique_ptr<Coordinator> coordinator;
  std::string keys;
  std::vector<residency::BlockRef> blocks;
  ipc::Handle sequence;
};

TEST_F(CoordinatorMoves, WhatAStepWaitsForIsReadBeforeWhatIsForecast) {
  const auto session = std::make_shared<TestSession>(*coordinator);
  write_blocks(*session);
  reads_wait = true;
  const ipc::CacheId cache = open_stored(*session);
  // All but the one that the engine has.
  ASSERT_TRUE(eventually([&] { return nvme->store().stats().devices[0].queued + 2 >= kBlocks; }));
  const std::span<const std::byte> last[] = {all_keys()[kBlocks - 1]};
  const auto stored = *nvme->store().find(scope(), last);
  ASSERT_TRUE(stored[0]);

  const kernels::HotTable& table = coordinator->cache_memory(cache)->table();
  kernels::mark_wanted(table, blocks.back().id.value, kernels::kWantedNow);
  kernels::ring_wanted_bell(table);
  ASSERT_TRUE(eventually([&] {
    return kernels::load_acquire(&table.wanted[blocks.back().id.value]) == kernels::kNotWanted;
  }));
  static_cast<void>(moving());  // whoever took the mark has the lock until the store was told
  reads_wait = false;
  ASSERT_TRUE(eventually([&] { return moving().arriving == 0 && moving().absent == 0; }));
  const std::lock_guard lock(mutex);
  const auto when = std::ranges::find_if(reads, [&](std::uint64_t offset) {
    return offset >= stored[0]->offset && offset <= stored[0]->offset + stored[0]->block_bytes;
  });
  EXPECT_LT(when - reads.begin(), std::ssize(reads) / 4) << "of " << reads.size();
}

TEST_F(CoordinatorMoves, TheStoreHoldsWhatASequenceHasNowhereElse) {
  const auto session = std::make_shared<TestSession>(*coordinator);
  write_blocks(*session);
  EXPECT_EQ(held_bytes(), 0U);
  reads_wait = true;
  open_stored(*session);
  EXPECT_EQ(held_bytes(), nvme->store().stats().tenants.front().live_bytes);
  reads_wait = false;
  EXPECT_TRUE(eventually([&] { return held_bytes() == 0; })) << "they are in DRAM again";
  EXPECT_EQ(nvme->store().stats().blocks, kBlocks);
}

TEST_F(CoordinatorMoves, TheStoreLetsGoOfWhatNobodyHasAnyMore) {
  const auto session = std::make_shared<TestSession>(*coordinator);
  write_blocks(*session);
  reads_wait = true;
  open_stored(*session);
  EXPECT_GT(held_bytes(), 0U);
  EXPECT_TRUE(coordinator->release(session->id, sequence));
  reads_wait = false;
  EXPECT_TRUE(eventually([&] { return held_bytes() == 0; }));
}

TEST_F(CoordinatorMoves, WhatIsNotAppendedIsNotHeld) {
  const auto session = std::make_shared<TestSession>(*coordinator);
  write_blocks(*session);
  auto opened = test::open_small_cache(*coordinator, *session);
  ASSERT_TRUE(opened);
  const ipc::CacheId cache = session->cache(opened->handle)->id;
  sequence = coordinator->open_sequence(session->id, cache, {}, blocks)->sequence;
  ASSERT_TRUE(eventually(
      [&] { return coordinator->extend(session->id, cache, sequence, 1, blocks).has_value(); }));
  const auto appended =
      coordinator->append_stored(session->id, cache, sequence, all_keys(), blocks);
  ASSERT_FALSE(appended.has_value()) << "behind a private block";
  EXPECT_EQ(held_bytes(), 0U);
  ASSERT_TRUE(coordinator->release(session->id, sequence));
  EXPECT_FALSE(coordinator->append_stored(session->id, cache, sequence, all_keys(), blocks));
  EXPECT_EQ(held_bytes(), 0U);
}

// A client may open caches under ever new names.
TEST_F(CoordinatorMoves, ACacheThatTheStoreHasNoNameForIsServedWithoutIt) {
  for (std::uint32_t i = 0; i < storage::kMaxNamespaces; ++i) {
    ASSERT_TRUE(nvme->store().intern({"t", "model " + std::to_string(i), {}, {}, {}}));
  }
  const auto session = std::make_shared<TestSession>(*coordinator);
  auto opened = test::open_small_cache(*coordinator, *session);
  ASSERT_TRUE(opened);
  seal_blocks(*session, session->cache(opened->handle)->id);
  ASSERT_TRUE(coordinator->evict({}));
  EXPECT_TRUE(eventually([&] {
    return coordinator->with_manager(
        [](auto& manager) { return manager.caches().front().blocks.sealed == 0; });
  }));
  EXPECT_EQ(nvme->store().stats().blocks, 0U);
}

}  // namespace
}  // namespace sluice::daemon
