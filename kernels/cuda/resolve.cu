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

constexpr unsigned kShyVisits = 3;     // to windows before pages of the actor's last step are taken
constexpr unsigned kLeastVisits = 16;  // to few windows, where warps take words from each other
constexpr std::uint32_t kLeastSlice = 32;   // items of a looker, if pages are small
constexpr std::uint32_t kLeastOfLarge = 4;  // and if one alone is work for a block of threads
constexpr unsigned kFewLookers = 128;       // as many as there are, if the lists are not very long
constexpr unsigned kMostCopiers = 64;       // more are no faster
constexpr std::uint64_t kSmallPageBytes = 4096;
constexpr int kMaxWordTries = 64;
constexpr unsigned kMaxLookupWait = 1u << 12;  // looks at the counter; then without

// Of this block of threads, among those that are no clerk.
__device__ std::uint32_t role_block() { return blockIdx.x - 1; }

constexpr std::uint32_t kMostOfWarp = kMostItems / kWarps;

struct Shared {
  // State of the launch, read once.
  std::uint32_t looked_base;
  std::uint32_t handed_base;
  std::uint32_t turn;
  std::uint32_t launches;
  std::uint32_t advances;
  Step step;
  Step previous;
  Step clock;
  Step oldest;  // of the actors
  bool shared_step;
  std::uint32_t slots;  // that may be claimed
  std::uint32_t fresh;  // the first of them that nobody has claimed yet
  std::uint32_t windows;
  std::uint32_t first_window;
  std::uint32_t forecasts;     // as header->forecasts was: 0 if no slot has a mark
  std::uint32_t frames_ready;  // frames below may be read
  // Counts of the block.
  std::uint32_t looked;  // warps that are through with their look-ups
  std::uint32_t hits;
  std::uint32_t no_slot;
  std::uint32_t absent;
  std::uint32_t invalid;    // no pages, and no padding
  std::uint32_t used;       // marks that hits took away
  std::uint32_t displaced;  // pages that gave their place
  std::uint32_t handed;     // pages of the launch that were handed over
  Wants wants[kWarps];
  Missing<kMostOfWarp> miss[kWarps];
  Fills fills;
};

// The state of the launch, read by one warp in two rounds of loads, between which and after which
// it begins others.
class Opening {
 public:
  __device__ Opening(const Launch& launch, bool reads) : launch_(launch), reads_(reads) {}

  __device__ void first() {
    if (!reads_) return;
    const ActorLine* const line = actor_line(launch_.table, launch_.actor);
    const TableHeader* const header = launch_.table.header;
    books_ = __ldcg(reinterpret_cast<const uint4*>(&launch_.scratch->looked_base));
    state_ = __ldcg(reinterpret_cast<const uint4*>(&line->launches));
    now_ = load(&line->step);
    before_ = load(&line->previous);
    limit_ = limit_of(launch_.table);
    fresh_ = load(&header->fresh);
    forecasts_ = load(&header->forecasts);
    frames_ready_ = load(launch_.store.frames_ready);
    // Rule 4: the clock first. Acquire: who advanced it before is seen in its step below.
    clock_ = load_acquire_device(&header->clock) & kStepMask;
  }

  __device__ void second() {
    if (!reads_) return;
#pragma unroll 1
    for (std::uint32_t i = lane_id(); i < launch_.table.sizes.actors; i += kWarp) {
      behind_ = max(behind_, steps_behind(load(&actor_line(launch_.table, i)->active), clock_));
    }
  }

  // Before a barrier.
  __device__ void tell(Shared& shared) {
    if (!reads_) return;
    const Step behind = __reduce_max_sync(kWholeWarp, behind_);
    if (lane_id() != 0) return;
    shared.looked_base = books_.x;
    shared.handed_base = books_.y;
    shared.turn = books_.z;
    shared.launches = state_.x;
    shared.advances = state_.w;
    const std::uint32_t step = !launch_.advance ? now_ : state_.w % 2 == 0 ? state_.y : state_.z;
    shared.step = step & kStepMask;
    shared.shared_step = (step & kSharedStep) != 0;
    shared.previous = (launch_.advance ? now_ : before_) & kStepMask;
    shared.clock = clock_;
    shared.oldest = (clock_ - behind) & kStepMask;
    shared.slots = min(launch_.store.slots, limit_);
    shared.windows = windows_of(shared.slots);
    shared.fresh = fresh_;
    // As good as random.
    shared.first_window = __umulhi((shared.step + state_.x) * 0x9E3779B1u, shared.windows);
    shared.forecasts = forecasts_;
    shared.frames_ready = frames_ready_;
    shared.looked = 0;
    shared.hits = 0;
    shared.no_slot = 0;
    shared.absent = 0;
    shared.invalid = 0;
    shared.used = 0;
    shared.fills.count = 0;
    shared.displaced = 0;
  }

