#include "client/cuda/cuda_actor.h"

#include <algorithm>
#include <bit>
#include <string>

#include "client/cuda/cuda_plan.h"
#include "client/sequence.h"
#include "kernels/cuda/launch.h"
#include "kernels/forecast.h"

namespace sluice::client::internal::cuda {

using ipc::Errc;
using ipc::fail;

namespace {

// Items of one resolve call, and what buffers begin with.
constexpr std::size_t kMostItems = std::size_t{1} << 28;
constexpr std::size_t kLeastItems = 1024;
// Pages of one forecast; sluice.h says so.
constexpr std::size_t kMostForecastItems = std::size_t{1} << 17;

ipc::Status check_launch(kernels::cuda::Status status, const char* what) {
  return check(static_cast<cudaError_t>(status), what);
}

}  // namespace

// Items go to the device in one piece; outcomes and slots come back in another.
struct CudaActor::ListPlaces {
  std::size_t items = 0;
  std::size_t outcomes;
  std::size_t slots;
  std::size_t bytes;

  explicit ListPlaces(std::size_t capacity)
      : outcomes(items + capacity * sizeof(std::int32_t)),
        slots(outcomes + capacity),
        bytes(slots + capacity * sizeof(std::int32_t)) {}
};

ipc::Result<std::unique_ptr<Actor>> CudaActor::make(Cache& cache, CudaCache& device,
                                                    std::uint32_t index) {
  const CurrentBesideCaptures current(device.context());
  std::unique_ptr<CudaActor> actor(new CudaActor(cache, device, index));
  State& state = *actor->state_;
  auto stream = OwnStream::make();
  if (!stream) return std::unexpected(stream.error());
  state.own_stream = std::move(*stream);
  actor->stream_ = state.own_stream.get();
  auto pin_stream = OwnStream::make(Priority::greatest);
  if (!pin_stream) return std::unexpected(pin_stream.error());
  state.pin_stream = std::move(*pin_stream);
  auto begun = OwnEvent::make();
  if (!begun) return std::unexpected(begun.error());
  state.begun = std::move(*begun);
  auto advanced = OwnEvent::make();
  if (!advanced) return std::unexpected(advanced.error());
  state.advanced = std::move(*advanced);
  auto claimed = DeviceBuffer::make(cache.geometry().pages_per_block * sizeof(kernels::Slot));
  if (!claimed) return std::unexpected(claimed.error());
  state.claimed = std::move(*claimed);
  device.begin_counting(index);
  return actor;
}

CudaActor::~CudaActor() {
  if (!cache().client().in_owner()) {
    (void)state_.release();  // see CudaCache
    return;
  }
  device_.end_counting(index(), cache().stats());
  const CurrentBesideCaptures current(device_.context());
  state_.reset();
}

ipc::Status CudaActor::copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return check(cudaMemcpyAsync(to, from, bytes, kind, stream_), "a copy in the actor's stream");
}

ipc::Status CudaActor::wait(const char* what) {
  return check(cudaStreamSynchronize(stream_), what);
}

// ---- steps and streams

ipc::Status CudaActor::do_begin_step() {
  const Current current(device_.context());
  if (auto ok = check_launch(kernels::cuda::enter_step(cache().table(), index(), stream_),
                             "enqueueing the begin of a step");
      !ok) {
    return ok;
  }
  note_begin();
  return {};
}

ipc::Result<bool> CudaActor::is_captured() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (auto ok = check(cudaStreamIsCapturing(stream_, &status), "asking about a capture"); !ok) {
    return std::unexpected(ok.error());
  }
  return status != cudaStreamCaptureStatusNone;
}

ipc::Status CudaActor::check_not_captured(const char* what) const {
  const auto captured = is_captured();
  if (!captured) return std::unexpected(captured.error());
  if (!*captured) return {};
  return fail(Errc::wrong_state, std::string("the actor's stream is being captured: ") + what +
                                     " is for one block, and would be repeated with the graph");
}

// A graph begins the step when it is launched, and nobody tells us.
void CudaActor::note_begin() {
  knows_begin_ = !is_captured().value_or(true) && state_->begun.record(stream_).has_value();
}

ipc::Status CudaActor::await_begin() {
  const CurrentBesideCaptures current(device_.context());
  if (auto ok = check_not_captured("a seal"); !ok) return ok;
  if (knows_begin_ && !advances_) return state_->begun.wait();
  if (auto ok = state_->advanced.wait(); !ok) return ok;
  return wait("the actor's stream");
}

ipc::Status CudaActor::note_advance(cudaStream_t stream) {
  if (stream == stream_) return {};
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (auto ok = check(cudaStreamIsCapturing(stream, &status), "asking about a capture"); !ok) {
    return ok;
  }
  if (status != cudaStreamCaptureStatusNone) return {};
  return state_->advanced.record(stream);
}

