// Several devices: each has arenas, capacity and quotas of its own.
#include <gtest/gtest.h>

#include "tests/residency/node.h"

namespace sluice::residency::test {
namespace {

ManagerConfig two_devices() {
  ManagerConfig config = small_node();
  config.hbm_devices = 2;
  return config;
}

CacheSpec cache_on(std::uint32_t device, std::uint64_t hbm_bytes = kExtent,
                   std::string model = "model") {
  CacheSpec spec = small_cache(std::move(model));
  spec.device = DeviceId{device};
  spec.hbm_bytes = hbm_bytes;
  return spec;
}

TEST(Devices, AreGivenToTheManagerAndNamedByTheirNumbers) {
  ManagerConfig none = small_node();
  none.hbm_devices = 0;
  EXPECT_EQ(Manager::create(none).error().code, Errc::bad_config);
  none.hbm_devices = kMaxDevices + 1;
  EXPECT_EQ(Manager::create(none).error().code, Errc::bad_config);

  Node node(two_devices());
  const SessionId session = node.session();
  const auto beyond = node.manager.open_cache(session, cache_on(2), node.actions);
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code, Errc::invalid_argument);
}

TEST(Devices, EachHasAnArenaOfItsOwnOfOneCache) {
  Node node(two_devices());
  const SessionId session = node.session();
  const CacheId cache = node.cache(session, cache_on(0, 2 * kExtent));
  const auto opened = node.manager.open_cache(session, cache_on(1, 3 * kExtent), node.actions);
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->cache, cache);
  EXPECT_TRUE(opened->created);
  EXPECT_EQ(opened->shape.slot_extents, 3U);
  EXPECT_EQ(node.actions, (Actions{CreateArena{cache, DeviceId{1}, 3, kExtent}}));
  node.settle();
  const auto joined = node.manager.open_cache(session, cache_on(1), node.actions);
  ASSERT_TRUE(joined);
  EXPECT_FALSE(joined->created);
  EXPECT_EQ(joined->shape.slot_extents, 3U);

  const CacheStatus status = node.status(cache);
  EXPECT_EQ(status.sessions, 1U);
  EXPECT_EQ(status.hbm_bytes, 5 * kExtent);
  ASSERT_EQ(status.arenas.size(), 2U);
  EXPECT_EQ(status.arenas[0].hbm_bytes, 2 * kExtent);
  EXPECT_EQ(status.arenas[1].slots, 12U);
}

TEST(Devices, ShareTheBlocksOfANamespace) {
  Node node(two_devices());
  const Keys keys("k", 4);
  const SessionId first = node.session();
  const CacheId cache = node.cache(first, cache_on(0));
  node.sealed_sequence(first, cache, keys);
  const SessionId second = node.session();
  EXPECT_EQ(node.cache(second, cache_on(1)), cache);
  const auto opened = node.open(second, cache, keys.view(), DeviceId{1});
  EXPECT_EQ(opened.matched.size(), 4U);
  EXPECT_EQ(node.status(cache).dram_bytes, kExtent) << "one frame for each";
  EXPECT_EQ(node.manager.sequence_info(second, opened.sequence)->device, DeviceId{1});

  // What the second writes the first finds.
  const Keys more("m", 1);
  const Handle written = node.open(second, cache, {}, DeviceId{1}).sequence;
  node.done.clear();
  node.extend(second, written, 1);
  ASSERT_TRUE(node.seal(second, written, 0, more[0]));
  EXPECT_EQ(node.open(first, cache, more.view()).matched.size(), 1U);
  const auto granted = Node::all<GrantDram>(node.done);
  ASSERT_EQ(granted.size(), 1U);
  EXPECT_EQ(granted[0].device, DeviceId{1}) << "for whom it was made";
}

TEST(Devices, ASequenceNeedsAnArenaThatItsSessionHasOpen) {
  Node node(two_devices());
  const SessionId session = node.session();
  const CacheId cache = node.cache(session, cache_on(0));
  EXPECT_EQ(node.manager.open_sequence(session, cache, {}, DeviceId{1}).error().code,
            Errc::stale_handle);
  ASSERT_TRUE(node.manager.open_cache(session, cache_on(1), node.actions));
  EXPECT_EQ(node.manager.open_sequence(session, cache, {}, DeviceId{1}).error().code, Errc::busy);
  EXPECT_TRUE(node.manager.open_sequence(session, cache, {})) << "the other one is made";
  node.settle();
  EXPECT_TRUE(node.manager.open_sequence(session, cache, {}, DeviceId{1}));
}

