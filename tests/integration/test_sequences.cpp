// libsluice and the daemon together, with both executors: bytes, sharing, isolation, forks.
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "tests/integration/daemon_process.h"

namespace sluice::test {
namespace {

using client::Actor;
using client::Cache;
using client::Client;
using client::PageList;
using client::Sequence;
using nlohmann::json;

// A client with a cache and an actor in it.
struct Engine {
  Engine(const DaemonProcess& daemon, char tenant, sluice_executor executor,
         const char* model = "model")
      : client(daemon.connect(tenant)),
        cache(must(client.open_cache(small_cache(model, executor)))),
        actor(must(cache.open_actor())),
        info(must(cache.info())),
        arena(must(cache.arena())) {}

  const std::byte* slot(std::int32_t at) const {
    return static_cast<const std::byte*>(arena.base) +
           static_cast<std::size_t>(at) * arena.page_bytes;
  }

  // The slots of one page of some blocks.
  std::vector<std::int32_t> resolve(const Sequence& sequence, std::uint32_t page,
                                    std::vector<std::uint32_t> blocks,
                                    client::ResolveCounts* counts = nullptr) {
    std::vector<std::int32_t> slots(blocks.size());
    const PageList list{sequence.get(), page,         static_cast<std::uint32_t>(blocks.size()),
                        blocks.data(),  slots.data(), nullptr};
    const auto found = must(actor.resolve({&list, 1}));
    if (counts != nullptr) *counts = found;
    return slots;
  }

