// resolve on a device: every block of threads takes a slice of the lists.
//
//  1. Look-up. Hint, then word; a thread has one or two items, whose loads overlap. Hits are
//     stamped and done. One warp of the block beside its items reads the state of the launch.
//  2. Claims, by each warp for what it misses: it reads windows of words and takes the oldest that
//     nobody uses, by one exchange each. There is no free list and no separate sweep: work follows
//     the misses, and nothing can run dry or be lost with a process that dies.
//  3. Copies. All threads move the missing pages of the slice together, 16 bytes at a time. They
//     begin when slots are claimed: an SM returns loads in order, so those of words would wait for
//     reads of host memory that were begun before them.
//  4. Ready bits.
#include <algorithm>
#include <cstddef>

#include "kernels/cuda/copiers.cuh"
#include "kernels/cuda/resolve_claims.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr std::uint32_t kLeastSlice = 32;   // items of a looker, if pages are small
constexpr std::uint32_t kLeastOfLarge = 4;  // and if one alone is work for a block of threads
constexpr unsigned kFewLookers = 128;       // as many as there are, if the lists are not very long
constexpr unsigned kMostCopiers = 64;       // more are no faster
constexpr std::uint64_t kSmallPageBytes = 4096;
// Where rows may lie far apart: what a looker hands over is in order, so few have much each.
constexpr std::uint32_t kCopiersIfFar = 16;
constexpr std::uint32_t kLookersIfFar = 64;
// Of a launch that waits. A read of NVMe takes some 100 us.
constexpr unsigned kLookAgainNs = 10'000;
constexpr std::uint64_t kAskAgainNs = 1'000'000;

// Of a page that is there. A look after a wait leaves what the one before it brought in as that.
__device__ inline Outcome outcome_of_hit(const Launch& launch, std::uint32_t index) {
  if (launch.only_if == nullptr) return Outcome::hit;
  return launch.batch.outcomes[index] == Outcome::filled ? Outcome::filled : Outcome::hit;
}

// By all threads, kPerThread items each, whose loads overlap. Returns how many of its items the
// warp misses; then `window` is its first one.
template <unsigned kPerThread>
__device__ std::uint32_t look_up(const Launch& launch, Shared& shared, std::uint32_t begin,
                                 std::uint32_t end, Window& window) {
  const HotTable& table = launch.table;
  const std::uint32_t slots = launch.store.slots;
  const unsigned warp = threadIdx.x / kWarp;
  std::uint32_t index[kPerThread];
  Item items[kPerThread];
  std::uint32_t slot[kPerThread];
  Word word[kPerThread];
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) index[j] = begin + j * kThreads + threadIdx.x;
  Opening opening(launch, warp == kWarps - 1);
  load_items(launch, index, end, items, [&] { opening.first(); });
  opening.second();
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    slot[j] = items[j].page < table.pages ? ~load(&table.slot_of[items[j].page]) : ~0u;
  }
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    word[j] = slot[j] < slots ? load(&table.words[slot[j]]) : kFreeWord;
  }
  opening.tell(shared);
  __syncthreads();
  const Step step = shared.step;
  // The stamps of all are under way before the first is looked at, and what misses need meanwhile.
  Met met[kPerThread];
  Word was[kPerThread];
  std::uint64_t entry[kPerThread];
  bool missing[kPerThread];
  unsigned any = 0;
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    met[j] = Met::elsewhere;
    was[j] = word[j];
    if (items[j].page < table.pages && page_of(word[j]) == items[j].page) {
      met[j] = is_complete(word[j]) ? Met::ready : Met::filling;
      if (met[j] == Met::ready && step_before(step_of(word[j]), step)) {
        was[j] = exchange_if(&table.words[slot[j]], word[j], with_step(word[j], step));
      }
    }
    missing[j] = met[j] != Met::ready && items[j].page < table.pages;
    if (missing[j]) entry[j] = load(&table.frame_of[block_of(table, items[j].page)]);
    any |= __ballot_sync(kWholeWarp, missing[j]);
  }
  if (any != 0) load_window(table, shared.slots, window_of_warp(launch, shared), window);
  std::uint32_t hits = 0;
  std::uint32_t count = 0;
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    const Page page = items[j].page;
    if (met[j] == Met::filling || was[j] != word[j]) {
      met[j] = meet(table, slot[j], was[j], page, step, shared.shared_step);
      const bool late = met[j] != Met::ready;
      if (late && !missing[j]) entry[j] = load(&table.frame_of[block_of(table, page)]);
      missing[j] = late;
    }
    if (met[j] == Met::ready) {
      ++hits;
      finish(launch, index[j], static_cast<Slot>(slot[j]), outcome_of_hit(launch, index[j]));
      if (shared.forecasts != 0) use_mark(table, shared, slot[j]);
    } else if (!missing[j] && items[j].real) {
      finish(launch, index[j], kNoSlot, Outcome::invalid);
      if (!items[j].padding) atomicAdd(&shared.invalid, 1u);
    }
    const unsigned group = __ballot_sync(kWholeWarp, missing[j]);
    if (missing[j]) {
      const std::uint32_t at = count + __popc(group & lanes_below());
      const Frame frame = frame_in(entry[j]);
      Missing<kMostOfWarp>& miss = shared.miss[warp];
      miss.page[at] = page;
      miss.item[at] = index[j];
      miss.hint[at] = ~slot[j];
      miss.slot[at] = met[j] == Met::filling ? static_cast<Slot>(slot[j]) : kNoSlot;
      miss.frame[at] = frame < shared.frames_ready ? frame : kNoFrame;
    }
    count += __popc(group);
  }
  __syncwarp();
  hits = __reduce_add_sync(kWholeWarp, hits);
  if (lane_id() == 0 && hits != 0) atomicAdd(&shared.hits, hits);
  if (any == 0 && count != 0) {
    load_window(table, shared.slots, window_of_warp(launch, shared), window);
  }
  return count;
}

