// A small cache on a device, and the parts of its hot table as an engine's GPU would see them.
//
// Thread-safety: none.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "daemon/cache_memory.h"
#include "ipc/layout.h"
#include "ipc/mapping.h"
#include "kernels/table.h"

namespace sluice::test {

inline constexpr std::uint64_t kSplitFrameExtent = 64 << 10;

// Two HBM extents, each as large as the device's unit of memory, and at most four of DRAM.
inline residency::CacheShape split_shape(std::uint64_t granularity) {
  residency::CacheShape shape;
  shape.geometry = *ipc::geometry_of({2, 1, 16, 4, 2, 2, ipc::PageKind::layer});
  shape.slot_extent_bytes = granularity;
  shape.slots_per_extent = static_cast<std::uint32_t>(granularity / shape.geometry.page_bytes);
  shape.slot_extents = 2;
  shape.frame_extent_bytes = kSplitFrameExtent;
  shape.frames_per_extent =
      static_cast<std::uint32_t>(kSplitFrameExtent / shape.geometry.frame_stride);
  shape.max_frame_extents = 4;
  shape.max_blocks = shape.max_frame_extents * shape.frames_per_extent;
  return shape;
}

// Both parts mapped by the CPU, which a fake device's memory allows.
class SplitParts {
 public:
  explicit SplitParts(const daemon::CacheMemory& memory) {
    const std::vector<int> fds = memory.table_fds();
    const kernels::TableSizes sizes = memory.shape().table;
    const kernels::SplitOffsets offsets = kernels::split_offsets_of(sizes);
    node_ = std::move(*ipc::Mapping::map(fds[0], 0, offsets.host_end, ipc::Access::read_write, ""));
    device_ =
        std::move(*ipc::Mapping::map(fds[1], 0, offsets.device_end, ipc::Access::read_write, ""));
    table = kernels::view_split_table(device_.data(), node_.data(), sizes);
  }

  kernels::HotTable table;

 private:
  ipc::Mapping node_;
  ipc::Mapping device_;
};

}  // namespace sluice::test
