// The word of a slot, {page: 32, step: 30, pin: 1, ready: 1}: the whole truth about a slot.
//
// A slot holds page p if and only if page_of(word) == p. A word changes by compare-and-swap only.
// Zero is the free word (the page is stored inverted), so zeroed memory is an empty table.
//
// Steps are 30-bit serial numbers (RFC 1982): they wrap, and compare as long as they are less than
// half of the range apart. steps.h sees to it that they are.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace sluice::kernels {

using Word = std::uint64_t;
using Page = std::uint32_t;   // page in the block * blocks + attached id; see table.h
using Slot = std::int32_t;    // place of a page in HBM
using Step = std::uint32_t;   // 30 bits
using Block = std::uint32_t;  // attached id
using Frame = std::uint32_t;  // place of a block in DRAM

inline constexpr Page kNoPage = 0xFFFFFFFFu;
inline constexpr Slot kNoSlot = -1;
inline constexpr Frame kNoFrame = 0xFFFFFFFFu;
// Not in DRAM, and never again: the only copy is lost. Beyond all frames that can be read, so that
// whoever does not ask takes it for kNoFrame.
inline constexpr Frame kLostFrame = kNoFrame - 1;

inline constexpr unsigned kStepBits = 30;
inline constexpr Step kStepMask = (Step{1} << kStepBits) - 1;
inline constexpr Step kHalfRange = Step{1} << (kStepBits - 1);

inline constexpr Word kFreeWord = 0;
inline constexpr Word kReadyBit = 1;
inline constexpr Word kPinBit = 2;
inline constexpr unsigned kStepShift = 2;
inline constexpr unsigned kPageShift = 32;

SLUICE_HD constexpr Word make_word(Page page, Step step, bool pin, bool ready) {
  return (Word{static_cast<Page>(~page)} << kPageShift) | (Word{step & kStepMask} << kStepShift) |
         (pin ? kPinBit : 0) | (ready ? kReadyBit : 0);
}

SLUICE_HD constexpr Page page_of(Word word) { return ~static_cast<Page>(word >> kPageShift); }
SLUICE_HD constexpr Step step_of(Word word) {
  return static_cast<Step>(word >> kStepShift) & kStepMask;
}
SLUICE_HD constexpr bool is_pinned(Word word) { return (word & kPinBit) != 0; }
SLUICE_HD constexpr bool is_ready(Word word) { return (word & kReadyBit) != 0; }
SLUICE_HD constexpr bool is_free(Word word) { return page_of(word) == kNoPage; }

SLUICE_HD constexpr Word with_step(Word word, Step step) {
  return (word & ~(Word{kStepMask} << kStepShift)) | (Word{step & kStepMask} << kStepShift);
}

// Steps from `from` up to `to`, going forward.
SLUICE_HD constexpr Step steps_between(Step from, Step to) { return (to - from) & kStepMask; }

// a < b, as serial numbers.
SLUICE_HD constexpr bool step_before(Step a, Step b) {
  return a != b && steps_between(a, b) < kHalfRange;
}

}  // namespace sluice::kernels
