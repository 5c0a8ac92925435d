// resolve on a device: every block of threads takes a slice of the lists.
//
//  1. Look-up. Hint, then word; four items per thread, so that their loads overlap. Hits are
//  stamped
//     and done. What is missing is gathered in shared memory.
//  2. Claims. Each warp serves some of the missing pages: it reads windows of words and takes the
//     oldest that nobody uses, by one exchange each. There is no free list and no separate sweep:
//     work follows the misses, and nothing can run dry or be lost with a process that dies.
//  3. Copies. All threads move the slice's missing pages together, 16 bytes at a time.
//  4. Ready bits.
//
// Duplicates. Pages of a launch may meet each other, and another process's fill of the same page
// may never end (rule 2). Whoever makes the transition of a word to {page, our step, not ready}, by
// a claim or by raising the step of a fill that somebody else began, owes the fill; anyone else of
// this launch who meets that word does not. No other launch of the actor can have left such a word,
// since launches of a step run one after the other and a launch that did not end has no successor;
// and no other actor has the same step, unless the clock stands, which `shared` says.
#include "kernels/cuda/resolve.cuh"
#include "kernels/cuda/steps.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr unsigned kThreads = 512;
constexpr unsigned kWarps = kThreads / kWarp;
constexpr unsigned kPerThread = 4;
constexpr unsigned kRound = kThreads * kPerThread;  // items that are looked up together
constexpr unsigned kMostPerWindow = 16;             // of kWindow: claims take the oldest eighth
constexpr unsigned kShyWindows = 2;  // looked at before pages of the actor's last step are taken
constexpr unsigned kVectorsPerThread = 4;
constexpr unsigned kLeastItemsPerBlock = 128;
constexpr unsigned kMostBlocks = 64;
constexpr int kMaxWordTries = 64;
constexpr unsigned kMaxLookupWait = 1u << 12;  // looks at the counter; then without

struct Launch {
  HotTable table;
  PageStore store;
  ResolveBatch batch;
  Scratch* scratch = nullptr;
  std::uint32_t actor = 0;
  std::uint32_t slice = 0;   // items of one block
  std::uint32_t blocks = 0;  // that look up; one more reads the log, if `advance`
  bool advance = false;
};

struct Shared {
  std::uint32_t missing;
  std::uint32_t fills;
  std::uint32_t looked_base;
  Step step;
  Step previous;
  bool shared_step;
  std::uint32_t hits;
  std::uint32_t no_slot;
  std::uint32_t absent;
  std::uint32_t refills;
  Page page[kRound];
  std::uint32_t item[kRound];
  Slot slot[kRound];
  Frame frame[kRound];
  std::uint16_t fill[kRound];  // of the missing ones
  Slot results[kWarps][kWarp];
};

struct Item {
  Page page = kNoPage;
  bool real = false;
};

__device__ Item item_at(const Launch& launch, std::uint32_t index) {
  const ResolveBatch& batch = launch.batch;
  const std::uint32_t list = index / batch.item_stride;
  // The item is loaded before the counts that bound it: it is there, whatever they say.
  const std::int32_t item = batch.items[index];
  Item found;
  if (batch.list_count != nullptr && list >= *batch.list_count) return found;
  if (batch.counts != nullptr && index - list * batch.item_stride >= batch.counts[list])
    return found;
  found.real = true;
  if (item < 0) return found;
  const auto number = static_cast<std::uint32_t>(item);
  if (batch.kind == ItemKind::page) {
    found.page = number;
    return found;
  }
  const std::uint32_t sequence = list / batch.lists_per_sequence;
  const std::uint32_t row = batch.sequences[sequence];
  if (row >= batch.row_limit) return found;
  const std::uint32_t in_block =
      batch.kind == ItemKind::row ? number % batch.rows_per_block : list % batch.lists_per_sequence;
  const std::uint32_t place = batch.kind == ItemKind::row ? number / batch.rows_per_block : number;
  const SequenceRow& ids = batch.rows[row];
  const std::uint32_t page = batch.first_page + in_block;
  if (place >= ids.blocks || page >= launch.table.sizes.pages_per_block) return found;
  const Block block = ids.ids[place];
  if (block < launch.table.sizes.blocks) found.page = page_number(launch.table, block, page);
  return found;
}