// The block beside the others. Its last warp takes the step of the next launch and closes the
// books. With `advance`, one warp looks for old words, and the rest apply the log for the next
// launch, which may take long, and mirror what the launch before had applied, which everyone who
// reads frame_of since has seen.
__device__ void keep_books(const Launch& launch, Shared& shared) {
  constexpr unsigned kLogWarps = kWarps - 2;
  const unsigned warp = threadIdx.x / kWarp;
  ActorLine* const line = actor_line(launch.table, launch.actor);
  if (warp == kWarps - 1) {
    Opening opening(launch, true);
    opening.first();
    opening.second();
    opening.tell(shared);
    if (lane_id() != 0) return;
    if (launch.advance) {
      store(&line->next[(shared.advances + 1) % 2], take_step(launch.table));
    }
    close_books(launch, shared);
    return;
  }
  if (!launch.advance) return;
  if (warp == kLogWarps) {
    age_by_warp(launch.table);
    return;
  }
  const std::uint64_t position = apply_log(launch.table, kLogWarps * kWarp);
  if (warp != 0) return;
  if (lane_id() == 0) {
    ActorLine* const mirror = mirror_line(launch.table, launch.actor);
    line->entries += 1;
    store_system(&mirror->log_position, line->log_position);
    store_system(&mirror->entries, line->entries);
    line->log_position = position;
  }
  mirror_counters(launch.table, launch.actor);
}

// By a warp, when all claims of the block are made.
__device__ void account(const Launch& launch, const Shared& shared) {
  ActorCounters& counters = actor_line(launch.table, launch.actor)->counters;
  const std::uint32_t absent = shared.absent + shared.lost;
  const std::uint32_t none = shared.no_slot + absent + shared.invalid;
  std::uint64_t* to = nullptr;
  std::uint64_t count = 0;
  const auto lane = [&](unsigned i, std::uint64_t& counter, std::uint64_t n) {
    if (lane_id() != i) return;
    to = &counter;
    count = n;
  };
  const bool again = launch.only_if != nullptr;  // these pages were counted
  lane(0, counters.hits, again ? 0 : shared.hits);
  lane(1, counters.fills, shared.fills.count);
  lane(2, counters.filled_bytes, shared.fills.count * launch.store.page_bytes);
  lane(3, counters.no_slot, again ? 0 : shared.no_slot);
  lane(4, counters.absent, again ? 0 : absent);
  lane(5, counters.forecast_used, shared.used);
  lane(6, launch.table.header->freed, shared.displaced);
  if (count != 0) atomicAdd(reinterpret_cast<unsigned long long*>(to), count);
  if (lane_id() == 7 && launch.batch.without_slot != nullptr && none != 0) {
    atomicAdd(launch.batch.without_slot, none);
  }
  if (lane_id() == 8 && launch.absent != nullptr && shared.absent != 0) {
    atomicAdd(launch.absent, shared.absent);
  }
}