ipc::Status CudaActor::do_end_step() {
  const Current current(device_.context());
  return check_launch(kernels::cuda::leave_step(cache().table(), index(), stream_),
                      "enqueueing the end of a step");
}

ipc::Status CudaActor::do_set_stream(const StreamRef& stream) {
  const CurrentBesideCaptures current(device_.context());
  if (auto ok = wait("waiting for the actor's stream"); !ok) return ok;
  stream_ = stream.is_cuda ? static_cast<cudaStream_t>(stream.handle) : state_->own_stream.get();
  return {};
}

// The daemon gives the actor's number to somebody else as soon as it learns of the end.
ipc::Status CudaActor::do_close() {
  const CurrentBesideCaptures current(device_.context());
  return wait("waiting for the actor's last step");
}

ipc::Result<std::unique_ptr<Plan>> CudaActor::do_make_plan(const PlanOptions& options) {
  return CudaPlan::make(*this, options);
}

// ---- resolve

ipc::Status CudaActor::make_room(std::size_t items) {
  if (items <= capacity_) return {};
  if (items > kMostItems) {
    return fail(Errc::list_too_long, std::to_string(items) + " pages in one call; at most " +
                                         std::to_string(kMostItems) + ": split it");
  }
  const auto capacity = static_cast<std::uint32_t>(std::bit_ceil(std::max(items, kLeastItems)));
  const ListPlaces places(capacity);
  auto staging = StagingBuffer::make(places.bytes);
  if (!staging) return std::unexpected(staging.error());
  auto lists = DeviceBuffer::make(places.bytes);
  if (!lists) return std::unexpected(lists.error());
  auto scratch =
      DeviceBuffer::make_zeroed(kernels::cuda::resolve_scratch_bytes(1, capacity, 0), stream_);
  if (!scratch) return std::unexpected(scratch.error());
  state_->list_staging = std::move(*staging);
  state_->lists = std::move(*lists);
  state_->scratch = std::move(*scratch);
  capacity_ = capacity;
  return {};
}

// The items lie in staging memory; there slots and outcomes are afterwards.
ipc::Status CudaActor::look_up(std::size_t items) {
  const ListPlaces places(capacity_);
  State& state = *state_;
  if (auto ok = copy(state.lists.data(), state.list_staging.at<std::byte>(),
                     items * sizeof(std::int32_t), cudaMemcpyHostToDevice);
      !ok) {
    return ok;
  }
  kernels::cuda::ResolveBatch batch;
  batch.items = state.lists.at<std::int32_t>(places.items);
  batch.slots = state.lists.at<kernels::Slot>(places.slots);
  batch.outcomes = state.lists.at<kernels::Outcome>(places.outcomes);
  batch.lists = 1;
  batch.item_stride = static_cast<std::uint32_t>(items);
  batch.kind = kernels::cuda::ItemKind::page;
  if (auto ok = check_launch(kernels::cuda::resolve(cache().table(), cache().store(), index(),
                                                    batch, {}, state.scratch.data(), stream_),
                             "enqueueing a resolve");
      !ok) {
    return ok;
  }
  if (auto ok = copy(state.list_staging.at<std::byte>(places.outcomes),
                     state.lists.at<std::byte>(places.outcomes),
                     places.slots - places.outcomes + items * sizeof(std::int32_t),
                     cudaMemcpyDeviceToHost);
      !ok) {
    return ok;
  }
  return wait("a resolve");
}

void CudaActor::scatter(Operation& operation, const std::int32_t* slots,
                        const kernels::Outcome* outcomes) const {
  Counts& counts = operation.counts;
  for (const PageList& list : operation.lists) {
    for (std::uint32_t i = 0; i < list.count; ++i) {
      const auto outcome = static_cast<std::uint8_t>(kernels::told(*outcomes++));
      if (list.slots != nullptr) list.slots[i] = *slots;
      ++slots;
      counts.hits += outcome == SLUICE_HIT ? 1 : 0;
      counts.misses += outcome == SLUICE_MISS ? 1 : 0;
      counts.no_slot += outcome == SLUICE_NO_ROOM ? 1 : 0;
      counts.absent += outcome == SLUICE_ABSENT || outcome == SLUICE_LOST ? 1 : 0;
      if (list.outcomes != nullptr) list.outcomes[i] = outcome;
    }
  }
  counts.bytes_filled = counts.misses * cache().geometry().page_bytes;
}