__device__ void finish(const Launch& launch, std::uint32_t index, Slot slot, Outcome outcome) {
  launch.batch.slots[index] = slot;
  if (launch.batch.outcomes != nullptr) launch.batch.outcomes[index] = outcome;
}

enum class Met : std::uint8_t { ready, filling, elsewhere };

// As kernels::detail::meet, from the word as it was seen. A pinned page of a block that the
// caller's sequence holds is its own, or sealed a moment ago: its bytes are there.
__device__ Met meet(const HotTable& table, std::uint32_t slot, Word word, Page page, Step step,
                    bool shared_step) {
  for (int i = 0; i < kMaxWordTries; ++i) {
    if (page_of(word) != page) return Met::elsewhere;
    const bool complete = is_ready(word) || is_pinned(word);
    if (!complete) {
      // Owed by another thread of this launch; or by nobody we can rely on.
      return step_of(word) == step && !shared_step ? Met::ready : Met::filling;
    }
    if (!step_before(step_of(word), step)) return Met::ready;
    const Word was = exchange_if(&table.words[slot], word, with_step(word, step));
    if (was == word) return Met::ready;
    word = was;
  }
  return Met::elsewhere;
}

__device__ void look_up(const Launch& launch, Shared& shared, std::uint32_t base,
                        std::uint32_t end) {
  const HotTable& table = launch.table;
  const std::uint32_t slots = min(launch.store.slots, table.sizes.slots);
  const Step step = shared.step;
  Item items[kPerThread];
  std::uint32_t slot[kPerThread];
  Word word[kPerThread];
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    const std::uint32_t index = base + j * kThreads + threadIdx.x;
    items[j] = index < end ? item_at(launch, index) : Item{};
  }
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    slot[j] = items[j].page < table.pages ? ~load(&table.slot_of[items[j].page]) : ~0u;
  }
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    word[j] = slot[j] < slots ? load(&table.words[slot[j]]) : kFreeWord;
  }
  // The stamps of all four are under way before the first is looked at.
  Word was[kPerThread];
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    const bool stamp = page_of(word[j]) == items[j].page && items[j].page < table.pages &&
                       (is_ready(word[j]) || is_pinned(word[j])) &&
                       step_before(step_of(word[j]), step);
    was[j] =
        stamp ? exchange_if(&table.words[slot[j]], word[j], with_step(word[j], step)) : word[j];
    if (stamp && was[j] == word[j]) was[j] = with_step(word[j], step);
  }
  std::uint32_t hits = 0;
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    const std::uint32_t index = base + j * kThreads + threadIdx.x;
    const Page page = items[j].page;
    Met met = Met::elsewhere;
    if (page < table.pages && slot[j] < slots) {
      met = meet(table, slot[j], was[j], page, step, shared.shared_step);
    }
    bool missing = false;
    if (!items[j].real) {
    } else if (page >= table.pages) {
      finish(launch, index, kNoSlot, Outcome::invalid);
    } else if (met == Met::ready) {
      ++hits;
      finish(launch, index, static_cast<Slot>(slot[j]), Outcome::hit);
    } else {
      missing = true;
    }
    const unsigned group = __ballot_sync(kWholeWarp, missing);
    std::uint32_t first = 0;
    if (lane_id() == 0 && group != 0) first = atomicAdd(&shared.missing, __popc(group));
    first = __shfl_sync(kWholeWarp, first, 0);
    if (missing) {
      const std::uint32_t at = first + __popc(group & lanes_below());
      shared.page[at] = page;
      shared.item[at] = index;
      shared.slot[at] = met == Met::filling ? static_cast<Slot>(slot[j]) : kNoSlot;
    }
  }
  hits = __reduce_add_sync(kWholeWarp, hits);
  if (lane_id() == 0 && hits != 0) atomicAdd(&shared.hits, hits);
}

