// Device functions of steps that more than one kernel uses.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/frame_log.h"

namespace sluice::kernels::cuda {

// A step as an actor keeps it, with a bit that says that the clock stands (kMaxClockLead), so that
// others may have taken the same one.
inline constexpr std::uint32_t kSharedStep = 1u << 31;

// The first of `count` steps that nobody else has.
__device__ inline std::uint32_t take_steps(const HotTable& table, std::uint32_t count) {
  const Step clock = load(&table.header->clock) & kStepMask;
  const Step lead = steps_between(load(&table.header->swept) & kStepMask, clock);
  if (lead >= kMaxClockLead && lead < kHalfRange) return clock | kSharedStep;
  return (atomicAdd(&table.header->clock, count) + 1) & kStepMask;
}

__device__ inline std::uint32_t take_step(const HotTable& table) { return take_steps(table, 1); }

__device__ inline void raise_frame(const HotTable& table, Block block, Frame frame,
                                   std::uint32_t version) {
  std::uint64_t* const at = &table.frame_of[block];
  std::uint64_t seen = load(at);
#pragma unroll 1
  for (std::uint32_t i = 0; i < table.sizes.log_capacity; ++i) {
    if (static_cast<std::int32_t>(version - version_in(seen)) <= 0) return;
    const std::uint64_t was = exchange_if(at, seen, make_frame_entry(frame, version));
    if (was == seen) return;
    seen = was;
  }
}

// Takes what the daemon keeps up to host_header->log_applied, which the caller has read, and
// acquired. Several loads of a thread are under way: each takes a turn over PCIe.
static __device__ __noinline__ void take_original(const HotTable& table, unsigned threads) {
#pragma unroll 4
  for (std::uint32_t block = threadIdx.x; block < table.sizes.blocks; block += threads) {
    std::uint64_t entry;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];"
                 : "=l"(entry)
                 : "l"(&table.frame_original[block]));
    raise_frame(table, block, frame_in(entry), version_in(entry));
  }
}

// Applies what was logged since, by the first `threads` threads of a block, whole warps, for which
// barrier kLogBarrier is, and returns the log's end (the same in all). An entry is read by one load
// of its 16 bytes, which one transaction brings from the CPU's cache. Whoever is more than half a
// ring behind, and could meet entries that are being overwritten, takes the original instead, which
// the daemon keeps up to host_header->log_applied.
inline constexpr unsigned kLogBarrier = 1;
__device__ inline std::uint64_t apply_log(const HotTable& table, unsigned threads) {
  const auto wait = [threads] {
    __syncwarp();
    asm volatile("bar.sync %0, %1;" ::"n"(kLogBarrier), "r"(threads) : "memory");
  };
  __shared__ std::uint64_t begin;
  __shared__ std::uint64_t end;
  __shared__ bool behind;
  __shared__ bool news;
  __shared__ bool overtaken;
  if (threadIdx.x == 0) {
    end = load_acquire_system(table.log_end);
    begin = load(table.log_applied);
    news = begin < end;
    overtaken = false;
    behind = news && end - begin > table.sizes.log_capacity / 2;
    if (behind) begin = load_acquire_system(&table.host_header->log_applied);
  }
  wait();
  if (behind) take_original(table, threads);
  std::uint64_t at = begin;
  if (at < end && end - at > table.sizes.log_capacity) at = end - table.sizes.log_capacity;
#pragma unroll 1
  for (at += threadIdx.x; at < end; at += threads) {
    const LogEntry* entry = &table.log[at & (table.sizes.log_capacity - 1)];
    std::uint64_t change = 0;
    std::uint64_t stamp = 0;
    asm volatile("ld.volatile.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(change), "=l"(stamp)
                 : "l"(entry)
                 : "memory");
    const auto block = static_cast<Block>(change >> 32);
    if (static_cast<std::uint32_t>(stamp) != static_cast<std::uint32_t>(at + 1) ||
        block >= table.sizes.blocks) {
      continue;
    }
    raise_frame(table, block, static_cast<Frame>(change), static_cast<std::uint32_t>(stamp >> 32));
  }
  // Entries that were overwritten meanwhile are in the original.
  if (threadIdx.x == 0 && news && !behind) {
    const std::uint64_t kept = load_acquire_system(&table.host_header->log_applied);
    overtaken = kept > begin && kept - begin > table.sizes.log_capacity / 2;
  }
  wait();
  if (overtaken) {
    take_original(table, threads);
    wait();
  }
  if (threadIdx.x == 0 && news) {
    __threadfence();
    atomicMax(reinterpret_cast<unsigned long long*>(table.log_applied), end);
  }
  return end;
}

