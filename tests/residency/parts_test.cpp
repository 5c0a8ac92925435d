// The parts that have a rule of their own: the hash, the directory, the arithmetic of quotas.
#include <gtest/gtest.h>

#include <map>

#include "daemon/residency/directory.h"
#include "daemon/residency/quota.h"
#include "daemon/residency/siphash.h"

namespace sluice::residency::test {
namespace {

TEST(SipHash, DependsOnEveryByteAndOnTheSeed) {
  std::map<std::uint64_t, int> seen;
  std::vector<std::byte> bytes;
  for (; bytes.size() <= 64; bytes.emplace_back()) {
    ++seen[siphash13({1, 2}, bytes)];
    ++seen[siphash13({1, 3}, bytes)];
  }
  for (std::byte& byte : bytes) {
    byte = std::byte{1};
    ++seen[siphash13({1, 2}, bytes)];
    byte = std::byte{0};
  }
  EXPECT_EQ(seen.size(), 2 * 65u + 65u);
}

TEST(Directory, FindsWhatWasInsertedAndNotErasedWhileItGrows) {
  Directory directory;
  std::map<std::uint32_t, std::uint32_t> expected;  // id to hash; few hashes, so long chains
  std::uint32_t number = 1;
  for (std::uint32_t id = 0; id < 50'000; ++id) {
    number = number * 1664525u + 1013904223u;
    const std::uint32_t hash = number >> 8;
    directory.insert(hash, BlockId{id});
    expected[id] = hash;
    if (number % 3 == 0) {
      const auto gone = expected.lower_bound((number >> 4) % (id + 1));
      directory.erase(gone->second, BlockId{gone->first});
      expected.erase(gone);
    }
  }
  EXPECT_EQ(directory.size(), expected.size());
  for (const auto& [id, hash] : expected) {
    EXPECT_EQ(directory.find(hash, [&](BlockId found) { return found.value == id; }).value, id);
  }
  EXPECT_EQ(directory.find(expected.begin()->second, [](BlockId) { return false; }), ipc::kNoBlock);
}

TierBook book(std::uint64_t capacity, std::vector<TenantUse> tenants) {
  TierBook book;
  book.capacity = capacity;
  book.tenants = std::move(tenants);
  return book;
}

TEST(Quota, AloneATenantTakesAllThatIsNotGuaranteedToOthers) {
  const TierBook node = book(100, {{"a", {10, 100, 1.0}, 30, 0}, {"b", {20, 100, 1.0}, 5, 0}});
  EXPECT_EQ(room_for(node, TenantId{0}, 1).bytes, 50u);  // 65 free, 15 of them b's guarantee
  EXPECT_EQ(room_for(node, TenantId{1}, 1).bytes, 65u);
}

TEST(Quota, TheLimitHoldsWhateverIsFree) {
  const TierBook node = book(100, {{"a", {0, 40, 1.0}, 30, 0}, {"b", {0, 100, 1.0}, 0, 0}});
  EXPECT_EQ(room_for(node, TenantId{0}, 1).bytes, 10u);
  EXPECT_EQ(room_for(node, TenantId{0}, 1).bound, Bound::limit);
}

TEST(Quota, TenantsThatWantAtTheSameTimeShareByWeight) {
  TierBook node = book(100, {{"a", {10, 100, 3.0}, 60, 0}, {"b", {10, 100, 1.0}, 10, 0}});
  EXPECT_EQ(room_for(node, TenantId{0}, 1).bytes, 30u);
  node.tenants[1].want_until = 9;
  EXPECT_EQ(room_for(node, TenantId{0}, 1).bytes, 10u);  // 10 + 80 * 3/4 = 70
  EXPECT_EQ(room_for(node, TenantId{0}, 1).bound, Bound::share);
  EXPECT_EQ(room_for(node, TenantId{0}, 9).bytes, 30u);  // no longer wanting
  node.tenants[0].used = 80;
  EXPECT_EQ(excess_of(node, TenantId{0}, 1), 10u);
}

}  // namespace
}  // namespace sluice::residency::test
