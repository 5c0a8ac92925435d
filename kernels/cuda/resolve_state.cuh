// The state of a resolve's launch: what its blocks of threads read before, and tell each other.
#pragma once

#include <cstdint>

#include "kernels/cuda/lists.cuh"

namespace sluice::kernels::cuda {

inline constexpr unsigned kMaxLookupWait = 1u << 10;  // looks at the books; then without

inline constexpr std::uint32_t kMostOfWarp = kMostItems / kWarps;

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
  bool far;             // lookers hand over in order of addresses
  bool hand_over;       // copiers copy
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
  std::uint32_t lost;
  std::uint32_t invalid;    // no pages, and no padding
  std::uint32_t used;       // marks that hits took away
  std::uint32_t displaced;  // pages that gave their place
  std::uint32_t handed;     // of a looker: its first place among what is handed over
  bool more;                // of a copier that takes a page at a time: there is one
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
#pragma unroll 8
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
    shared.far = books_.w != 0;
    shared.hand_over = launch_.copiers != 0 && (!launch_.only_if_far || shared.far);
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
    shared.lost = 0;
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

// That this block is through with its look-ups, and has read the state of the launch.
__device__ inline void note_looked(const Launch& launch) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(&launch.scratch->books.looked),
               "r"(1)
               : "memory");
}

// When all others have said so, the clerk closes the books: the state changes for the next launch.
// They were started before it, and wait for it only with a bound.
// With `advance`, the step of the launch is published only now, so that meanwhile nobody, this
// launch included, takes a page of the actor's last step that a later look-up would have hit. No
// order is needed: an exchange decides about every word, and all that the stream read before this
// launch was read before it began.
__device__ inline void close_books(const Launch& launch, const Shared& shared) {
  Scratch& scratch = *launch.scratch;
  const std::uint32_t others = launch.blocks - 1;
  while (load(&scratch.books.looked) - shared.looked_base < others) {
  }
  store(&scratch.looked_base, shared.looked_base + others);
  store(&scratch.handed_base, shared.handed_base + (shared.hand_over ? launch.lookers : 0));
  store(&scratch.far, shared.frames_ready * launch.store.frame_stride >= launch.far_bytes ? 1 : 0);
  store(&scratch.turn, shared.turn + 1);
  store(&scratch.books.pages[(shared.turn + 1) % 2], 0);
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
__device__ inline void await_look_ups(const Launch& launch, const Shared& shared) {
  const std::uint32_t* const closed = &launch.scratch->turn;
  const std::uint32_t* const active = &actor_line(launch.table, launch.actor)->active;
#pragma unroll 1
  for (unsigned i = 0; i < kMaxLookupWait; ++i) {
    if (load(closed) != shared.turn && load(active) == active_in(shared.step)) return;
    __nanosleep(64);
  }
}

}  // namespace sluice::kernels::cuda