std::size_t CudaActor::stage_pages(std::span<const PageList> lists, std::int32_t* to,
                                   std::size_t most) {
  std::size_t staged = 0;
  for (const PageList& list : lists) {
    const kernels::Page first = kernels::page_number(cache().table(), 0, list.page);
    for (std::uint32_t i = 0; i < list.count && staged < most; ++i) {
      to[staged++] = static_cast<std::int32_t>(first + list.sequence->id(list.blocks[i]));
    }
  }
  return staged;
}

ipc::Status CudaActor::do_start(Operation& operation) {
  std::size_t items = 0;
  for (const PageList& list : operation.lists) items += list.count;
  if (items == 0) return {};
  const Current current(device_.context());
  if (auto ok = make_room(items); !ok) return ok;
  const ListPlaces places(capacity_);
  stage_pages(operation.lists, state_->list_staging.at<std::int32_t>(places.items), items);
  if (auto ok = look_up(items); !ok) return ok;
  scatter(operation, state_->list_staging.at<std::int32_t>(places.slots),
          state_->list_staging.at<kernels::Outcome>(places.outcomes));
  return {};
}

// ---- forecast

ipc::Status CudaActor::lower_priority() {
  if (low_priority_) return {};
  auto low = OwnStream::make(Priority::least);
  if (!low) return std::unexpected(low.error());
  State& state = *state_;
  if (stream_ == state.own_stream.get()) {
    auto before = OwnEvent::make();
    if (!before) return std::unexpected(before.error());
    if (auto ok = before->record(stream_); !ok) return ok;
    if (auto ok = check(cudaStreamWaitEvent(low->get(), before->get(), 0),
                        "ordering a stream for forecasts after the actor's");
        !ok) {
      return ok;
    }
    stream_ = low->get();
  }
  // The old one goes when what is enqueued in it has run.
  state.own_stream = std::move(*low);
  low_priority_ = true;
  return {};
}

ipc::Status CudaActor::make_forecasts() {
  State& state = *state_;
  if (auto ok = lower_priority(); !ok) return ok;
  if (state.forecast_scratch.data() != nullptr) return {};
  for (ForecastList& list : state.forecasts) {
    auto items = StagingBuffer::make(kMostForecastItems * sizeof(std::int32_t));
    if (!items) return std::unexpected(items.error());
    auto passed = OwnEvent::make();
    if (!passed) return std::unexpected(passed.error());
    list.items = std::move(*items);
    list.passed = std::move(*passed);
  }
  auto scratch = DeviceBuffer::make(kernels::cuda::kForecastScratchBytes);
  if (!scratch) return std::unexpected(scratch.error());
  state.forecast_scratch = std::move(*scratch);
  return {};
}

ipc::Result<CudaActor::ForecastList*> CudaActor::free_forecast() {
  for (ForecastList& list : state_->forecasts) {
    const auto passed = list.passed.passed();
    if (!passed) return std::unexpected(passed.error());
    if (*passed) return &list;
  }
  return nullptr;
}

ipc::Status CudaActor::do_forecast(std::span<const PageList> lists, std::uint64_t /*deadline_us*/,
                                   std::uint32_t confidence) {
  std::size_t pages = 0;
  for (const PageList& list : lists) pages += list.count;
  if (pages == 0) return {};
  const CurrentBesideCaptures current(device_.context());
  if (auto ok = make_forecasts(); !ok) return ok;
  const auto list = free_forecast();
  if (!list) return std::unexpected(list.error());
  std::size_t items = 0;
  if (*list != nullptr) {
    items = stage_pages(lists, (*list)->items.at<std::int32_t>(), kMostForecastItems);
  }
  // What the device drops it counts by itself.
  cache().stats().forecast_dropped.fetch_add(pages - items, std::memory_order_relaxed);
  if (items == 0) return {};
  kernels::cuda::ResolveBatch batch;
  batch.items = (*list)->items.at<std::int32_t>();
  batch.lists = 1;
  batch.item_stride = static_cast<std::uint32_t>(items);
  const kernels::cuda::ForecastGoal goal{kForecastBudgetBytes,
                                         kernels::forecast_min_age(confidence), 0};
  if (auto ok =
          check_launch(kernels::cuda::forecast(cache().table(), cache().store(), index(), batch,
                                               goal, state_->forecast_scratch.data(), stream_),
                       "enqueueing a forecast");
      !ok) {
    return ok;
  }
  return (*list)->passed.record(stream_);
}

// ---- pins

ipc::Result<std::shared_ptr<BlockWork>> CudaActor::work_on(std::uint32_t id, std::uint32_t frame,
                                                           std::span<const std::int32_t> slots) {
  auto work = device_.works().take();
  if (!work) return work;
  *(*work)->id() = id;
  *(*work)->frame() = frame;
  std::ranges::copy(slots, (*work)->slots());
  return work;
}

