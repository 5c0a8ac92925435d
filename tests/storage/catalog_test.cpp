// The table from digests to places, against one of the standard library; turns of the catalog.
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
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

}  // namespace
}  // namespace sluice::storage
