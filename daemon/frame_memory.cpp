#include "daemon/frame_memory.h"

#include <utility>

#include "daemon/logging.h"
#include "ipc/memfd.h"

namespace sluice::daemon {

namespace {
constexpr const char* kName = "sluice-dram";
}  // namespace

ipc::Result<std::unique_ptr<FrameMemory>> FrameMemory::create(const residency::CacheShape& sizes) {
  auto range =
      ipc::ReservedRange::reserve(std::uint64_t{sizes.max_frame_extents} * sizes.frame_extent_bytes,
                                  "addresses for a cache's DRAM extents");
  if (!range) return std::unexpected(std::move(range.error()));
  std::unique_ptr<FrameMemory> frames(new FrameMemory);
  frames->extent_bytes_ = sizes.frame_extent_bytes;
  frames->frames_per_extent_ = sizes.frames_per_extent;
  frames->range_ = std::move(*range);
  frames->fds_.resize(sizes.max_frame_extents);
  return frames;
}

ipc::Result<std::unique_ptr<FrameMemory>> FrameMemory::adopt(const residency::CacheShape& sizes,
                                                             Device& device,
                                                             std::vector<ipc::Fd> extents) {
  auto frames = create(sizes);
  if (!frames) return frames;
  FrameMemory& made = **frames;
  if (extents.size() > made.fds_.size()) {
    return ipc::fail(ipc::Errc::invalid_argument, "more DRAM extents than the cache may have");
  }
  for (ipc::Fd& extent : extents) {
    if (auto ok = ipc::check_memfd(extent.get(), made.extent_bytes_, kName); !ok) {
      return ipc::fail(ipc::Errc::invalid_argument, std::move(ok.error().text));
    }
    const std::uint32_t index = made.extents();
    auto mapped = device.map_extent(ipc::Tier::dram, made.range_, index * made.extent_bytes_,
                                    extent, made.extent_bytes_);
    if (!mapped) return std::unexpected(std::move(mapped.error()));
    made.fds_[index] = std::move(extent);
    made.ready_ = (index + 1) * made.frames_per_extent_;
    made.extents_.store(index + 1, std::memory_order_release);
  }
  return frames;
}

ipc::Status FrameMemory::grant(Device& device, std::uint32_t extent,
                               const std::function<void(int fd)>& keep) {
  if (extent < extents()) {
    // Given back before: the same file takes memory anew.
    auto taken = device.refill_extent(ipc::Tier::dram, fds_[extent], extent_bytes_);
    if (!taken) release(extent);
    return taken;
  }
  SLUICE_ASSERT(extent == extents() && extent < fds_.size());
  auto made = device.allocate_extent(ipc::Tier::dram, extent_bytes_);
  if (!made) return std::unexpected(std::move(made.error()));
  auto mapped =
      device.map_extent(ipc::Tier::dram, range_, extent * extent_bytes_, *made, extent_bytes_);
  if (!mapped) return mapped;
  fds_[extent] = std::move(*made);
  keep(fds_[extent].get());
  std::atomic_ref(ready_).store((extent + 1) * frames_per_extent_, std::memory_order_release);
  extents_.store(extent + 1, std::memory_order_release);
  return {};
}

void FrameMemory::release(std::uint32_t extent) {
  if (auto vacated = ipc::vacate_memfd(fds_[extent].get(), kName, 0, extent_bytes_); !vacated) {
    log_error("memory of a DRAM extent was not given back", {{"reason", vacated.error().text}});
  }
}

// Extents are emptied, since a process may still hold a descriptor or a mapping of them. What the
// kernel refuses to unmap or to empty here goes at the latest with the object and those holders.
bool FrameMemory::free_piece(Device& device) {
  const std::uint32_t left = extents();
  if (left == 0) return false;
  (void)range_.unmap_at((left - 1) * extent_bytes_, extent_bytes_, "a DRAM extent");
  device.free_extent(ipc::Tier::dram, fds_[left - 1], extent_bytes_);
  fds_[left - 1].reset();
  extents_.store(left - 1, std::memory_order_release);
  return true;
}

}  // namespace sluice::daemon
