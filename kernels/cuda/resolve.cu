// resolve on a device: every block of threads takes a slice of the lists.
//
//  1. Look-up. Hint, then word; a thread has one or two items, whose loads overlap. Hits are
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

#include <algorithm>
#include <cstddef>

namespace sluice::kernels::cuda {
namespace {

constexpr unsigned kShyWindows = 2;    // looked at before pages of the actor's last step are taken
constexpr unsigned kLeastVisits = 16;  // to few windows, where warps take words from each other
constexpr std::uint32_t kLeastSlice = 128;  // items of a looker, if pages are small
constexpr std::uint32_t kLeastOfLarge = 4;  // and if one alone is work for a block of threads
constexpr unsigned kFewLookers = 64;        // as many as there are, if the lists are not very long
constexpr std::uint64_t kSmallPageBytes = 4096;
constexpr int kMaxWordTries = 64;
constexpr unsigned kMaxLookupWait = 1u << 12;  // looks at the counter; then without

enum class Met : std::uint8_t { ready, filling, elsewhere };

// As kernels::detail::meet, from the word as it was seen. A pinned page of a block that the
// caller's sequence holds is its own, or sealed a moment ago: its bytes are there.
// Out of line: words that change under a look-up, and such as are not complete, are rare.
__device__ __noinline__ Met meet(const HotTable& table, std::uint32_t slot, Word word, Page page,
                                 Step step, bool shared_step) {
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

// A hit of a slot that may hold what a forecast brought in.
__device__ __noinline__ void use_mark(const HotTable& table, Shared& shared, std::uint32_t slot) {
  if (clear_mark(table, slot)) atomicAdd(&shared.used, 1u);
}

__device__ bool is_complete(Word word) { return (word & (kReadyBit | kPinBit)) != 0; }

// By all threads, kPerThread items each, whose loads overlap.
template <unsigned kPerThread>
__device__ void look_up(const Launch& launch, Shared& shared, std::uint32_t begin,
                        std::uint32_t end) {
  const HotTable& table = launch.table;
  const std::uint32_t slots = launch.store.slots;
  const Step step = shared.step;
  Item items[kPerThread];
  std::uint32_t slot[kPerThread];
  Word word[kPerThread];
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    const std::uint32_t index = begin + j * kThreads + threadIdx.x;
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
  // The stamps of all are under way before the first is looked at.
  Met met[kPerThread];
  Word was[kPerThread];
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    met[j] = Met::elsewhere;
    was[j] = word[j];
    if (items[j].page >= table.pages || page_of(word[j]) != items[j].page) continue;
    met[j] = is_complete(word[j]) ? Met::ready : Met::filling;
    if (met[j] == Met::ready && step_before(step_of(word[j]), step)) {
      was[j] = exchange_if(&table.words[slot[j]], word[j], with_step(word[j], step));
    }
  }
  std::uint32_t hits = 0;
#pragma unroll
  for (unsigned j = 0; j < kPerThread; ++j) {
    const std::uint32_t index = begin + j * kThreads + threadIdx.x;
    const Page page = items[j].page;
    if (met[j] == Met::filling || was[j] != word[j]) {
      met[j] = meet(table, slot[j], was[j], page, step, shared.shared_step);
    }
    bool missing = false;
    if (met[j] == Met::ready) {
      ++hits;
      finish(launch, index, static_cast<Slot>(slot[j]), Outcome::hit);
      if (shared.forecasts != 0) use_mark(table, shared, slot[j]);
    } else if (page < table.pages) {
      missing = true;
    } else if (items[j].real) {
      finish(launch, index, kNoSlot, Outcome::invalid);
    }
    const unsigned group = __ballot_sync(kWholeWarp, missing);
    if (group == 0) continue;
    std::uint32_t first = 0;
    if (lane_id() == 0) first = atomicAdd(&shared.missing, __popc(group));
    first = __shfl_sync(kWholeWarp, first, 0);
    if (missing) {
      const std::uint32_t at = first + __popc(group & lanes_below());
      const Frame frame = frame_in(load(&table.frame_of[block_of(table, page)]));
      const bool readable = frame < launch.store.frame_limit &&
                            launch.store.extent_ready[frame / launch.store.frames_per_extent] != 0;
      shared.miss.page[at] = page;
      shared.miss.item[at] = index;
      shared.miss.hint[at] = ~slot[j];
      shared.miss.slot[at] = met[j] == Met::filling ? static_cast<Slot>(slot[j]) : kNoSlot;
      shared.miss.frame[at] = readable ? frame : kNoFrame;
    }
  }
  hits = __reduce_add_sync(kWholeWarp, hits);
  if (lane_id() == 0 && hits != 0) atomicAdd(&shared.hits, hits);
}

// Says that this block has looked up what it had to, and has read the actor's line. The last one to
// say so closes the books: the line changes for the next launch. With `advance`, the step of the
// launch is published only now, so that meanwhile nobody, this launch included, takes a page of the
// actor's last step that a later look-up would have hit. No order is needed: an exchange decides
// about every word, and all that the stream read before this launch was read before it began.
__device__ void note_looked(const Launch& launch, const Shared& shared) {
  Scratch& scratch = *launch.scratch;
  const std::uint32_t ticket = atomicAdd(&scratch.looked, 1u);
  if (ticket + 1 - shared.looked_base != launch.blocks) return;
  store(&scratch.looked_base, ticket + 1);
  store(&scratch.handed_base, shared.handed_base + (launch.copiers != 0 ? launch.lookers : 0));
  store(&scratch.turn, shared.turn + 1);
  store(&scratch.pages[(shared.turn + 1) % 2], 0);
  ActorLine* const line = actor_line(launch.table, launch.actor);
  store(&line->launches, shared.launches + 1);
  if (!launch.advance) return;
  store(&line->previous, shared.previous);
  store(&line->step, shared.step | (shared.shared_step ? kSharedStep : 0));
  store(&line->active, active_in(shared.step));
}

// Until all is looked up, and pages of the actor's last step may be taken; by lane 0 of a warp,
// bounded: blocks that the device has not started yet may have to wait for us.
__device__ void await_look_ups(const Launch& launch, const Shared& shared) {
  const std::uint32_t* const looked = &launch.scratch->looked;
  const std::uint32_t* const active = &actor_line(launch.table, launch.actor)->active;
  for (unsigned i = 0; i < kMaxLookupWait; ++i) {
    if (load(looked) - shared.looked_base >= launch.blocks &&
        load(active) == active_in(shared.step)) {
      return;
    }
    __nanosleep(64);
  }
}

// What a lane knows of the missing page that it serves.
struct Claim {
  std::uint32_t place = 0;  // in shared memory
  Page page = kNoPage;
  Slot slot = kNoSlot;
  bool fill = false;  // this launch owes the copy to us
  Outcome outcome = Outcome::no_slot;
};

// A fill that somebody else began: we take it over, unless it is done by now, or another thread of
// this launch did.
__device__ __noinline__ void take_over(const HotTable& table, const Shared& shared, Claim& claim) {
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
  const std::uint32_t seen = shared.miss.hint[claim.place];
  const std::uint32_t was = atomicCAS(&table.slot_of[claim.page], seen, mine);
  if (was == seen) return;
  const std::uint32_t theirs = ~was;
  if (theirs < table.sizes.slots && theirs != static_cast<std::uint32_t>(claim.slot) &&
      meet(table, theirs, load(&table.words[theirs]), claim.page, shared.step,
           shared.shared_step) == Met::ready) {
    exchange_if(&table.words[claim.slot], make_word(claim.page, shared.step, false, false),
                kFreeWord);
    claim.slot = static_cast<Slot>(theirs);
    claim.fill = false;
    claim.outcome = Outcome::hit;
    return;
  }
  store(&table.slot_of[claim.page], mine);
}

// The warps share the missing pages of the block evenly.
__device__ void claim_slots(const Launch& launch, Shared& shared) {
  const HotTable& table = launch.table;
  const std::uint32_t missing = shared.missing;
  const unsigned warp = threadIdx.x / kWarp;
  const std::uint32_t group = min(kWarp, (missing + kWarps - 1) / kWarps);
  const std::uint32_t slots = shared.slots;
  const std::uint32_t windows = shared.windows;
  const std::uint32_t warps = launch.lookers * kWarps;
  const std::uint32_t me = warp * launch.lookers + blockIdx.x;
  const unsigned most = windows <= warps ? kWindow : kMostPerWindow;
  for (std::uint32_t begin = warp * group; begin < missing; begin += kWarps * group) {
    Claim claim;
    claim.place = begin + lane_id();
    const bool mine = lane_id() < group && claim.place < missing;
    // Warps of a launch begin at windows of their own, unless there are not enough.
    std::uint32_t at = shared.first_window + me + begin;
    if (at >= windows) at = windows > warps ? (at - windows) % windows : at % max(windows, 1u);
    Window window;
    if (windows != 0) load_window(table, slots, at, window);
    Cut cut = cut_by_warp(table, shared.clock);
    // The actor's last step is not touched at first.
    if (step_before(shared.previous, cut.step)) cut.step = shared.previous;
    if (mine) {
      claim.page = shared.miss.page[claim.place];
      claim.slot = shared.miss.slot[claim.place];
      if (shared.miss.frame[claim.place] == kNoFrame) {
        claim.slot = kNoSlot;
        claim.outcome = Outcome::absent;
        mark_wanted_by(table, block_of(table, claim.page), shared.step);
      } else if (claim.slot != kNoSlot) {
        take_over(table, shared, claim);
      }
    }
    unsigned wanting = __ballot_sync(
        kWholeWarp, mine && claim.slot == kNoSlot && claim.outcome != Outcome::absent);
    const unsigned claiming = wanting;
    if (shared.fresh < slots) wanting = claim_fresh(table, shared, claim.page, wanting, warp);
    const unsigned visits = min(max(windows + kShyWindows, kLeastVisits), kMaxWindows);
    for (unsigned visit = 0; wanting != 0 && windows != 0 && visit < visits; ++visit) {
      judge_window(window, cut);
      wanting = claim_from_window(table, window, claim.page, shared.step, false, wanting, most, me,
                                  shared.wants[warp]);
      if (wanting == 0) break;
      if (visit + 1 == kShyWindows) {
        if (lane_id() == 0) await_look_ups(launch, shared);
        __syncwarp();
        cut = cut_by_warp(table);
      }
      at = (at + (visit + 1 < kShyWindows ? warps : 1)) % windows;
      load_window(table, slots, at, window);
    }
    if (((claiming & ~wanting) >> lane_id() & 1) != 0) {
      claim.slot = shared.wants[warp].slot[lane_id()];
      if (shared.forecasts != 0) waste_mark(table, static_cast<std::uint32_t>(claim.slot));
      publish_claim(table, shared, claim);
    }
    if (mine) {
      shared.miss.slot[claim.place] = claim.slot;
      shared.miss.outcome[claim.place] = claim.outcome;
    }
    const unsigned fills = __ballot_sync(kWholeWarp, claim.fill);
    if (lane_id() == 0 && fills != 0) atomicAdd(&shared.fills, __popc(fills));
  }
}

// The results of what was missing.
__device__ void finish_missing(const Launch& launch, Shared& shared) {
  for (std::uint32_t base = 0; base < shared.missing; base += kThreads) {
    const std::uint32_t i = base + threadIdx.x;
    const bool mine = i < shared.missing;
    const Outcome outcome = mine ? shared.miss.outcome[i] : Outcome::invalid;
    if (mine) finish(launch, shared.miss.item[i], shared.miss.slot[i], outcome);
    const unsigned hits = __ballot_sync(kWholeWarp, outcome == Outcome::hit);
    const unsigned none = __ballot_sync(kWholeWarp, outcome == Outcome::no_slot);
    const unsigned absent = __ballot_sync(kWholeWarp, outcome == Outcome::absent);
    if (lane_id() == 0 && (hits | none | absent) != 0) {
      if (hits != 0) atomicAdd(&shared.hits, __popc(hits));
      if (none != 0) atomicAdd(&shared.no_slot, __popc(none));
      if (absent != 0) atomicAdd(&shared.absent, __popc(absent));
    }
  }
}

// Claims and copies what the block misses.
template <class Vector>
__device__ void bring_in(const Launch& launch, Shared& shared) {
  Run<Vector> run(launch, shared);
  run.begin();
  claim_slots(launch, shared);
  __syncthreads();
  run.end();
  finish_missing(launch, shared);
  // Each thread's stores come before the ready bits of the pages that it had a part in.
  __threadfence();
  __syncthreads();
  for (std::uint32_t i = threadIdx.x; i < shared.missing; i += kThreads) {
    if (shared.miss.outcome[i] == Outcome::filled) {
      set_ready_bit(launch.table, shared.miss.slot[i]);
    }
  }
}

// Claims, and leaves the copies to the copiers. An entry is taken for every missing page, before it
// is known which of them are to be copied.
__device__ void hand_over(const Launch& launch, Shared& shared) {
  __shared__ std::uint32_t first;
  if (shared.missing != 0) {
    if (threadIdx.x == kThreads - 1) {
      first = atomicAdd(&launch.scratch->pages[shared.turn % 2], shared.missing);
    }
    claim_slots(launch, shared);
    __syncthreads();
    // About in the order of the list: neighbours in a list are neighbours in DRAM.
    for (std::uint32_t i = threadIdx.x; i < shared.missing; i += kThreads) {
      const Frame frame = shared.miss.frame[i];
      const bool fill = shared.miss.outcome[i] == Outcome::filled;
      const std::uint64_t from =
          frame * launch.store.frame_stride +
          page_in_block(launch.table, shared.miss.page[i]) * launch.store.page_bytes;
      launch.scratch->fills[first + i] = {from, fill ? shared.miss.slot[i] : kNoSlot, 0};
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    // Release, also of what the others wrote before the barrier.
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(&launch.scratch->handed), "r"(1)
                 : "memory");
  }
  finish_missing(launch, shared);
  __syncthreads();
}

// Copies what the lookers missed, when all have handed it over, in pieces that the copiers take in
// turn: some pages, or a part of one.
template <class Vector>
__device__ void copy_handed(const Launch& launch, Shared& shared) {
  const PageStore& store = launch.store;
  const HotTable& table = launch.table;
  if (threadIdx.x == 0) {
    // Lookers were started before us and wait for nobody.
    while (load_acquire_device(&launch.scratch->handed) - shared.handed_base < launch.lookers) {
    }
    shared.fills = load(&launch.scratch->pages[shared.turn % 2]);
  }
  __syncthreads();
  const std::uint32_t pages = shared.fills;
  if (pages == 0) return;
  constexpr std::uint32_t kPiece = kThreads;  // vectors
  const auto per_page = static_cast<std::uint32_t>(store.page_bytes / sizeof(Vector));
  const std::uint32_t together = max(1u, kPiece / per_page);     // pages of a piece
  const std::uint32_t parts = (per_page + kPiece - 1) / kPiece;  // pieces of a page
  const std::uint32_t pieces = parts > 1 ? pages * parts : (pages + together - 1) / together;
  const std::uint32_t me = blockIdx.x - launch.lookers;
  const std::uint32_t in_piece = threadIdx.x / per_page;  // page, if several
  const Fill* const fills = launch.scratch->fills;
  const auto page_of_piece = [&](std::uint32_t piece) {
    return parts > 1 ? piece / parts : piece * together + in_piece;
  };
  const auto vector_of = [&](std::uint32_t piece) {
    return parts > 1 ? piece % parts * kPiece + threadIdx.x : threadIdx.x - in_piece * per_page;
  };
  const bool busy = parts > 1 || in_piece < together;
  for (std::uint32_t piece = me; piece < pieces; piece += launch.copiers * kVectorsPerThread) {
    Vector data[kVectorsPerThread];
    Vector* to[kVectorsPerThread];
#pragma unroll
    for (unsigned j = 0; j < kVectorsPerThread; ++j) {
      const std::uint32_t at = piece + j * launch.copiers;
      const std::uint32_t page = page_of_piece(at);
      const std::uint32_t vector = vector_of(at);
      to[j] = nullptr;
      if (!busy || at >= pieces || page >= pages || vector >= per_page) continue;
      const Fill fill = fills[page];
      if (fill.slot == kNoSlot) continue;
      to[j] = reinterpret_cast<Vector*>(slot_bytes(store, fill.slot)) + vector;
      data[j] = read_once(reinterpret_cast<const Vector*>(store.frames + fill.from) + vector);
    }
#pragma unroll
    for (unsigned j = 0; j < kVectorsPerThread; ++j) {
      if (to[j] != nullptr) *to[j] = data[j];
    }
  }
  __threadfence();
  __syncthreads();
  for (std::uint32_t turn = threadIdx.x;; turn += kThreads) {
    const std::uint32_t piece = me + turn * launch.copiers;
    if (piece >= pieces) break;
    if (parts > 1) {
      Fill& fill = launch.scratch->fills[piece / parts];
      // The last of the pieces says so for all: each of the others was fenced before it was
      // counted.
      if (atomicAdd(&fill.pieces, 1u) + 1 == parts) {
        __threadfence();
        if (fill.slot != kNoSlot) set_ready_bit(table, fill.slot);
      }
      continue;
    }
    for (std::uint32_t i = 0; i < together && piece * together + i < pages; ++i) {
      const Slot slot = fills[piece * together + i].slot;
      if (slot != kNoSlot) set_ready_bit(table, slot);
    }
  }
}

// The block beside the others: takes the step of the next launch, applies the log for it, and
// mirrors what the launch before had applied, which everyone who reads frame_of since has seen.
__device__ void read_log(const Launch& launch, const Shared& shared) {
  ActorLine* const line = actor_line(launch.table, launch.actor);
  ActorLine* const mirror = mirror_line(launch.table, launch.actor);
  if (threadIdx.x == 0) {
    store(&line->next[(shared.launches + 1) % 2], take_step(launch.table));
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
  add(&counters.forecast_used, shared.used);
  if (shared.missing != 0) add_freed(launch.table, displaced_by_block(shared));
  const std::uint32_t none = shared.no_slot + shared.absent;
  if (launch.batch.without_slot != nullptr && none != 0) {
    atomicAdd(launch.batch.without_slot, none);
  }
}

__device__ void look_up_slice(const Launch& launch, Shared& shared) {
  const std::uint32_t all = launch.batch.lists * launch.batch.item_stride;
  const std::uint32_t begin = blockIdx.x * launch.slice;
  const std::uint32_t end = min(all, begin + launch.slice);
  if (launch.slice <= kThreads) {
    look_up<1>(launch, shared, begin, end);
  } else {
    look_up<kMostItems / kThreads>(launch, shared, begin, end);
  }
  __syncthreads();
  if (threadIdx.x == 0) note_looked(launch, shared);
  if (launch.copiers != 0) {
    hand_over(launch, shared);
  } else if (shared.missing != 0) {
    with_vector(launch.store.page_bytes,
                [&](auto vector) { bring_in<decltype(vector)>(launch, shared); });
  }
  if (threadIdx.x == 0) account(launch, shared);
}

__global__ void __launch_bounds__(kThreads, 2)
    resolve_kernel(const __grid_constant__ Launch launch) {
  __shared__ Shared shared;
  if (threadIdx.x == 0) {
    const ActorLine* const line = actor_line(launch.table, launch.actor);
    const uint4 books = __ldcg(reinterpret_cast<const uint4*>(&launch.scratch->looked_base));
    const uint4 state = __ldcg(reinterpret_cast<const uint4*>(&line->launches));
    const std::uint32_t now = load(&line->step);
    const std::uint32_t before = load(&line->previous);
    shared.clock = load(&launch.table.header->clock) & kStepMask;
    shared.looked_base = books.x;
    shared.handed_base = books.y;
    shared.turn = books.z;
    shared.slots = min(launch.store.slots, limit_of(launch.table));
    shared.windows = windows_of(shared.slots);
    shared.fresh = load(&launch.table.header->fresh);
    shared.forecasts = load(&launch.table.header->forecasts);
    shared.launches = state.x;
    const std::uint32_t step = !launch.advance ? now : state.x % 2 == 0 ? state.y : state.z;
    shared.step = step & kStepMask;
    shared.shared_step = (step & kSharedStep) != 0;
    shared.previous = (launch.advance ? now : before) & kStepMask;
    // As good as random.
    shared.first_window = __umulhi((shared.step + state.x) * 0x9E3779B1u, shared.windows);
    shared.hits = 0;
    shared.no_slot = 0;
    shared.absent = 0;
    shared.missing = 0;
    shared.fills = 0;
    shared.used = 0;
  }
  if (threadIdx.x < kWarps) shared.wants[threadIdx.x].displaced = 0;
  __syncthreads();
  if (blockIdx.x < launch.lookers) {
    look_up_slice(launch, shared);
    return;
  }
  if (threadIdx.x == 0) note_looked(launch, shared);
  if (blockIdx.x < launch.lookers + launch.copiers) {
    with_vector(launch.store.page_bytes,
                [&](auto vector) { copy_handed<decltype(vector)>(launch, shared); });
  } else {
    read_log(launch, shared);
  }
}

}  // namespace

std::size_t resolve_scratch_bytes(std::uint32_t lists, std::uint32_t item_stride) {
  return offsetof(Scratch, fills) + sizeof(Fill) * lists * item_stride;
}

Status resolve(const HotTable& table, const PageStore& store, std::uint32_t actor,
               const ResolveBatch& batch, const Arrangement& arrangement, void* scratch,
               Stream stream) {
  Launch launch;
  if (const Status status = bind_lists(launch, table, store, actor, batch); status != cudaSuccess) {
    return status;
  }
  const std::uint32_t items = launch.items;
  if (items == 0) return cudaSuccess;
  launch.scratch = static_cast<Scratch*>(scratch);
  launch.advance = arrangement.advance;
  const bool small = store.page_bytes <= kSmallPageBytes;
  // Few enough items for so many blocks to look up and to copy: nothing is handed over.
  const std::uint32_t bound = arrangement.copying_ctas;
  const bool few = bound != 0 && items <= std::uint64_t{bound} * kMostItems;
  const std::uint32_t wanted = few && bound < kFewLookers ? bound : kFewLookers;
  launch.copiers = few || bound >= kFewLookers ? 0 : bound;
  const std::uint32_t slice = (items + wanted - 1) / wanted;
  launch.slice = std::clamp(slice, small ? kLeastSlice : kLeastOfLarge, kMostItems);
  launch.lookers = (items + launch.slice - 1) / launch.slice;
  launch.blocks = launch.lookers + launch.copiers + (launch.advance ? 1 : 0);
  return launch_kernel(resolve_kernel, launch.blocks, kThreads, stream, launch);
}

Status load_resolve() { return load_kernel(resolve_kernel); }

}  // namespace sluice::kernels::cuda
