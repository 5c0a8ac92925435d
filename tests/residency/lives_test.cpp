// Caches and sessions: opening, joining, closing, dying.
#include "tests/residency/node.h"

namespace sluice::residency::test {
namespace {

TEST(Caches, AnotherLayoutIsRefusedWithWhatDiffers) {
  Node node;
  const SessionId session = node.session();
  node.cache(session);
  CacheSpec other = small_cache();
  other.layout.block_tokens = 32;
  const auto refused = node.manager.open_cache(session, other, node.actions);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::invalid_layout);
  EXPECT_NE(refused.error().text.find("block_tokens is 32 and there 16"), std::string::npos);
  other = small_cache("absurd");
  other.layout.layers = 0;
  EXPECT_EQ(node.manager.open_cache(session, other, node.actions).error().code,
            Errc::invalid_layout);
}

TEST(Caches, AbsurdNamesAndSizesAreRefused) {
  Node node;
  const SessionId session = node.session();
  const auto code = [&](const CacheSpec& spec) {
    return node.manager.open_cache(session, spec, node.actions).error().code;
  };
  EXPECT_EQ(code(small_cache("")), Errc::invalid_argument);
  EXPECT_EQ(code(small_cache(std::string(257, 'm'))), Errc::invalid_argument);
  CacheSpec spec = small_cache();
  spec.shard_index = spec.shard_count;
  EXPECT_EQ(code(spec), Errc::invalid_argument);
  spec = small_cache();
  spec.hbm_bytes = ~std::uint64_t{0};
  EXPECT_EQ(code(spec), Errc::quota_exceeded);
  spec = small_cache();
  spec.layout = {4096, 4096, 64, 16, 2, 2, ipc::PageKind::head};
  EXPECT_EQ(code(spec), Errc::invalid_layout);
  EXPECT_TRUE(node.actions.empty());
  EXPECT_EQ(node.manager.status().hbm.used_bytes, 0u);
}

TEST(Caches, StayWarmWhenTheirLastSessionCloses) {
  Node node;
  const Keys keys("k", 4);
  const SessionId first = node.session();
  const CacheId cache = node.cache(first);
  node.release(first, node.sealed_sequence(first, cache, keys));
  ASSERT_TRUE(node.manager.close_cache(first, cache, node.actions));
  EXPECT_EQ(node.status(cache).state, CacheState::idle);
  const SessionId second = node.session();
  EXPECT_EQ(node.cache(second), cache);
  EXPECT_EQ(node.open(second, cache, keys.view()).matched.size(), 4u);
}

TEST(Caches, AreNotClosedUnderTheirSequences) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Handle sequence = node.open(session, cache).sequence;
  EXPECT_EQ(node.manager.close_cache(session, cache, node.actions).error().code, Errc::wrong_state);
  node.release(session, sequence);
  EXPECT_TRUE(node.manager.close_cache(session, cache, node.actions));
  EXPECT_EQ(node.manager.close_cache(session, cache, node.actions).error().code,
            Errc::stale_handle);
}

TEST(Caches, AnIdleCacheMakesRoomForTheArenaOfANewOne) {
  Node node;
  const SessionId session = node.session();
  CacheSpec large = small_cache("first");
  large.hbm_bytes = 12 * kExtent;
  const CacheId first = node.cache(session, large);
  CacheSpec next = large;
  next.model = "second";
  EXPECT_EQ(node.manager.open_cache(session, next, node.actions).error().code,
            Errc::quota_exceeded);
  EXPECT_EQ(node.manager.tenants()[0].hbm.refused, 1u);
  ASSERT_TRUE(node.manager.close_cache(session, first, node.actions));
  EXPECT_EQ(node.manager.open_cache(session, next, node.actions).error().code, Errc::busy);
  EXPECT_EQ(node.actions.back(), Action(DestroyCache{first}));
  // The memory counts until it is really back.
  EXPECT_EQ(node.manager.status().hbm.used_bytes, 12 * kExtent);
  node.settle();
  EXPECT_TRUE(node.manager.open_cache(session, next, node.actions));
}

