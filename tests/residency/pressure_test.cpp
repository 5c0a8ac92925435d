// Memory: quotas, eviction, growth and what comes back.
#include "tests/residency/node.h"

namespace sluice::residency::test {
namespace {

ManagerConfig with_dram(std::uint64_t red_guaranteed, std::uint64_t red_limit,
                        std::uint64_t blue_guaranteed, std::uint64_t blue_limit) {
  ManagerConfig config = small_node();
  config.tenants[0].dram = {red_guaranteed * kExtent, red_limit * kExtent, 1.0};
  config.tenants[1].dram = {blue_guaranteed * kExtent, blue_limit * kExtent, 1.0};
  return config;
}

TEST(Pressure, ATenantAtItsLimitGetsATypedErrorThatNamesIt) {
  Node node(with_dram(0, 2, 0, 16));
  const SessionId session = node.session();
  const Handle sequence = node.open(session, node.cache(session)).sequence;
  node.extend(session, sequence, 8);
  const auto refused = node.try_extend(session, sequence, 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::quota_exceeded);
  for (const char* part : {"'red'", "dram", "limit is 32768", "has 32768", "release sequences"}) {
    EXPECT_NE(refused.error().text.find(part), std::string::npos) << refused.error().text;
  }
  EXPECT_EQ(node.manager.tenants()[0].dram.refused, 1u);
  EXPECT_EQ(node.manager.tenants()[0].dram.failed, 0u);
}

TEST(Pressure, AnExtentThatCannotBeMadeIsNoMemoryAndLeaksNothing) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Handle sequence = node.open(session, cache).sequence;
  const auto asked = node.manager.extend(session, sequence, 5, Growth::allowed, node.actions);
  ASSERT_TRUE(asked && asked->needs_extents);
  const auto grants = Node::all<GrantDram>(std::exchange(node.actions, {}));
  ASSERT_EQ(grants.size(), 2u);
  ASSERT_TRUE(node.manager.extent_granted(cache, grants[0].extent));
  ASSERT_TRUE(node.manager.extent_failed(cache, grants[1].extent));
  const auto refused = node.manager.extend(session, sequence, 5, Growth::refused, node.actions);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::no_memory);
  EXPECT_EQ(node.manager.tenants()[0].dram.failed, 1u);
  EXPECT_EQ(node.manager.tenants()[0].dram.refused, 0u) << "it is the node that had none";
  EXPECT_EQ(node.manager.sequence_info(session, sequence)->blocks, 0u);
  EXPECT_EQ(node.status(cache).dram_bytes, kExtent);
  EXPECT_TRUE(node.manager.extend(session, sequence, 4, Growth::refused, node.actions));
  EXPECT_EQ(node.manager.extent_granted(cache, 7).error().code, Errc::not_found);
}

TEST(Pressure, TheBlocksUsedLongestAgoGoFirstAndPrefixesLast) {
  Node node(with_dram(0, 2, 0, 16));
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Keys old("old", 4);
  const Keys recent("new", 3);
  const Handle first = node.sealed_sequence(session, cache, old);
  const Handle second = node.sealed_sequence(session, cache, recent);
  node.release(session, first);
  node.release(session, second);
  node.settle();
  node.done.clear();
  node.extend(session, node.open(session, cache).sequence, 2);
  node.settle();
  EXPECT_EQ(node.open(session, cache, recent.view()).matched.size(), 3u);
  const auto left = node.open(session, cache, old.view()).matched.size();
  EXPECT_GE(left, 1u);  // the tail went, the head is still there
  EXPECT_LE(left, 3u);
}

TEST(Pressure, BlocksInUseAreNeverEvicted) {
  Node node(with_dram(0, 1, 0, 16));
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Keys keys("k", 4);
  node.sealed_sequence(session, cache, keys);
  EXPECT_FALSE(node.try_extend(session, node.open(session, cache).sequence, 1));
  ASSERT_TRUE(node.manager.evict(EvictRequest{}, node.actions));
  node.settle();
  EXPECT_EQ(node.open(session, cache, keys.view()).matched.size(), 4u);
}

