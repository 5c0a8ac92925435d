// What the kernels of this folder share: loads and exchanges with the scope and order they need,
// and claims of slots by a warp.
//
// Scopes. Words, hints, clocks and actors of a split table lie in the device's memory, whose one L2
// serves every process of the device, time-sliced or under MPS: operations at device scope, which
// are done there, are seen by all of them. What the CPU reads or writes is accessed at system
// scope.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "kernels/cuda/launch.h"
#include "kernels/steps.h"
#include "kernels/sweep.h"
#include "kernels/table.h"

namespace sluice::kernels::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

// Enqueues a kernel. Its own error only: what went wrong before in this thread is not ours to take.
// `early`: it may be brought onto the device while the kernel before it in the stream is ending,
// and waits there by await_stream() (CUDA C++ Programming Guide, programmatic dependent launch).
template <class... Parameters, class... Arguments>
Status launch_kernel_if(bool early, void (*kernel)(Parameters...), unsigned blocks,
                        unsigned threads, Stream stream, Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}
template <class... Parameters, class... Arguments>
Status launch_kernel(void (*kernel)(Parameters...), unsigned blocks, unsigned threads,
                     Stream stream, Arguments&&... arguments) {
  return launch_kernel_if(false, kernel, blocks, threads, stream,
                          std::forward<Arguments>(arguments)...);
}

// Kernels that begin with await_stream(). Code for older devices does not wait, also where it is
// translated for newer ones, and is not launched early.
inline constexpr int kLeastArchOfEarlyLaunch = 90;
inline std::atomic<std::uint64_t> devices_of_early_launch{0};  // bits of the first 64

template <class... Parameters, class... Arguments>
Status launch_kernel_early(void (*kernel)(Parameters...), unsigned blocks, unsigned threads,
                           Stream stream, Arguments&&... arguments) {
  int device = 0;
  if (const cudaError_t failed = cudaGetDevice(&device); failed != cudaSuccess) return failed;
  const std::uint64_t devices = devices_of_early_launch.load(std::memory_order_relaxed);
  const bool early = device < 64 && (devices >> device & 1) != 0;
  return launch_kernel_if(early, kernel, blocks, threads, stream,
                          std::forward<Arguments>(arguments)...);
}

// Makes the driver load a kernel, which it otherwise does at its first launch: never in a capture.
template <class... Parameters>
Status load_kernel(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, kernel);
}
template <class... Parameters>
Status load_kernel_launched_early(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  int device = 0;
  if (const Status failed = cudaFuncGetAttributes(&attributes, kernel)) return failed;
  if (const Status failed = cudaGetDevice(&device)) return failed;
  if (device < 64 && attributes.ptxVersion >= kLeastArchOfEarlyLaunch) {
    devices_of_early_launch.fetch_or(std::uint64_t{1} << device, std::memory_order_relaxed);
  }
  return cudaSuccess;
}
Status load_steps();
Status load_blocks();
Status load_resolve();
Status load_forecast();

// What the stream did before is done afterwards, and seen.
__device__ inline void await_stream() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// When all blocks have called this, or ended, the next kernel may be brought onto the device if it
// was launched early; it waits there for the end of this one.
__device__ inline void let_next_come() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline std::uint32_t load(const std::uint32_t* at) {
  std::uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}

__device__ inline std::uint64_t load(const std::uint64_t* at) {
  std::uint64_t value;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
  return value;
}

__device__ inline std::uint32_t load_acquire_device(const std::uint32_t* at) {
  std::uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}

__device__ inline std::uint64_t load_acquire_system(const std::uint64_t* at) {
  std::uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
  return value;
}

__device__ inline void store(std::uint32_t* at, std::uint32_t value) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}

__device__ inline void store_release_device(std::uint32_t* at, std::uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}

// Plain loads and stores of the node's memory, which the CPU reads and writes.
__device__ inline std::uint32_t load_system(const std::uint32_t* at) {
  std::uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}
__device__ inline std::uint64_t load_system(const std::uint64_t* at) {
  std::uint64_t value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
  return value;
}
__device__ inline void store_system(std::uint32_t* at, std::uint32_t value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}
__device__ inline void store_system(std::uint64_t* at, std::uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(at), "l"(value) : "memory");
}

// Nanoseconds, as far as the device's clock tells them apart.
__device__ inline std::uint32_t time_now() {
  std::uint32_t value;
  asm volatile("mov.u32 %0, %%globaltimer_lo;" : "=r"(value));
  return value;
}

__device__ inline std::uint64_t nanoseconds() {
  std::uint64_t value;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(value));
  return value;
}

