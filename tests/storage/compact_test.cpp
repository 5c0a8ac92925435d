// Compaction on demand, and what an operator is told of a store that is closed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <string>

#include "storage/check.h"
#include "storage/device_directory.h"
#include "storage/usage.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

using testing::ElementsAre;

constexpr std::uint64_t kCompactBlock = 60 * kKiB;
constexpr std::uint64_t kCompactRecord = kCompactBlock + 4 * kKiB;
constexpr int kBlocksPerSegment = 15;  // of 1 MiB, with its page

class CompactTest : public StoreTest {
 protected:
  static std::string name(int number) { return "key" + std::to_string(number); }
  static Payload payload(int number) {
    return Payload(kCompactBlock, static_cast<std::uint64_t>(number) + 1);
  }
  void write_blocks(int from, int to) {
    for (int i = from; i < to; ++i) ASSERT_OK(write(name(i), payload(i)));
  }
  void forget(int number) { ASSERT_OK(store->forget(own_scope, key_of(name(number)))); }
  Status compact(double least_live) {
    Answer answer;
    store->compact(least_live, answer.done());
    return answer.wait();
  }
  // Of segment files as they lie there.
  StoreConfig offline() {
    close();
    const auto image = open_image({{directory()}, {}}, Access::look);
    EXPECT_OK(image);
    return image ? config_of(*image) : StoreConfig{};
  }
  Usage usage() {
    close();
    const auto image = open_image({{directory()}, {}}, Access::look);
    EXPECT_OK(image);
    const auto usage = usage_of(*image);
    EXPECT_OK(usage);
    return usage.value_or(Usage{});
  }
};

TEST_F(CompactTest, EmptySegmentsAreGivenBackAndNothingIsLost) {
  open();
  write_blocks(0, 5 * kBlocksPerSegment);
  // Two thirds of segments 0 to 2; 3 stays whole, and 4 is being written.
  for (int i = 0; i < 3 * kBlocksPerSegment; ++i) {
    if (i % 3 != 0) forget(i);
  }
  const std::uint64_t blocks = store->stats().blocks;
  ASSERT_OK(compact(0.5));
  EXPECT_EQ(store->stats().blocks, blocks);
  EXPECT_EQ(device().freed_segments, 3U);
  EXPECT_EQ(device().cleaned_bytes, kBlocksPerSegment * kCompactRecord);
  for (int i = 0; i < 5 * kBlocksPerSegment; ++i) {
    const bool forgotten = i < 3 * kBlocksPerSegment && i % 3 != 0;
    EXPECT_EQ(find(name(i)).has_value(), !forgotten) << i;
    if (!forgotten) {
      EXPECT_TRUE(holds(name(i), payload(i)));
    }
  }
  ASSERT_OK(compact(0.5));
  EXPECT_EQ(device().freed_segments, 3U);  // there was nothing left to do
  close();
  const auto image = open_image({{directory()}, {}}, Access::look);
  ASSERT_OK(image);
  EXPECT_TRUE(check(*image).findings.empty());
}

TEST_F(CompactTest, ToolsDropNothingFromAFullStore) {
  open();
  write_blocks(0, 13 * kBlocksPerSegment);
  for (int i = 0; i < 13 * kBlocksPerSegment; i += 4) forget(i);
  close();
  std::filesystem::remove(directory() / segment_name(13));  // which is free
  config = offline();
  open();
  const std::uint64_t blocks = store->stats().blocks;
  EXPECT_ERROR(compact(0.9), Errc::no_memory);
  EXPECT_EQ(store->stats().blocks, blocks);
  EXPECT_EQ(tenant().dropped_blocks, 0U);
  close();
  for (const std::uint32_t beyond : {13U, 14U}) {
    EXPECT_FALSE(std::filesystem::exists(directory() / segment_name(beyond))) << beyond;
  }
  // With the room that it has in truth.
  config.devices[0].capacity_bytes = 16 * kMiB;
  open();
  ASSERT_OK(compact(0.9));
  EXPECT_EQ(store->stats().blocks, blocks);
  EXPECT_GE(device().freed_segments, 10U);
}