TEST(Pressure, BusyWhileBlocksWaitForTheirGracePeriod) {
  Node node(with_dram(0, 1, 0, 16));
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Keys keys("k", 4);
  node.release(session, node.sealed_sequence(session, cache, keys));
  node.settle();
  const Handle sequence = node.open(session, cache).sequence;
  const auto busy = node.manager.extend(session, sequence, 4, Growth::allowed, node.actions);
  ASSERT_FALSE(busy);
  EXPECT_EQ(busy.error().code, Errc::busy);
  // Out of the directory already: nobody can name what is being given up.
  EXPECT_TRUE(node.open(session, cache, keys.view()).matched.empty());
  const auto again = node.manager.extend(session, sequence, 4, Growth::allowed, node.actions);
  EXPECT_EQ(again.error().code, Errc::busy);
  EXPECT_EQ(Node::all<Retire>(node.actions).size(), 1u);
  node.settle();
  EXPECT_TRUE(node.manager.extend(session, sequence, 4, Growth::allowed, node.actions));
}

TEST(Pressure, WhatIsGuaranteedToOthersIsNotLent) {
  Node node(with_dram(0, 16, 10, 16));
  const SessionId red = node.session(0);
  const SessionId blue = node.session(1);
  const Handle greedy = node.open(red, node.cache(red)).sequence;
  node.extend(red, greedy, 24);
  EXPECT_FALSE(node.try_extend(red, greedy, 1));
  const Handle entitled = node.open(blue, node.cache(blue)).sequence;
  EXPECT_EQ(node.extend(blue, entitled, 40).size(), 40u);
}

TEST(Pressure, CompetingTenantsGetMemoryByWeight) {
  ManagerConfig config = small_node();
  config.tenants[0].dram.weight = 3.0;
  Node node(config);
  const SessionId red = node.session(0);
  const SessionId blue = node.session(1);
  const CacheId red_cache = node.cache(red);
  const CacheId blue_cache = node.cache(blue);
  // Red alone takes all, and leaves it warm.
  node.release(red, node.sealed_sequence(red, red_cache, Keys("r", 64)));
  node.settle();
  EXPECT_EQ(node.status(red_cache).dram_bytes, 16 * kExtent);
  // Blue wants as much as it can get: its share is a quarter.
  const Handle sequence = node.open(blue, blue_cache).sequence;
  while (node.try_extend(blue, sequence, 1)) {
  }
  EXPECT_EQ(node.status(blue_cache).dram_bytes, 4 * kExtent);
  EXPECT_EQ(node.status(red_cache).dram_bytes, 12 * kExtent);
}

TEST(Pressure, ANewCacheOfATenantTakesTheColdMemoryOfItsOldOne) {
  Node node(with_dram(0, 4, 0, 16));
  const SessionId session = node.session();
  const CacheId old = node.cache(session, small_cache("old"));
  node.release(session, node.sealed_sequence(session, old, Keys("k", 16)));
  node.settle();
  const CacheId young = node.cache(session, small_cache("young"));
  node.extend(session, node.open(session, young).sequence, 9);
  EXPECT_EQ(node.status(young).dram_bytes, 3 * kExtent);
  EXPECT_EQ(node.status(old).dram_bytes, 1 * kExtent);
}

// Users of a device have pinned the extents: what comes back of them comes back with the cache.
TEST(Pressure, ExtentsThatStayGoWithTheirCacheAndNotBefore) {
  ManagerConfig config = with_dram(0, 16, 0, 16);
  config.dram.extents_stay = true;
  Node node(config);
  const SessionId red = node.session(0);
  const SessionId blue = node.session(1);
  const CacheId red_cache = node.cache(red);
  node.release(red, node.sealed_sequence(red, red_cache, Keys("r", 60)));
  ASSERT_EQ(node.status(red_cache).dram_bytes, 15 * kExtent);
  const Handle gone = node.open(red, red_cache).sequence;
  node.extend(red, gone, 4);
  node.release(red, gone);
  node.settle();
  const CacheId blue_cache = node.cache(blue);
  const Handle sequence = node.open(blue, blue_cache).sequence;
  EXPECT_FALSE(node.try_extend(blue, sequence, 40)) << "red has its cache open";

  ASSERT_TRUE(node.manager.close_cache(red, red_cache, node.actions));
  node.settle();
  EXPECT_EQ(node.extend(blue, sequence, 40).size(), 40u);
  EXPECT_TRUE(Node::all<ReleaseExtent>(node.done).empty());
  const auto destroyed = Node::all<DestroyCache>(node.done);
  ASSERT_EQ(destroyed.size(), 1u);
  EXPECT_EQ(destroyed[0].cache, red_cache);
}

