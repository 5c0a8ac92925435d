// forecast on a device: a few blocks of threads bring pages in, where that costs nobody anything.
//
// The lists are dealt out to the blocks in pieces, of one item per thread. Of a piece, what is
// neither there nor being brought in gets budget, then slots, then its bytes, as in resolve. A word
// that lacks its ready bit is left to whoever began: a resolve that meets one of ours fills it
// again (rule 2), and nobody waits for us. Slots come from words that a sweep could free and that
// are old enough, out of a bounded number of windows: a full pool ends a forecast, it does not
// search.
//
// Budget. Blocks take it from one counter in the scratch memory before they claim, and give back
// what they did not use; the counter is never below what is spent and granted, so that the sum of
// all grants stays within it.
#include <algorithm>

#include "kernels/cuda/copies.cuh"

namespace sluice::kernels::cuda {
namespace {

// Looked at for what one warp wants; few ones several times.
constexpr unsigned kMostForecastWindows = 8;

struct ForecastLaunch : Launch {
  std::uint32_t* granted = nullptr;  // pages
  std::uint32_t budget = 0;          // pages
  Step min_age = 1;
};

struct Shared {
  Step step;
  std::uint32_t slots;  // that may be claimed
  std::uint32_t fresh;  // the first of them that nobody has claimed yet
  std::uint32_t windows;
  std::uint32_t first_window;
  std::uint32_t frames_ready;  // frames below may be read
  // Of the piece.
  std::uint32_t missing;
  std::uint32_t afforded;  // of these
  Missing<kThreads> miss;
  Outcome outcome[kThreads];  // of what is missing
  Fills fills;
  // Of the block.
  std::uint32_t filled;
  std::uint32_t no_slot;
  std::uint32_t absent;     // or lost
  std::uint32_t displaced;  // pages that gave their place
  Wants wants[kWarps];
};

__device__ void tell(const Launch& launch, std::uint32_t index, Slot slot, Outcome outcome) {
  if (launch.batch.slots != nullptr) launch.batch.slots[index] = slot;
  if (launch.batch.outcomes != nullptr) launch.batch.outcomes[index] = outcome;
}

__device__ void set_mark(const HotTable& table, Slot slot) {
  const auto at = static_cast<std::uint32_t>(slot);
  const std::uint64_t bit = std::uint64_t{1} << (at % 64);
  atomicAdd(&table.header->forecasts, 1u);
  const std::uint64_t was =
      atomicOr(reinterpret_cast<unsigned long long*>(&table.forecast_bits[at / 64]), bit);
  if ((was & bit) == 0) return;
  // Of what the slot held before, which is gone unused.
  atomicSub(&table.header->forecasts, 1u);
  count_wasted(table);
}

// Puts what the piece misses, and can be read here, into shared memory.
__device__ void gather(const Launch& launch, Shared& shared, std::uint32_t begin) {
  const HotTable& table = launch.table;
  const std::uint32_t index = begin + threadIdx.x;
  Item items[1];
  load_items<1>(launch, {index}, launch.items, items, [] {});
  const Item item = items[0];
  bool missing = false;
  bool absent = false;
  bool lost = false;
  std::uint32_t hint = 0;
  Frame frame = kNoFrame;
  if (item.page < table.pages) {
    hint = load(&table.slot_of[item.page]);
    const Word word = ~hint < launch.store.slots ? load(&table.words[~hint]) : kFreeWord;
    if (page_of(word) == item.page) {
      tell(launch, index, static_cast<Slot>(~hint), Outcome::hit);
    } else {
      const Block block = block_of(table, item.page);
      frame = frame_in(load(&table.frame_of[block]));
      missing = frame < shared.frames_ready;
      if (!missing) {
        const Outcome outcome = without_frame_by(table, block, frame, kWantedSoon);
        lost = outcome == Outcome::lost;
        absent = !lost;
        tell(launch, index, kNoSlot, outcome);
      }
    }
  } else if (item.real) {
    tell(launch, index, kNoSlot, Outcome::invalid);
  }
  const unsigned group = __ballot_sync(kWholeWarp, missing);
  const unsigned away = __ballot_sync(kWholeWarp, absent);
  const unsigned gone = __ballot_sync(kWholeWarp, lost);
  std::uint32_t first = 0;
  if (lane_id() == 0) {
    if (group != 0) first = atomicAdd(&shared.missing, __popc(group));
    if (away != 0) atomicAdd(&shared.absent, __popc(away));
    if (gone != 0) atomicAdd(&shared.no_slot, __popc(gone));
  }
  first = __shfl_sync(kWholeWarp, first, 0);
  if (!missing) return;
  const std::uint32_t at = first + __popc(group & lanes_below());
  shared.miss.page[at] = item.page;
  shared.miss.item[at] = index;
  shared.miss.hint[at] = hint;
  shared.miss.frame[at] = frame;
  shared.miss.slot[at] = kNoSlot;
  shared.outcome[at] = Outcome::no_slot;
}

// Ours is to be filled, unless another claim for the page was published meanwhile.
__device__ void publish(const HotTable& table, Shared& shared, std::uint32_t place, Slot slot) {
  const Page page = shared.miss.page[place];
  const std::uint32_t seen = shared.miss.hint[place];
  const std::uint32_t mine = ~static_cast<std::uint32_t>(slot);
  const std::uint32_t was = atomicCAS(&table.slot_of[page], seen, mine);
  // A claim of the slot that the hint named may be in use already; see publish_claim of resolve.
  if (was != seen && seen != mine) {
    const std::uint32_t theirs = ~was;
    if (theirs < table.sizes.slots && was != mine && page_of(load(&table.words[theirs])) == page) {
      exchange_if(&table.words[slot], make_word(page, shared.step, false, false), kFreeWord);
      shared.miss.slot[place] = static_cast<Slot>(theirs);
      shared.outcome[place] = Outcome::hit;
      return;
    }
    store(&table.slot_of[page], mine);
  }
  set_mark(table, slot);
  shared.miss.slot[place] = slot;
  shared.outcome[place] = Outcome::filled;
}

// The warps share the first `afforded` of the missing pages, each at most one per lane.
__device__ void claim_old(const ForecastLaunch& launch, Shared& shared, std::uint32_t piece) {
  const HotTable& table = launch.table;
  const unsigned warp = threadIdx.x / kWarp;
  const std::uint32_t afforded = shared.afforded;
  const std::uint32_t group = (afforded + kWarps - 1) / kWarps;
  const std::uint32_t place = warp * group + lane_id();
  const bool mine = lane_id() < group && place < afforded;
  const Page page = mine ? shared.miss.page[place] : kNoPage;
  const unsigned claiming = __ballot_sync(kWholeWarp, mine);
  if (claiming == 0) return;
  unsigned wanting = claiming;
  if (shared.fresh < shared.slots) {
    wanting = claim_fresh(table, shared.slots, page, shared.step, wanting, shared.wants[warp]);
  }
  const std::uint32_t windows = shared.windows;
  const std::uint32_t warps = gridDim.x * kWarps;
  const Cut cut = cut_by_warp(table);
  std::uint32_t displaced = 0;
  std::uint32_t at = shared.first_window + piece * kWarps + warp;
  for (unsigned visit = 0; wanting != 0 && windows != 0 && visit < kMostForecastWindows; ++visit) {
    Window window;
    load_window(table, shared.slots, at % windows, window);
    // A small pool has no other windows that the rest could come from.
    wanting = claim_from_window(table, window, {cut, launch.min_age}, page, shared.step, false,
                                wanting, windows <= warps ? kWindow : kMostPerWindow, warp,
                                shared.wants[warp], displaced);
    at += windows <= warps ? 1 : warps;
  }
  if (lane_id() == 0 && displaced != 0) atomicAdd(&shared.displaced, displaced);
  if (((claiming & ~wanting) >> lane_id() & 1) != 0) {
    publish(table, shared, place, shared.wants[warp].slot[lane_id()]);
  }
}

// Results of what the piece missed, and what is to be copied.
__device__ void finish_piece(const Launch& launch, Shared& shared) {
  const std::uint32_t i = threadIdx.x;
  const bool mine = i < shared.missing;
  const Outcome outcome = mine ? shared.outcome[i] : Outcome::invalid;
  if (mine) tell(launch, shared.miss.item[i], shared.miss.slot[i], outcome);
  const unsigned fills = __ballot_sync(kWholeWarp, outcome == Outcome::filled);
  const unsigned none = __ballot_sync(kWholeWarp, outcome == Outcome::no_slot);
  std::uint32_t first = 0;
  if (lane_id() == 0) {
    if (fills != 0) first = atomicAdd(&shared.fills.count, __popc(fills));
    if (none != 0) atomicAdd(&shared.no_slot, __popc(none));
  }
  first = __shfl_sync(kWholeWarp, first, 0);
  if (outcome == Outcome::filled) {
    shared.fills.at[first + __popc(fills & lanes_below())] = {
        frame_offset(launch, shared.miss.frame[i], shared.miss.page[i]), shared.miss.slot[i], 0};
  }
}

__device__ void account(const Launch& launch, const Shared& shared) {
  const auto add = [](std::uint64_t* to, std::uint64_t n) {
    if (n != 0) atomicAdd(reinterpret_cast<unsigned long long*>(to), n);
  };
  ActorCounters& counters = actor_line(launch.table, launch.actor)->counters;
  add(&counters.forecast_issued, shared.filled);
  add(&counters.forecast_bytes, shared.filled * launch.store.page_bytes);
  add(&counters.forecast_dropped, shared.no_slot);
  add_freed(launch.table, shared.displaced);
  const std::uint32_t none = shared.no_slot + shared.absent;
  if (launch.batch.without_slot != nullptr && none != 0) {
    atomicAdd(launch.batch.without_slot, none);
  }
}

__device__ void begin(const Launch& launch, Shared& shared) {
  const TableHeader* const header = launch.table.header;
  shared.step = load(&actor_line(launch.table, launch.actor)->step) & kStepMask;
  shared.slots = min(launch.store.slots, limit_of(launch.table));
  shared.windows = windows_of(shared.slots);
  shared.fresh = load(&header->fresh);
  shared.first_window = __umulhi(shared.step * 0x9E3779B1u, shared.windows);  // as good as random
  shared.frames_ready = load(launch.store.frames_ready);
  shared.filled = 0;
  shared.displaced = 0;
  shared.no_slot = 0;
  shared.absent = 0;
  shared.missing = 0;
  shared.fills.count = 0;
}

__global__ void __launch_bounds__(kThreads, 2)
    forecast_kernel(const __grid_constant__ ForecastLaunch launch) {
  __shared__ Shared shared;
  if (threadIdx.x == 0) begin(launch, shared);
  __syncthreads();
  for (std::uint32_t piece = blockIdx.x; piece * kThreads < launch.items; piece += gridDim.x) {
    gather(launch, shared, piece * kThreads);
    __syncthreads();
    if (shared.missing != 0) {
      if (threadIdx.x == 0) {
        const std::uint32_t before = atomicAdd(launch.granted, shared.missing);
        shared.afforded = min(shared.missing, before < launch.budget ? launch.budget - before : 0u);
      }
      __syncthreads();
      claim_old(launch, shared, piece);
      __syncthreads();
      finish_piece(launch, shared);
      __syncthreads();
      if (threadIdx.x == 0) {
        atomicSub(launch.granted, shared.missing - shared.fills.count);
        shared.filled += shared.fills.count;
      }
      copy_fills(launch, shared.fills);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      shared.missing = 0;
      shared.fills.count = 0;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) account(launch, shared);
}

}  // namespace

Status forecast(const HotTable& table, const PageStore& store, std::uint32_t actor,
                const ResolveBatch& batch, const ForecastGoal& goal, void* scratch, Stream stream) {
  ForecastLaunch launch;
  if (const Status status = bind_lists(launch, table, store, actor, batch); status != cudaSuccess) {
    return status;
  }
  if (launch.items == 0) return cudaSuccess;
  launch.granted = static_cast<std::uint32_t*>(scratch);
  launch.budget = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(goal.budget_bytes / store.page_bytes, launch.items));
  launch.min_age = std::clamp<Step>(goal.min_age, 1, kHalfRange - 1);
  const std::uint32_t pieces = (launch.items + kThreads - 1) / kThreads;
  const std::uint32_t ctas = goal.copying_ctas == 0 ? kForecastCtas : goal.copying_ctas;
  const cudaError_t zeroed =
      cudaMemsetAsync(scratch, 0, kForecastScratchBytes, static_cast<cudaStream_t>(stream));
  if (zeroed != cudaSuccess) return zeroed;
  return launch_kernel(forecast_kernel, std::min(ctas, pieces), kThreads, stream, launch);
}

Status load_forecast() { return load_kernel(forecast_kernel); }

}  // namespace sluice::kernels::cuda