// Relaxed: what a word promises is ordered by the fences of those who make and use the promise.
__device__ inline Word exchange_if(Word* at, Word expected, Word desired) {
  return atomicCAS(reinterpret_cast<unsigned long long*>(at), expected, desired);
}

__device__ inline unsigned lane_id() { return threadIdx.x % kWarp; }
__device__ inline unsigned lanes_below() { return (1u << lane_id()) - 1; }

__device__ inline ActorLine* mirror_line(const HotTable& table, std::uint32_t actor) {
  return reinterpret_cast<ActorLine*>(table.mirrors + std::size_t{actor} * kActorBytes);
}

// How far an actor's step is behind the clock; 0 also for one that is idle.
__device__ inline Step steps_behind(std::uint32_t active, Step clock) {
  if (!is_active(active)) return 0;
  const Step behind = steps_between(active_step(active), clock);
  return behind < kHalfRange ? behind : 0;
}

// The cut of rule 4, by a whole warp, from a clock that was read before: each actor once.
//
// The loads are relaxed: what depends on the cut is an exchange of a word and stores to its slot,
// which the device does not begin before it knows that it will do them; and who left a step had
// done its reads of slots by then. A cut stays right for ever, so an early clock only makes it
// lower.
__device__ inline Cut cut_by_warp(const HotTable& table, Step clock) {
  std::uint32_t most = 0;  // steps behind the clock
#pragma unroll 4
  for (std::uint32_t i = lane_id(); i < table.sizes.actors; i += kWarp) {
    most = max(most, steps_behind(load(&actor_line(table, i)->active), clock));
  }
  most = __reduce_max_sync(kWholeWarp, most);
  return {clock, (clock - most) & kStepMask};
}

__device__ inline Cut cut_by_warp(const HotTable& table) {
  const Step clock = load(&table.header->clock) & kStepMask;
  // Rule 4: the clock first. Pairs with the fence of enter.
  asm volatile("fence.sc.gpu;" ::: "memory");
  return cut_by_warp(table, clock);
}

// Marks of forecasts, as in forecast_marks.h but at the device's scope; relaxed, since they only
// count. Who read header->forecasts as 0 need not look at any; what it misses then is a count.
__device__ inline bool clear_mark(const HotTable& table, std::uint32_t slot) {
  const std::uint64_t bit = std::uint64_t{1} << (slot % 64);
  std::uint64_t* const at = &table.forecast_bits[slot / 64];
  if ((load(at) & bit) == 0) return false;
  if ((atomicAnd(reinterpret_cast<unsigned long long*>(at), ~bit) & bit) == 0) return false;
  atomicSub(&table.header->forecasts, 1u);
  return true;
}

__device__ inline void count_wasted(const HotTable& table) {
  atomicAdd(reinterpret_cast<unsigned long long*>(&table.header->forecast_wasted), 1ull);
}

// What the slot held is gone: a mark that is still there was for nothing.
static __device__ __noinline__ void waste_mark(const HotTable& table, std::uint32_t slot) {
  if (clear_mark(table, slot)) count_wasted(table);
}

__device__ inline void add_freed(const HotTable& table, std::uint32_t slots) {
  if (slots == 0) return;
  atomicAdd(reinterpret_cast<unsigned long long*>(&table.header->freed), std::uint64_t{slots});
}

// Words that a warp looks at in one go. Claims take the oldest of a window, so the recency of the
// whole table is a sample of windows: with 128 words close to LRU, and work follows misses alone.
inline constexpr unsigned kWordsPerLane = 4;
inline constexpr unsigned kWindow = kWarp * kWordsPerLane;
// Windows that one claim looks at, at most; a pool full of pages in use is found out by then.
inline constexpr unsigned kMaxWindows = 256;
inline constexpr Step kFreeAge = kStepMask;  // free words are older than all others

// Word j of a lane is word j * kWarp + lane of the window, so that a warp's loads are contiguous.
struct Window {
  Word words[kWordsPerLane];
  unsigned tried = 0;       // bit j: words[j] was
  std::uint32_t first = 0;  // slot of words[0] of this lane

  __device__ std::uint32_t slot(unsigned j) const { return first + j * kWarp; }
};

__device__ inline std::uint32_t windows_of(std::uint32_t slots) {
  return (slots + kWindow - 1) / kWindow;
}

__device__ inline void load_window(const HotTable& table, std::uint32_t slots, std::uint32_t index,
                                   Window& window) {
  window.tried = 0;
  window.first = index * kWindow + lane_id();
#pragma unroll
  for (unsigned j = 0; j < kWordsPerLane; ++j) {
    // A pinned word is the filler: never taken.
    window.words[j] = window.slot(j) < slots ? load(&table.words[window.slot(j)]) : kPinBit;
  }
}

