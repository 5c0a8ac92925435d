// A manager that takes over what one of before left in records.
#include "daemon/residency/adopt.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <set>

#include "tests/residency/node.h"

namespace sluice::residency::test {
namespace {

// A node whose blocks have records, and what comes of it in the next life.
struct KeptNode : Node {
  explicit KeptNode(const ManagerConfig& config = small_node()) : Node(config) {}

  CacheId kept_cache(SessionId session, const CacheSpec& spec = small_cache()) {
    const auto opened = manager.open_cache(session, spec, actions);
    EXPECT_TRUE(opened) << opened.error().text;
    kept.id = opened->cache;
    kept.tenant = TenantId{0};
    kept.spec = spec;
    kept.shape = opened->shape;
    kept.arenas = {{DeviceId{}, opened->shape.slot_extents}};
    records = std::make_unique<BlockRecord[]>(opened->shape.max_blocks);
    kept.records = {records.get(), opened->shape.max_blocks};
    EXPECT_TRUE(manager.keep_records(kept.id, kept.records));
    settle();
    return kept.id;
  }

  // The manager is gone; a new one has the cache, and the sessions that are named.
  Adoption restart(std::initializer_list<SessionId> living,
                   const ManagerConfig& config = small_node()) {
    kept.frame_extents = frame_extents;
    manager = std::move(*Manager::create(config));
    actions.clear();
    for (const SessionId id : living) EXPECT_TRUE(manager.adopt_session(id, TenantId{0}));
    auto adopted = manager.adopt_cache(kept, actions);
    EXPECT_TRUE(adopted) << adopted.error().text;
    for (const Action& action : actions) done.push_back(action);
    manager.check();
    return adopted ? *adopted : Adoption{};
  }

  AdoptedCache kept;
  std::unique_ptr<BlockRecord[]> records;
  std::uint32_t frame_extents = 4;
};

std::uint32_t matched(Node& node, SessionId session, CacheId cache, const Keys& keys) {
  return static_cast<std::uint32_t>(node.open(session, cache, keys.view()).matched.size());
}

TEST(Adopt, SealedBlocksAreFoundAgainWhereTheyWere) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Keys keys("k", 6);
  const Handle sequence = node.sealed_sequence(before, cache, keys);
  const auto blocks = node.open(before, cache, keys.view()).matched;
  ASSERT_EQ(blocks.size(), 6u);
  node.release(before, sequence);

  node.frame_extents = 2;
  const Adoption adoption = node.restart({});
  EXPECT_EQ(adoption.sealed_blocks, 6u);
  EXPECT_EQ(adoption.damaged, 0u);
  EXPECT_EQ(adoption.given_up, 0u);
  for (const BlockRef& block : blocks) EXPECT_EQ(adoption.frames[block.id.value], block.frame);
  node.settle();
  const SessionId session = node.session();
  EXPECT_GT(session.value, 0u);
  EXPECT_EQ(node.cache(session), cache) << "it is joined, not made anew";
  EXPECT_EQ(node.open(session, cache, keys.view()).matched, blocks);
}

TEST(Adopt, APrivateBlockOfNobodyRetiresAndComesBack) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Handle sequence = node.open(before, cache).sequence;
  const auto blocks = node.extend(before, sequence, 3);
  node.frame_extents = 1;
  const Adoption adoption = node.restart({});
  EXPECT_EQ(adoption.given_up, 3u);
  const auto retires = Node::all<Retire>(node.actions);
  ASSERT_EQ(retires.size(), 1u) << "their pages may still be in HBM";
  EXPECT_EQ(retires[0].ids.size(), 3u);
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.retiring, 0u);
}

