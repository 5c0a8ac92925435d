// What a store finds after it ended without saying so. A directory that is copied while its store
// runs is what a killed process, or a power loss after the last sync, leaves behind.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "storage/bytes.h"
#include "storage/device_directory.h"
#include "storage/segment_scan.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

class RecoveryTest : public StoreTest {
 protected:
  static constexpr std::uint64_t kBlock = 100 * kKiB;

  static std::string name(int number) { return "key" + std::to_string(number); }

  static Payload payload(int number) {
    return Payload(kBlock, static_cast<std::uint64_t>(number) + 1);
  }

  void write_blocks(int from, int to) {
    for (int i = from; i < to; ++i) ASSERT_OK(write(name(i), payload(i)));
  }

  void expect_blocks(int from, int to) {
    for (int i = from; i < to; ++i) EXPECT_TRUE(holds(name(i), payload(i)));
  }

  static void copy(const std::filesystem::path& from, const std::filesystem::path& to) {
    std::filesystem::remove_all(to);
    std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
  }

  std::filesystem::path index() const { return directory() / "index"; }
  std::filesystem::path old_index() const { return root.path() / "old-index"; }
  std::filesystem::path left_behind() const { return root.path() / "left-behind"; }

  // As after the kill of the process.
  void die() {
    copy(directory(), left_behind());
    close();
    copy(left_behind(), directory());
  }

  // As after a power loss: the index is as it was at remember_index(), the segments are whole.
  void remember_index() { copy(index(), old_index()); }
  void lose_power() {
    die();
    copy(old_index(), index());
  }
};

TEST_F(RecoveryTest, AKilledStoreLosesNothing) {
  open();
  write_blocks(0, 30);
  die();
  open();
  EXPECT_EQ(store->stats().blocks, 30U);
  EXPECT_EQ(store->stats().dropped_records, 0U);
  expect_blocks(0, 30);
}

TEST_F(RecoveryTest, WhatTheIndexDoesNotKnowIsFoundInTheSegments) {
  open();
  write_blocks(0, 5);
  remember_index();
  // Over several segments.
  write_blocks(5, 40);
  lose_power();
  open();
  EXPECT_EQ(store->stats().recovered_blocks, 35U);
  EXPECT_EQ(tenant().blocks, 40U);
  EXPECT_EQ(tenant().live_bytes, 40 * (kBlock + 4 * kKiB));
  expect_blocks(0, 40);
  // And the index knows it now.
  write_blocks(40, 45);
  die();
  open();
  EXPECT_EQ(store->stats().recovered_blocks, 0U);
  expect_blocks(0, 45);
}

TEST_F(RecoveryTest, ALostIndexIsMadeAnew) {
  open();
  write_blocks(0, 40);
  const Payload other(8 * kKiB, 1);
  ASSERT_OK(write(intern("another"), "key", other));
  close();
  std::filesystem::remove_all(index());
  open();
  EXPECT_EQ(store->stats().blocks, 41U);
  EXPECT_EQ(tenant("another").blocks, 1U);
  expect_blocks(0, 40);
}

TEST_F(RecoveryTest, ACorruptIndexIsSetAside) {
  open();
  write_blocks(0, 10);
  close();
  std::ofstream(index() / "CURRENT") << "nonsense";
  open();
  EXPECT_EQ(store->stats().blocks, 10U);
  expect_blocks(0, 10);
  EXPECT_TRUE(std::filesystem::exists(directory() / "index.corrupt"));
}

TEST_F(RecoveryTest, ATornRecordCostsOnlyItself) {
  open();
  remember_index();
  write_blocks(0, 5);
  const auto torn_part = find(name(1));
  const auto torn_header = find(name(3));
  ASSERT_TRUE(torn_part && torn_header);
  const auto file = segment_of(*torn_part);
  lose_power();
  damage(file, torn_part->offset + 4 * kKiB + 70 * kKiB);
  damage(file, torn_header->offset + 100);
  open();
  EXPECT_EQ(store->stats().blocks, 3U);
  EXPECT_EQ(store->stats().dropped_records, 1U);
  EXPECT_FALSE(find(name(1)));
  EXPECT_FALSE(find(name(3)));
  for (const int i : {0, 2, 4}) EXPECT_TRUE(holds(name(i), payload(i)));
}

TEST_F(RecoveryTest, ATornTailIsWrittenOver) {
  open();
  remember_index();
  write_blocks(0, 3);
  const auto last = find(name(2));
  ASSERT_TRUE(last);
  const auto file = segment_of(*last);
  lose_power();
  damage(file, last->offset + 4 * kKiB);
  open();
  write_blocks(3, 6);
  EXPECT_EQ(find(name(3))->offset, last->offset);
  close();
  std::filesystem::remove_all(index());
  open();
  for (const int i : {0, 1, 3, 4, 5}) EXPECT_TRUE(holds(name(i), payload(i)));
}

