// A cache as this process sees it: what it agreed with the daemon, and the memory it has mapped.
//
// Both tiers are linear: slot s lies at arena() + s * page_bytes, frame f at frames() + f *
// frame_stride. DRAM extents are mapped when the daemon first mentions them. On a GPU the arena is
// memory of the device, and DRAM extents are registered with it in the background; see
// device_cache.h.
//
// Thread-safety: any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "client/client.h"
#include "client/device_cache.h"
#include "client/stock.h"
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
  std::uint32_t device_index = 0;           // see sluice_cache_desc
  std::optional<std::int32_t> cuda_device;  // its ordinal in this process; none: the host backend
};

// Of this client, added up over its actors. Relaxed counters.
struct CacheStats {
  std::atomic<std::uint64_t> hits{0}, misses{0}, no_slot{0}, absent{0}, bytes_filled{0};
  std::atomic<std::uint64_t> forecast_issued{0}, forecast_used{0}, forecast_late{0},
      forecast_dropped{0}, forecast_wasted_bytes{0};
  std::atomic<std::uint64_t> resolves{0}, blocks_matched{0}, blocks_deduplicated{0};
};

class Sequence;

class Cache {
 public:
  ~Cache();

  // Errors: those of the daemon (invalid_layout, quota_exceeded, no_memory, limit_reached, ...),
  // peer_violation, no_memory (address space), and those of DeviceCache.
  static ipc::Result<std::unique_ptr<Cache>> open(Client& client, const CacheOptions& options);

  // Errors: wrong_state (sequences or actors are open).
  ipc::Status close();

  // Maps the DRAM extents below `count` that are not mapped yet. Cheap when there are none. Inside
  // the gate.
  ipc::Status map_frame_extents(Link& link, std::uint32_t count);
  // The same for what may wait until later: nothing happens while the daemon is away.
  ipc::Status map_if_connected(std::uint32_t count);

  // Why it is lost, if it is: the daemon that came back does not have its memory.
  ipc::Status check() const;
  bool is_lost() const { return lost_.load(std::memory_order_acquire); }

  // Why DRAM cannot be read by the GPU, if it stopped at an error; asking makes it try again. For
  // calls that bring blocks which lie there.
  ipc::Status check_pinning();
  // Waits until the GPU can read and write the frame.
  ipc::Status wait_pinned_frame(std::uint32_t frame, ipc::Deadline deadline);

  Client& client() { return client_; }
  std::uint64_t handle() const { return handle_; }  // inside the gate
  ipc::wire::Executor executor() const { return executor_; }
  const ipc::Geometry& geometry() const { return geometry_; }
  const ipc::Layout& layout() const { return layout_; }
  bool created() const { return created_; }
  std::uint32_t slots() const { return sizes_.slots; }
  std::uint32_t max_blocks() const { return sizes_.blocks; }
  std::uint32_t max_actors() const { return sizes_.actors; }
  std::uint64_t table_bytes() const { return table_bytes_; }
  std::uint32_t frame_extents() const { return mapped_.load(std::memory_order_acquire); }
  std::uint64_t frame_extent_bytes() const { return frame_extent_bytes_; }
  std::uint64_t most_frame_bytes() const { return max_frame_extents_ * frame_extent_bytes_; }
  std::uint32_t extent_of(std::uint32_t frame) const { return frame / frames_per_extent_; }

  // The GPU's side; null on the host backend.
  DeviceCache* device() const { return device_.get(); }
  // The same of executor direct; null also where the daemon resolves: then this process has the
  // arena alone, and DRAM is not pinned here.
  DeviceCache* resolver() const {
    return executor_ == ipc::wire::Executor::direct ? device_.get() : nullptr;
  }

  // Of the device's addresses on a GPU.
  std::byte* arena() const { return device_ != nullptr ? device_->arena() : arena_.data(); }
  std::byte* frames() const { return frames_.data(); }
  // The frame's bytes; nullptr when its extent is not mapped or the number is impossible.
  std::byte* frame(std::uint32_t frame) const;
  // ---- what the table knows of frames. Executor direct; `block` is below max_blocks().

  // On a GPU, of the original that lies in the node's memory.
  kernels::Frame frame_of(std::uint32_t block) const;
  // Maps the extents in which these blocks lie by now, if there are new ones: blocks that come from
  // NVMe may lie in some that were made after the last answer that named any.
  ipc::Status map_extents_of(std::span<const std::uint32_t> blocks);
  ipc::Status map_all_extents();  // in which there is any block
  // kernels::expose_frame. Errors: io_error (of a device).
  ipc::Status expose_frame(std::uint32_t block, std::uint32_t frame);
  // Host backend only.
  std::byte* slot(std::int32_t slot) const {
    return arena_.data() + static_cast<std::size_t>(slot) * geometry_.page_bytes;
  }