// How old a word is, if it may be taken; else 0.
__device__ inline Step takeable_age(Word word, const Cut& cut) {
  const Step age = steps_between(step_of(word), cut.clock);
  const Step behind = steps_between(cut.step, cut.clock);
  Step takeable = age > behind ? age : 0;
  // Stamped since the clock was read; or a step that nobody can have taken.
  if (age >= kHalfRange)
    takeable = age <= kStepMask + 1 - kernels::detail::kImpossibleLead ? kHalfRange : 0;
  if (is_free(word)) takeable = kFreeAge;
  return is_pinned(word) ? 0 : takeable;
}

// What words a claim may take.
struct Takeable {
  Cut cut;
  Step min_age = 1;
  unsigned lanes = kWholeWarp;  // whose words
};

// The oldest word of this lane that was not tried yet.
struct Oldest {
  Word word = kFreeWord;
  Step age = 0;  // 0: there is none
  unsigned place = 0;
};
__device__ inline Oldest oldest_of_lane(const Window& window, const Takeable& takeable) {
  Oldest oldest;
  if ((takeable.lanes >> lane_id() & 1) == 0) return oldest;
#pragma unroll
  for (unsigned j = 0; j < kWordsPerLane; ++j) {
    const Step age = takeable_age(window.words[j], takeable.cut);
    if ((window.tried >> j & 1) != 0 || age < takeable.min_age || age <= oldest.age) continue;
    oldest = {window.words[j], age, j};
  }
  return oldest;
}

// A warp's need of slots, in shared memory of the warp.
struct Wants {
  Page page[kWarp];            // by rank among those who still want
  std::uint32_t owner[kWarp];  // lane, by rank
  Slot slot[kWarp];            // by lane: what was claimed
};

inline constexpr unsigned kNoRank = ~0u;

// The rank of this lane's age among those of the warp, the highest first, if it is below `need`;
// else kNoRank. Of one age, the lane `shift` is the first.
__device__ inline unsigned rank_of_age(Step age, unsigned need, unsigned shift) {
  unsigned rank = kNoRank;
  unsigned ranked = 0;
#pragma unroll 1
  while (ranked < need) {
    const Step oldest = __reduce_max_sync(kWholeWarp, age);
    if (oldest == 0) break;
    const unsigned among = __ballot_sync(kWholeWarp, age == oldest);
    if (age == oldest) {
      const unsigned before = (1u << ((lane_id() - shift) % kWarp)) - 1;
      rank = ranked + __popc(__funnelshift_r(among, among, shift) & before);
      age = 0;
    }
    ranked += __popc(among);
  }
  return rank < need ? rank : kNoRank;
}

// Lane i wants a slot for `page` if bit i of `wanting` is set (the same in all lanes). Takes what
// the window has, at most `most` of it, each lane's oldest word before the second of any;
// wants.slot has the slots of served lanes. Warps that share a window have different `turn`s, so
// that they do not all try one word of many that are equally old. Returns who still wants; claims
// that took the place of another page are added to `displaced`.
__device__ inline unsigned claim_from_window(const HotTable& table, Window& window,
                                             const Takeable& takeable, Page page, Step step,
                                             bool pin, unsigned wanting, unsigned most,
                                             unsigned turn, Wants& wants,
                                             std::uint32_t& displaced) {
#pragma unroll 1
  while (wanting != 0 && most != 0) {
    const Oldest mine = oldest_of_lane(window, takeable);
    const unsigned need = min(most, static_cast<unsigned>(__popc(wanting)));
    const unsigned rank = rank_of_age(mine.age, need, turn % kWarp);
    const unsigned trying = __ballot_sync(kWholeWarp, rank != kNoRank);
    if (trying == 0) break;
    most -= __popc(trying);
    if ((wanting >> lane_id() & 1) != 0) {
      const unsigned place = __popc(wanting & lanes_below());
      wants.page[place] = page;
      wants.owner[place] = lane_id();
    }
    __syncwarp();
    unsigned served = 0;
    bool displaces = false;
    if (rank != kNoRank) {
      window.tried |= 1u << mine.place;
      const std::uint32_t slot = window.slot(mine.place);
      if (exchange_if(&table.words[slot], mine.word,
                      make_word(wants.page[rank], step, pin, false)) == mine.word) {
        const unsigned owner = wants.owner[rank];
        wants.slot[owner] = static_cast<Slot>(slot);
        displaces = !is_free(mine.word);
        served = 1u << owner;
      }
    }
    wanting &= ~__reduce_or_sync(kWholeWarp, served);
    displaced += __popc(__ballot_sync(kWholeWarp, displaces));
  }
  __syncwarp();
  return wanting;
}

}  // namespace sluice::kernels::cuda
