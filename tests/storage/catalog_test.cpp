// The table from digests to places, against one of the standard library.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

#include "storage/digest_table.h"

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

}  // namespace
}  // namespace sluice::storage