TEST(Pressure, ALoweredLimitGivesMemoryBackAsReferencesGo) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Handle cold = node.sealed_sequence(session, cache, Keys("cold", 8));
  const Handle hot = node.sealed_sequence(session, cache, Keys("hot", 8));
  node.release(session, cold);
  node.settle();
  ASSERT_TRUE(node.manager.set_quota(TenantId{0}, Tier::dram, {0, kExtent, 1.0}, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).dram_bytes, 2 * kExtent);  // what the hot sequence holds
  EXPECT_EQ(node.manager.tenants()[0].dram.over_limit_bytes, kExtent);
  node.release(session, hot);
  node.settle();
  EXPECT_EQ(node.manager.tenants()[0].dram.over_limit_bytes, 0u);
  EXPECT_LE(node.status(cache).dram_bytes, kExtent);
}

// Two caches of red and one of blue with unreferenced blocks; 4, 40 and 4 of them, in this order of
// use.
struct ThreeCaches {
  ThreeCaches() {
    first = filled(red, "first", 4);
    second = filled(red, "second", 40);
    third = filled(blue, "third", 4);
  }
  CacheId filled(SessionId session, const char* model, std::uint32_t blocks) {
    const CacheId cache = node.cache(session, small_cache(model));
    node.release(session, node.sealed_sequence(session, cache, Keys(model, blocks)));
    node.settle();
    return cache;
  }
  std::uint64_t sealed(CacheId cache) const { return node.status(cache).blocks.sealed; }

  Node node{[] {
    ManagerConfig config = small_node();
    config.dram.capacity_bytes = 64 * kExtent;
    for (TenantSpec& tenant : config.tenants) tenant.dram.limit_bytes = 64 * kExtent;
    return config;
  }()};
  SessionId red = node.session(0);
  SessionId blue = node.session(1);
  CacheId first, second, third;
};

// What a plan says is what an evict does, cache by cache.
void expect_plan_to_hold(ThreeCaches& world, const EvictRequest& request) {
  const auto plan = world.node.manager.evict_plan(request);
  ASSERT_TRUE(plan);
  EXPECT_TRUE(plan->exact);
  std::vector<std::uint64_t> before;
  for (const auto& row : plan->caches) before.push_back(world.sealed(row.cache));
  const auto ordered = world.node.manager.evict(request, world.node.actions);
  ASSERT_TRUE(ordered);
  EXPECT_EQ(ordered->blocks, plan->ordered.blocks);
  EXPECT_EQ(ordered->bytes, plan->ordered.bytes);
  EXPECT_EQ(ordered->caches_dropped, plan->ordered.caches_dropped);
  world.node.settle();
  for (std::size_t i = 0; i < plan->caches.size(); ++i) {
    if (plan->caches[i].dropped) continue;
    EXPECT_EQ(before[i] - world.sealed(plan->caches[i].cache), plan->caches[i].blocks) << i;
  }
}

TEST(EvictPlan, ChangesNothingAndSaysWhatEachCacheWouldLose) {
  const ThreeCaches world;
  const auto plan = world.node.manager.evict_plan(EvictRequest{});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->ordered.blocks, 48u);
  EXPECT_EQ(plan->ordered.bytes, 48 * kBlock);
  EXPECT_EQ(plan->ordered.caches_dropped, 0u);
  ASSERT_EQ(plan->caches.size(), 3u);
  EXPECT_EQ(plan->caches[1].cache, world.second);
  EXPECT_EQ(plan->caches[1].blocks, 40u);
  EXPECT_EQ(plan->caches[2].tenant, TenantId{1});
  EXPECT_EQ(world.sealed(world.second), 40u);
  EXPECT_FALSE(world.node.manager.pending_work());
}

