// The device's side of a cache on a CUDA GPU; see device_cache.h.
//
// Objects of CUDA lie in a State that a forked child leaves alone.
//
// Thread-safety: that of DeviceCache.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "client/cuda/block_work.h"
#include "client/cuda/driver.h"
#include "client/cuda/memory.h"
#include "client/cuda/pinner.h"
#include "client/cuda/sequence_rows.h"
#include "client/device_cache.h"

namespace sluice::client::internal::cuda {

class CudaCache final : public DeviceCache {
 public:
  CudaCache(const Client& client, std::int32_t ordinal, const DeviceUuid& uuid)
      : client_(client), ordinal_(ordinal), uuid_(uuid), state_(std::make_unique<State>()) {}
  ~CudaCache() override;

  std::int32_t ordinal() const override { return ordinal_; }
  const DeviceUuid& uuid() const override { return uuid_; }

  ipc::Status reserve_arena(std::uint64_t bytes) override;
  ipc::Status map_arena_extent(std::uint64_t offset, int fd, std::uint64_t bytes) override;
  ipc::Status attach_table(const kernels::TableSizes& sizes, int device_fd,
                           std::uint64_t device_bytes, std::span<std::byte> node_part) override;
  ipc::Status start_pinning(std::byte* frames, std::uint64_t extent_bytes,
                            std::uint32_t frames_per_extent, std::uint32_t most_extents) override;

  std::byte* arena() const override { return state_->arena.data(); }
  const kernels::HotTable& table() const override { return table_; }
  const std::uint32_t* frames_ready() const override { return state_->pinner->frames_ready(); }
  std::uint64_t device_bytes() const override;

  void pin(std::uint32_t extents) override { state_->pinner->pin(extents); }
  std::uint32_t pinned() const override { return state_->pinner->pinned(); }
  ipc::Status pin_status() const override { return state_->pinner->status(); }
  void retry_pinning() override { state_->pinner->retry(); }
  ipc::Status wait_pinned(std::uint32_t extents, ipc::Deadline deadline) override {
    return state_->pinner->wait(extents, deadline);
  }

  ipc::Status expose_frame(std::uint32_t block, std::uint32_t frame) override;

  ipc::Result<std::uint32_t> add_row(std::span<const std::uint32_t> ids) override;
  ipc::Status update_row(std::uint32_t row, std::span<const std::uint32_t> ids,
                         std::size_t first_changed) override;
  void remove_row(std::uint32_t row) override;

  ipc::Result<std::unique_ptr<Actor>> make_actor(Cache& cache, std::uint32_t index) override;
  void count_into(CacheStats& stats, std::uint64_t page_bytes) override;

  // ---- for actors and plans

  const Context& context() const { return state_->context; }
  SequenceRows& rows() { return *state_->rows; }
  BlockWorks& works() { return *state_->works; }
  // What the table counts for the actor, from now on and until now, is this client's.
  void begin_counting(std::uint32_t actor);
  void end_counting(std::uint32_t actor, CacheStats& stats);

 private:
  // Members go in reverse order: what reads the frames before what it reads.
  struct State {
    Context context;
    VirtualRange arena;
    VirtualRange device_table;
    Registration node_table;
    std::unique_ptr<SequenceRows> rows = std::make_unique<SequenceRows>();
    std::unique_ptr<Pinner> pinner;
    std::unique_ptr<BlockWorks> works;
  };

  // Of an actor, as the device mirrors them.
  struct Forecasts {
    std::uint64_t issued = 0;
    std::uint64_t used = 0;
    std::uint64_t dropped = 0;
  };
  Forecasts forecasts_of(std::uint32_t actor) const;
  void count(std::uint32_t actor, Forecasts& counted, CacheStats& stats) const;

  std::mutex counting_mutex_;
  std::map<std::uint32_t, Forecasts> counted_;  // by actor; guarded by counting_mutex_

  const Client& client_;
  const std::int32_t ordinal_;
  const DeviceUuid uuid_;
  std::unique_ptr<State> state_;
  kernels::HotTable table_{};
  std::uint64_t device_table_bytes_ = 0;
  std::uint64_t node_table_bytes_ = 0;
  std::uint64_t extent_bytes_ = 0;
};

}  // namespace sluice::client::internal::cuda