TEST_F(RecoveryTest, AnIndexThatIsNewerThanTheSegmentsServesNothingWrong) {
  open();
  write_blocks(0, 3);
  copy(directory(), left_behind());
  // The segment's later records are not on the disk.
  write_blocks(3, 6);
  remember_index();
  close();
  copy(left_behind(), directory());
  copy(old_index(), index());
  open();
  expect_blocks(0, 3);
  for (int i = 3; i < 6; ++i) {
    const auto block = find(name(i));
    ASSERT_TRUE(block);
    Payload got(kBlock, 99);
    EXPECT_ERROR(read(own_scope, name(i), *block, 0, got.memory()), Errc::data_lost);
    EXPECT_FALSE(find(name(i)));
  }
}

TEST_F(RecoveryTest, AnIndexThatIsOlderThanAReusedSegmentServesNothingWrong) {
  open();
  write_blocks(0, 100);
  remember_index();
  const std::uint64_t before = store->stats().blocks;
  ASSERT_GT(before, 50U);
  write_blocks(100, 300);
  lose_power();
  open();
  // Entries of segments that were reused meanwhile are stale.
  EXPECT_GT(store->stats().dropped_records, 0U);
  int alive = 0;
  for (int i = 0; i < 300; ++i) {
    if (!find(name(i))) continue;
    ++alive;
    EXPECT_TRUE(holds(name(i), payload(i)));
  }
  EXPECT_GT(alive, 50);
}

TEST_F(RecoveryTest, ANewerRecordOfABlockWins) {
  open();
  remember_index();
  ASSERT_OK(write("key", Payload(16 * kKiB, 1)));
  const Payload second(8 * kKiB, 2);
  ASSERT_OK(write("key", second));
  lose_power();
  open();
  EXPECT_TRUE(holds("key", second));
  EXPECT_EQ(store->stats().blocks, 1U);
}

// A tenant that knows the format puts a record into its payload; its own record is torn, so that
// the replay looks into it.
TEST_F(RecoveryTest, NoPayloadBecomesARecord) {
  open();
  remember_index();
  ASSERT_OK(write("victim", payload(1)));
  const auto victim = find("victim");
  Payload forged = payload(2);
  {
    const auto file = open_file(segment_of(*victim), O_RDONLY);
    ASSERT_OK(file);
    ASSERT_OK(read_at(file->file.fd(), victim->offset, forged.memory().first(kBlock)));
  }
  ASSERT_OK(write("forger", forged));
  const auto forger = find("forger");
  const auto file = segment_of(*forger);
  lose_power();
  damage(file, forger->offset + 50);
  open();
  EXPECT_EQ(store->stats().blocks, 1U);
  EXPECT_EQ(find("victim")->offset, victim->offset);
}

TEST_F(RecoveryTest, ASegmentIsReadWithoutAStore) {
  open();
  write_blocks(0, 3);
  const auto block = find(name(1));
  close();
  damage(segment_of(*block), block->offset + 4 * kKiB);
  const auto identity = read_device_identity(directory());
  ASSERT_OK(identity);
  ASSERT_TRUE(*identity);
  const auto segments = list_segments(directory(), **identity);
  ASSERT_OK(segments);
  ASSERT_EQ(segments->size(), 2U);  // the other one is free
  const auto file = open_segment(directory(), 0, false);
  ASSERT_OK(file);
  std::vector<bool> intact;
  const auto first = std::ranges::find(*segments, 0U, &SegmentFile::number);
  const SegmentIdentity segment{(*identity)->store, 0, 0, first->sequence};
  const auto scanned =
      scan_segment(file->file.fd(), segment, (*identity)->segment_bytes, kPageBytes,
                   ScanParts::verify, [&](const ScannedRecord& r) { intact.push_back(r.intact); });
  ASSERT_OK(scanned);
  EXPECT_EQ(intact, (std::vector{true, false, true}));
  EXPECT_EQ(scanned->intact, 2U);
  EXPECT_EQ(scanned->torn, 1U);
}

TEST_F(RecoveryTest, AStoreOfANewerVersionIsNotTouched) {
  open();
  close();
  const std::filesystem::path path = directory() / "device";
  std::vector<char> page(kPageBytes);
  std::ifstream(path, std::ios::binary).read(page.data(), kPageBytes);
  const std::uint32_t version = kFormatVersion + 1;
  std::memset(page.data() + 8, 0, 8);
  std::memcpy(page.data() + 16, &version, sizeof version);
  const std::uint64_t checksum = XXH3_64bits(page.data(), page.size());
  std::memcpy(page.data() + 8, &checksum, sizeof checksum);
  std::ofstream(path, std::ios::binary).write(page.data(), kPageBytes);
  EXPECT_ERROR(BlockStore::open(config), Errc::version_mismatch);
}

TEST_F(RecoveryTest, AnotherSegmentSizeIsRefused) {
  open();
  close();
  config.segment_bytes = 2 * kMiB;
  EXPECT_ERROR(BlockStore::open(config), Errc::bad_config);
}

TEST_F(RecoveryTest, TheOrderOfUseOutlivesTheRun) {
  config.tenants = {{"t", 10 * (kBlock + 4 * kKiB), 1}};
  open();
  write_blocks(0, 10);
  expect_blocks(0, 1);
  open();
  // Times have a second's resolution: only that the used one is not the first to go.
  write_blocks(10, 11);
  EXPECT_EQ(store->stats().blocks, 10U);
  EXPECT_EQ(tenant().dropped_blocks, 1U);
}

}  // namespace
}  // namespace sluice::storage