TEST(EvictPlan, FollowsTheOrderOfUseThatTheEvictTakes) {
  for (const std::uint64_t blocks : {0u, 1u, 4u, 5u, 36u, 37u, 44u, 45u, 48u, 100u}) {
    ThreeCaches world;
    EvictRequest request;
    request.bytes = blocks * kBlock;
    expect_plan_to_hold(world, request);
    EXPECT_EQ(world.sealed(world.first) + world.sealed(world.second) + world.sealed(world.third),
              48 - std::min<std::uint64_t>(blocks, 48));
  }
}

TEST(EvictPlan, GoesFromCacheToCacheAsTheAgesDo) {
  ThreeCaches world;
  // Younger than the blocks of the third cache, and in the list of the second.
  const SessionId session = world.red;
  world.node.release(session, world.node.sealed_sequence(session, world.second, Keys("young", 40)));
  world.node.settle();
  EvictRequest request;
  request.bytes = (4 + 64 + 4 + 1) * kBlock;  // two runs of the second cache, and then the third
  const auto plan = world.node.manager.evict_plan(request);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->caches[1].blocks, 65u);
  EXPECT_EQ(plan->caches[2].blocks, 4u);
  expect_plan_to_hold(world, request);
}

TEST(EvictPlan, CountsWholeBlocks) {
  ThreeCaches world;
  EvictRequest request;
  request.bytes = kBlock + 1;
  EXPECT_EQ(world.node.manager.evict_plan(request)->ordered.bytes, 2 * kBlock);
  expect_plan_to_hold(world, request);
}

TEST(EvictPlan, HoldsTheSelectors) {
  ThreeCaches world;
  EvictRequest request;
  request.tenant = 1;
  EXPECT_EQ(world.node.manager.evict_plan(request)->caches.size(), 1u);
  expect_plan_to_hold(world, request);
  EXPECT_EQ(world.sealed(world.second), 40u);
  request = {};
  request.cache = world.second.value;
  request.bytes = 3 * kBlock;
  expect_plan_to_hold(world, request);
  EXPECT_EQ(world.sealed(world.second), 37u);
  request.cache = 99;
  EXPECT_EQ(world.node.manager.evict_plan(request).error().code, Errc::not_found);
  request = {};
  request.tenant = 9;
  EXPECT_EQ(world.node.manager.evict_plan(request).error().code, Errc::not_found);
}

TEST(EvictPlan, TellsCachesThatWouldGoWhole) {
  ThreeCaches world;
  ASSERT_TRUE(world.node.manager.close_cache(world.red, world.second, world.node.actions));
  EvictRequest request;
  request.drop_idle_caches = true;
  request.bytes = kBlock;
  const auto plan = world.node.manager.evict_plan(request);
  ASSERT_TRUE(plan);
  EXPECT_TRUE(plan->caches[1].dropped);
  EXPECT_EQ(plan->caches[1].blocks, 40u) << "whatever the bytes that were asked for";
  EXPECT_EQ(plan->ordered.blocks, 41u);
  EXPECT_EQ(plan->ordered.caches_dropped, 1u);
  expect_plan_to_hold(world, request);
  EXPECT_EQ(world.sealed(world.first), 3u);
}

