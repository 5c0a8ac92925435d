// The table from digests to places, against one of the standard library; turns of the catalog.
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <vector>

#include "storage/catalog.h"
#include "storage/digest_table.h"
#include "storage/record.h"

namespace sluice::storage {
namespace {

TEST(DigestTableTest, FindsWhatIsInItAfterManyChanges) {
  std::mt19937_64 random(7);  // NOLINT(bugprone-random-generator-seed): the same in every run
  DigestTable table;
  std::vector<Digest> digests;
  digests.reserve(3000);
  std::map<Digest, std::uint32_t> expected;
  // Few shards and tags, so that many share a home.
  for (std::uint32_t i = 0; i < 3000; ++i) digests.push_back({random() % 4, random() % 5000});
  for (int round = 0; round < 60000; ++round) {
    const auto place = static_cast<std::uint32_t>(random() % digests.size());
    const Digest& digest = digests[place];
    const auto known = expected.find(digest);
    const auto found = table.find(digest, [&](std::uint32_t at) { return digests[at] == digest; });
    ASSERT_EQ(found.has_value(), known != expected.end());
    if (known == expected.end()) {
      table.insert(digest, place);
      expected[digest] = place;
    } else {
      ASSERT_EQ(*found, known->second);
      table.erase(digest, known->second);
      expected.erase(known);
    }
  }
}

TEST(CatalogTest, DropsWhatIsBeyondALowerQuotaInTurnsAndRefusesWritesMeanwhile) {
  Catalog catalog;
  const std::uint32_t tenant = catalog.tenant("t").number;
  catalog.add_device(0, 1);
  constexpr std::uint64_t kBlocks = kDropsPerTurn * 3 / 2;
  for (std::uint64_t i = 0; i < kBlocks; ++i) {
    IndexEntry entry;
    entry.digest = {i, i};
    entry.sequence = i + 1;
    entry.block_pages = 1;
    entry.tenant = tenant;
    ASSERT_TRUE(catalog.restore(entry));
  }
  const std::uint64_t record = record_bytes_of(kIoAlign);
  Done done = [](const Status&) {};
  const auto write = [&] {
    return catalog.begin_write({kBlocks, kBlocks}, tenant, kIoAlign, kIoAlign, Hold::no, done);
  };
  catalog.set_quota(tenant, 10 * record, 1);
  EXPECT_EQ(write(), Catalog::Begun::refused);
  EXPECT_EQ(catalog.blocks(), kBlocks);
  EXPECT_TRUE(catalog.drop_excess(tenant));
  EXPECT_EQ(catalog.blocks(), kBlocks - kDropsPerTurn);
  EXPECT_EQ(write(), Catalog::Begun::refused);
  EXPECT_FALSE(catalog.drop_excess(tenant));
  EXPECT_EQ(catalog.blocks(), 10U);
  EXPECT_TRUE(catalog.peek({kBlocks - 1, kBlocks - 1}));
  EXPECT_EQ(write(), Catalog::Begun::started);
  EXPECT_EQ(catalog.blocks(), 9U);
}

// Of one device and one tenant, with blocks of a page.
class CatalogHolds : public testing::Test {
 protected:
  CatalogHolds() { catalog.add_device(0, 2); }
  static IndexEntry entry(std::uint64_t number) {
    IndexEntry entry;
    entry.digest = {number, number};
    entry.sequence = number + 1;
    entry.block_pages = 1;
    entry.valid_bytes = kIoAlign;
    return entry;
  }
  Catalog::Begun begin(std::uint64_t number, Hold hold) {
    Done done = [](const Status&) {};
    return catalog.begin_write({number, number}, tenant, kIoAlign, kIoAlign, hold, done);
  }
  SegmentUse use(std::uint32_t segment = 0) const { return catalog.segment_use(0)[segment]; }
  bool drop(std::uint64_t number) {
    return catalog.drop({number, number}, std::nullopt, Drop::to_make_room);
  }

  const std::uint64_t record = record_bytes_of(kIoAlign);
  Catalog catalog;
  const std::uint32_t tenant = catalog.tenant("t").number;
};

// The index knows it, and those who wait for the write are not told yet.
TEST_F(CatalogHolds, WhoJoinsAWriteThatIsDoneHoldsTheBlockAtOnce) {
  ASSERT_EQ(begin(0, Hold::no), Catalog::Begun::started);
  catalog.apply(entry(0), std::nullopt);
  EXPECT_EQ(use().held_bytes, 0U);
  ASSERT_EQ(begin(0, Hold::yes), Catalog::Begun::joined);
  EXPECT_EQ(use().held_bytes, record);
  EXPECT_FALSE(drop(0));
  EXPECT_EQ(catalog.end_write({0, 0}).size(), 2U);
}

TEST_F(CatalogHolds, WhoJoinsAWriteOfWhatIsGoneAlreadyIsRefused) {
  ASSERT_EQ(begin(0, Hold::no), Catalog::Begun::started);
  catalog.apply(entry(0), std::nullopt);
  ASSERT_TRUE(catalog.drop({0, 0}, 1, Drop::to_make_room));
  EXPECT_EQ(begin(0, Hold::yes), Catalog::Begun::refused);
  EXPECT_EQ(begin(0, Hold::no), Catalog::Begun::joined);
  EXPECT_EQ(catalog.end_write({0, 0}).size(), 2U);
}

TEST_F(CatalogHolds, WhatIsHeldCountsAsUsedOnlyOnceItIsLetGo) {
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(catalog.restore(entry(i)));
  ASSERT_TRUE(catalog.hold({0, 0}));
  std::vector<std::optional<IndexEntry>> found;
  const Digest both[] = {{0, 0}, {1, 1}};
  catalog.find(both, 5, found);
  ASSERT_TRUE(catalog.hold({1, 1}));
  EXPECT_EQ(use().held_bytes, 2 * record);
  EXPECT_EQ(use().used_bytes, 0U);
  IndexEntry moved = entry(0);
  moved.segment = 1;
  moved.sequence = 10;
  catalog.apply(moved, 1);
  EXPECT_EQ(use(1).held_bytes, record);
  catalog.let_go({1, 1});
  EXPECT_EQ(use().used_bytes, record);
  EXPECT_EQ(use().held_bytes, 0U);
  EXPECT_EQ(use().live_bytes, 2 * record);
  EXPECT_TRUE(drop(1));
  EXPECT_EQ(use().used_bytes, 0U);
  catalog.let_go({0, 0});
  EXPECT_EQ(use(1).used_bytes, 0U) << "not since it was moved";
}

TEST_F(CatalogHolds, OfASegmentWithAHeldBlockNothingIsDropped) {
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(catalog.restore(entry(i)));
  ASSERT_TRUE(catalog.hold({1, 1}));
  EXPECT_FALSE(catalog.drop_segment(0, 0));
  EXPECT_EQ(catalog.blocks(), 3U);
  catalog.let_go({1, 1});
  EXPECT_TRUE(catalog.drop_segment(0, 0));
  EXPECT_EQ(catalog.blocks(), 0U);
  EXPECT_EQ(use().live_bytes, 0U);
}

}  // namespace
}  // namespace sluice::storage