// Says that this block has looked everything up. The last one to say so closes the books: with
// `advance`, the step of the launch is published only now, so that meanwhile nobody, this launch
// included, takes a page of the actor's last step that a later look-up would have hit.
__device__ void note_looked(const Launch& launch, const Shared& shared) {
  __threadfence();
  const std::uint32_t ticket = atomicAdd(&launch.scratch->looked, 1u);
  if (ticket + 1 - shared.looked_base != launch.blocks) return;
  store(&launch.scratch->base, ticket + 1);
  if (!launch.advance) return;
  ActorLine* const line = actor_line(launch.table, launch.actor);
  store(&line->previous, line->step);
  store(&line->step, shared.step);
  // Release: what the actor's stream read of slots before this launch comes before.
  store_release_device(&line->active, active_in(shared.step));
  const Taken next = take_step(launch.table);
  store(&line->next, next.step);
  store(&line->shared, next.shared ? 1 : 0);
}

// By lane 0 of a warp, bounded: blocks that the device has not started yet may have to wait for us.
__device__ void await_look_ups(const Launch& launch, const Shared& shared) {
  for (unsigned i = 0; i < kMaxLookupWait; ++i) {
    if (load_acquire_device(&launch.scratch->looked) - shared.looked_base >= launch.blocks) return;
    __nanosleep(64);
  }
}

// What a lane knows of the missing page that it serves.
struct Claim {
  std::uint32_t place = 0;  // in shared memory
  Page page = kNoPage;
  std::uint32_t hint = 0;  // as it is stored
  Slot slot = kNoSlot;
  bool fill = false;  // this launch owes the copy to us
  Outcome outcome = Outcome::no_slot;
};

// A fill that somebody else began: we take it over, unless it is done by now, or another thread of
// this launch did.
__device__ void take_over(const HotTable& table, const Shared& shared, Claim& claim) {
  Word* const at = &table.words[claim.slot];
  Word word = load(at);
  for (int i = 0; i < kMaxWordTries; ++i) {
    if (page_of(word) != claim.page) break;
    const bool complete = is_ready(word) || is_pinned(word);
    const bool ours = step_of(word) == shared.step;
    if (ours && !complete && !shared.shared_step) {
      claim.outcome = Outcome::hit;
      return;
    }
    if (!step_before(step_of(word), shared.step)) {
      claim.outcome = complete ? Outcome::hit : Outcome::filled;
      claim.fill = !complete;
      return;
    }
    const Word was = exchange_if(at, word, with_step(word, shared.step));
    if (was == word) {
      claim.outcome = complete ? Outcome::hit : Outcome::filled;
      claim.fill = !complete;
      return;
    }
    word = was;
  }
  claim.slot = kNoSlot;  // it is gone: claim a slot like anybody else
}

// Our claim stands unless another thread's came first for the same page: then its slot is ours too.
__device__ void publish_claim(const HotTable& table, const Shared& shared, Claim& claim) {
  claim.fill = true;
  claim.outcome = Outcome::filled;
  const std::uint32_t mine = ~static_cast<std::uint32_t>(claim.slot);
  const std::uint32_t was = atomicCAS(&table.slot_of[claim.page], claim.hint, mine);
  if (was == claim.hint) return;
  const std::uint32_t theirs = ~was;
  if (theirs < table.sizes.slots && theirs != static_cast<std::uint32_t>(claim.slot)) {
    const Met met = meet(table, theirs, load(&table.words[theirs]), claim.page, shared.step,
                         shared.shared_step);
    if (met == Met::ready) {
      exchange_if(&table.words[claim.slot], make_word(claim.page, shared.step, false, false),
                  kFreeWord);
      claim.slot = static_cast<Slot>(theirs);
      claim.fill = false;
      claim.outcome = Outcome::hit;
      return;
    }
  }
  store(&table.slot_of[claim.page], mine);
}

__device__ void mark_wanted_by(const HotTable& table, Block block, Step step) {
  store_system(&table.wanted[block], (step << 1) | 1);
  asm volatile(
      "st.relaxed.sys.global.u8 [%0], %1;" ::"l"(&table.wanted_groups[block / kWantedGroup]), "r"(1)
      : "memory");
  store_system(&table.host_header->wanted_bell, step);
}