TEST(Caches, ACacheThatCannotBeMadeIsGone) {
  Node node;
  const SessionId session = node.session();
  const auto opened = node.manager.open_cache(session, small_cache(), node.actions);
  ASSERT_TRUE(opened && opened->created);
  const SessionId other = node.session();
  EXPECT_EQ(node.manager.open_cache(other, small_cache(), node.actions).error().code, Errc::busy);
  ASSERT_TRUE(node.manager.arena_failed(opened->cache, node.actions));
  EXPECT_EQ(node.manager.status().hbm.used_bytes, 0u);
  EXPECT_EQ(node.manager.tenants()[0].hbm.failed, 1u);
  EXPECT_EQ(node.manager.open_sequence(session, opened->cache, {}).error().code,
            Errc::stale_handle);
  node.actions.clear();
  EXPECT_EQ(node.cache(session), opened->cache);
}

TEST(Deaths, ADeadSessionLeavesNothingUnsealedBehind) {
  Node node;
  const SessionId session = node.session();
  const SessionId survivor = node.session();
  const CacheId cache = node.cache(session);
  node.cache(survivor);
  const Keys keys("k", 2);
  const Handle sequence = node.sealed_sequence(session, cache, keys);
  const BlockRef open = node.extend(session, sequence, 1).front();
  const auto kept = node.open(survivor, cache, keys.view());
  node.settle();

  ASSERT_TRUE(node.manager.session_dead(session, node.actions));
  // In this order: its actors are idle, its pins go, and only then do ids retire.
  ASSERT_EQ(node.actions.size(), 4u);
  EXPECT_EQ(node.actions[0], Action(ActorsIdle{session}));
  EXPECT_EQ(node.actions[1], Action(DropPins{cache, false, {open.id}}));
  const auto* sealed = std::get_if<DropPins>(&node.actions[2]);
  ASSERT_TRUE(sealed && sealed->sealed);
  EXPECT_EQ(sealed->ids.size(), 2u);
  EXPECT_EQ(std::get<Retire>(node.actions[3]).ids, std::vector{open.id});
  node.settle();
  EXPECT_EQ(node.open(survivor, cache, keys.view()).matched, kept.matched);
  EXPECT_EQ(node.status(cache).blocks.taken, 0u);
  EXPECT_EQ(node.manager.session_dead(session, node.actions).error().code, Errc::stale_handle);
}

TEST(Deaths, ALargeDeathGoesOnInTurnsAndStopsNobody) {
  ManagerConfig config = small_node();
  config.dram.capacity_bytes = 1024 * kExtent;
  for (TenantSpec& tenant : config.tenants) tenant.dram.limit_bytes = 1024 * kExtent;
  Node node(config);
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  for (int i = 0; i < 3; ++i) node.extend(session, node.open(session, cache).sequence, 1000);
  node.settle();
  ASSERT_TRUE(node.manager.session_dead(session, node.actions));
  EXPECT_TRUE(node.manager.pending_work());
  EXPECT_EQ(node.manager.sessions().front().ending, true);
  EXPECT_LE(node.status(cache).blocks.retiring, kMaxBlocksPerTurn);
  const SessionId other = node.session();
  EXPECT_EQ(node.cache(other), cache);
  node.settle();
  EXPECT_EQ(node.status(cache).blocks, BlockCounts{});
  EXPECT_EQ(node.manager.sessions().size(), 1u);
}

