// The memory of a cache on one device: its arena, its hot table, and who is in it. DRAM extents are
// shared with the cache's arenas on other devices (frame_memory.h).
//
// It comes into being piece by piece, since an arena of many GiB takes the kernel a while, and goes
// in the same way: table and arena are made before anybody else knows of it, and freed after the
// last one let go of it.
//
// Thread-safety: what resolves need (table, store, addresses, actor ownership) from any thread.
// Everything marked "coordinator" is called under the coordinator's lock, everything marked
// "worker" by the memory worker, one call at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "daemon/arena_state.h"
#include "daemon/cache_table.h"
#include "daemon/device.h"
#include "daemon/frame_memory.h"
#include "daemon/residency/types.h"
#include "ipc/error.h"
#include "ipc/ids.h"
#include "ipc/mapping.h"
#include "ipc/wire_generated.h"
#include "kernels/frame_log.h"
#include "kernels/grace.h"
#include "kernels/page_store.h"
#include "kernels/table.h"

namespace sluice::daemon {

struct CacheShape {
  residency::CacheShape sizes;
  kernels::TableSizes table;
  std::uint64_t table_bytes = 0;  // in the node's memory
  std::uint64_t device_table_bytes = 0;
  std::uint64_t device_table_extent_bytes = 0;
};

// Pages resolved since the cache was made. Sums saturate: some of these numbers are a client's.
struct ResolveTotals {
  std::uint64_t hits = 0, misses = 0, no_slot = 0, absent = 0, bytes_filled = 0;
  std::uint64_t forecast_issued = 0, forecast_used = 0, forecast_bytes = 0;
  std::uint64_t bytes_swept = 0;  // out of HBM to make room; of the whole cache, by no executor

  ResolveTotals& operator+=(const ResolveTotals& other);
  // What came since `then`; 0 for a counter that went back, as a client's may.
  ResolveTotals since(const ResolveTotals& then) const;
  // The greater one of each.
  void raise_to(const ResolveTotals& other);
  friend bool operator==(const ResolveTotals&, const ResolveTotals&) = default;
};

// Blocks that resolvers in other processes ask for.
struct WantedBlocks {
  std::vector<ipc::BlockId> now;
  std::vector<ipc::BlockId> soon;  // of forecasts
};

// Ids on their way out: withdrawn, and waiting for their grace period, then for the scan that drops
// their pages.
struct Retirement {
  std::vector<ipc::BlockId> ids;
  bool drops_pages = true;
  kernels::Grace grace;
  std::optional<CacheTable::Ticket> dropping;
};

class CacheMemory {
 public:
  // Sizes and addresses, and no memory yet: make_piece until it is whole. Errors: no_memory,
  // invalid_layout (a table of absurd size), limit_reached.
  static ipc::Result<std::unique_ptr<CacheMemory>> create(const residency::CacheShape& sizes,
                                                          std::uint32_t actors, Device& device,
                                                          std::shared_ptr<FrameMemory> frames);

  // What a daemon of before left of an arena; whole at once. It is of use after take_over().
  // Errors: invalid_argument (something of it is not what it should be), no_memory.
  struct Left {
    std::uint64_t incarnation = 0;
    kernels::TableSizes table;
    std::vector<ipc::Fd> table_fds;
    std::vector<ipc::Fd> slot_extents;
    ipc::Fd state;
  };
  static ipc::Result<std::unique_ptr<CacheMemory>> adopt(const residency::CacheShape& sizes,
                                                         Device& device,
                                                         std::shared_ptr<FrameMemory> frames,
                                                         Left left);
  // `frame_of`: where each block is now, by id; of the others there is nothing. `sits_on` says
  // which sessions go on with their actors; the others' are reset.
  void take_over(const std::vector<ipc::FrameId>& frame_of,
                 const std::function<bool(ipc::SessionId)>& sits_on);

  // ---- worker: coming and going