TEST_F(CompactTest, AShareIsBetweenNothingAndAll) {
  open();
  EXPECT_ERROR(compact(1.5), Errc::invalid_argument);
  EXPECT_ERROR(compact(-0.1), Errc::invalid_argument);
  ASSERT_OK(compact(1));
}

// The disk is full: what cannot be moved stays where it is.
TEST_F(CompactTest, AMoveThatFailsCostsNoBlock) {
  open();
  write_blocks(0, 3 * kBlocksPerSegment);
  for (int i = 0; i < kBlocksPerSegment; i += 2) forget(i);
  const std::uint64_t blocks = store->stats().blocks;
  break_device([](const IoRequest& request, const Perform& perform) -> std::int64_t {
    return request.op == IoOp::write ? -ENOSPC : perform(request);
  });
  open();
  EXPECT_ERROR(compact(0.9), Errc::no_memory);
  EXPECT_EQ(store->stats().blocks, blocks);
  EXPECT_TRUE(holds(name(1), payload(1)));
}

TEST_F(CompactTest, UsageCountsWhatIsAliveAndWhatIsDead) {
  open();
  write_blocks(0, 2 * kBlocksPerSegment);
  for (int i = 0; i < 5; ++i) forget(i);
  const NamespaceId other = intern("other");
  ASSERT_OK(write(other, "others", payload(99)));
  const Usage found = usage();
  ASSERT_EQ(found.devices.size(), 1U);
  const DeviceUsage& device = found.devices[0];
  EXPECT_EQ(device.directory, directory());
  EXPECT_EQ(device.segments, 4U);  // one is kept for cleaning
  EXPECT_EQ(device.segments_used, 3U);
  EXPECT_EQ(device.blocks, 26U);
  EXPECT_EQ(device.live_bytes, 26 * kCompactRecord);
  // Of the two that are full: five blocks each 64 KiB, and what no block fits into.
  const std::uint64_t rest = 1 * kMiB - kPageBytes - kBlocksPerSegment * kCompactRecord;
  EXPECT_EQ(device.dead_bytes, 5 * kCompactRecord + 2 * rest);
  EXPECT_THAT(device.fill, ElementsAre(1, 0, 0, 0, 0, 0, 1, 0, 0, 1));
  ASSERT_EQ(found.tenants.size(), 2U);
  EXPECT_EQ(found.tenants[0].name, "other");
  EXPECT_EQ(found.tenants[1].blocks, 25U);
  ASSERT_EQ(found.namespaces.size(), 2U);
  EXPECT_EQ(found.namespaces[0].valid_bytes, kCompactBlock);
  EXPECT_EQ(found.unread_blocks, 0U);
}

TEST_F(CompactTest, ABlockIsListedAndReadWithoutAStore) {
  open();
  write_blocks(0, 3);
  const auto second = find(name(1));
  ASSERT_TRUE(second);
  const auto file = segment_of(*second);
  close();
  damage(file, second->offset + kPageBytes);
  const auto image = open_image({{directory()}, {}}, Access::look);
  ASSERT_OK(image);
  std::vector<std::string> keys;
  ASSERT_OK(list_blocks(*image, [&](const ListedBlock& block) {
    keys.push_back(block.key);
    EXPECT_EQ(block.scope->model, "model");
    return keys.size() < 2;
  }));
  EXPECT_THAT(keys, ElementsAre(name(0), name(1)));
  ImageReader reader(*image);
  std::string bytes;
  const auto take = [&](std::span<const std::byte> piece) -> Status {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    return {};
  };
  ASSERT_OK(reader.payload(image->index.entries[0], take));
  const Payload right = payload(0);
  EXPECT_EQ(bytes, std::string(reinterpret_cast<const char*>(right.bytes().data()), kCompactBlock));
  EXPECT_ERROR(reader.payload(image->index.entries[1], take), Errc::data_lost);
}

}  // namespace
}  // namespace sluice::storage
