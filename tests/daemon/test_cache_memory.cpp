// The memory of a cache, piece by piece.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <memory>
#include <string>
#include <vector>

#include "daemon/cache_memory.h"
#include "tests/daemon/memfd_device.h"

namespace sluice::daemon {
namespace {

using ipc::Errc;
using ipc::Tier;

constexpr std::uint64_t kExtent = 64 << 10;

std::uint64_t taken_bytes(int fd) {
  struct stat status{};
  EXPECT_EQ(fstat(fd, &status), 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

// Counts, and has memory for so many extents.
class CountingDevice final : public test::MemfdDevice {
 public:
  ipc::Result<ipc::Fd> allocate_extent(Tier tier, std::uint64_t bytes) override {
    if (made == most) return ipc::fail(Errc::no_memory, "that was all");
    ++made;
    return MemfdDevice::allocate_extent(tier, bytes);
  }
  int made = 0;
  int most = 1000;
};

residency::CacheShape shape_of(std::uint32_t slot_extents) {
  residency::CacheShape shape;
  shape.geometry = *ipc::geometry_of({2, 1, 16, 4, 2, 2, ipc::PageKind::layer});
  shape.slot_extent_bytes = shape.frame_extent_bytes = kExtent;
  shape.slots_per_extent = static_cast<std::uint32_t>(kExtent / shape.geometry.page_bytes);
  shape.slot_extents = slot_extents;
  shape.frames_per_extent = static_cast<std::uint32_t>(kExtent / shape.geometry.frame_stride);
  shape.max_frame_extents = 4;
  shape.max_blocks = shape.max_frame_extents * shape.frames_per_extent;
  return shape;
}

std::shared_ptr<FrameMemory> no_frames() { return std::move(*FrameMemory::create(shape_of(1))); }

std::unique_ptr<CacheMemory> begun(CountingDevice& device, std::uint32_t slot_extents,
                                   std::shared_ptr<FrameMemory> frames = no_frames()) {
  auto memory = CacheMemory::create(shape_of(slot_extents), 4, device, std::move(frames));
  EXPECT_TRUE(memory.has_value());
  return std::move(*memory);
}

std::unique_ptr<CacheMemory> whole(CountingDevice& device, std::uint32_t slot_extents,
                                   std::shared_ptr<FrameMemory> frames = no_frames()) {
  auto memory = begun(device, slot_extents, std::move(frames));
  while (!memory->whole()) EXPECT_TRUE(memory->make_piece(device));
  return memory;
}

template <class Memory>
int pieces_freed(Memory& memory, Device& device) {
  int pieces = 0;
  while (memory.free_piece(device)) ++pieces;
  return pieces;
}

TEST(TheMemoryOfACache, IsMadeAnExtentAtATime) {
  CountingDevice device;
  const auto memory = begun(device, 3);
  EXPECT_EQ(taken_bytes(memory->table_fds()[0]), 0U) << "nothing yet";
  ASSERT_TRUE(memory->make_piece(device));
  EXPECT_GE(taken_bytes(memory->table_fds()[0]), memory->shape().table_bytes);
  for (int extent = 1; extent <= 3; ++extent) {
    EXPECT_FALSE(memory->whole());
    ASSERT_TRUE(memory->make_piece(device));
    EXPECT_EQ(device.made, extent);
  }
  EXPECT_TRUE(memory->whole());
  EXPECT_EQ(memory->scan()->free_slots, 3 * kExtent / memory->store().page_bytes);
  memory->store().arena[3 * kExtent - 1] = std::byte{1};
}

// A client exposes private blocks while no daemon is there; if they are never sealed, their ids go
// to others, who have written nothing yet.
TEST(TheMemoryOfACache, KnowsNoFrameOfARetiredBlockThatItsClientHadExposed) {
  CountingDevice device;
  const auto memory = whole(device, 1);
  const auto table_memory = ipc::Mapping::map(
      memory->table_fds()[0], 0, memory->shape().table_bytes, ipc::Access::read_write, "the table");
  ASSERT_TRUE(table_memory);
  const kernels::HotTable theirs = kernels::view_table(table_memory->data(), memory->shape().table);
  const std::vector<ipc::BlockId> ids{ipc::BlockId{2}, ipc::BlockId{5}};
  for (const ipc::BlockId id : ids) {
    kernels::expose_frame(theirs, id.value, id.value + 1);
    ASSERT_EQ(kernels::frame_of(theirs, id.value), id.value + 1);
  }
  (void)memory->retire(ids);
  for (const ipc::BlockId id : ids) {
    EXPECT_EQ(kernels::frame_of(theirs, id.value), kernels::kNoFrame) << id.value;
  }
}

TEST(TheMemoryOfACache, IsFreedAnExtentAtATimeAndTheTableLast) {
  CountingDevice device;
  const auto memory = whole(device, 3);
  const ipc::Fd table = std::move(*ipc::duplicate(memory->table_fds()[0]));
  for (int extent = 0; extent < 3; ++extent) {
    ASSERT_TRUE(memory->free_piece(device));
    EXPECT_NE(taken_bytes(table.get()), 0U);
  }
  EXPECT_TRUE(memory->free_piece(device));
  EXPECT_EQ(taken_bytes(table.get()), 0U) << "whoever has a descriptor of it";
  EXPECT_FALSE(memory->free_piece(device));
}

// Such as a process that closed the cache and kept what it was given.
TEST(TheMemoryOfACache, GoesBackToTheNodeWhoeverHoldsDescriptorsOfIt) {
  CountingDevice device;
  const auto frames = no_frames();
  const auto memory = whole(device, 1, frames);
  ASSERT_TRUE(frames->grant(device, 0));
  std::uint32_t total = 0;
  const ipc::Fd arena = std::move(*ipc::duplicate(memory->extent_fds(Tier::hbm, 0, 1, total)[0]));
  const ipc::Fd dram = std::move(*ipc::duplicate(memory->extent_fds(Tier::dram, 0, 1, total)[0]));
  EXPECT_EQ(taken_bytes(arena.get()) + taken_bytes(dram.get()), 2 * kExtent);
  EXPECT_EQ(pieces_freed(*memory, device), 2);
  EXPECT_EQ(taken_bytes(arena.get()), 0U);
  EXPECT_EQ(taken_bytes(dram.get()), kExtent) << "of the other arenas, too";
  EXPECT_EQ(pieces_freed(*frames, device), 1);
  EXPECT_EQ(taken_bytes(dram.get()), 0U);
}

TEST(TheMemoryOfACache, IsFreedAsFarAsItWasMade) {
  CountingDevice device;
  device.most = 2;
  const auto memory = begun(device, 5);
  ipc::Status made;
  while (made) made = memory->make_piece(device);
  EXPECT_EQ(made.error().code, Errc::no_memory);
  EXPECT_FALSE(memory->whole());
  EXPECT_EQ(pieces_freed(*memory, device), 2 + 1);
  EXPECT_EQ(pieces_freed(*begun(device, 5), device), 0);
}

TEST(TheMemoryOfACache, TakesAReleasedExtentAnewInTheSameFile) {
  CountingDevice device;
  const auto frames = no_frames();
  const auto memory = whole(device, 1, frames);
  ASSERT_TRUE(frames->grant(device, 0));
  std::uint32_t total = 0;
  const int fd = memory->extent_fds(Tier::dram, 0, 10, total).at(0);
  EXPECT_EQ(taken_bytes(fd), kExtent);
  const auto view = ipc::Mapping::map(fd, 0, kExtent, ipc::Access::read_write, "a client's view");
  ASSERT_TRUE(view);
  view->data()[100] = std::byte{9};
  EXPECT_EQ(memory->store().frames[100], std::byte{9});
  frames->release(0);
  EXPECT_EQ(taken_bytes(fd), 0U);
  ASSERT_TRUE(frames->grant(device, 0));
  EXPECT_EQ(taken_bytes(fd), kExtent);
  EXPECT_EQ(view->data()[100], std::byte{0});
  EXPECT_EQ(memory->extent_fds(Tier::dram, 0, 10, total), std::vector<int>{fd});
  EXPECT_EQ(device.made, 2);
}

}  // namespace
}  // namespace sluice::daemon