// The warps share the missing pages of the block evenly.
__device__ void claim_slots(const Launch& launch, Shared& shared) {
  const HotTable& table = launch.table;
  const std::uint32_t missing = shared.missing;
  const unsigned warp = threadIdx.x / kWarp;
  const std::uint32_t group = min(kWarp, (missing + kWarps - 1) / kWarps);
  const std::uint32_t slots = min(min(launch.store.slots, table.sizes.slots), limit_of(table));
  const std::uint32_t windows = windows_of(slots);
  const std::uint32_t warps = launch.blocks * kWarps;
  // Where this launch begins is as good as random; within it no two warps meet, if windows go
  // round.
  const std::uint32_t origin = shared.step * 0x9E3779B1u >> 4;
  for (std::uint32_t begin = warp * group; begin < missing; begin += kWarps * group) {
    Claim claim;
    claim.place = begin + lane_id();
    const bool mine = lane_id() < group && claim.place < missing;
    Frame frame = kNoFrame;
    if (mine) {
      claim.page = shared.page[claim.place];
      claim.slot = shared.slot[claim.place];
      claim.hint = load(&table.slot_of[claim.page]);
      frame = frame_in(load(&table.frame_of[block_of(table, claim.page)]));
    }
    std::uint32_t at = (origin + blockIdx.x * kWarps + warp) % max(windows, 1u);
    Window window;
    if (windows != 0) load_window(table, slots, at, window);
    Cut cut = cut_by_warp(table);
    // The actor's last step is not touched at first.
    Cut shy = cut;
    if (step_before(shared.previous, shy.step)) shy.step = shared.previous;

    const bool readable = frame < launch.store.frame_limit &&
                          launch.store.extent_ready[frame / launch.store.frames_per_extent] != 0;
    if (mine && readable) {
      shared.frame[claim.place] = frame;
      if (claim.slot != kNoSlot) take_over(table, shared, claim);
    } else if (mine) {
      claim.slot = kNoSlot;
      claim.outcome = Outcome::absent;
      mark_wanted_by(table, block_of(table, claim.page), shared.step);
    }
    unsigned wanting = __ballot_sync(kWholeWarp, mine && readable && claim.slot == kNoSlot);
    const unsigned claiming = wanting;
    const unsigned most = windows <= warps ? kWindow : kMostPerWindow;
    for (unsigned visit = 0;
         wanting != 0 && windows != 0 && visit < windows + kShyWindows && visit < kMaxWindows;
         ++visit) {
      judge_window(window, visit < kShyWindows ? shy : cut);
      wanting = claim_from_window(table, window, claim.page, shared.step, false, wanting, most,
                                  blockIdx.x * kWarps + warp, shared.results[warp]);
      if (wanting == 0) break;
      if (visit + 1 == kShyWindows) {
        if (lane_id() == 0) await_look_ups(launch, shared);
        __syncwarp();
        cut = cut_by_warp(table);
      }
      at = visit + 1 < kShyWindows ? (at + warps) % windows : (at + 1) % windows;
      load_window(table, slots, at, window);
    }
    if ((claiming & ~wanting) >> lane_id() & 1) {
      claim.slot = shared.results[warp][lane_id()];
      publish_claim(table, shared, claim);
    }
    __syncwarp();

    if (mine) {
      shared.slot[claim.place] = claim.slot;
      finish(launch, shared.item[claim.place], claim.slot, claim.outcome);
    }
    const unsigned fills = __ballot_sync(kWholeWarp, claim.fill);
    const unsigned hits = __ballot_sync(kWholeWarp, mine && claim.outcome == Outcome::hit);
    const unsigned none = __ballot_sync(kWholeWarp, mine && claim.outcome == Outcome::no_slot);
    const unsigned absent = __ballot_sync(kWholeWarp, mine && claim.outcome == Outcome::absent);
    std::uint32_t first = 0;
    if (lane_id() == 0) {
      if (fills != 0) first = atomicAdd(&shared.fills, __popc(fills));
      if (hits != 0) atomicAdd(&shared.hits, __popc(hits));
      if (none != 0) atomicAdd(&shared.no_slot, __popc(none));
      if (absent != 0) atomicAdd(&shared.absent, __popc(absent));
    }
    first = __shfl_sync(kWholeWarp, first, 0);
    if (claim.fill) {
      shared.fill[first + __popc(fills & lanes_below())] = static_cast<std::uint16_t>(claim.place);
    }
  }
}

