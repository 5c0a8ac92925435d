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

TEST(Devices, EachHasAnArenaOfItsOwnForANamespace) {
  Node node(two_devices());
  const SessionId session = node.session();
  for (const std::uint32_t device : {0U, 1U}) {
    const auto opened = node.manager.open_cache(session, cache_on(device), node.actions);
    ASSERT_TRUE(opened);
    EXPECT_TRUE(opened->created);
    const auto created = Node::all<CreateCache>(node.actions);
    ASSERT_EQ(created.size(), 1U);
    EXPECT_EQ(created[0].device, DeviceId{device});
    node.settle();
  }
  const auto joined = node.manager.open_cache(session, cache_on(1), node.actions);
  ASSERT_TRUE(joined);
  EXPECT_FALSE(joined->created);
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
  ASSERT_TRUE(node.manager.close_cache(session, there, node.actions));
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
  ASSERT_TRUE(node.manager.close_cache(session, large, node.actions));
  ASSERT_TRUE(node.manager.set_quota(TenantId{0}, Tier::hbm, {0, 4 * kExtent, 1.0}, node.actions));
  EXPECT_EQ(Node::all<DestroyCache>(node.actions), std::vector{DestroyCache{large}});
  node.settle();
  EXPECT_EQ(node.manager.status().hbm.used_bytes, kExtent);
}

}  // namespace
}  // namespace sluice::residency::test
