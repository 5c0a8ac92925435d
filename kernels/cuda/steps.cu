// Steps on a device (rules 3, 4 and 7), with the frame log applied by a whole block of threads.
#include "kernels/cuda/steps.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr unsigned kEnterThreads = 256;

// Drops words that are so old that steps would stop to compare, one window per step: an old word is
// taken by claims before that, unless there are none.
__device__ void age_by_warp(const HotTable& table) {
  const std::uint32_t windows = windows_of(table.sizes.slots);
  std::uint32_t index = 0;
  if (lane_id() == 0) index = atomicAdd(&table.header->scan_from, 1u) % windows;
  index = __shfl_sync(kWholeWarp, index, 0);
  const Cut cut = cut_by_warp(table);
  Window window;
  load_window(table, table.sizes.slots, index, window);
  for (unsigned j = 0; j < kWordsPerLane; ++j) {
    const Word word = window.words[j];
    const Step age = steps_between(step_of(word), cut.clock);
    if (window.first + j >= table.sizes.slots || is_free(word) || age <= kMaxWordAge) continue;
    if (age < kHalfRange && !step_before(step_of(word), cut.step)) continue;
    // A pin that its owner has not touched for long keeps comparable.
    exchange_if(&table.words[window.first + j], word,
                is_pinned(word) ? with_step(word, cut.step) : kFreeWord);
  }
  if (lane_id() == 0 && index + 1 == windows) {
    // A round is over. A window whose visitor died is visited in the next one: the bounds of
    // kMaxWordAge, kMaxClockLead and kHalfRange leave room for that.
    const std::uint32_t begun = atomicExch(&table.header->round_from, cut.clock);
    const Step swept = (begun - kMaxWordAge) & kStepMask;
    if (step_before(load(&table.header->swept) & kStepMask, swept)) {
      store(&table.header->swept, swept);
    }
  }
}

__global__ void __launch_bounds__(kEnterThreads)
    enter(const __grid_constant__ HotTable table, std::uint32_t actor) {
  ActorLine* const line = actor_line(table, actor);
  ActorLine* const mirror = mirror_line(table, actor);
  __shared__ Step before;
  if (threadIdx.x == 0) {
    before = load(&table.header->clock) & kStepMask;
    store(&line->active, active_in(before));
    store_system(&mirror->active, active_in(before));
    // Pairs with the fences of cut_by_warp() and Grace::start_by_log(): either they see us active,
    // or we see below what they had read or written before.
    asm volatile("fence.sc.sys;" ::: "memory");
  }
  __syncthreads();
  const std::uint64_t position = apply_log_by_block(table);
  if (threadIdx.x == 0) {
    const std::uint64_t entries = line->entries + 1;
    line->entries = entries;
    line->log_position = position;
    store_system(&mirror->log_position, position);
    store_system(&mirror->entries, entries);
    const std::uint32_t step = take_step(table);
    const std::uint32_t next = take_step(table);
    line->previous = line->step;
    line->step = step;
    line->next[0] = next;
    line->next[1] = next;
    // Release: a grace that reads this step also reads the log position of this entry.
    __threadfence_system();
    store(&line->active, active_in(step & kStepMask));
    store_system(&mirror->active, active_in(step & kStepMask));
  }
  if (threadIdx.x / kWarp == 1) age_by_warp(table);
}

__global__ void leave(const __grid_constant__ HotTable table, std::uint32_t actor) {
  leave_by_warp(table, actor);
}

__global__ void reset(const __grid_constant__ HotTable table, std::uint32_t actor) {
  store_release_device(&actor_line(table, actor)->active, kIdle);
  store_system(&mirror_line(table, actor)->active, kIdle);
}

}  // namespace

Status enter_step(const HotTable& table, std::uint32_t actor, Stream stream) {
  return launch_kernel(enter, 1, kEnterThreads, stream, table, actor);
}

Status leave_step(const HotTable& table, std::uint32_t actor, Stream stream) {
  return launch_kernel(leave, 1, kWarp, stream, table, actor);
}

Status reset_actor(const HotTable& table, std::uint32_t actor, Stream stream) {
  return launch_kernel(reset, 1, 1, stream, table, actor);
}

Status load_steps() {
  if (const Status failed = load_kernel(enter)) return failed;
  if (const Status failed = load_kernel(leave)) return failed;
  return load_kernel(reset);
}

}  // namespace sluice::kernels::cuda