// Drops words that are so old that steps would stop to compare, one window per step: an old word is
// taken by claims before that, unless there are none.
__device__ inline void age_by_warp(const HotTable& table) {
  const std::uint32_t windows = windows_of(table.sizes.slots);
  std::uint32_t index = 0;
  if (lane_id() == 0) index = atomicAdd(&table.header->scan_from, 1u) % windows;
  index = __shfl_sync(kWholeWarp, index, 0);
  const Cut cut = cut_by_warp(table);
  Window window;
  load_window(table, table.sizes.slots, index, window);
  for (unsigned j = 0; j < kWordsPerLane; ++j) {
    const Word word = window.words[j];
    Word* const at = &table.words[window.slot(j)];
    if (window.slot(j) >= table.sizes.slots) continue;
    if (is_pinned(word)) {
      // One that its owner has not touched for long keeps comparable.
      const bool stale = steps_between(step_of(word), cut.step) > kMaxWordAge;
      if (stale && step_before(step_of(word), cut.step)) {
        exchange_if(at, word, with_step(word, cut.step));
      }
    } else if (!is_free(word) && takeable_age(word, cut) > kMaxWordAge) {
      exchange_if(at, word, kFreeWord);
    }
  }
  if (lane_id() == 0 && index + 1 == windows) {
    // A round is over. A window whose visitor died is visited in the next one: the bounds of
    // kMaxWordAge, kMaxClockLead and kHalfRange leave room for that.
    const std::uint32_t begun = atomicExch(&table.header->round_from, cut.clock);
    Step swept = (begun - kMaxWordAge) & kStepMask;
    if (step_before(cut.step, swept)) swept = cut.step;  // words in use stay, however old
    if (step_before(load(&table.header->swept) & kStepMask, swept)) {
      store(&table.header->swept, swept);
    }
  }
}

// The actor's counters and the table's sums, for the daemon. Several actors may store the sums at a
// time; each is a sum of some moment.
__device__ inline void mirror_counters(const HotTable& table, std::uint32_t actor) {
  constexpr unsigned kCounters = sizeof(ActorCounters) / sizeof(std::uint64_t);
  const auto* from = reinterpret_cast<const std::uint64_t*>(&actor_line(table, actor)->counters);
  auto* to = reinterpret_cast<std::uint64_t*>(&mirror_line(table, actor)->counters);
  if (lane_id() < kCounters) store_system(&to[lane_id()], load(&from[lane_id()]));
  constexpr unsigned kSums = 4;
  static_assert(kCounters + kSums <= kWarp);
  const TableHeader* const own = table.header;
  TableHeader* const sums = table.host_header;
  if (lane_id() == kCounters) store_system(&sums->freed, load(&own->freed));
  if (lane_id() == kCounters + 1) store_system(&sums->sweeps, load(&own->sweeps));
  if (lane_id() == kCounters + 2) {
    store_system(&sums->forecast_wasted, load(&own->forecast_wasted));
  }
  if (lane_id() == kCounters + 3) store_system(&sums->forecasts, load(&own->forecasts));
}

// What the stream read of slots it has read: what comes before us in it has ended (await_stream).
__device__ inline void leave_by_warp(const HotTable& table, std::uint32_t actor) {
  if (lane_id() == 0) {
    store(&actor_line(table, actor)->active, kIdle);
    store_system(&mirror_line(table, actor)->active, kIdle);
  }
  mirror_counters(table, actor);
}

}  // namespace sluice::kernels::cuda
