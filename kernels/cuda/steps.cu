// Steps on a device (rules 3, 4 and 7), with the frame log applied by a whole block of threads.
#include "kernels/cuda/steps.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr unsigned kEnterThreads = 256;
constexpr unsigned kEnterBlocks = 2;  // one enters, one looks for old words

__global__ void __launch_bounds__(kEnterThreads)
    enter(const __grid_constant__ HotTable table, std::uint32_t actor) {
  await_stream();
  if (blockIdx.x == 1) {
    if (threadIdx.x < kWarp) age_by_warp(table);
    return;
  }
  ActorLine* const line = actor_line(table, actor);
  ActorLine* const mirror = mirror_line(table, actor);
  __shared__ std::uint32_t step;
  if (threadIdx.x == 0) {
    const std::uint32_t before = active_in(load(&table.header->clock) & kStepMask);
    store(&line->active, before);
    store_system(&mirror->active, before);
    // Pairs with the fences of cut_by_warp() and Grace::start_by_log(): either they see us active,
    // or we see below what they had read or written before.
    asm volatile("fence.sc.sys;" ::: "memory");
  }
  __syncthreads();
  // The clock, by a thread that does not wait for the log meanwhile: a step for now, and one for a
  // launch that advances.
  if (threadIdx.x == kWarp) step = take_steps(table, 2);
  const std::uint64_t position = apply_log(table, kEnterThreads);
  if (threadIdx.x == 0) {
    const std::uint32_t next = (step & kSharedStep) != 0 ? step : (step + 1) & kStepMask;
    const std::uint64_t entries = line->entries + 1;
    line->previous = line->step;
    line->step = step;
    line->next[0] = next;
    line->next[1] = next;
    line->entries = entries;
    line->log_position = position;
    store(&line->active, active_in(step & kStepMask));
    // In any order: the mirror says active since before the log was read, and a grace goes by the
    // position.
    store_system(&mirror->log_position, position);
    store_system(&mirror->entries, entries);
    store_system(&mirror->active, active_in(step & kStepMask));
  }
}

__global__ void leave(const __grid_constant__ HotTable table, std::uint32_t actor) {
  await_stream();
  leave_by_warp(table, actor);
}

__global__ void share(const __grid_constant__ HotTable table, std::uint32_t actor) {
  ActorLine* const line = actor_line(table, actor);
  store(&line->step, load(&line->step) | kSharedStep);
}

__global__ void reset(const __grid_constant__ HotTable table, std::uint32_t actor) {
  store_release_device(&actor_line(table, actor)->active, kIdle);
  store_system(&mirror_line(table, actor)->active, kIdle);
}

}  // namespace

Status enter_step(const HotTable& table, std::uint32_t actor, Stream stream) {
  return launch_kernel_early(enter, kEnterBlocks, kEnterThreads, stream, table, actor);
}

Status leave_step(const HotTable& table, std::uint32_t actor, Stream stream) {
  return launch_kernel_early(leave, 1, kWarp, stream, table, actor);
}

Status share_step(const HotTable& table, std::uint32_t actor, Stream stream) {
  return launch_kernel(share, 1, 1, stream, table, actor);
}

Status reset_actor(const HotTable& table, std::uint32_t actor, Stream stream) {
  return launch_kernel(reset, 1, 1, stream, table, actor);
}

Status load_steps() {
  if (const Status failed = load_kernel_launched_early(enter)) return failed;
  if (const Status failed = load_kernel_launched_early(leave)) return failed;
  if (const Status failed = load_kernel(share)) return failed;
  return load_kernel(reset);
}

}  // namespace sluice::kernels::cuda
