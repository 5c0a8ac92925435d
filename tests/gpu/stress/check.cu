#include <cuda_runtime.h>

#include "client/sluice.h"
#include "tests/gpu/stress/check.h"

namespace sluice::test::stress {

namespace {

using tools::SlotPage;

constexpr unsigned kThreads = 128;

unsigned blocks_for(const Answers& answers) {
  return (answers.lists * answers.capacity + kThreads - 1) / kThreads;
}

__global__ void clear(Answers answers) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= answers.lists * answers.capacity) return;
  answers.slots[i] = kUntouchedSlot;
  answers.outcomes[i] = 0xFF;
}

__global__ void gather(Answers answers, SlotPage* pages, Tally* tally) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= answers.lists * answers.capacity) return;
  const std::uint32_t list = i / answers.capacity;
  SlotPage page{};
  if (i % answers.capacity < answers.counts[list]) {
    const std::int32_t slot = answers.slots[i];
    const unsigned outcome = answers.outcomes[i];
    const bool has_slot = outcome == SLUICE_HIT || outcome == SLUICE_MISS;
    const bool exists = slot >= 0 && static_cast<std::uint32_t>(slot) < answers.arena_slots;
    // Outcomes beyond ABSENT are kinds of it, but for what clear() left.
    if (outcome == 0xFF || has_slot != exists || (!exists && slot != -1)) {
      atomicAdd(&tally->absurd, 1ull);
    } else if (!has_slot) {
      atomicAdd(outcome == SLUICE_NO_ROOM ? &tally->no_slot : &tally->absent, 1ull);
    } else {
      if (outcome == SLUICE_MISS) atomicAdd(&tally->misses, 1ull);
      atomicAdd(&tally->compared, 1ull);
      page.seed = answers.seeds[list / answers.pages * answers.blocks +
                                static_cast<std::uint32_t>(answers.items[i])];
      page.slot = slot;
      page.page = list % answers.pages;
      page.end_token = answers.block_tokens;
    }
  }
  pages[i] = page;
}

}  // namespace

int clear_answers(const Answers& answers, void* stream) {
  clear<<<blocks_for(answers), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(answers);
  return cudaGetLastError();
}

int gather_answers(const Answers& answers, SlotPage* pages, Tally* tally, void* stream) {
  gather<<<blocks_for(answers), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(answers, pages,
                                                                                  tally);
  return cudaGetLastError();
}

}  // namespace sluice::test::stress
