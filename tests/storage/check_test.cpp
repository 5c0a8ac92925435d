// What a check of a store finds: nothing in one that is whole, and every damage in one that is not.
#include "storage/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <string>

#include "storage/repair.h"
#include "tests/storage/corruption.h"

namespace sluice::storage {
namespace {

using testing::IsEmpty;

// More of them: SLUICE_CORRUPTIONS=1000. Sanitizers need ten times as long for each.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kCorruptions = 40;
#else
constexpr std::uint64_t kCorruptions = 200;
#endif

std::uint64_t corruptions() {
  const char* const wanted = std::getenv("SLUICE_CORRUPTIONS");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : kCorruptions;
}

std::string words_of(const CheckReport& report) {
  std::string text;
  for (const Finding& finding : report.findings) {
    text += std::string(word_for(finding.kind)) + " segment " +
            std::to_string(finding.segment.value_or(0)) + " at " +
            std::to_string(finding.offset.value_or(0)) + ": " + finding.text + "\n";
  }
  return text;
}

CheckReport checked(const StoreLocation& location) {
  const auto image = open_image(location, Access::look);
  EXPECT_OK(image);
  return image ? check(*image) : CheckReport{};
}

// Names, sizes, times and bytes of all files.
std::map<std::string, std::string> state_of(const std::filesystem::path& root) {
  std::map<std::string, std::string> state;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    std::string bytes;
    if (entry.is_regular_file()) {
      std::ifstream file(entry.path(), std::ios::binary);
      bytes.resize(entry.file_size());
      file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
    state[entry.path().string()] =
        std::to_string(entry.last_write_time().time_since_epoch().count()) + bytes;
  }
  return state;
}

class CheckTest : public testing::Test {
 protected:
  static SpoiltStore& spoilt() {
    static SpoiltStore store;
    return store;
  }
  void SetUp() override {
    spoilt();
    if (!HasFailure()) spoilt().restore();
  }
};

TEST_F(CheckTest, AStoreThatWasClosedHasNoFault) {
  const CheckReport report = checked(spoilt().location());
  EXPECT_THAT(report.findings, IsEmpty()) << words_of(report);
  EXPECT_EQ(report.blocks, spoilt().blocks().size());
  EXPECT_EQ(report.lost_blocks, 0U);
  EXPECT_EQ(report.unchecked_blocks, 0U);
  std::uint64_t bytes = 0;
  for (const KnownBlock& block : spoilt().blocks()) bytes += block.end() - block.begin();
  EXPECT_EQ(report.bytes, bytes);
}

TEST_F(CheckTest, ACheckChangesNothing) {
  std::mt19937_64 random(1);
  const Damage damage = spoilt().spoil(random);
  const auto before = state_of(spoilt().root());
  static_cast<void>(checked(spoilt().location()));
  EXPECT_EQ(state_of(spoilt().root()), before) << damage.what;
}

TEST_F(CheckTest, EveryCorruptionIsFoundAndNoneIsServed) {
  for (std::uint64_t seed = 0; seed < corruptions(); ++seed) {
    std::mt19937_64 random(seed);
    spoilt().restore();
    const Damage damage = spoilt().spoil(random);
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + damage.what);
    const CheckReport report = checked(spoilt().location());
    EXPECT_FALSE(report.findings.empty()) << "not found";
    std::set<Digest> lost;
    for (const Finding& finding : report.findings) {
      EXPECT_TRUE(damage.kinds.contains(finding.kind)) << words_of(report);
      if (finding.loses_block) lost.insert(*finding.digest);
    }
    EXPECT_EQ(lost, damage.lost) << words_of(report);
    spoilt().expect_right_or_missing(damage.lost, damage.others_are_found);
    if (HasFailure()) return;
  }
}

TEST_F(CheckTest, ARepairedStoreIsCleanAndHasWhatWasNotLost) {
  for (std::uint64_t seed = 0; seed < corruptions() / 3; ++seed) {
    std::mt19937_64 random(seed);
    spoilt().restore();
    const Damage damage = spoilt().spoil(random);
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + damage.what);
    auto image = open_image(spoilt().location(), Access::repair);
    ASSERT_OK(image);
    const CheckReport report = check(*image);
    const auto repaired = repair(std::move(*image), report);
    ASSERT_OK(repaired);
    EXPECT_EQ(repaired->forgotten_blocks, damage.lost.size());
    const CheckReport after = checked(spoilt().location());
    EXPECT_THAT(after.findings, IsEmpty()) << words_of(after);
    spoilt().expect_right_or_missing(damage.lost, true);
    if (HasFailure()) return;
  }
}

