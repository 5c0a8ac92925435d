// The executor of a GPU: steps, resolves and pins as kernels in a stream, on the table that this
// process shares with the daemon.
//
// Steps, forecasts, stores and seals of pins only enqueue. A resolve of lists in host memory copies
// them there and back, and waits; see CudaPlan for the way without. What is enqueued here runs in
// order, in one stream at a time; but for pins, whose slots the host waits for.
//
// Thread-safety: one thread at a time per actor.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "client/actor.h"
#include "client/cuda/block_work.h"
#include "client/cuda/cuda_cache.h"
#include "client/cuda/memory.h"

namespace sluice::client::internal::cuda {

class CudaActor final : public Actor {
 public:
  // Errors: no_memory, io_error.
  static ipc::Result<std::unique_ptr<Actor>> make(Cache& cache, CudaCache& device,
                                                  std::uint32_t index);
  ~CudaActor() override;

  ipc::Result<Pending> unpin(std::uint32_t id, const std::vector<std::int32_t>& slots) override;
  ipc::Result<Pending> copy_to_frame(const Sequence& from, std::uint32_t block,
                                     const Sequence& to) override;
  ipc::Status copy_to_slots(const Sequence& of, std::uint32_t block) override;
  ipc::Status await_begin() override;

  // ---- for its plans

  CudaCache& device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  // The actor forecasts: its own stream is one of the least priority from now on. What is enqueued
  // in the present one comes first.
  ipc::Status lower_priority();
  // Launches that we are not told of, in graphs, begin steps in the actor's stream.
  void has_plan_that_advances() { advances_ = true; }
  // What was launched last in this stream begins a step.
  ipc::Status note_advance(cudaStream_t stream);

 private:
  // Where the lists of a resolve lie, in staging memory and on the device alike.
  struct ListPlaces;

  // What a forecast under way reads: the device takes the items from the host's memory, in its own
  // time.
  struct ForecastList {
    StagingBuffer items;
    OwnEvent passed;
  };

  struct State {
    OwnStream own_stream;
    OwnEvent begun;     // the step; see knows_begin_
    OwnEvent advanced;  // the step, by a launch in another stream
    // Of pins.
    OwnStream pin_stream;
    DeviceBuffer claimed;
    // Of resolves; they grow.
    StagingBuffer list_staging;
    DeviceBuffer lists;
    DeviceBuffer scratch;
    // Of forecasts; made by the first.
    std::array<ForecastList, 2> forecasts;
    DeviceBuffer forecast_scratch;
  };

  CudaActor(Cache& cache, CudaCache& device, std::uint32_t index)
      : Actor(cache, index), device_(device), state_(std::make_unique<State>()) {}

  ipc::Status do_begin_step() override;
  ipc::Status do_end_step() override;
  ipc::Status do_start(Operation& operation) override;
  ipc::Status do_finish(Operation&, ipc::Deadline) override { return {}; }
  ipc::Status do_forecast(std::span<const PageList> lists, std::uint64_t deadline_us,
                          std::uint32_t confidence) override;
  ipc::Result<std::vector<std::int32_t>> do_pin(const Sequence& sequence,
                                                std::uint32_t block) override;
  ipc::Status do_set_stream(const StreamRef& stream) override;
  ipc::Result<std::unique_ptr<Plan>> do_make_plan(const PlanOptions& options) override;
  ipc::Status do_close() override;

  ipc::Status make_room(std::size_t items);
  ipc::Status make_forecasts();
  // One that no launch reads any more; null: there is none.
  ipc::Result<ForecastList*> free_forecast();
  // Writes the page numbers of the lists, `most` at most; returns how many.
  std::size_t stage_pages(std::span<const PageList> lists, std::int32_t* to, std::size_t most);
  ipc::Status look_up(std::size_t items);
  void scatter(Operation& operation, const std::int32_t* slots,
               const kernels::Outcome* outcomes) const;
  ipc::Result<bool> is_captured() const;
  ipc::Status check_not_captured(const char* what) const;
  void note_begin();
  ipc::Result<cudaStream_t> stream_for_pins();
  // The work is what was launched last.
  ipc::Result<Pending> enqueued(std::shared_ptr<BlockWork> work);
  // With a block's id, frame and slots where kernels read them.
  ipc::Result<std::shared_ptr<BlockWork>> work_on(std::uint32_t id, std::uint32_t frame,
                                                  std::span<const std::int32_t> slots);
  ipc::Status copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);
  ipc::Status wait(const char* what);

  CudaCache& device_;
  std::unique_ptr<State> state_;
  cudaStream_t stream_ = nullptr;
  bool low_priority_ = false;   // of the own stream
  bool knows_begin_ = false;    // `begun` is behind the begin of this step
  bool advances_ = false;       // a later step than it may be under way
  std::uint32_t capacity_ = 0;  // items that the buffers of resolves hold; a power of two
};

}  // namespace sluice::client::internal::cuda