TEST(Devices, AnArenaIsNotClosedUnderItsSequences) {
  Node node(two_devices());
  const SessionId session = node.session();
  const CacheId cache = node.cache(session, cache_on(0));
  node.cache(session, cache_on(1));
  const Handle sequence = node.open(session, cache, {}, DeviceId{1}).sequence;
  EXPECT_TRUE(node.manager.close_cache(session, cache, node.actions, DeviceId{0}));
  EXPECT_EQ(node.manager.close_cache(session, cache, node.actions, DeviceId{1}).error().code,
            Errc::wrong_state);
  node.release(session, sequence);
  EXPECT_TRUE(node.manager.close_cache(session, cache, node.actions, DeviceId{1}));
  EXPECT_EQ(node.status(cache).sessions, 0U);
}

TEST(Devices, AnArenaThatCannotBeMadeLeavesTheOthers) {
  Node node(two_devices());
  const Keys keys("k", 2);
  const SessionId session = node.session();
  const CacheId cache = node.cache(session, cache_on(0));
  node.release(session, node.sealed_sequence(session, cache, keys));
  ASSERT_TRUE(node.manager.open_cache(session, cache_on(1), node.actions));
  node.actions.clear();
  ASSERT_TRUE(node.manager.arena_failed(cache, node.actions, DeviceId{1}));
  EXPECT_EQ(node.manager.tenants()[0].devices[1].failed, 1U);
  EXPECT_EQ(node.manager.tenants()[0].devices[1].used_bytes, 0U);
  EXPECT_EQ(node.open(session, cache, keys.view()).matched.size(), 2U);
  node.manager.check();
}

TEST(Devices, ArenasOfANewCacheAreMadeAtTheSameTimeAndFailOneByOne) {
  Node node(two_devices());
  const SessionId session = node.session();
  const auto first = node.manager.open_cache(session, cache_on(0), node.actions);
  const auto second = node.manager.open_cache(session, cache_on(1), node.actions);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(second->cache, first->cache);
  ASSERT_TRUE(node.manager.arena_failed(first->cache, node.actions, DeviceId{0}));
  EXPECT_EQ(node.status(first->cache).state, CacheState::opening);
  ASSERT_TRUE(node.manager.arena_ready(first->cache, DeviceId{1}));
  EXPECT_EQ(node.status(first->cache).state, CacheState::open);
  node.manager.check();

  CacheSpec other = cache_on(0, kExtent, "other");
  const auto third = node.manager.open_cache(session, other, node.actions);
  other.device = DeviceId{1};
  ASSERT_TRUE(third && node.manager.open_cache(session, other, node.actions));
  for (const std::uint32_t device : {0U, 1U}) {
    ASSERT_TRUE(node.manager.arena_failed(third->cache, node.actions, DeviceId{device}));
  }
  EXPECT_EQ(node.manager.status().caches, 1U);
  node.manager.check();
}

TEST(Devices, AnIdleArenaMakesRoomWithoutItsCache) {
  Node node(two_devices());
  const Keys keys("k", 2);
  const SessionId session = node.session();
  const CacheId cache = node.cache(session, cache_on(0, 12 * kExtent));
  node.cache(session, cache_on(1, 12 * kExtent));
  node.sealed_sequence(session, cache, keys);
  node.actions.clear();
  ASSERT_TRUE(node.manager.close_cache(session, cache, node.actions, DeviceId{1}));
  const CacheSpec other = cache_on(1, 12 * kExtent, "other");
  EXPECT_EQ(node.manager.open_cache(session, other, node.actions).error().code, Errc::busy);
  EXPECT_EQ(node.actions, (Actions{DestroyArena{cache, DeviceId{1}}}));
  EXPECT_EQ(node.manager.open_cache(session, cache_on(1), node.actions).error().code, Errc::busy)
      << "it is on its way out";
  EXPECT_EQ(node.manager.status().devices[1].used_bytes, 12 * kExtent) << "until it is really back";
  node.settle();
  EXPECT_TRUE(node.manager.open_cache(session, other, node.actions));
  EXPECT_EQ(node.open(session, cache, keys.view()).matched.size(), 2U);
}