class CheckOneTest : public StoreTest {
 protected:
  StoreLocation location() const { return {{directory()}, {}}; }
  void write_some(int from, int to) {
    for (int i = from; i < to; ++i) {
      ASSERT_OK(write("key" + std::to_string(i), Payload(40 * kKiB, static_cast<unsigned>(i))));
    }
  }
};

TEST_F(CheckOneTest, ARunningStoreIsLeftAlone) {
  open();
  EXPECT_ERROR(open_image(location(), Access::look), Errc::address_in_use);
  close();
  const auto looks = open_image(location(), Access::look);
  ASSERT_OK(looks);
  EXPECT_OK(open_image(location(), Access::look));
  EXPECT_ERROR(open_image(location(), Access::repair), Errc::address_in_use);
  EXPECT_ERROR(BlockStore::open(config), Errc::address_in_use);
}

TEST_F(CheckOneTest, WhereThereIsNoStoreNoneIsMade) {
  EXPECT_ERROR(open_image(location(), Access::repair), Errc::not_found);
  EXPECT_FALSE(std::filesystem::exists(directory()));
}

TEST_F(CheckOneTest, DeadSpaceIsNoFault) {
  open();
  write_some(0, 5);
  const auto dead = find("key2");
  ASSERT_TRUE(dead);
  ASSERT_OK(store->forget(own_scope, key_of("key2")));
  const auto file = segment_of(*dead);
  close();
  damage(file, dead->offset);
  damage(file, 900 * kKiB);
  const CheckReport report = checked(location());
  EXPECT_THAT(report.findings, IsEmpty()) << words_of(report);
  EXPECT_EQ(report.blocks, 4U);
}

TEST_F(CheckOneTest, AfterAPowerLossWhatTheIndexMissedIsToldAndRepaired) {
  open();
  write_some(0, 3);
  const std::filesystem::path index = directory() / "index";
  std::filesystem::copy(index, root.path() / "old", std::filesystem::copy_options::recursive);
  write_some(3, 6);
  const auto torn = find("key5");
  ASSERT_TRUE(torn);
  const auto file = segment_of(*torn);
  close();
  std::filesystem::remove_all(index);
  std::filesystem::rename(root.path() / "old", index);
  damage(file, torn->offset + 2 * kPageBytes);

  auto image = open_image(location(), Access::repair);
  ASSERT_OK(image);
  const CheckReport report = check(*image);
  ASSERT_EQ(report.findings.size(), 3U) << words_of(report);
  for (int i = 0; i < 3; ++i) {
    const Finding& finding = report.findings[static_cast<std::size_t>(i)];
    EXPECT_EQ(finding.kind, i == 2 ? FindingKind::torn : FindingKind::unindexed);
    EXPECT_EQ(finding.key, "key" + std::to_string(i + 3));
    EXPECT_EQ(finding.scope->tenant, "t");
    EXPECT_FALSE(finding.loses_block);
  }
  const auto repaired = repair(std::move(*image), report);
  ASSERT_OK(repaired);
  EXPECT_EQ(repaired->found_blocks, 2U);
  EXPECT_EQ(repaired->forgotten_blocks, 0U);
  EXPECT_THAT(checked(location()).findings, IsEmpty());
  open();
  EXPECT_EQ(store->stats().blocks, 5U);
}

TEST_F(CheckOneTest, BlocksOfADeviceThatWasNotGivenAreNotChecked) {
  config.devices.push_back({directory(1), 16 * kMiB});
  open();
  write_some(0, 20);
  const std::uint64_t here = device(0).live_bytes / (44 * kKiB);
  close();
  const CheckReport report = checked(location());
  EXPECT_THAT(report.findings, IsEmpty()) << words_of(report);
  EXPECT_EQ(report.blocks, here);
  EXPECT_EQ(report.unchecked_blocks, 20 - here);
}

}  // namespace
}  // namespace sluice::storage