TEST(Limits, SessionsCachesAndSequencesAreBounded) {
  ManagerConfig config = small_node();
  config.max_sessions = 1;
  config.max_caches = 1;
  config.max_sequences_per_session = 2;
  Node node(config);
  const SessionId session = node.session();
  EXPECT_EQ(node.manager.open_session(TenantId{0}).error().code, Errc::limit_reached);
  EXPECT_EQ(node.manager.open_session(TenantId{9}).error().code, Errc::not_found);
  const CacheId cache = node.cache(session);
  EXPECT_EQ(node.manager.open_cache(session, small_cache("two"), node.actions).error().code,
            Errc::limit_reached);
  const Handle sequence = node.open(session, cache).sequence;
  node.open(session, cache);
  EXPECT_EQ(node.manager.open_sequence(session, cache, {}).error().code, Errc::limit_reached);
  EXPECT_EQ(node.manager.fork(session, sequence, Growth::allowed, node.actions).error().code,
            Errc::limit_reached);
}

TEST(Limits, ATenantCannotTakeTheLastSessionsOfTheOthers) {
  ManagerConfig config = small_node();
  config.max_sessions = 6;
  config.reserved_sessions = 2;
  Node node(config);
  std::vector<SessionId> red;
  while (node.manager.admits_session(TenantId{0})) red.push_back(node.session(0));
  EXPECT_EQ(red.size(), 4u);
  const Error refused = node.manager.open_session(TenantId{0}).error();
  EXPECT_EQ(refused.code, Errc::limit_reached);
  EXPECT_NE(refused.text.find("tenant red has 4 of the 4 sessions"), std::string::npos)
      << refused.text;
  EXPECT_NE(refused.text.find("the last 2 are kept for other tenants (daemon.reserved_sessions)"),
            std::string::npos)
      << refused.text;
  const SessionId blue = node.session(1);
  node.session(1);
  EXPECT_FALSE(node.manager.admits_session(TenantId{1})) << "all are taken";
  ASSERT_TRUE(node.manager.session_dead(blue, node.actions));
  node.settle();
  EXPECT_FALSE(node.manager.admits_session(TenantId{0})) << "it is blue's again";
  ASSERT_TRUE(node.manager.session_dead(red.back(), node.actions));
  node.settle();
  EXPECT_TRUE(node.manager.admits_session(TenantId{0}));
}

TEST(Limits, ASessionThatIsStillEndingCountsForItsOwnTenant) {
  ManagerConfig config = small_node();
  config.dram.capacity_bytes = 1024 * kExtent;
  for (TenantSpec& tenant : config.tenants) tenant.dram.limit_bytes = 1024 * kExtent;
  config.max_sessions = 2;
  config.reserved_sessions = 1;
  Node node(config);
  const SessionId session = node.session(0);
  const CacheId cache = node.cache(session);
  for (int i = 0; i < 3; ++i) node.extend(session, node.open(session, cache).sequence, 1000);
  node.settle();
  ASSERT_TRUE(node.manager.session_dead(session, node.actions));
  ASSERT_TRUE(node.manager.pending_work());
  EXPECT_FALSE(node.manager.admits_session(TenantId{0}));
  EXPECT_TRUE(node.manager.admits_session(TenantId{1}));
  node.settle();
  EXPECT_TRUE(node.manager.admits_session(TenantId{0}));
}

TEST(Limits, ReservesShrinkToWhatThereIsAndOneTenantHasNone) {
  ManagerConfig config = small_node();
  config.reserved_sessions = 8;
  config.max_sessions = 1;  // too few to keep one for each
  Node tight(config);
  tight.session(0);
  EXPECT_FALSE(tight.manager.admits_session(TenantId{1}));
  config.tenants.resize(1);
  config.max_sessions = 3;
  Node alone(config);
  for (int i = 0; i < 3; ++i) alone.session(0);
  EXPECT_FALSE(alone.manager.admits_session(TenantId{0}));
}

