#include "client/cuda/cuda_plan.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "kernels/forecast.h"

namespace sluice::client::internal::cuda {

using ipc::Errc;
using ipc::fail;

namespace {

// Between two launches of a plan that waits. A read of NVMe takes some 100 us.
constexpr std::chrono::microseconds kFirstLaunchPause{50};
constexpr std::chrono::microseconds kLongestLaunchPause{2000};
// Between two looks at all blocks for extents that are new.
constexpr std::uint32_t kLaunchesPerLook = 8;

ipc::Status check_pages(const PlanOptions& options, const Cache& cache) {
  const std::uint32_t pages = cache.geometry().pages_per_block;
  const bool rows = options.kind == PlanItems::rows;
  if (rows && cache.layout().page_kind != ipc::PageKind::row) {
    return fail(Errc::invalid_argument,
                "plan_desc.kind is rows; they need a cache whose pages are rows");
  }
  const std::uint64_t end = std::uint64_t{options.first_page} +
                            (rows ? cache.layout().block_tokens : options.lists_per_sequence);
  if (end <= pages) return {};
  return fail(Errc::invalid_argument, "the plan names pages " + std::to_string(options.first_page) +
                                          " to " + std::to_string(end - 1) + "; a block has " +
                                          std::to_string(pages));
}

ipc::Status check_pointer(const void* pointer, std::int32_t ordinal, const char* name) {
  if (pointer == nullptr) return {};
  cudaPointerAttributes attributes{};
  const cudaError_t status = cudaPointerGetAttributes(&attributes, pointer);
  if (status != cudaSuccess) (void)cudaGetLastError();
  if (status == cudaSuccess && attributes.devicePointer != nullptr &&
      (attributes.type != cudaMemoryTypeDevice || attributes.device == ordinal)) {
    return {};
  }
  return fail(Errc::invalid_argument, std::string("plan_desc.") + name +
                                          " is no memory that device " + std::to_string(ordinal) +
                                          " can use");
}

ipc::Status check_pointers(const PlanOptions& options, std::int32_t ordinal) {
  const std::pair<const void*, const char*> pointers[] = {{options.items, "items"},
                                                          {options.counts, "counts"},
                                                          {options.list_count, "list_count"},
                                                          {options.sequences, "sequences"},
                                                          {options.slots, "slots"},
                                                          {options.outcomes, "outcomes"},
                                                          {options.without_slot, "without_slot"}};
  for (const auto& [pointer, name] : pointers) {
    if (auto ok = check_pointer(pointer, ordinal, name); !ok) return ok;
  }
  return {};
}

}  // namespace

ipc::Result<std::unique_ptr<Plan>> CudaPlan::make(CudaActor& actor, const PlanOptions& options) {
  CudaCache& device = actor.device();
  const CurrentBesideCaptures current(device.context());
  if (auto ok = check_pages(options, actor.cache()); !ok) return std::unexpected(ok.error());
  if (auto ok = check_pointers(options, device.ordinal()); !ok) return std::unexpected(ok.error());
  if (options.forecast) {
    if (auto ok = actor.lower_priority(); !ok) return std::unexpected(ok.error());
  }
  auto rows = device.rows().table();
  if (!rows) return std::unexpected(rows.error());
  auto stream = OwnStream::make();
  if (!stream) return std::unexpected(stream.error());
  kernels::cuda::Arrangement arrangement;
  arrangement.copying_ctas = options.copying_ctas;
  if (options.copying_ctas == 0) {
    arrangement = kernels::cuda::fastest_arrangement(
        actor.cache().store(), actor.cache().most_frame_bytes(),
        std::uint64_t{options.max_lists} * options.list_capacity);
  }
  arrangement.advance = options.advance;
  const std::size_t scratch_bytes =
      options.forecast ? kernels::cuda::kForecastScratchBytes
                       : kernels::cuda::resolve_scratch_bytes(
                             options.max_lists, options.list_capacity, arrangement.copying_ctas);
  auto scratch = DeviceBuffer::make_zeroed(scratch_bytes, stream->get());
  if (!scratch) return std::unexpected(scratch.error());

  std::unique_ptr<CudaPlan> plan(new CudaPlan(actor));
  *plan->scratch_ = std::move(*scratch);
  if (options.wait_us != 0) {
    auto state = DeviceBuffer::make_zeroed(sizeof(kernels::cuda::WaitState), stream->get());
    if (!state) return std::unexpected(state.error());
    *plan->wait_state_ = std::move(*state);
    plan->wait_us_ = options.wait_us;
  }
  kernels::cuda::ResolveBatch& batch = plan->batch_;
  batch.items = options.items;
  batch.slots = options.slots;
  batch.outcomes = reinterpret_cast<kernels::Outcome*>(options.outcomes);
  batch.counts = options.counts;
  batch.list_count = options.list_count;
  batch.sequences = options.sequences;
  batch.rows = *rows;
  batch.row_limit = kMaxSequenceRows;
  batch.lists = options.max_lists;
  batch.lists_per_sequence = options.lists_per_sequence;
  batch.item_stride = options.list_capacity;
  batch.first_page = options.first_page;
  batch.rows_per_block = actor.cache().layout().block_tokens;
  batch.kind = options.kind == PlanItems::rows ? kernels::cuda::ItemKind::row
                                               : kernels::cuda::ItemKind::block;
  batch.without_slot = options.without_slot;
  plan->arrangement_ = arrangement;
  if (options.advance) actor.has_plan_that_advances();
  plan->forecast_ = options.forecast;
  plan->goal_ = {options.budget_bytes, kernels::forecast_min_age(options.confidence),
                 options.copying_ctas};
  return plan;
}

CudaPlan::~CudaPlan() {
  if (!actor_.cache().client().in_owner()) {
    (void)scratch_.release();  // see CudaCache
    (void)wait_state_.release();
    (void)heard_.release();
    return;
  }
  const CurrentBesideCaptures current(actor_.device().context());
  scratch_.reset();
  wait_state_.reset();
  heard_.reset();
}

// What is captured now runs later, in steps that begin later.
ipc::Status CudaPlan::check_step(cudaStream_t stream) const {
  if (actor_.in_step()) return {};
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (auto ok = check(cudaStreamIsCapturing(stream, &capture), "launching a plan"); !ok) return ok;
  if (capture != cudaStreamCaptureStatusNone) return {};
  return fail(Errc::wrong_state, "the plan's actor is in no step; begin one first");
}

cudaStream_t CudaPlan::stream_of(const StreamRef& stream) const {
  return stream.is_cuda ? static_cast<cudaStream_t>(stream.handle) : actor_.stream();
}

kernels::cuda::Status CudaPlan::enqueue(cudaStream_t stream, std::uint64_t wait_us) {
  const Cache& cache = actor_.cache();
  if (forecast_) {
    return kernels::cuda::forecast(cache.table(), cache.store(), actor_.index(), batch_, goal_,
                                   scratch_->data(), stream);
  }
  if (wait_us == 0) {
    return kernels::cuda::resolve(cache.table(), cache.store(), actor_.index(), batch_,
                                  arrangement_, scratch_->data(), stream);
  }
  return kernels::cuda::resolve_waiting(cache.table(), cache.store(), actor_.index(), batch_,
                                        arrangement_, scratch_->data(), wait_us,
                                        wait_state_->at<kernels::cuda::WaitState>(), stream);
}

ipc::Status CudaPlan::launch(const StreamRef& stream) { return launch_and_wait(stream, wait_us_); }

ipc::Status CudaPlan::launch_and_wait(const StreamRef& stream, std::uint64_t wait_us) {
  if (auto ok = actor_.cache().client().check(); !ok) return ok;
  const Current current(actor_.device().context());
  const cudaStream_t in = stream_of(stream);
  if (auto ok = check_step(in); !ok) return ok;
  if (auto ok = check(static_cast<cudaError_t>(enqueue(in, wait_us)), "launching a plan"); !ok) {
    return ok;
  }
  return arrangement_.advance ? actor_.note_advance(in) : ipc::Status();
}

ipc::Status CudaPlan::check_wait(cudaStream_t stream) const {
  if (forecast_) return fail(Errc::invalid_argument, "nobody waits for a forecast");
  if (batch_.outcomes == nullptr) {
    return fail(Errc::invalid_argument,
                "a plan tells by plan_desc.outcomes what is to be waited for, and has none");
  }
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (auto ok = check(cudaStreamIsCapturing(stream, &capture), "waiting for a plan"); !ok) {
    return ok;
  }
  if (capture == cudaStreamCaptureStatusNone) return {};
  return fail(Errc::wrong_state, "a stream that is captured cannot be waited for");
}

ipc::Result<std::uint64_t> CudaPlan::count_absent(const StreamRef& stream) {
  const cudaStream_t in = stream_of(stream);
  const std::size_t items = std::size_t{batch_.lists} * batch_.item_stride;
  {
    const Current current(actor_.device().context());
    // What the launch does not write to is not absent.
    if (auto ok = check(cudaMemsetAsync(batch_.outcomes, 0, items, in), "waiting for a plan");
        !ok) {
      return std::unexpected(ok.error());
    }
  }
  // It is the host that waits, and that maps what the device cannot.
  if (auto ok = launch_and_wait(stream, 0); !ok) return std::unexpected(ok.error());
  const Current current(actor_.device().context());
  auto* const heard = heard_->at<kernels::Outcome>();
  const cudaError_t copied = cudaMemcpyAsync(heard, batch_.outcomes, items, cudaMemcpyDefault, in);
  if (auto ok = check(copied, "waiting for a plan"); !ok) return std::unexpected(ok.error());
  if (auto ok = check(cudaStreamSynchronize(in), "waiting for a plan"); !ok) {
    return std::unexpected(ok.error());
  }
  return static_cast<std::uint64_t>(std::count(heard, heard + items, kernels::Outcome::absent));
}

ipc::Status CudaPlan::launch_wait(const StreamRef& stream, ipc::Deadline until,
                                  std::uint64_t& absent) {
  if (auto ok = actor_.cache().client().check(); !ok) return ok;
  {
    const CurrentBesideCaptures current(actor_.device().context());
    if (auto ok = check_wait(stream_of(stream)); !ok) return ok;
    if (heard_ == nullptr) {
      auto made = StagingBuffer::make(std::size_t{batch_.lists} * batch_.item_stride);
      if (!made) return std::unexpected(made.error());
      heard_ = std::make_unique<StagingBuffer>(std::move(*made));
    }
  }
  auto pause = kFirstLaunchPause;
  for (std::uint32_t launches = 0;; ++launches) {
    if (launches % kLaunchesPerLook == 1) {
      if (auto ok = actor_.cache().map_all_extents(); !ok) return ok;
    }
    const auto left = count_absent(stream);
    if (!left) return std::unexpected(left.error());
    absent = *left;
    if (absent == 0 || ipc::Clock::now() >= until) return {};
    std::this_thread::sleep_until(std::min(ipc::Clock::now() + pause, until));
    pause = std::min(pause * 3 / 2, kLongestLaunchPause);
  }
}

}  // namespace sluice::client::internal::cuda