 private:
  const Launch& launch_;
  const bool reads_;
  uint4 books_{};
  uint4 state_{};
  std::uint32_t now_ = 0;
  std::uint32_t before_ = 0;
  std::uint32_t limit_ = 0;
  std::uint32_t fresh_ = 0;
  std::uint32_t forecasts_ = 0;
  std::uint32_t frames_ready_ = 0;
  Step clock_ = 0;
  Step behind_ = 0;
};

enum class Met : std::uint8_t { ready, filling, elsewhere };

// As kernels::detail::meet, from the word as it was seen. A pinned page of a block that the
// caller's sequence holds is its own, or sealed a moment ago: its bytes are there.
// Out of line: words that change under a look-up, and such as are not complete, are rare.
__device__ __noinline__ Met meet(const HotTable& table, std::uint32_t slot, Word word, Page page,
                                 Step step, bool shared_step) {
#pragma unroll 1
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

// Warps that may have something to claim are numbered through the launch, and begin at windows of
// their own, or, if there are not enough, at parts of windows.
__device__ std::uint32_t number_of_warp(const Launch& launch) {
  return threadIdx.x / kWarp * launch.lookers + role_block();
}
__device__ std::uint32_t window_of_warp(const Launch& launch, const Shared& shared) {
  const std::uint32_t at = shared.first_window + number_of_warp(launch);
  return at < shared.windows ? at : at % max(shared.windows, 1u);
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
      finish(launch, index[j], static_cast<Slot>(slot[j]), Outcome::hit);
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

// That this block is through with its look-ups, and has read the state of the launch.
__device__ void note_looked(const Launch& launch) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(&launch.scratch->looked), "r"(1)
               : "memory");
}

// When all others have said so, the clerk closes the books: the state changes for the next launch.
// With `advance`, the step of the launch is published only now, so that meanwhile nobody, this
// launch included, takes a page of the actor's last step that a later look-up would have hit. No
// order is needed: an exchange decides about every word, and all that the stream read before this
// launch was read before it began.
__device__ void close_books(const Launch& launch, const Shared& shared) {
  Scratch& scratch = *launch.scratch;
  const std::uint32_t others = launch.blocks - 1;
  while (load(&scratch.looked) - shared.looked_base < others) {
  }
  store(&scratch.looked_base, shared.looked_base + others);
  store(&scratch.handed_base, shared.handed_base + (launch.copiers != 0 ? launch.lookers : 0));
  store(&scratch.turn, shared.turn + 1);
  store(&scratch.pages[(shared.turn + 1) % 2], 0);
  ActorLine* const line = actor_line(launch.table, launch.actor);
  store(&line->launches, shared.launches + 1);
  if (!launch.advance) return;
  store(&line->advances, shared.advances + 1);
  store(&line->previous, shared.previous);
  store(&line->step, shared.step | (shared.shared_step ? kSharedStep : 0));
  store(&line->active, active_in(shared.step));
}

// Until all is looked up, and pages of the actor's last step may be taken; by lane 0 of a warp,
// bounded: blocks that the device has not started yet may have to wait for us.
__device__ void await_look_ups(const Launch& launch, const Shared& shared) {
  const std::uint32_t* const closed = &launch.scratch->turn;
  const std::uint32_t* const active = &actor_line(launch.table, launch.actor)->active;
#pragma unroll 1
  for (unsigned i = 0; i < kMaxLookupWait; ++i) {
    if (load(closed) != shared.turn && load(active) == active_in(shared.step)) return;
    __nanosleep(64);
  }
}