TEST(Limits, ATenantCannotTakeTheLastCachesOfTheOthers) {
  ManagerConfig config = small_node();
  config.max_caches = 3 * kReservedCaches;
  Node node(config);
  const SessionId red = node.session(0);
  std::vector<CacheId> its;
  its.reserve(2 * kReservedCaches);
  for (std::uint32_t i = 0; i < 2 * kReservedCaches; ++i) {
    its.push_back(node.cache(red, small_cache("red" + std::to_string(i))));
  }
  const Error refused = node.manager.open_cache(red, small_cache("more"), node.actions).error();
  EXPECT_EQ(refused.code, Errc::limit_reached);
  EXPECT_NE(refused.text.find("the last 4 are kept for other tenants"), std::string::npos)
      << refused.text;
  const SessionId blue = node.session(1);
  for (std::uint32_t i = 0; i < kReservedCaches; ++i) {
    node.cache(blue, small_cache("blue" + std::to_string(i)));
  }
  EXPECT_EQ(node.manager.open_cache(blue, small_cache("more"), node.actions).error().code,
            Errc::limit_reached);
  ASSERT_TRUE(node.manager.close_cache(red, its[0], node.actions));
  EXPECT_EQ(node.manager.open_cache(blue, small_cache("more"), node.actions).error().code,
            Errc::busy)
      << "red has more than its reserve, and this one it does not use";
  node.settle();
  node.cache(blue, small_cache("more"));
}

// Its idle caches stay warm, whatever others open.
TEST(Limits, ATenantKeepsTheIdleCachesOfItsReserve) {
  ManagerConfig config = small_node();
  config.max_caches = 2 * kReservedCaches;
  Node node(config);
  const SessionId blue = node.session(1);
  for (std::uint32_t i = 0; i < kReservedCaches; ++i) {
    const CacheId cache = node.cache(blue, small_cache("blue" + std::to_string(i)));
    ASSERT_TRUE(node.manager.close_cache(blue, cache, node.actions));
  }
  const SessionId red = node.session(0);
  for (std::uint32_t i = 0; i < kReservedCaches; ++i) {
    node.cache(red, small_cache("red" + std::to_string(i)));
  }
  EXPECT_EQ(node.manager.open_cache(red, small_cache("more"), node.actions).error().code,
            Errc::limit_reached);
}

TEST(Ledger, CountsForecastsByWhatBecameOfThem) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  for (const auto& [event, pages] : {std::pair{ForecastEvent::issued, 10u},
                                     {ForecastEvent::used, 5u},
                                     {ForecastEvent::late, 2u},
                                     {ForecastEvent::wasted, 2u},
                                     {ForecastEvent::dropped, 1u}}) {
    ASSERT_TRUE(node.manager.forecast(cache, event, pages));
  }
  const ForecastLedger ledger = node.manager.tenants()[0].forecasts;
  EXPECT_EQ(ledger.issued, (ForecastCount{10, 10 * kBlock}));
  EXPECT_EQ(ledger.wasted.bytes, 2 * kBlock);
  EXPECT_EQ(ledger.issued.pages,
            ledger.used.pages + ledger.late.pages + ledger.wasted.pages + ledger.dropped.pages);
  EXPECT_EQ(node.manager.forecast(CacheId{9}, ForecastEvent::issued, 1).error().code,
            Errc::not_found);
}

TEST(Listings, GoOnFromTheirCursor) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Handle sequence = node.sealed_sequence(session, cache, Keys("k", 5));
  node.open(session, cache);
  const auto first = *node.manager.blocks(cache, 0, 3);
  EXPECT_EQ(first.rows.size(), 3u);
  const auto rest = *node.manager.blocks(cache, first.next, 3);
  EXPECT_EQ(rest.rows.size(), 2u);
  EXPECT_EQ(rest.next, 0u);
  EXPECT_EQ(node.manager.sequence_blocks(session, sequence, 4, 10)->rows.size(), 1u);
  const auto one = node.manager.sequences(0, 1);
  ASSERT_EQ(one.rows.size(), 1u);
  EXPECT_EQ(one.rows[0].blocks, 5u);
  EXPECT_EQ(node.manager.sequences(one.next, 9).rows.size(), 1u);
}

}  // namespace
}  // namespace sluice::residency::test