TEST(EvictPlan, EstimatesWhatLiesBeyondItsBound) {
  ManagerConfig config = small_node();
  config.dram.capacity_bytes = 16384 * kExtent;
  for (TenantSpec& tenant : config.tenants) tenant.dram.limit_bytes = 16384 * kExtent;
  Node node(config);
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  constexpr std::uint32_t kEach = 1000;
  for (std::uint32_t i = 0; i < 20; ++i) {
    node.release(session,
                 node.sealed_sequence(session, cache, Keys("k" + std::to_string(i) + "-", kEach)));
    node.settle();
  }
  EvictRequest request;
  request.bytes = 18'000 * kBlock;
  const auto plan = node.manager.evict_plan(request);
  ASSERT_TRUE(plan);
  EXPECT_FALSE(plan->exact);
  EXPECT_NEAR(static_cast<double>(plan->ordered.blocks), 18'000, 1);
}

TEST(Pressure, WhatWasEvictedIsCountedByReason) {
  Node node(with_dram(0, 2, 0, 16));
  const auto evicted = [&](EvictReason reason) {
    return node.manager.tenants()[0].evicted_bytes[static_cast<std::size_t>(reason)] / kBlock;
  };
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  node.release(session, node.sealed_sequence(session, cache, Keys("a", 8)));
  node.settle();
  const Handle taking = node.open(session, cache).sequence;
  node.extend(session, taking, 1);
  node.settle();
  const std::uint64_t by_pressure = evicted(EvictReason::pressure);
  EXPECT_GE(by_pressure, 1u);
  EXPECT_EQ(evicted(EvictReason::quota) + evicted(EvictReason::admin), 0u);

  EvictRequest one;
  one.bytes = kBlock;
  ASSERT_TRUE(node.manager.evict(one, node.actions));
  node.settle();
  EXPECT_EQ(evicted(EvictReason::admin), 1u);

  node.release(session, taking);
  ASSERT_TRUE(node.manager.set_quota(TenantId{0}, Tier::dram, {0, kExtent, 1.0}, node.actions));
  node.settle();
  EXPECT_GE(evicted(EvictReason::quota), 1u);
  EXPECT_EQ(evicted(EvictReason::pressure), by_pressure);
  EXPECT_EQ(evicted(EvictReason::admin), 1u);

  // What a cache counted stays when it goes.
  const EvictedCounts before = node.manager.tenants()[0].evicted_bytes;
  const std::uint64_t left = node.status(cache).blocks.sealed;
  ASSERT_TRUE(node.manager.close_cache(session, cache, node.actions));
  EvictRequest drain;
  drain.drop_idle_caches = true;
  ASSERT_TRUE(node.manager.evict(drain, node.actions));
  node.settle();
  EXPECT_EQ(evicted(EvictReason::admin), 1 + left);
  EXPECT_EQ(sum_of(node.manager.tenants()[0].evicted_bytes), sum_of(before) + left * kBlock);
}

TEST(Pressure, QuotasThatCannotBeHonouredAreRefused) {
  Node node;
  const auto set = [&](Quota quota) {
    const auto status = node.manager.set_quota(TenantId{0}, Tier::dram, quota, node.actions);
    return status ? Errc::ok : status.error().code;
  };
  EXPECT_EQ(set({2, 1, 1.0}), Errc::bad_config);
  EXPECT_EQ(set({17 * kExtent, 18 * kExtent, 1.0}), Errc::bad_config);
  EXPECT_EQ(set({0, 1, 0.0}), Errc::bad_config);
  EXPECT_EQ(set({16 * kExtent, 16 * kExtent, 1.0}), Errc::ok);
  ManagerConfig config = small_node();
  config.tenants.clear();
  EXPECT_EQ(Manager::create(config).error().code, Errc::bad_config);
}

TEST(Pressure, AnOperatorEvictsOldBlocksAndDropsIdleCaches) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  node.release(session, node.sealed_sequence(session, cache, Keys("k", 8)));
  node.settle();
  EvictRequest some;
  some.cache = cache.value;
  some.bytes = 3 * kBlock;
  const auto ordered = node.manager.evict(some, node.actions);
  ASSERT_TRUE(ordered);
  EXPECT_EQ(ordered->blocks, 3u);
  node.settle();
  EXPECT_EQ(node.open(session, cache, Keys("k", 8).view()).matched.size(), 5u);

  ASSERT_TRUE(node.manager.session_dead(session, node.actions));
  node.settle();
  EvictRequest drain;
  drain.drop_idle_caches = true;
  EXPECT_EQ(node.manager.evict(drain, node.actions)->caches_dropped, 1u);
  node.settle();
  EXPECT_EQ(node.manager.status().dram.used_bytes, 0u);
  EXPECT_EQ(node.manager.status().evicted_blocks, 8u);
}

}  // namespace
}  // namespace sluice::residency::test
