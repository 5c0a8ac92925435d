// A cache as this process sees it: what it agreed with the daemon, and the memory it has mapped.
//
// Both tiers are linear: slot s lies at arena() + s * page_bytes, frame f at frames() + f *
// frame_stride. DRAM extents are mapped when the daemon first mentions them.
//
// Thread-safety: any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "client/channel.h"
#include "client/client.h"
#include "ipc/error.h"
#include "ipc/ids.h"
#include "ipc/layout.h"
#include "ipc/mapping.h"
#include "kernels/page_store.h"
#include "kernels/table.h"

namespace sluice::client::internal {

struct CacheOptions {
  std::string model;
  std::string salt;
  std::uint32_t shard_index = 0;
  std::uint32_t shard_count = 1;
  ipc::wire::CacheKind kind = ipc::wire::CacheKind::attention;
  ipc::wire::Executor executor = ipc::wire::Executor::daemon;
  ipc::Layout layout;
  std::uint64_t hbm_bytes = 0;
};

// Of this client, added up over its actors. Relaxed counters.
struct CacheStats {
  std::atomic<std::uint64_t> hits{0}, misses{0}, no_slot{0}, absent{0}, bytes_filled{0};
  std::atomic<std::uint64_t> forecast_issued{0}, forecast_used{0}, forecast_late{0},
      forecast_dropped{0}, forecast_wasted_bytes{0};
  std::atomic<std::uint64_t> resolves{0}, blocks_matched{0}, blocks_deduplicated{0};
};

class Cache {
 public:
  // Errors: those of the daemon (invalid_layout, quota_exceeded, no_memory, limit_reached, ...),
  // peer_violation, no_memory (address space).
  static ipc::Result<std::unique_ptr<Cache>> open(Client& client, const CacheOptions& options);

  // Errors: wrong_state (sequences or actors are open).
  ipc::Status close();

  // Maps the DRAM extents below `count` that are not mapped yet. Cheap when there are none.
  ipc::Status map_frame_extents(std::uint32_t count);

  Client& client() { return client_; }
  std::uint64_t handle() const { return handle_; }
  ipc::wire::Executor executor() const { return executor_; }
  const ipc::Geometry& geometry() const { return geometry_; }
  bool created() const { return created_; }
  std::uint32_t slots() const { return sizes_.slots; }
  std::uint32_t max_blocks() const { return sizes_.blocks; }
  std::uint32_t max_actors() const { return sizes_.actors; }
  std::uint64_t table_bytes() const { return table_bytes_; }
  std::uint32_t frame_extents() const { return mapped_.load(std::memory_order_acquire); }
  std::uint64_t frame_extent_bytes() const { return frame_extent_bytes_; }

  std::byte* arena() const { return arena_.data(); }
  // The frame's bytes; nullptr when its extent is not mapped or the number is impossible.
  std::byte* frame(std::uint32_t frame) const;
  std::byte* slot(std::int32_t slot) const {
    return arena_.data() + static_cast<std::size_t>(slot) * geometry_.page_bytes;
  }

  // Executor direct only.
  const kernels::HotTable& table() const { return table_; }
  const kernels::PageStore& store() const { return store_; }

  CacheStats& stats() { return stats_; }
  std::atomic<std::uint32_t>& users() { return users_; }

 private:
  explicit Cache(Client& client) : client_(client) {}
  ipc::Status accept(const ipc::wire::CacheOpened& opened, std::vector<ipc::Fd>& fds);
  ipc::Status map_arena(std::uint32_t extents, std::uint64_t extent_bytes);
  ipc::Status attach_table(int fd);
  // Maps extents from `first` on: at least up to `until`, and what else the daemon has, `most` at
  // most. Returns where the mapped ones end.
  ipc::Result<std::uint32_t> fetch(ipc::Tier tier, std::uint32_t first, std::uint32_t until,
                                   std::uint32_t most, std::uint64_t extent_bytes,
                                   ipc::ReservedRange& range);

  Client& client_;
  std::uint64_t handle_ = 0;
  ipc::wire::Executor executor_ = ipc::wire::Executor::daemon;
  ipc::Geometry geometry_;
  bool created_ = false;
  kernels::TableSizes sizes_;
  std::uint64_t table_bytes_ = 0;
  std::uint64_t frame_extent_bytes_ = 0;
  std::uint32_t frames_per_extent_ = 0;
  std::uint32_t max_frame_extents_ = 0;

  ipc::ReservedRange arena_;
  ipc::ReservedRange frames_;
  ipc::Mapping table_memory_;
  kernels::HotTable table_{};
  kernels::PageStore store_{};
  std::mutex grow_;
  std::vector<std::uint8_t> extent_ready_;
  std::atomic<std::uint32_t> mapped_{0};
  CacheStats stats_;
  std::atomic<std::uint32_t> users_{0};  // sequences and actors
};

}  // namespace sluice::client::internal