TEST(Adopt, ASessionThatIsAwayHoldsWhatItMayReadUntilItIsBack) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Keys keys("k", 4);
  node.sealed_sequence(before, cache, keys);
  const Handle tail = node.open(before, cache).sequence;
  const auto own = node.extend(before, tail, 2);
  node.frame_extents = 2;
  const Adoption adoption = node.restart({before});
  EXPECT_EQ(adoption.private_blocks, 2u);
  EXPECT_EQ(adoption.sealed_blocks, 4u);
  node.settle();

  // Nothing of it can be evicted, and the cache cannot be destroyed.
  EvictRequest all;
  all.drop_idle_caches = true;
  EXPECT_TRUE(node.manager.evict(all, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.sealed, 4u);
  EXPECT_EQ(node.status(cache).blocks.taken, 2u);

  ASSERT_TRUE(node.manager.resume_session(before, TenantId{0}));
  EXPECT_FALSE(node.manager.resume_session(before, TenantId{0})) << "once";
  ASSERT_EQ(node.cache(before), cache);
  const std::vector<std::uint32_t> ids{0, 1, own[0].id.value};
  const auto adopted =
      node.manager.adopt_sequence(before, cache, Handle{}, ids, DeviceId{}, node.actions);
  ASSERT_TRUE(adopted) << adopted.error().text;
  EXPECT_EQ(adopted->matched.size(), 3u);
  EXPECT_EQ(adopted->matched[2], own[0]);
  const Handle sequence = adopted->sequence;
  ASSERT_TRUE(node.manager.session_resumed(before, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.taken, 1u) << "what it did not adopt is given up";
  EXPECT_EQ(node.status(cache).blocks.unreferenced, 2u);
  EXPECT_TRUE(node.manager.evict({}, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.sealed, 2u) << "what it refers to stays";
  // And it goes on as any other.
  EXPECT_TRUE(node.seal(before, sequence, 2, Keys("t", 1)[0]));
  EXPECT_EQ(matched(node, before, cache, Keys("t", 1)), 1u);
  node.settle();
}

TEST(Adopt, ASessionAdoptsOnlyWhatIsItsOwn) {
  KeptNode node;
  const SessionId before = node.session();
  const SessionId other = node.session();
  const CacheId cache = node.kept_cache(before);
  ASSERT_EQ(node.cache(other), cache);
  const auto own = node.extend(before, node.open(before, cache).sequence, 1);
  const auto others = node.extend(other, node.open(other, cache).sequence, 1);
  node.frame_extents = 1;
  node.restart({before, other});
  const auto adopt = [&](std::vector<std::uint32_t> ids) {
    auto done = node.manager.adopt_sequence(before, cache, Handle{}, ids, DeviceId{}, node.actions);
    node.manager.check();
    return done ? Errc::ok : done.error().code;
  };
  EXPECT_EQ(adopt({own[0].id.value}), Errc::wrong_state) << "it has not come back";
  ASSERT_TRUE(node.manager.resume_session(before, TenantId{0}));
  EXPECT_EQ(adopt({own[0].id.value}), Errc::stale_handle) << "the cache is not open";
  ASSERT_EQ(node.cache(before), cache);
  EXPECT_EQ(adopt({others[0].id.value}), Errc::stale_handle);
  EXPECT_EQ(adopt({7}), Errc::stale_handle);
  EXPECT_EQ(adopt({0xFFFFFFFFu}), Errc::stale_handle);
  EXPECT_EQ(adopt({own[0].id.value, own[0].id.value}), Errc::stale_handle) << "twice";
  EXPECT_EQ(adopt({own[0].id.value}), Errc::ok);
  EXPECT_EQ(adopt({own[0].id.value}), Errc::stale_handle) << "in another sequence by now";
  EXPECT_TRUE(node.manager.session_resumed(before, node.actions));
  EXPECT_EQ(adopt({}), Errc::wrong_state) << "it said that it is done";
  node.settle();
}

TEST(Adopt, ASessionThatDiesAwayLeavesNothing) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Keys keys("k", 3);
  node.sealed_sequence(before, cache, keys);
  const auto own = node.extend(before, node.open(before, cache).sequence, 2);
  node.frame_extents = 2;
  node.restart({before});
  node.settle();
  node.done.clear();
  EXPECT_TRUE(node.manager.session_dead(before, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.taken, 0u);
  EXPECT_EQ(node.status(cache).blocks.unreferenced, 3u);
  const auto drops = Node::all<DropPins>(node.done);
  ASSERT_EQ(drops.size(), 2u);
  EXPECT_EQ(drops[0].ids.size(), 2u) << "its private blocks'";
  EXPECT_FALSE(drops[0].sealed);
  EXPECT_EQ(drops[1].ids.size(), 3u) << "and of what it sealed";
  EXPECT_TRUE(drops[1].sealed);
  EXPECT_TRUE(node.manager.evict({}, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.sealed, 0u);
}

// Whatever is in the records, nothing but whole blocks of theirs comes of it.
TEST(Adopt, RecordsAreNotBelieved) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    KeptNode node;
    const SessionId before = node.session();
    const CacheId cache = node.kept_cache(before);
    const Keys keys("k", 8);
    node.sealed_sequence(before, cache, keys);
    node.extend(before, node.open(before, cache).sequence, 3);
    auto* const bytes = reinterpret_cast<unsigned char*>(node.records.get());
    const std::size_t size = 12 * sizeof(BlockRecord);
    for (int i = 0; i < 1 + round % 40; ++i) {
      // State words are small numbers: random bits alone would seldom leave anything to look at.
      const std::size_t at = random() % size;
      bytes[at] = at % sizeof(BlockRecord) == 0 ? static_cast<unsigned char>(random() % 6)
                                                : static_cast<unsigned char>(random());
    }
    node.frame_extents = 3;
    const Adoption adoption = node.restart({before});
    std::set<std::uint32_t> frames;
    for (const FrameId frame : adoption.frames) {
      if (frame == ipc::kNoFrameId || frame == ipc::kLostFrameId) continue;
      ASSERT_LT(frame.value, 12u);
      ASSERT_TRUE(frames.insert(frame.value).second) << "a frame is one block's";
    }
    node.settle();
    ASSERT_TRUE(node.manager.resume_session(before, TenantId{0}));
    ASSERT_EQ(node.cache(before), cache);
    ASSERT_TRUE(node.manager.session_resumed(before, node.actions));
    node.settle();
    node.sealed_sequence(before, cache, Keys("new", 12));
    node.settle();
  }
}

TEST(Adopt, WhatDoesNotFitIsRefused) {
  KeptNode node;
  const SessionId before = node.session();
  node.kept_cache(before);
  const AdoptedCache kept = node.kept;
  const auto refused = [&](const AdoptedCache& wrong, const ManagerConfig& config = small_node()) {
    Manager manager = std::move(*Manager::create(config));
    Actions actions;
    const auto adopted = manager.adopt_cache(wrong, actions);
    manager.check();
    return adopted ? Errc::ok : adopted.error().code;
  };
  EXPECT_EQ(refused(kept), Errc::ok);
  AdoptedCache wrong = kept;
  wrong.tenant = TenantId{2};
  EXPECT_EQ(refused(wrong), Errc::not_found);
  wrong = kept;
  wrong.id = CacheId{100'000};
  EXPECT_EQ(refused(wrong), Errc::invalid_argument);
  wrong = kept;
  wrong.frame_extents = kept.shape.max_frame_extents + 1;
  EXPECT_EQ(refused(wrong), Errc::invalid_argument);
  wrong = kept;
  wrong.records = wrong.records.subspan(1);
  EXPECT_EQ(refused(wrong), Errc::invalid_argument);
  wrong = kept;
  wrong.arenas = {{DeviceId{3}, 1}};
  EXPECT_EQ(refused(wrong), Errc::not_found);
  wrong = kept;
  wrong.arenas = {};
  EXPECT_EQ(refused(wrong), Errc::invalid_argument);
  wrong = kept;
  wrong.arenas = {{DeviceId{}, 1000}};
  EXPECT_EQ(refused(wrong), Errc::quota_exceeded);
  ManagerConfig small = small_node();
  small.dram.capacity_bytes = kExtent;
  small.tenants[0].dram.limit_bytes = small.tenants[1].dram.limit_bytes = kExtent;
  wrong = kept;
  wrong.frame_extents = 2;
  EXPECT_EQ(refused(wrong, small), Errc::quota_exceeded);
  ManagerConfig gpus = small_node();
  gpus.dram.extents_stay = true;
  EXPECT_EQ(refused(kept, gpus), Errc::invalid_argument);
}

}  // namespace
}  // namespace sluice::residency::test