  // Makes an extent of the arena, or a piece of the table. Errors: no_memory, limit_reached,
  // io_error.
  ipc::Status make_piece(Device& device);
  // Table and arena are there: it can be used.
  bool whole() const;
  // Frees an extent or a piece of the table, whole or not, by the last who holds it. False: there
  // was nothing left.
  bool free_piece(Device& device);

  const CacheShape& shape() const { return shape_; }
  // A number that no other arena has, in this life of the daemon or another.
  std::uint64_t incarnation() const { return incarnation_; }
  int state_fd() const { return state_.fd(); }
  const std::vector<ipc::Fd>& slot_extents() const { return slot_extents_; }
  std::vector<int> table_fds() const { return cache_table_->fds(); }
  // One past the highest DRAM extent that was ever made.
  std::uint32_t frame_extents() const { return frames_->extents(); }
  std::uint64_t frame_bytes() const { return frame_extents() * shape_.sizes.frame_extent_bytes; }
  bool on_gpu() const { return cache_table_->bytes().device != 0; }
  // Descriptors of at most `most` extents of a tier from index `first`; `total` of them exist. They
  // stay open as long as the cache.
  std::vector<int> extent_fds(ipc::Tier tier, std::uint32_t first, std::size_t most,
                              std::uint32_t& total) const;

  // ---- for resolves

  // The daemon's view: the frame of a block comes from private memory. Of a split table there are
  // no words in it, and nobody resolves on the CPU.
  const kernels::HotTable& table() const { return table_; }
  const kernels::PageStore& store() const { return store_; }

  // Whether the session opened this actor and did not close it. Never the one of its lane: that one
  // leaves its steps when the lane likes.
  bool owns_actor(ipc::SessionId session, std::uint32_t actor) const;
  // Which opening of the seat this is: a number that no other opening of any cache has.
  std::uint64_t opened(std::uint32_t actor) const {
    return seats_[actor].opened.load(std::memory_order_acquire);
  }

  // ---- coordinator: blocks

  // The frames that another arena of the cache knows; before anybody uses this one.
  void begin_like(const CacheMemory& other);
  void set_frame(ipc::BlockId id, ipc::FrameId frame);

  Retirement retire(std::vector<ipc::BlockId> ids);
  // The same for their frames alone: the ids stay, and so do pages of them in HBM.
  Retirement withdraw(std::vector<ipc::BlockId> ids);
  // Adds up to `most` of the blocks that resolvers marked as wanted, if any did since the last
  // time.
  void take_wanted(WantedBlocks& blocks, std::size_t most);
  // Whether the grace period is over; if so, no word holds a page of these ids any more.
  bool try_finish(Retirement& retirement);

  // Pins that a dead session may have left; see residency::DropPins.
  void drop_pins(const std::vector<ipc::BlockId>& ids, bool sealed);

  // What the table's device has to be told; see CacheTable.
  void on_table_orders(std::function<void(std::shared_ptr<CacheTable>)> listener) {
    cache_table_->on_orders(std::move(listener));
  }
  void retry_table_orders(std::chrono::steady_clock::time_point now) { cache_table_->retry(now); }

  // ---- coordinator: actors

  // `of_lane`: for the lane's own work for this session; not counted by actors_of.
  ipc::Result<std::uint32_t> open_actor(ipc::SessionId session, ipc::wire::Executor executor,
                                        bool of_lane = false);
  // Errors: stale_handle, wrong_state (it is in a step).
  ipc::Status close_actor(ipc::SessionId session, std::uint32_t actor);
  void close_actors_of(ipc::SessionId session);
  // Orders that an actor, of which nobody can say whether it is in a step, becomes idle. Nobody may
  // use it before that is done. Any thread; of split tables.
  void make_idle(std::uint32_t actor);
  bool is_becoming_idle(std::uint32_t actor) const;
  std::uint32_t actors_of(ipc::SessionId session) const;
  // Sessions with an actor that is in the same step as `deadline` ago.
  std::vector<ipc::SessionId> overdue_actors(std::chrono::steady_clock::time_point now,
                                             std::chrono::milliseconds deadline);

