// What a plan answered, looked at by the device, in the stream of the plan.
//
// Everything is enqueued in `stream`, a cudaStream_t. Returns a cudaError_t.
#pragma once

#include <cstdint>

#include "tools/replay/slot_page.h"

namespace sluice::test::stress {

// Counts of pages, added to. In device memory.
struct Tally {
  unsigned long long compared;
  unsigned long long misses;
  unsigned long long no_slot;
  unsigned long long absent;
  unsigned long long absurd;  // answers that no resolve may give
};

// The lists of a launch, and its answers; device pointers. List l is of page l % pages of the
// blocks of document l / pages.
struct Answers {
  std::uint32_t lists = 0;
  std::uint32_t capacity = 0;
  std::uint32_t pages = 0;
  std::uint32_t blocks = 0;  // of a document
  std::uint32_t block_tokens = 0;
  std::uint32_t arena_slots = 0;
  const std::int32_t* items = nullptr;
  const std::uint32_t* counts = nullptr;
  const std::uint64_t* seeds = nullptr;  // [document][block]
  std::int32_t* slots = nullptr;
  std::uint8_t* outcomes = nullptr;
};

inline constexpr std::int32_t kUntouchedSlot = -2;  // no resolve may leave this

// Makes answers of an earlier launch unlike any of the next one.
int clear_answers(const Answers& answers, void* stream);

// Writes lists * capacity entries to `pages`, of which those without a slot have no tokens.
int gather_answers(const Answers& answers, tools::SlotPage* pages, Tally* tally, void* stream);

}  // namespace sluice::test::stress