  Client client;
  Cache cache;
  Actor actor;
  sluice_cache_info info;
  sluice_arena_view arena;
};

std::string key(int i) { return "block-key-" + std::to_string(100 + i); }

std::string keys(int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += key(i);
  return all;
}

Cache::Opened open(Engine& engine, int blocks) {
  const std::string all = keys(blocks);
  return must(engine.cache.open_sequence({all.data(), static_cast<std::uint32_t>(key(0).size()), 0,
                                          static_cast<std::size_t>(blocks)}));
}

// A sequence of `blocks` sealed blocks, block i filled with bytes `first + i`.
Sequence prefilled(Engine& engine, int blocks, int first) {
  auto [sequence, matched] = open(engine, blocks);
  if (matched == static_cast<std::uint32_t>(blocks)) return std::move(sequence);
  must(sequence.extend(static_cast<std::uint32_t>(blocks) - matched));
  for (int i = static_cast<int>(matched); i < blocks; ++i) {
    const auto frame = must(sequence.map(static_cast<std::uint32_t>(i)));
    std::memset(frame.data(), first + i, frame.size());
    const std::string name = key(i);
    must(sequence.seal(static_cast<std::uint32_t>(i), std::as_bytes(std::span(name))));
  }
  return std::move(sequence);
}

bool filled_with(const std::byte* page, std::uint64_t bytes, int value) {
  for (std::uint64_t i = 0; i < bytes; ++i) {
    if (page[i] != static_cast<std::byte>(value)) return false;
  }
  return true;
}

class BothExecutors : public testing::TestWithParam<sluice_executor> {};
INSTANTIATE_TEST_SUITE_P(Executors, BothExecutors,
                         testing::Values(SLUICE_EXECUTOR_DAEMON, SLUICE_EXECUTOR_DIRECT),
                         [](const auto& each) {
                           return each.param == SLUICE_EXECUTOR_DAEMON ? "daemon" : "direct";
                         });

TEST_P(BothExecutors, ServeTheBytesThatWereSealed) {
  const DaemonProcess daemon;
  Engine engine(daemon, 'a', GetParam());
  const Sequence sequence = prefilled(engine, 20, 1);
  must(engine.actor.begin_step());
  for (std::uint32_t layer = 0; layer < 4; ++layer) {
    client::ResolveCounts counts{};
    const auto slots = engine.resolve(sequence, layer, {0, 7, 19, 7}, &counts);
    EXPECT_EQ(counts.hits + counts.misses, 4U);
    EXPECT_EQ(slots[1], slots[3]) << "a duplicate has the same slot";
    EXPECT_TRUE(filled_with(engine.slot(slots[0]), engine.info.page_bytes, 1));
    EXPECT_TRUE(filled_with(engine.slot(slots[1]), engine.info.page_bytes, 8));
    EXPECT_TRUE(filled_with(engine.slot(slots[2]), engine.info.page_bytes, 20));
  }
  must(engine.actor.end_step());
}

TEST_P(BothExecutors, ResolveWithoutWaitingGivesWhatAWaitingResolveGives) {
  const DaemonProcess daemon;
  Engine engine(daemon, 'a', GetParam());
  const Sequence sequence = prefilled(engine, 20, 1);
  const std::vector<std::uint32_t> blocks{3, 0, 19, 3};
  std::vector<std::vector<std::int32_t>> slots(4, std::vector<std::int32_t>(blocks.size()));
  std::vector<PageList> lists;
  lists.reserve(4);
  for (std::uint32_t layer = 0; layer < 4; ++layer) {
    lists.push_back({sequence.get(), layer, 4, blocks.data(), slots[layer].data(), nullptr});
  }
  must(engine.actor.begin_step());
  std::vector<client::Operation> operations;
  operations.reserve(lists.size());
  for (const PageList& list : lists) {
    operations.push_back(must(engine.actor.resolve_async({&list, 1})));
  }
  for (std::size_t layer = 4; layer-- > 1;) {  // in another order than they were begun
    client::Result<client::ResolveCounts> counts;
    ASSERT_TRUE(eventually([&] {
      counts = operations[layer].wait(0);
      return counts || counts.error().code != SLUICE_TIMED_OUT;
    }));
    EXPECT_EQ(must(counts).misses, 3U);
    EXPECT_EQ(must(counts).hits, 1U) << "the duplicate";
  }
  operations.clear();  // waits for the one that is left
  for (std::uint32_t layer = 1; layer < 4; ++layer) {
    EXPECT_EQ(engine.resolve(sequence, layer, blocks), slots[layer]);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      EXPECT_TRUE(filled_with(engine.slot(slots[layer][i]), engine.info.page_bytes,
                              static_cast<int>(blocks[i]) + 1));
    }
  }
  client::ResolveCounts counts{};
  engine.resolve(sequence, 0, blocks, &counts);
  EXPECT_EQ(counts.hits, 4U) << "the operation that was dropped was carried out";
  must(engine.actor.end_step());
}

TEST_P(BothExecutors, ServeMorePagesThanTheArenaHoldsOverManySteps) {
  const DaemonProcess daemon;
  Engine engine(daemon, 'a', GetParam());
  const int blocks = static_cast<int>(engine.info.slots / 4) * 2;  // twice the arena
  const Sequence sequence = prefilled(engine, std::min(blocks, 2000), 0);
  for (int first = 0; first + 100 < std::min(blocks, 2000); first += 100) {
    must(engine.actor.begin_step());
    std::vector<std::uint32_t> wanted(100);
    std::iota(wanted.begin(), wanted.end(), static_cast<std::uint32_t>(first));
    for (std::uint32_t layer = 0; layer < 4; ++layer) {
      const auto slots = engine.resolve(sequence, layer, wanted);
      for (int i = 0; i < 100; ++i) {
        ASSERT_GE(slots[static_cast<std::size_t>(i)], 0);
        ASSERT_TRUE(filled_with(engine.slot(slots[static_cast<std::size_t>(i)]),
                                engine.info.page_bytes, (first + i) & 0xFF));
      }
    }
    must(engine.actor.end_step());
  }
}

TEST_P(BothExecutors, SharePrefixesInsideATenantAndNothingAcrossTenantsModelsAndShards) {
  const DaemonProcess daemon;
  Engine one(daemon, 'a', GetParam());
  const Sequence first = prefilled(one, 8, 1);
  Engine two(daemon, 'a', GetParam());
  auto [second, matched] = open(two, 8);
  EXPECT_EQ(matched, 8U);
  const json shared = json::parse(daemon.admin("residency"));
  EXPECT_EQ(shared["shared_blocks"], 8);
  EXPECT_EQ(shared["saved_bytes"].get<std::uint64_t>(), 8 * one.info.block_bytes);

  Engine other_tenant(daemon, 'b', GetParam());
  EXPECT_EQ(open(other_tenant, 8).matched_blocks, 0U);
  Engine other_model(daemon, 'a', GetParam(), "another model");
  EXPECT_EQ(open(other_model, 8).matched_blocks, 0U);
  sluice_cache_desc shard = small_cache("model", GetParam());
  shard.shard_index = 1;
  shard.shard_count = 2;
  Cache other_shard = must(one.client.open_cache(shard));
  const std::string all = keys(8);
  EXPECT_EQ(
      must(other_shard.open_sequence({all.data(), static_cast<std::uint32_t>(key(0).size()), 0, 8}))
          .matched_blocks,
      0U);
}

TEST_P(BothExecutors, DecodeIntoPinnedSlotsAndSealThem) {
  const DaemonProcess daemon;
  Engine engine(daemon, 'a', GetParam());
  auto [sequence, matched] = open(engine, 0);
  must(sequence.extend(1));
  std::vector<std::int32_t> pins(engine.info.pages_per_block);
  must(engine.actor.begin_step());
  must(sequence.pin(0, engine.actor, pins));
  for (const std::int32_t pin : pins) {
    std::memset(const_cast<std::byte*>(engine.slot(pin)), 77, engine.info.page_bytes);
  }
  EXPECT_EQ(engine.resolve(sequence, 2, {0})[0], pins[2]) << "the owner reads its own tail";
  must(engine.actor.end_step());

  must(engine.actor.begin_step());
  EXPECT_FALSE(must(sequence.stored(0)));
  must(sequence.store(0, engine.actor));
  EXPECT_TRUE(must(sequence.stored(0)));
  // Whoever pins again may write again.
  must(sequence.pin(0, engine.actor, pins));
  EXPECT_FALSE(must(sequence.stored(0)));
  std::memset(const_cast<std::byte*>(engine.slot(pins[1])), 78, engine.info.page_bytes);
  must(sequence.store(0, engine.actor));
  const std::string name = key(0);
  EXPECT_FALSE(must(sequence.seal(0, std::as_bytes(std::span(name)), &engine.actor)));
  EXPECT_TRUE(must(sequence.stored(0)));
  const auto again_stored = sequence.store(0, engine.actor);
  ASSERT_FALSE(again_stored.has_value());
  EXPECT_EQ(again_stored.error().code, SLUICE_WRONG_STATE);
  must(engine.actor.end_step());

  Engine reader(daemon, 'a', GetParam());
  auto [again, found] = open(reader, 1);
  ASSERT_EQ(found, 1U);
  must(reader.actor.begin_step());
  client::ResolveCounts counts{};
  const auto slots = reader.resolve(again, 3, {0}, &counts);
  EXPECT_EQ(counts.hits, 1U) << "what was pinned is a cached page now";
  EXPECT_TRUE(filled_with(reader.slot(slots[0]), reader.info.page_bytes, 77));
  EXPECT_TRUE(
      filled_with(reader.slot(reader.resolve(again, 1, {0})[0]), reader.info.page_bytes, 78));
  must(reader.actor.end_step());
}

TEST_P(BothExecutors, DeduplicateABlockThatTwoEnginesMade) {
  const DaemonProcess daemon;
  Engine one(daemon, 'a', GetParam());
  Engine two(daemon, 'a', GetParam());
  auto [first, none] = open(one, 1);
  auto [second, nothing] = open(two, 1);
  for (auto* sequence : {&first, &second}) {
    must(sequence->extend(1));
    const auto frame = must(sequence->map(0));
    std::memset(frame.data(), 5, frame.size());
  }
  const std::string name = key(0);
  EXPECT_FALSE(must(first.seal(0, std::as_bytes(std::span(name)))));
  EXPECT_TRUE(must(second.seal(0, std::as_bytes(std::span(name)))));
  must(two.actor.begin_step());
  EXPECT_TRUE(filled_with(two.slot(two.resolve(second, 0, {0})[0]), two.info.page_bytes, 5));
  must(two.actor.end_step());
}

TEST_P(BothExecutors, ForkSharesWhatIsSealedAndCopiesTheTail) {
  const DaemonProcess daemon;
  Engine engine(daemon, 'a', GetParam());
  Sequence parent = prefilled(engine, 2, 1);
  must(engine.actor.begin_step());
  const std::uint32_t tail = must(parent.extend(1));
  std::vector<std::int32_t> pins(engine.info.pages_per_block);
  must(parent.pin(tail, engine.actor, pins));
  for (const std::int32_t pin : pins) {
    std::memset(const_cast<std::byte*>(engine.slot(pin)), 50, engine.info.page_bytes);
  }
  Sequence child = must(parent.fork());
  std::vector<std::int32_t> copies(engine.info.pages_per_block);
  must(child.pin(tail, engine.actor, copies));
  std::memset(const_cast<std::byte*>(engine.slot(pins[1])), 51, engine.info.page_bytes);
  EXPECT_TRUE(filled_with(engine.slot(copies[1]), engine.info.page_bytes, 50))
      << "what the parent writes later is not the child's";
  EXPECT_EQ(engine.resolve(parent, 0, {1})[0], engine.resolve(child, 0, {1})[0]);
  must(child.truncate(2));
  EXPECT_EQ(must(child.info()).blocks, 2U);
  must(engine.actor.end_step());
}

TEST_P(BothExecutors, ACacheThatIsInUseStaysOpenAndIsClosedLater) {
  const DaemonProcess daemon;
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", GetParam())));
  {
    const Actor actor = must(cache.open_actor());
    const auto refused = cache.close();
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, SLUICE_WRONG_STATE);
    EXPECT_TRUE(cache.info().has_value()) << "the cache is still there";
  }
  must(cache.close());
  EXPECT_EQ(cache.get(), nullptr);
}