  // ---- operators

  // By executor. The counters of direct sessions are theirs to write, so they are only as good as
  // the sessions; they never make a total go back.
  ResolveTotals totals(ipc::wire::Executor executor) const;
  ResolveTotals totals() const;
  // Pages of this cache that forecasts brought in and nobody used, since it was made.
  std::uint64_t forecast_wasted() const;
  // Reads every word of the table. Errors: see CacheTable::scan.
  ipc::Result<HbmResidency> scan() const { return cache_table_->scan(); }

 private:
  struct ActorSeat {
    std::atomic<std::uint64_t> owner{0};  // session + 1; 0: free
    std::atomic<std::uint64_t> opened{0};
    // Given up by its session, which keeps the seat until it ends: its lane may be about to use it.
    std::atomic<bool> closed{false};
    ipc::wire::Executor executor = ipc::wire::Executor::daemon;
    std::atomic<bool> of_lane{false};
    ResolveTotals base;                         // the line's counters when it was opened
    ResolveTotals most;                         // counted since then, as far as anybody has looked
    CacheTable::Ticket resetting = 0;           // while the owner is kResetting
    std::atomic<CacheTable::Ticket> idling{0};  // of make_idle(); 0: none
    std::uint64_t seen_entries = 0;
    std::chrono::steady_clock::time_point seen_since{};
  };

  static constexpr CacheTable::Ticket kOrdering = ~CacheTable::Ticket{0};  // it has no ticket yet

  // The seat's session is over, and its actor is not known to be idle yet: nobody's.
  static constexpr std::uint64_t kResetting = ~std::uint64_t{0};

  CacheMemory() = default;
  // All but the memory of arena and table.
  static ipc::Result<std::unique_ptr<CacheMemory>> begin(const residency::CacheShape& sizes,
                                                         const kernels::TableSizes& table,
                                                         std::shared_ptr<CacheTable> cache_table,
                                                         ArenaState state,
                                                         std::shared_ptr<FrameMemory> frames);
  void use_table();
  void adopt_frames(const std::vector<ipc::FrameId>& frame_of);
  void adopt_seats(const std::function<bool(ipc::SessionId)>& sits_on);
  void log_frame(ipc::BlockId id, std::uint32_t frame);
  void keep_seat(std::uint32_t actor, bool kept);
  static std::uint64_t next_opening();
  ipc::Status make_table_piece();
  bool is_free(const ActorSeat& seat) const;
  ResolveTotals line_totals(std::uint32_t actor) const;
  const ResolveTotals& seat_totals(std::uint32_t actor) const;
  bool sits(ipc::SessionId session, std::uint32_t actor) const;
  void settle_totals(std::uint32_t actor);

  CacheShape shape_;
  std::shared_ptr<CacheTable> cache_table_;
  ipc::ReservedRange arena_;
  std::shared_ptr<FrameMemory> frames_;
  std::vector<ipc::Fd> slot_extents_;
  ArenaState state_;
  std::uint64_t incarnation_ = 0;
  kernels::FrameLogWriter frame_log_;
  std::uint32_t wanted_bell_ = 0;  // when marks were taken last
  kernels::HotTable shared_{};     // what the CPU sees, with the frame_of that clients read
  kernels::HotTable table_{};      // and with the daemon's own
  kernels::PageStore store_{};
  std::unique_ptr<ActorSeat[]> seats_;
  mutable std::mutex totals_mutex_;  // closed_, swept_; the seats' base, most, executor
  ResolveTotals closed_[2];          // of actors that are gone, by executor
  mutable ResolveTotals swept_;      // the table's own counter, as far as anybody has looked
};

}  // namespace sluice::daemon