// Vectors of host memory are read once: they do not displace what the L1 holds.
__device__ uint4 read_once(const uint4* at) {
  uint4 v;
  asm volatile("ld.relaxed.sys.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
}
__device__ std::uint32_t read_once(const std::uint32_t* at) { return *at; }
__device__ std::uint8_t read_once(const std::uint8_t* at) { return *at; }

// All pages of the block as one run of vectors, several per thread in flight.
template <class Vector>
__device__ void copy_fills(const Launch& launch, const Shared& shared) {
  const PageStore& store = launch.store;
  const auto per_page = static_cast<std::uint32_t>(store.page_bytes / sizeof(Vector));
  const std::uint64_t total = std::uint64_t{shared.fills} * per_page;
  for (std::uint64_t base = threadIdx.x; base < total; base += kThreads * kVectorsPerThread) {
    Vector data[kVectorsPerThread];
    Vector* to[kVectorsPerThread];
#pragma unroll
    for (unsigned j = 0; j < kVectorsPerThread; ++j) {
      const std::uint64_t at = base + j * kThreads;
      to[j] = nullptr;
      if (at >= total) continue;
      // Far fewer than 2^32 vectors in a round: 2,048 pages of at most 1 MiB are 2^27 of 16 bytes.
      const auto fill = static_cast<std::uint32_t>(at) / per_page;
      const std::uint32_t vector = static_cast<std::uint32_t>(at) - fill * per_page;
      const std::uint32_t place = shared.fill[fill];
      const Page page = shared.page[place];
      const std::byte* from =
          frame_bytes(store, shared.frame[place], page_in_block(launch.table, page));
      to[j] = reinterpret_cast<Vector*>(slot_bytes(store, shared.slot[place])) + vector;
      data[j] = read_once(reinterpret_cast<const Vector*>(from) + vector);
    }
#pragma unroll
    for (unsigned j = 0; j < kVectorsPerThread; ++j) {
      if (to[j] != nullptr) *to[j] = data[j];
    }
  }
}

__device__ void copy_all(const Launch& launch, const Shared& shared) {
  const std::uint64_t bytes = launch.store.page_bytes;
  if (bytes % sizeof(uint4) == 0) {
    copy_fills<uint4>(launch, shared);
  } else if (bytes % sizeof(std::uint32_t) == 0) {
    copy_fills<std::uint32_t>(launch, shared);
  } else {
    copy_fills<std::uint8_t>(launch, shared);
  }
}

// The block beside the others: applies the log for the next launch, and mirrors what the launch
// before had applied, which everyone who reads frame_of since has seen.
__device__ void read_log(const Launch& launch) {
  ActorLine* const line = actor_line(launch.table, launch.actor);
  ActorLine* const mirror = mirror_line(launch.table, launch.actor);
  if (threadIdx.x == 0) {
    line->entries += 1;
    store_system(&mirror->log_position, line->log_position);
    store_system(&mirror->entries, line->entries);
  }
  const std::uint64_t position = apply_log_by_block(launch.table);
  if (threadIdx.x == 0) line->log_position = position;
  if (threadIdx.x < kWarp) mirror_counters(launch.table, launch.actor);
}

__device__ void account(const Launch& launch, const Shared& shared) {
  const auto add = [](std::uint64_t* to, std::uint64_t n) {
    if (n != 0) atomicAdd(reinterpret_cast<unsigned long long*>(to), n);
  };
  ActorCounters& counters = actor_line(launch.table, launch.actor)->counters;
  add(&counters.hits, shared.hits);
  add(&counters.fills, shared.fills);
  add(&counters.no_slot, shared.no_slot);
  add(&counters.absent, shared.absent);
  add(&counters.filled_bytes, shared.fills * launch.store.page_bytes);
  const std::uint32_t none = shared.no_slot + shared.absent;
  if (launch.batch.without_slot != nullptr && none != 0) {
    atomicAdd(launch.batch.without_slot, none);
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    resolve_kernel(const __grid_constant__ Launch launch) {
  __shared__ Shared shared;
  if (launch.advance && blockIdx.x == launch.blocks) {
    read_log(launch);
    return;
  }
  if (threadIdx.x == 0) {
    const ActorLine* const line = actor_line(launch.table, launch.actor);
    shared.step = load(launch.advance ? &line->next : &line->step);
    shared.previous = load(launch.advance ? &line->step : &line->previous);
    shared.shared_step = load(&line->shared) != 0;
    shared.looked_base = load(&launch.scratch->base);
    shared.hits = 0;
    shared.no_slot = 0;
    shared.absent = 0;
    shared.missing = 0;
    shared.fills = 0;
  }
  __syncthreads();
  const std::uint64_t all = std::uint64_t{launch.batch.lists} * launch.batch.item_stride;
  const std::uint64_t begin = std::uint64_t{blockIdx.x} * launch.slice;
  const std::uint64_t end = min(all, begin + launch.slice);
  for (std::uint64_t base = begin;; base += kRound) {
    const bool last = base + kRound >= end;
    if (base < end) {
      look_up(launch, shared, static_cast<std::uint32_t>(base),
              static_cast<std::uint32_t>(min(end, base + kRound)));
    }
    __syncthreads();
    if (last && threadIdx.x == 0) note_looked(launch, shared);
    if (shared.missing != 0) {
      claim_slots(launch, shared);
      __syncthreads();
      copy_all(launch, shared);
      // Each thread's stores come before the ready bits of the pages that it had a part in.
      __threadfence();
      __syncthreads();
      for (std::uint32_t i = threadIdx.x; i < shared.fills; i += kThreads) {
        const Slot slot = shared.slot[shared.fill[i]];
        // The page cannot have left the slot: we are in the step that the word has.
        atomicOr(reinterpret_cast<unsigned long long*>(&launch.table.words[slot]), kReadyBit);
      }
    }
    if (threadIdx.x == 0) account(launch, shared);
    if (last) break;
    __syncthreads();
    if (threadIdx.x == 0) {
      shared.hits = 0;
      shared.no_slot = 0;
      shared.absent = 0;
      shared.missing = 0;
      shared.fills = 0;
    }
    __syncthreads();
  }
}

}  // namespace

std::size_t resolve_scratch_bytes(std::uint32_t, std::uint32_t) { return sizeof(Scratch); }

Status resolve(const HotTable& table, const PageStore& store, std::uint32_t actor,
               const ResolveBatch& batch, const Arrangement& arrangement, void* scratch,
               Stream stream) {
  const std::uint64_t items = std::uint64_t{batch.lists} * batch.item_stride;
  if (items > 0x7FFFFFFFu) return cudaErrorInvalidValue;
  if (items == 0) return cudaSuccess;
  Launch launch;
  launch.table = table;
  launch.store = store;
  launch.batch = batch;
  launch.scratch = static_cast<Scratch*>(scratch);
  launch.actor = actor;
  launch.advance = arrangement.advance;
  const unsigned most = arrangement.copying_ctas == 0 ? kMostBlocks : arrangement.copying_ctas;
  launch.slice = static_cast<std::uint32_t>((items + most - 1) / most);
  if (launch.slice < kLeastItemsPerBlock) launch.slice = kLeastItemsPerBlock;
  launch.blocks = static_cast<std::uint32_t>((items + launch.slice - 1) / launch.slice);
  resolve_kernel<<<launch.blocks + (launch.advance ? 1 : 0), kThreads, 0,
                   static_cast<cudaStream_t>(stream)>>>(launch);
  return cudaGetLastError();
}

}  // namespace sluice::kernels::cuda