TEST_P(BothExecutors, ResolveInOneCallForManySequences) {
  const DaemonProcess daemon;
  Engine engine(daemon, 'a', GetParam());
  const Sequence one = prefilled(engine, 6, 10);
  auto [two, matched] = open(engine, 4);
  EXPECT_EQ(matched, 4U);
  const std::vector<std::uint32_t> a = {5, 0}, b = {3}, c;
  std::vector<std::int32_t> slots(3, -7);
  std::vector<std::uint8_t> outcomes(3, 99);
  const PageList lists[] = {{one.get(), 0, 2, a.data(), slots.data(), outcomes.data()},
                            {two.get(), 1, 0, c.data(), nullptr, nullptr},
                            {two.get(), 3, 1, b.data(), slots.data() + 2, outcomes.data() + 2}};
  must(engine.actor.begin_step());
  must(engine.actor.resolve(lists));
  EXPECT_TRUE(filled_with(engine.slot(slots[0]), engine.info.page_bytes, 15));
  EXPECT_TRUE(filled_with(engine.slot(slots[1]), engine.info.page_bytes, 10));
  EXPECT_TRUE(filled_with(engine.slot(slots[2]), engine.info.page_bytes, 13));
  EXPECT_EQ(outcomes, std::vector<std::uint8_t>(3, SLUICE_MISS));
  must(engine.actor.resolve(lists));
  EXPECT_EQ(outcomes, std::vector<std::uint8_t>(3, SLUICE_HIT));
  must(engine.actor.end_step());
}

TEST_P(BothExecutors, ForecastBringsPagesInBeforeTheyAreAskedFor) {
  const DaemonProcess daemon;
  Engine engine(daemon, 'a', GetParam());
  const Sequence sequence = prefilled(engine, 10, 1);
  const std::vector<std::uint32_t> blocks = {1, 2, 3};
  const PageList list{sequence.get(), 0, 3, blocks.data(), nullptr, nullptr};
  must(engine.actor.begin_step());
  must(engine.actor.forecast({&list, 1}, 10'000'000, 80));
  // With the daemon executor the lane runs forecasts when it has nothing else to do.
  EXPECT_TRUE(eventually([&] {
    const json caches = json::parse(daemon.admin("caches"));
    return caches["caches"][0]["hbm_pages"]["cached"] == 3;
  }));
  client::ResolveCounts counts{};
  engine.resolve(sequence, 0, blocks, &counts);
  EXPECT_EQ(counts.hits, 3U);
  const sluice_cache_stats stats = must(engine.cache.stats());
  EXPECT_EQ(stats.forecast_used, 3U);
  EXPECT_GE(stats.forecast_issued, 3U);
  must(engine.actor.end_step());
}

}  // namespace
}  // namespace sluice::test