TEST(Devices, TheLastArenaGoesWithItsCache) {
  Node node(two_devices());
  const SessionId session = node.session();
  const CacheId cache = node.cache(session, cache_on(0, 12 * kExtent));
  node.cache(session, cache_on(1, 12 * kExtent));
  for (const std::uint32_t device : {0U, 1U}) {
    ASSERT_TRUE(node.manager.close_cache(session, cache, node.actions, DeviceId{device}));
  }
  const auto make_room = [&](std::uint32_t device) {
    node.actions.clear();
    EXPECT_EQ(node.manager.open_cache(session, cache_on(device, 12 * kExtent, "new"), node.actions)
                  .error()
                  .code,
              Errc::busy);
    return node.actions;
  };
  EXPECT_EQ(make_room(0), (Actions{DestroyArena{cache, DeviceId{0}}}));
  node.settle();
  EXPECT_EQ(make_room(1), (Actions{DestroyCache{cache}}));
}

TEST(Devices, EachHasTheCapacityAndTheQuotasOfTheTier) {
  Node node(two_devices());
  const SessionId session = node.session();
  node.cache(session, cache_on(0, 16 * kExtent));
  const auto full = node.manager.open_cache(session, cache_on(0, kExtent, "b"), node.actions);
  EXPECT_EQ(full.error().code, Errc::quota_exceeded);
  node.cache(session, cache_on(1, 16 * kExtent));

  const NodeStatus status = node.manager.status();
  ASSERT_EQ(status.devices.size(), 2U);
  EXPECT_EQ(status.hbm.capacity_bytes, 32 * kExtent);
  EXPECT_EQ(status.hbm.used_bytes, 32 * kExtent);
  EXPECT_EQ(status.devices[1].used_bytes, 16 * kExtent);
  const TenantStatus tenant = node.manager.tenants()[0];
  EXPECT_EQ(tenant.hbm.quota.limit_bytes, 32 * kExtent);
  EXPECT_EQ(tenant.devices[0].refused, 1U);
  EXPECT_EQ(tenant.devices[1].refused, 0U);
}

TEST(Devices, AnIdleCacheIsNotFreedForAnArenaOnAnother) {
  Node node(two_devices());
  const SessionId session = node.session();
  const CacheId there = node.cache(session, cache_on(1, 12 * kExtent, "there"));
  const CacheId here = node.cache(session, cache_on(0, 12 * kExtent, "here"));
  ASSERT_TRUE(node.manager.close_cache(session, there, node.actions, DeviceId{1}));
  ASSERT_TRUE(node.manager.close_cache(session, here, node.actions));
  EXPECT_EQ(
      node.manager.open_cache(session, cache_on(0, 12 * kExtent, "new"), node.actions).error().code,
      Errc::busy);
  EXPECT_EQ(node.actions, Actions{DestroyCache{here}})
      << "the other was idle for longer, and gives nothing to this device";
}

TEST(Devices, ALoweredQuotaFreesIdleCachesWhereItIsExceeded) {
  Node node(two_devices());
  const SessionId session = node.session();
  const CacheId small = node.cache(session, cache_on(0, kExtent, "small"));
  const CacheId large = node.cache(session, cache_on(1, 12 * kExtent, "large"));
  ASSERT_TRUE(node.manager.close_cache(session, small, node.actions));
  ASSERT_TRUE(node.manager.close_cache(session, large, node.actions, DeviceId{1}));
  ASSERT_TRUE(node.manager.set_quota(TenantId{0}, Tier::hbm, {0, 4 * kExtent, 1.0}, node.actions));
  EXPECT_EQ(Node::all<DestroyCache>(node.actions), std::vector{DestroyCache{large}});
  node.settle();
  EXPECT_EQ(node.manager.status().hbm.used_bytes, kExtent);
}

}  // namespace
}  // namespace sluice::residency::test