  // Executor direct only. On a GPU their pointers are the device's.
  const kernels::HotTable& table() const { return table_; }
  const kernels::PageStore& store() const { return store_; }

  CacheStats& stats() { return stats_; }
  // Brings stats() up to date with what a device has counted.
  void collect_stats();
  std::atomic<std::uint32_t>& users() { return users_; }

  // ---- surviving the daemon; inside the gate

  // The open sequences, which a resume adopts.
  void add(Sequence& sequence);
  void remove(Sequence& sequence);
  // Closes an actor, or has it closed by a resume.
  ipc::Status close_actor(std::uint32_t index);

  // Blocks in advance; null: the session does not go on alone.
  Stock* stock() const { return stock_.get(); }
  void adjust_stock(Link& link);

  // ---- of a resume

  // Errors: the link broke. Anything else loses the cache.
  ipc::Status resume(Link& link);
  ipc::Status tell_closed_actors(Link& link);

 private:
  std::uint32_t extents_with(std::uint32_t block) const;  // up to its own; 0: it is in none
  explicit Cache(Client& client) : client_(client) {}
  static ipc::Result<std::unique_ptr<Cache>> open_on(Link& link, Client& client,
                                                     const CacheOptions& options);
  ipc::Result<Reply> request_open(Link& link, ipc::Deadline deadline) const;
  ipc::Status close_on(Link& link) const;
  // Whether it is the memory that is mapped here.
  bool is_same(const ipc::wire::CacheOpened& opened) const;
  ipc::Status reopen(Link& link);
  void lose(ipc::Error why);
  ipc::Status accept(Link& link, const ipc::wire::CacheOpened& opened, std::vector<ipc::Fd>& fds);
  ipc::Status map_arena(Link& link, std::uint32_t extents, std::uint64_t extent_bytes);
  ipc::Status attach_table(int fd);
  ipc::Status attach_split_table(const ipc::wire::CacheOpened& opened,
                                 const std::vector<ipc::Fd>& fds);
  ipc::Status map_table(int fd, std::uint64_t bytes);
  void fill_store(const std::uint32_t* frames_ready);
  // Has `map(extent, fd)` map extents from `first` on: at least up to `until`, and what else the
  // daemon has, `most` at most. Returns where the mapped ones end.
  template <class Map>
  ipc::Result<std::uint32_t> fetch(Link& link, ipc::Tier tier, std::uint32_t first,
                                   std::uint32_t until, std::uint32_t most, Map&& map);
  // Maps an extent that is a memfd.
  static ipc::Status map_extent(ipc::ReservedRange& range, std::uint32_t extent, int fd,
                                std::uint64_t extent_bytes, const char* what);

  Client& client_;
  CacheOptions options_;
  std::uint64_t handle_ = 0;       // changed by a resume
  std::uint64_t incarnation_ = 0;  // 0: the daemon gives none
  ipc::wire::Executor executor_ = ipc::wire::Executor::daemon;
  ipc::Geometry geometry_;
  ipc::Layout layout_;
  bool created_ = false;
  kernels::TableSizes sizes_;
  std::uint64_t table_bytes_ = 0;
  std::uint32_t slot_extents_ = 0;
  std::uint64_t slot_extent_bytes_ = 0;
  std::uint64_t device_table_bytes_ = 0;
  std::uint64_t frame_extent_bytes_ = 0;
  std::uint32_t frames_per_extent_ = 0;
  std::uint32_t max_frame_extents_ = 0;

  ipc::ReservedRange arena_;
  ipc::ReservedRange frames_;
  ipc::Mapping table_memory_;
  kernels::HotTable table_{};
  kernels::PageStore store_{};
  std::mutex grow_;
  std::uint32_t frames_ready_ = 0;
  std::atomic<std::uint32_t> mapped_{0};
  std::unique_ptr<DeviceCache> device_;  // after the memory that it has registered
  CacheStats stats_;
  std::atomic<std::uint32_t> users_{0};  // sequences and actors

  mutable std::mutex members_mutex_;  // of the following
  std::unordered_set<Sequence*> sequences_;
  std::vector<std::uint32_t> closed_actors_;  // which the daemon is to be told
  ipc::Error lost_why_{ipc::Errc::ok, {}};
  std::atomic<bool> lost_{false};
  bool registered_ = false;  // with the client
  std::unique_ptr<Stock> stock_;
};

}  // namespace sluice::client::internal