__device__ void look_up_slice(const Launch& launch, Shared& shared) {
  const std::uint32_t begin = blockIdx.x * launch.slice;
  const std::uint32_t end = min(launch.items, begin + launch.slice);
  Window window;
  const std::uint32_t missing =
      launch.slice <= kThreads ? look_up<1>(launch, shared, begin, end, window)
                               : look_up<kMostItems / kThreads>(launch, shared, begin, end, window);
  if (lane_id() == 0 && atomicAdd(&shared.looked, 1u) + 1 == kWarps) note_looked(launch);
  if (missing != 0) claim_slots(launch, shared, missing, window);
  __syncthreads();
  if (threadIdx.x / kWarp == kWarps - 1) account(launch, shared);
  let_next_come();
  if (shared.hand_over) {
    hand_over(launch, shared);
  } else {
    copy_fills(launch, shared.fills);
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    resolve_kernel(const __grid_constant__ Launch launch) {
  __shared__ Shared shared;
  await_stream();
  if (launch.only_if != nullptr && load(launch.only_if) == 0) return;
  if (blockIdx.x < launch.lookers) {
    look_up_slice(launch, shared);
    return;
  }
  if (blockIdx.x == launch.lookers + launch.copiers) {
    let_next_come();
    keep_books(launch, shared);
    return;
  }
  Opening opening(launch, threadIdx.x < kWarp);
  opening.first();
  opening.second();
  opening.tell(shared);
  if (threadIdx.x == 0) note_looked(launch);
  __syncthreads();
  if (!shared.hand_over) return;
  if (launch.store.page_bytes % sizeof(uint4) == 0) {
    copy_handed(launch, shared);
  } else {
    copy_handed_odd(launch, shared);
  }
}

// Whether one of the items that were absent still is; this thread's share of them. Asks for their
// blocks again now and then, as the mark of one that could not be brought in is gone.
__device__ bool any_away(const Launch& launch, bool ask) {
  const HotTable& table = launch.table;
  const std::uint32_t frames_ready = load(launch.store.frames_ready);
  bool any = false;
  for (std::uint32_t index = threadIdx.x; index < launch.items; index += kThreads) {
    if (launch.batch.outcomes[index] != Outcome::absent) continue;
    Item items[1];
    load_items<1>(launch, {index}, launch.items, items, [] {});
    if (items[0].page >= table.pages) continue;  // beyond what is real, and never written to
    const Block block = block_of(table, items[0].page);
    // Not acquired: whoever looks up again reads it once more.
    const Frame frame = frame_in(load_system(&table.frame_original[block]));
    if (frame < frames_ready || frame == kLostFrame) continue;
    any = true;
    if (!ask) break;
    mark_wanted_by(table, block, kWantedNow);
  }
  return any;
}

__global__ void __launch_bounds__(kThreads)
    await_frames(const __grid_constant__ Launch launch, std::uint64_t wait_ns, WaitState* state,
                 std::uint32_t* without_slot) {
  __shared__ std::uint64_t now;  // one time for all: they go round together
  await_stream();
  const bool waits = load(&state->absent) != 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    // Of the second look if there is one.
    if (!waits && without_slot != nullptr) atomicAdd(without_slot, state->without_slot);
    *state = {0, 0, waits ? 1u : 0u, 0};
    now = nanoseconds();
  }
  if (!waits) return;
  __syncthreads();
  const std::uint64_t begin = now;
  std::uint64_t asked = begin;
  while (now - begin < wait_ns) {
    const bool ask = now - asked >= kAskAgainNs;
    if (ask) asked = now;
    if (__syncthreads_or(any_away(launch, ask) ? 1 : 0) == 0) return;
    __nanosleep(kLookAgainNs);
    if (threadIdx.x == 0) now = nanoseconds();
    __syncthreads();
  }
}

}  // namespace

// Twice kFewLookers if the current device can hold so many blocks, and a clerk, at a time, two on
// each of its processors.
static std::uint32_t resident_lookers() {
  int device = 0;
  int processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    return kFewLookers;
  }
  return processors > static_cast<int>(kFewLookers) ? 2 * kFewLookers : kFewLookers;
}

// Few enough items for so many blocks to look up and to copy: nothing is handed over.
static bool are_few(std::uint64_t items, std::uint32_t copying_ctas) {
  return items <= std::uint64_t{copying_ctas} * kMostItems;
}

static bool are_small(const PageStore& store) { return store.page_bytes <= kSmallPageBytes; }