// What a lane knows of the missing page that it serves.
struct Claim {
  Page page = kNoPage;
  std::uint32_t hint = 0;  // as it was
  Slot slot = kNoSlot;
  bool fill = false;  // this launch owes the copy to us
  Outcome outcome = Outcome::no_slot;
};

// A fill that somebody else began: we take it over, unless it is done by now, or another thread of
// this launch did.
__device__ __noinline__ void take_over(const HotTable& table, const Shared& shared, Claim& claim) {
  Word* const at = &table.words[claim.slot];
  Word word = load(at);
#pragma unroll 1
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
  const std::uint32_t seen = claim.hint;
  const std::uint32_t was = atomicCAS(&table.slot_of[claim.page], seen, mine);
  if (was == seen) return;
  if (seen == mine) {
    // The page lay in this slot once: whoever had the hint has met our claim, and may use it.
    store(&table.slot_of[claim.page], mine);
    return;
  }
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

// Puts what the warp owes into the block's list.
__device__ void owe(const Launch& launch, Shared& shared, const Claim& claim, Frame frame) {
  const unsigned fills = __ballot_sync(kWholeWarp, claim.fill);
  if (fills == 0) return;
  std::uint32_t first = 0;
  if (lane_id() == 0) first = atomicAdd(&shared.fills.count, __popc(fills));
  first = __shfl_sync(kWholeWarp, first, 0);
  if (claim.fill) {
    shared.fills.at[first + __popc(fills & lanes_below())] = {
        frame_offset(launch, frame, claim.page), claim.slot, 0};
  }
}

__device__ void count_outcomes(Shared& shared, Outcome outcome) {
  if (__all_sync(kWholeWarp, outcome == Outcome::filled || outcome == Outcome::invalid)) return;
  const unsigned hits = __ballot_sync(kWholeWarp, outcome == Outcome::hit);
  const unsigned none = __ballot_sync(kWholeWarp, outcome == Outcome::no_slot);
  const unsigned absent = __ballot_sync(kWholeWarp, outcome == Outcome::absent);
  if (lane_id() != 0 || (hits | none | absent) == 0) return;
  if (hits != 0) atomicAdd(&shared.hits, __popc(hits));
  if (none != 0) atomicAdd(&shared.no_slot, __popc(none));
  if (absent != 0) atomicAdd(&shared.absent, __popc(absent));
}

// The frame of a block that has none in frame_of: it may have been logged since that was brought up
// to date. Rule 7 holds: the daemon takes no frame back from whoever is in a step of before.
__device__ __noinline__ Frame frame_since(const Launch& launch, const Shared& shared, Page page) {
  const HotTable& table = launch.table;
  const Frame frame = frame_in(load_acquire_system(&table.frame_original[block_of(table, page)]));
  return frame < shared.frames_ready ? frame : kNoFrame;
}

// Lanes whose words of the first window are tried at first: warps that share it take a part each.
__device__ unsigned part_of_warp(std::uint32_t me, std::uint32_t warps, std::uint32_t windows) {
  if (warps <= windows) return kWholeWarp;
  return me / max(windows, 1u) % 2 == 0 ? 0x55555555u : 0xAAAAAAAAu;
}

// For what the warp misses, of which there are `missing` in shared memory.
__device__ void claim_slots(const Launch& launch, Shared& shared, std::uint32_t missing,
                            Window& window) {
  const HotTable& table = launch.table;
  const unsigned warp = threadIdx.x / kWarp;
  const Missing<kMostOfWarp>& miss = shared.miss[warp];
  Wants& wants = shared.wants[warp];
  const std::uint32_t slots = shared.slots;
  const std::uint32_t windows = shared.windows;
  const std::uint32_t warps = launch.lookers * launch.warps;
  const std::uint32_t me = number_of_warp(launch);
  std::uint32_t at = window_of_warp(launch, shared);
  const unsigned most = windows <= warps ? kWindow : kMostPerWindow;
  std::uint32_t displaced = 0;
  Takeable takeable{};
  // The actor's last step is not touched at first.
  takeable.cut = {shared.clock,
                  step_before(shared.previous, shared.oldest) ? shared.previous : shared.oldest};
  takeable.lanes = part_of_warp(me, warps, windows);
  bool eager = false;
#pragma unroll 1
  for (std::uint32_t begin = 0; begin < missing; begin += kWarp) {
    const std::uint32_t place = begin + lane_id();
    const bool mine = place < missing;
    Claim claim;
    Frame frame = kNoFrame;
    if (mine) {
      claim.page = miss.page[place];
      claim.hint = miss.hint[place];
      claim.slot = miss.slot[place];
      frame = miss.frame[place];
      if (frame == kNoFrame) frame = frame_since(launch, shared, claim.page);
      if (frame == kNoFrame) {
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
    if (shared.fresh < slots) {
      wanting = claim_fresh(table, slots, claim.page, shared.step, wanting, wants);
    }
    const unsigned visits = min(max(windows + kShyVisits, kLeastVisits), kMaxWindows);
#pragma unroll 1
    for (unsigned visit = 0; wanting != 0 && windows != 0 && visit < visits; ++visit) {
      wanting = claim_from_window(table, window, takeable, claim.page, shared.step, false, wanting,
                                  most, me, wants, displaced);
      if (wanting == 0) break;
      if (takeable.lanes != kWholeWarp) {
        takeable.lanes = kWholeWarp;
        continue;
      }
      if (visit + 1 >= kShyVisits && !eager) {
        eager = true;
        if (lane_id() == 0) await_look_ups(launch, shared);
        __syncwarp();
        takeable.cut = cut_by_warp(table);
      }
      at = (at + (eager ? 1 : warps)) % windows;
      load_window(table, slots, at, window);
    }
    if (((claiming & ~wanting) >> lane_id() & 1) != 0) {
      claim.slot = wants.slot[lane_id()];
      if (shared.forecasts != 0) waste_mark(table, static_cast<std::uint32_t>(claim.slot));
      publish_claim(table, shared, claim);
    }
    if (mine) finish(launch, miss.item[place], claim.slot, claim.outcome);
    count_outcomes(shared, mine ? claim.outcome : Outcome::invalid);
    owe(launch, shared, claim, frame);
    __syncwarp();
    if (begin + kWarp < missing && windows != 0) {
      at = (at + warps) % windows;
      load_window(table, slots, at, window);
    }
  }
  if (lane_id() == 0 && displaced != 0) atomicAdd(&shared.displaced, displaced);
}

// Leaves the copies to the copiers.
__device__ void hand_over(const Launch& launch, Shared& shared) {
  const std::uint32_t count = shared.fills.count;
  if (count != 0) {
    if (threadIdx.x == 0) {
      shared.handed = atomicAdd(&launch.scratch->pages[shared.turn % 2], count);
    }
    __syncthreads();
#pragma unroll 1
    for (std::uint32_t i = threadIdx.x; i < count; i += kThreads) {
      launch.scratch->fills[shared.handed + i] = shared.fills.at[i];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    // Release, also of what the others wrote before the barrier.
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(&launch.scratch->handed), "r"(1)
                 : "memory");
  }
}

// Says of pages, copied in pieces that this block of threads took in turn, that their bytes are
// there; `parts` pieces of a page, or `together` pages of a piece.
__device__ void set_ready_bits(const Launch& launch, std::uint32_t pieces, std::uint32_t parts,
                               std::uint32_t together, std::uint32_t pages) {
  const std::uint32_t me = role_block() - launch.lookers;
  Fill* const fills = launch.scratch->fills;
  __threadfence();
  __syncthreads();
#pragma unroll 1
  for (std::uint32_t piece = me + threadIdx.x * launch.copiers; piece < pieces;
       piece += kThreads * launch.copiers) {
    if (parts > 1) {
      Fill& fill = fills[launch.by_parts(piece)];
      // The last of the pieces says so for all: each of the others was fenced before it was
      // counted.
      if (atomicAdd(&fill.pieces, 1u) + 1 == parts) {
        __threadfence();
        set_ready_bit(launch.table, fill.slot);
      }
      continue;
    }
    const std::uint32_t end = min(pages, (piece + 1) * together);
#pragma unroll 1
    for (std::uint32_t i = piece * together; i < end; ++i) {
      set_ready_bit(launch.table, fills[i].slot);
    }
  }
}

// Copies what the lookers missed, when all have handed it over, in pieces that the copiers take in
// turn: some pages, or a part of one.
__device__ void copy_handed(const Launch& launch, Shared& shared) {
  const PageStore& store = launch.store;
  if (threadIdx.x == 0) {
    // Lookers were started before us and wait for nobody.
    while (load_acquire_device(&launch.scratch->handed) - shared.handed_base < launch.lookers) {
    }
    shared.handed = load(&launch.scratch->pages[shared.turn % 2]);
  }
  __syncthreads();
  const std::uint32_t pages = shared.handed;
  if (pages == 0) return;
  const std::uint32_t me = role_block() - launch.lookers;
  const Fill* const fills = launch.scratch->fills;
  if (store.page_bytes % sizeof(uint4) != 0) {
    for (std::uint32_t page = me; page < pages; page += launch.copiers) {
      copy_odd(launch, &fills[page], 1);
    }
    set_ready_bits(launch, pages, 1, 1, pages);
    return;
  }
  constexpr std::uint32_t kPiece = kThreads;  // vectors
  const auto per_page = static_cast<std::uint32_t>(store.page_bytes / sizeof(uint4));
  const std::uint32_t parts = (per_page + kPiece - 1) / kPiece;  // pieces of a page
  const std::uint32_t together = max(1u, kPiece / per_page);     // pages of a piece
  const std::uint32_t pieces = parts > 1 ? pages * parts : (pages + together - 1) / together;
  const std::uint32_t in_piece = parts > 1 ? 0 : launch.by_page(threadIdx.x);  // page, if several
  const std::uint32_t in_page = threadIdx.x - in_piece * per_page;
#pragma unroll 4
  for (std::uint32_t piece = me; piece < pieces; piece += launch.copiers * kVectorsPerThread) {
    uint4 data[kVectorsPerThread];
    uint4* to[kVectorsPerThread];
#pragma unroll
    for (unsigned j = 0; j < kVectorsPerThread; ++j) {
      const std::uint32_t at = piece + j * launch.copiers;
      const std::uint32_t page = parts > 1 ? launch.by_parts(at) : at * together + in_piece;
      const std::uint32_t vector = parts > 1 ? (at - page * parts) * kPiece + in_page : in_page;
      to[j] = nullptr;
      if (at >= pieces || page >= pages || in_piece >= together || vector >= per_page) continue;
      const Fill fill = fills[page];
      to[j] = reinterpret_cast<uint4*>(slot_bytes(store, fill.slot)) + vector;
      data[j] = read_once(reinterpret_cast<const uint4*>(store.frames + fill.from) + vector);
    }
#pragma unroll
    for (unsigned j = 0; j < kVectorsPerThread; ++j) {
      if (to[j] != nullptr) *to[j] = data[j];
    }
  }
  set_ready_bits(launch, pieces, parts, together, pages);
}

// The block beside the others. With `advance` it applies the log for the next launch, takes that
// one's step, and mirrors what the launch before had applied, which everyone who reads frame_of
// since has seen.
__device__ void keep_books(const Launch& launch, Shared& shared) {
  // By the second warp: the first one reads the log's end, from the node's memory, meanwhile.
  Opening opening(launch, threadIdx.x / kWarp == 1);
  opening.first();
  opening.second();
  opening.tell(shared);
  if (!launch.advance) {
    if (threadIdx.x == kWarp) close_books(launch, shared);
    return;
  }
  const unsigned warp = threadIdx.x / kWarp;
  if (warp == 2) age_by_warp(launch.table);
  const std::uint64_t position = apply_log_by_block(launch.table);
  ActorLine* const line = actor_line(launch.table, launch.actor);
  if (threadIdx.x == 0) {
    store(&line->next[(shared.advances + 1) % 2], take_step(launch.table));
    ActorLine* const mirror = mirror_line(launch.table, launch.actor);
    line->entries += 1;
    store_system(&mirror->log_position, line->log_position);
    store_system(&mirror->entries, line->entries);
    line->log_position = position;
  }
  if (warp == 0) mirror_counters(launch.table, launch.actor);
  if (threadIdx.x == kWarp) close_books(launch, shared);
}

// By a warp, when all claims of the block are made.
__device__ void account(const Launch& launch, const Shared& shared) {
  ActorCounters& counters = actor_line(launch.table, launch.actor)->counters;
  const std::uint32_t none = shared.no_slot + shared.absent + shared.invalid;
  std::uint64_t* to = nullptr;
  std::uint64_t count = 0;
  const auto lane = [&](unsigned i, std::uint64_t& counter, std::uint64_t n) {
    if (lane_id() != i) return;
    to = &counter;
    count = n;
  };
  lane(0, counters.hits, shared.hits);
  lane(1, counters.fills, shared.fills.count);
  lane(2, counters.filled_bytes, shared.fills.count * launch.store.page_bytes);
  lane(3, counters.no_slot, shared.no_slot);
  lane(4, counters.absent, shared.absent);
  lane(5, counters.forecast_used, shared.used);
  lane(6, launch.table.header->freed, shared.displaced);
  if (count != 0) atomicAdd(reinterpret_cast<unsigned long long*>(to), count);
  if (lane_id() == 7 && launch.batch.without_slot != nullptr && none != 0) {
    atomicAdd(launch.batch.without_slot, none);
  }
}

__device__ void look_up_slice(const Launch& launch, Shared& shared) {
  const std::uint32_t begin = role_block() * launch.slice;
  const std::uint32_t end = min(launch.items, begin + launch.slice);
  Window window;
  const std::uint32_t missing =
      launch.slice <= kThreads ? look_up<1>(launch, shared, begin, end, window)
                               : look_up<kMostItems / kThreads>(launch, shared, begin, end, window);
  if (lane_id() == 0 && atomicAdd(&shared.looked, 1u) + 1 == kWarps) note_looked(launch);
  if (missing != 0) claim_slots(launch, shared, missing, window);
  __syncthreads();
  if (threadIdx.x / kWarp == kWarps - 1) account(launch, shared);
  if (launch.copiers != 0) {
    hand_over(launch, shared);
  } else {
    copy_fills(launch, shared.fills);
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    resolve_kernel(const __grid_constant__ Launch launch) {
  __shared__ Shared shared;
  if (blockIdx.x == 0) {
    keep_books(launch, shared);
    return;
  }
  if (role_block() < launch.lookers) {
    look_up_slice(launch, shared);
    return;
  }
  Opening opening(launch, threadIdx.x < kWarp);
  opening.first();
  opening.second();
  opening.tell(shared);
  if (threadIdx.x == 0) note_looked(launch);
  __syncthreads();
  copy_handed(launch, shared);
}

}  // namespace

// Twice kFewLookers if the device can hold so many blocks, and a clerk, at a time, two on each of
// its processors.
static std::uint32_t resident_lookers() {
  static const std::uint32_t processors = [] {
    int device = 0;
    int count = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
      return 0;
    }
    return count;
  }();
  return processors > static_cast<int>(kFewLookers) ? 2 * kFewLookers : kFewLookers;
}

// Few enough items for so many blocks to look up and to copy: nothing is handed over.
static bool are_few(std::uint64_t items, std::uint32_t copying_ctas) {
  return items <= std::uint64_t{copying_ctas} * kMostItems;
}

std::size_t resolve_scratch_bytes(std::uint32_t lists, std::uint32_t item_stride,
                                  std::uint32_t copying_ctas) {
  const std::uint64_t items = std::uint64_t{lists} * item_stride;
  const bool handed = copying_ctas != 0 && !are_few(items, copying_ctas);
  return offsetof(Scratch, fills) + (handed ? sizeof(Fill) * items : 0);
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
  const std::uint32_t bound = arrangement.copying_ctas;
  const bool few = bound != 0 && are_few(items, bound);
  std::uint32_t wanted = few && bound < kFewLookers ? bound : kFewLookers;
  if (bound == 0 && items > std::uint64_t{wanted} * kThreads) wanted = resident_lookers();
  launch.copiers = few ? 0 : std::min(bound, kMostCopiers);
  const std::uint32_t slice = (items + wanted - 1) / wanted;
  launch.slice = std::clamp(slice, small ? kLeastSlice : kLeastOfLarge, kMostItems);
  launch.lookers = (items + launch.slice - 1) / launch.slice;
  launch.warps = std::min((launch.slice + kWarp - 1) / kWarp, kWarps);
  launch.blocks = launch.lookers + launch.copiers + 1;
  return launch_kernel(resolve_kernel, launch.blocks, kThreads, stream, launch);
}

Status load_resolve() { return load_kernel(resolve_kernel); }

}  // namespace sluice::kernels::cuda
