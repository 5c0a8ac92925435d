// How a warp of a resolve gets slots for what it misses, and who owes which fill.
//
// Duplicates. Pages of a launch may meet each other, and another process's fill of the same page
// may never end (rule 2). Whoever makes the transition of a word to {page, our step, not ready}, by
// a claim or by raising the step of a fill that somebody else began, owes the fill; anyone else of
// this launch who meets that word does not. No other launch of the actor can have left such a word,
// since launches of a step run one after the other and a launch that did not end has no successor
// (of a process that goes on for another one, see share_step());
// and no other actor has the same step, unless the clock stands, which `shared` says.
#pragma once

#include <cstdint>

#include "kernels/cuda/copies.cuh"
#include "kernels/cuda/resolve_state.cuh"

namespace sluice::kernels::cuda {

inline constexpr unsigned kShyVisits =
    3;  // to windows before pages of the actor's last step are taken
inline constexpr unsigned kLeastVisits =
    16;  // to few windows, where warps take words from each other
inline constexpr int kMaxWordTries = 64;

enum class Met : std::uint8_t { ready, filling, elsewhere };

// As kernels::detail::meet, from the word as it was seen. A pinned page of a block that the
// caller's sequence holds is its own, or sealed a moment ago: its bytes are there.
// Out of line: words that change under a look-up, and such as are not complete, are rare.
static __device__ __noinline__ Met meet(const HotTable& table, std::uint32_t slot, Word word,
                                        Page page, Step step, bool shared_step) {
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
static __device__ __noinline__ void use_mark(const HotTable& table, Shared& shared,
                                             std::uint32_t slot) {
  if (clear_mark(table, slot)) atomicAdd(&shared.used, 1u);
}

__device__ inline bool is_complete(Word word) { return (word & (kReadyBit | kPinBit)) != 0; }

// Warps that may have something to claim are numbered through the launch, and begin at windows of
// their own, or, if there are not enough, at parts of windows.
__device__ inline std::uint32_t number_of_warp(const Launch& launch) {
  return threadIdx.x / kWarp * launch.lookers + blockIdx.x;
}
__device__ inline std::uint32_t window_of_warp(const Launch& launch, const Shared& shared) {
  const std::uint32_t at = shared.first_window + number_of_warp(launch);
  return at < shared.windows ? at : at % max(shared.windows, 1u);
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
static __device__ __noinline__ void take_over(const HotTable& table, const Shared& shared,
                                              Claim& claim) {
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
__device__ inline void publish_claim(const HotTable& table, const Shared& shared, Claim& claim) {
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
__device__ inline void owe(const Launch& launch, Shared& shared, const Claim& claim, Frame frame) {
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

__device__ inline void count_outcomes(Shared& shared, Outcome outcome) {
  if (__all_sync(kWholeWarp, outcome == Outcome::filled || outcome == Outcome::invalid)) return;
  const unsigned hits = __ballot_sync(kWholeWarp, outcome == Outcome::hit);
  const unsigned none = __ballot_sync(kWholeWarp, outcome == Outcome::no_slot);
  const unsigned absent = __ballot_sync(kWholeWarp, outcome == Outcome::absent);
  const unsigned lost = __ballot_sync(kWholeWarp, outcome == Outcome::lost);
  if (lane_id() != 0 || (hits | none | absent | lost) == 0) return;
  if (hits != 0) atomicAdd(&shared.hits, __popc(hits));
  if (none != 0) atomicAdd(&shared.no_slot, __popc(none));
  if (absent != 0) atomicAdd(&shared.absent, __popc(absent));
  if (lost != 0) atomicAdd(&shared.lost, __popc(lost));
}

// The frame of a block that has none in frame_of: it may have been logged since that was brought up
// to date, or kLostFrame. Rule 7 holds: the daemon takes no frame back from whoever is in a step of
// before.
static __device__ __noinline__ Frame frame_since(const Launch& launch, const Shared& shared,
                                                 Page page) {
  const HotTable& table = launch.table;
  const Frame frame = frame_in(load_acquire_system(&table.frame_original[block_of(table, page)]));
  return frame < shared.frames_ready || frame == kLostFrame ? frame : kNoFrame;
}

// Lanes whose words of the first window are tried at first: warps that share it take a part each.
// Who has it alone looks at all: words of a part that nobody comes to would stay however old they
// are, and younger ones of the other part would go.
__device__ inline unsigned part_of_warp(std::uint32_t me, std::uint32_t warps,
                                        std::uint32_t windows) {
  const std::uint32_t before = me / max(windows, 1u);  // warps that begin there
  if (before == 0 && me + windows >= warps) return kWholeWarp;
  return before % 2 == 0 ? 0x55555555u : 0xAAAAAAAAu;
}

// From one window to the next that a warp visits. Pages that came together lie together: neighbours
// of a full window may be full for longer than anybody looks. So of many windows the next is far
// away, by the golden section; of few, all are visited in turn.
__device__ inline std::uint32_t window_stride(std::uint32_t windows) {
  constexpr std::uint32_t kGolden = 0x9E3779B1u;  // of 2^32
  return windows <= kMaxWindows ? 1 : __umulhi(kGolden, windows) | 1;
}

// For what the warp misses, of which there are `missing` in shared memory.
__device__ inline void claim_slots(const Launch& launch, Shared& shared, std::uint32_t missing,
                                   Window& window) {
  const HotTable& table = launch.table;
  const unsigned warp = threadIdx.x / kWarp;
  const Missing<kMostOfWarp>& miss = shared.miss[warp];
  Wants& wants = shared.wants[warp];
  const std::uint32_t slots = shared.slots;
  const std::uint32_t windows = shared.windows;
  const std::uint32_t warps = launch.lookers * launch.warps;
  const std::uint32_t me = number_of_warp(launch);
  const std::uint32_t stride = window_stride(windows);
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
      if (frame >= kLostFrame) {
        claim.slot = kNoSlot;
        claim.outcome = without_frame_by(table, block_of(table, claim.page), frame, kWantedNow);
      } else if (claim.slot != kNoSlot) {
        take_over(table, shared, claim);
      }
    }
    unsigned wanting =
        __ballot_sync(kWholeWarp, mine && claim.slot == kNoSlot && frame < kLostFrame);
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
      at = (at + stride) % windows;
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
      at = (at + stride) % windows;
      load_window(table, slots, at, window);
    }
  }
  if (lane_id() == 0 && displaced != 0) atomicAdd(&shared.displaced, displaced);
}

}  // namespace sluice::kernels::cuda