Arrangement fastest_arrangement(const PageStore& store, std::uint64_t most_frame_bytes,
                                std::uint64_t items) {
  Arrangement fastest;
  const bool whole_vectors = store.page_bytes % sizeof(uint4) == 0;
  if (are_small(store) && whole_vectors && most_frame_bytes >= kFarBytes &&
      !are_few(items, kCopiersIfFar)) {
    fastest.copying_ctas = kCopiersIfFar;
    fastest.only_if_far = true;
  }
  return fastest;
}

std::size_t resolve_scratch_bytes(std::uint32_t lists, std::uint32_t item_stride,
                                  std::uint32_t copying_ctas) {
  const std::uint64_t items = std::uint64_t{lists} * item_stride;
  const bool handed = copying_ctas != 0 && !are_few(items, copying_ctas);
  return offsetof(Scratch, fills) + (handed ? sizeof(Fill) * items : 0);
}

static std::uint32_t wanted_lookers(std::uint32_t items, const Arrangement& arrangement) {
  if (arrangement.only_if_far) return kLookersIfFar;
  const std::uint32_t bound = arrangement.copying_ctas;
  if (bound != 0) return are_few(items, bound) ? std::min(bound, kFewLookers) : kFewLookers;
  return items > std::uint64_t{kFewLookers} * kThreads ? resident_lookers() : kFewLookers;
}

// Who does what.
static void arrange(Launch& launch, const Arrangement& arrangement, void* scratch) {
  const std::uint32_t items = launch.items;
  launch.scratch = static_cast<Scratch*>(scratch);
  launch.advance = arrangement.advance;
  launch.only_if_far = arrangement.only_if_far;
  const bool small = are_small(launch.store);
  launch.far_bytes = small ? arrangement.far_bytes : ~std::uint64_t{0};
  const std::uint32_t bound = arrangement.copying_ctas;
  const bool few = bound != 0 && are_few(items, bound);
  const std::uint32_t wanted = wanted_lookers(items, arrangement);
  launch.copiers = few ? 0 : std::min(bound, kMostCopiers);
  const std::uint32_t slice = (items + wanted - 1) / wanted;
  launch.slice = std::clamp(slice, small ? kLeastSlice : kLeastOfLarge, kMostItems);
  launch.lookers = (items + launch.slice - 1) / launch.slice;
  launch.warps = std::min((launch.slice + kWarp - 1) / kWarp, kWarps);
  launch.blocks = launch.lookers + launch.copiers + 1;
}

Status resolve(const HotTable& table, const PageStore& store, std::uint32_t actor,
               const ResolveBatch& batch, const Arrangement& arrangement, void* scratch,
               Stream stream) {
  Launch launch;
  const Status status = bind_lists(launch, table, store, actor, batch);
  if (status != cudaSuccess || launch.items == 0) return status;
  arrange(launch, arrangement, scratch);
  return launch_kernel_early(resolve_kernel, launch.blocks, kThreads, stream, launch);
}

Status resolve_waiting(const HotTable& table, const PageStore& store, std::uint32_t actor,
                       const ResolveBatch& batch, const Arrangement& arrangement, void* scratch,
                       std::uint64_t wait_us, WaitState* state, Stream stream) {
  Launch launch;
  const Status status = bind_lists(launch, table, store, actor, batch);
  if (status != cudaSuccess || launch.items == 0) return status;
  if (batch.outcomes == nullptr) return cudaErrorInvalidValue;
  arrange(launch, arrangement, scratch);
  Launch first = launch;
  first.batch.without_slot = &state->without_slot;
  first.absent = &state->absent;
  if (const Status failed =
          launch_kernel_early(resolve_kernel, first.blocks, kThreads, stream, first)) {
    return failed;
  }
  if (const Status failed = launch_kernel_early(await_frames, 1, kThreads, stream, launch,
                                                wait_us * 1000, state, batch.without_slot)) {
    // Nobody takes what the first one counted.
    (void)cudaMemsetAsync(state, 0, sizeof(WaitState), static_cast<cudaStream_t>(stream));
    return failed;
  }
  launch.advance = false;
  launch.only_if = &state->again;
  return launch_kernel_early(resolve_kernel, launch.blocks, kThreads, stream, launch);
}

Status load_resolve() {
  if (const Status failed = load_kernel_launched_early(await_frames)) return failed;
  return load_kernel_launched_early(resolve_kernel);
}

}  // namespace sluice::kernels::cuda