// Pins have a stream of their own, behind the begin of the step: it is the host that waits for
// them, and that should not be for all that it has enqueued since.
ipc::Result<cudaStream_t> CudaActor::stream_for_pins() {
  if (!knows_begin_) return stream_;
  const cudaStream_t stream = state_->pin_stream.get();
  if (auto ok = check(cudaStreamWaitEvent(stream, state_->begun.get(), 0),
                      "ordering pins behind the begin of a step");
      !ok) {
    return std::unexpected(ok.error());
  }
  return stream;
}

ipc::Result<std::vector<std::int32_t>> CudaActor::do_pin(const Sequence& sequence,
                                                         std::uint32_t block) {
  const CurrentBesideCaptures current(device_.context());
  std::vector<std::int32_t> slots(cache().geometry().pages_per_block);
  const auto work = work_on(sequence.id(block), kernels::kNoFrame, {});
  if (!work) return std::unexpected(work.error());
  const auto stream = stream_for_pins();
  if (!stream) return std::unexpected(stream.error());
  auto* const claimed = state_->claimed.at<kernels::Slot>();
  if (auto ok = check_launch(kernels::cuda::claim_pins(cache().table(), cache().slots(), index(),
                                                       (*work)->id(), 1, claimed, *stream),
                             "enqueueing a claim of pinned slots");
      !ok) {
    return std::unexpected(ok.error());
  }
  if (auto ok =
          check(cudaMemcpyAsync((*work)->slots(), claimed, slots.size() * sizeof(kernels::Slot),
                                cudaMemcpyDeviceToHost, *stream),
                "a copy of claimed slots");
      !ok) {
    (void)cudaStreamSynchronize(*stream);  // the claim reads the work's lists
    return std::unexpected(ok.error());
  }
  if (auto ok = check(cudaStreamSynchronize(*stream), "a claim of pinned slots"); !ok) {
    return std::unexpected(ok.error());
  }
  std::copy_n((*work)->slots(), slots.size(), slots.begin());
  if (slots.front() == kernels::kNoSlot) {
    return fail(Errc::no_slot, "the arena has no " + std::to_string(slots.size()) +
                                   " slots that running steps do not use; end a step, or give "
                                   "the cache more HBM");
  }
  return slots;
}

ipc::Result<Pending> CudaActor::unpin(std::uint32_t id, const std::vector<std::int32_t>& slots) {
  const Current current(device_.context());
  auto work = work_on(id, kernels::kNoFrame, slots);
  if (!work) return std::unexpected(work.error());
  if (auto ok = check_launch(kernels::cuda::seal_pins(cache().table(), index(), (*work)->id(), 1,
                                                      (*work)->slots(), stream_),
                             "enqueueing the seal of pinned slots");
      !ok) {
    return std::unexpected(ok.error());
  }
  return enqueued(std::move(*work));
}

ipc::Result<Pending> CudaActor::enqueued(std::shared_ptr<BlockWork> work) {
  if (auto ok = work->ends_here(stream_); !ok) {
    (void)wait("what may read the work's lists");
    return std::unexpected(ok.error());
  }
  return work;
}

ipc::Result<Pending> CudaActor::copy_to_frame(const Sequence& from, std::uint32_t block,
                                              const Sequence& to) {
  const Current current(device_.context());
  if (auto ok = check_not_captured("a store"); !ok) return std::unexpected(ok.error());
  auto work = work_on(0, to.frame(block), *from.pinned(block));
  if (!work) return std::unexpected(work.error());
  if (auto ok = check_launch(
          kernels::cuda::copy_to_frames(cache().table(), cache().store(), cache().frames(),
                                        (*work)->slots(), (*work)->frame(), 1, stream_),
          "enqueueing a copy to a frame");
      !ok) {
    return std::unexpected(ok.error());
  }
  return enqueued(std::move(*work));
}

// In the actor's stream, which may have written to the frame.
ipc::Status CudaActor::copy_to_slots(const Sequence& of, std::uint32_t block) {
  const std::uint32_t frame = of.frame(block);
  if (auto ok = cache().wait_pinned_frame(frame, cache().client().deadline()); !ok) return ok;
  const CurrentBesideCaptures current(device_.context());
  const auto work = work_on(0, frame, *of.pinned(block));
  if (!work) return std::unexpected(work.error());
  if (auto ok =
          check_launch(kernels::cuda::copy_to_slots(cache().table(), cache().store(),
                                                    (*work)->slots(), (*work)->frame(), 1, stream_),
                       "enqueueing a copy to pinned slots");
      !ok) {
    return ok;
  }
  return wait("a copy to pinned slots");
}

}  // namespace sluice::client::internal::cuda
