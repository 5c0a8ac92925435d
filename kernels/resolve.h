// resolve: translates a list of pages into slots, bringing in what is missing.
//
// The caller is an actor in a step; every slot that it gets keeps its page until the actor leaves.
// Lists may hold duplicates and may be longer than what is free: a page without a slot says why,
// and the rest is served.
//
// First all pages are looked up, in batches whose loads overlap; hits are stamped with the step, so
// that no claim of this call takes the slot of a later page. Then the missing ones, in batches:
// find their frames, claim slots, copy. Whoever serves many callers does the second in parts.
//
// Thread-safety: any number of calls at the same time, one per actor. Nobody waits for anybody.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/block_set.h"
#include "kernels/claim.h"
#include "kernels/copy_page.h"
#include "kernels/forecast_marks.h"
#include "kernels/frame_log.h"
#include "kernels/page_store.h"
#include "kernels/seeded_bug.h"
#include "kernels/steps.h"
#include "kernels/table.h"
#include "kernels/wanted.h"

namespace sluice::kernels {

enum class Outcome : std::uint8_t {
  hit,      // it was there
  filled,   // it was brought in
  no_slot,  // every slot is in use
  absent,   // not in DRAM, or its extent is not mapped here; the block is marked wanted
  lost,     // not in DRAM, and never again; see kLostFrame
  pinned,   // part of a block that somebody else is writing
  invalid,  // no page of this table
};

// What engines are told: what they need not tell apart from absent is absent.
SLUICE_HD constexpr Outcome told(Outcome outcome) {
  return outcome > Outcome::lost ? Outcome::absent : outcome;
}

struct ResolveList {
  const Page* pages = nullptr;
  std::uint32_t count = 0;
  Slot* slots = nullptr;        // [count] results; kNoSlot where there is none
  Outcome* outcomes = nullptr;  // [count] results, or null
  BlockSet own;                 // blocks whose pins are the caller's: their pinned pages are hits
};

// Pages of a list by outcome; their sum is what was asked for.
struct ResolveCounts {
  std::uint64_t hits = 0;
  std::uint64_t fills = 0;
  std::uint64_t no_slot = 0;
  std::uint64_t absent = 0;
  std::uint64_t lost = 0;
  std::uint64_t pinned = 0;
  std::uint64_t invalid = 0;
  // Of these:
  std::uint64_t refills = 0;        // fills of slots that somebody else had claimed
  std::uint64_t forecast_used = 0;  // hits of pages that a forecast had brought in
  std::uint64_t filled_bytes = 0;
};

// A resolve under way.
struct Resolving {
  ResolveCounts counts;
  std::uint32_t pending = 0;  // items of the list without a result yet
  std::uint32_t next = 0;     // none of them lies before this one
};

namespace detail {

inline constexpr std::uint32_t kLookupBatch = 32;
inline constexpr std::uint32_t kFillBatch = 64;
inline constexpr int kMaxWordTries = 64;  // exchanges lost to others on one word, then it is a miss
inline constexpr Slot kPending = -2;      // in `slots` between the two passes

enum class Met : std::uint8_t { ready, filling, pinned, elsewhere };

// The word of a slot, for meet(). Acquire: ready means that the bytes, written before, are visible.
// Those who raised the step since did so by read-modify-write, which continues the release
// sequence.
SLUICE_HD inline Word look_at(const HotTable& table, Slot slot) {
  return load_acquire(&table.words[slot]);
}

// What the word of the slot where `page` should be says; it was `word` at the last look. Unless the
// page is elsewhere or not ours to use, its step is ours afterwards, so nobody frees the slot while
// we are in the step.
SLUICE_HD inline Met meet(const HotTable& table, Slot slot, Word word, Page page, Step step,
                          const BlockSet& own) {
  Word* at = &table.words[slot];
  for (int i = 0; i < kMaxWordTries; ++i) {
    if (page_of(word) != page && kSeededBug != SeededBug::trust_hint) return Met::elsewhere;
    if (is_pinned(word) && !own.contains(block_of(table, page))) return Met::pinned;
    seeded_window<SeededBug::stamp_back>();
    const bool newer = kSeededBug == SeededBug::stamp_back ? step_of(word) != step
                                                           : step_before(step_of(word), step);
    if (!newer || cas(at, word, with_step(word, step))) {
      return is_ready(word) || is_pinned(word) ? Met::ready : Met::filling;
    }
  }
  return Met::elsewhere;
}

// Says that the bytes are complete. Release: they are, to everyone who reads the word. It fails
// only if the word is not this page's any more, which cannot be while we are in the step.
SLUICE_HD inline void set_ready(const HotTable& table, Slot slot, Page page) {
  Word word = load_relaxed(&table.words[slot]);
  for (int i = 0; i < kMaxWordTries; ++i) {
    if (page_of(word) != page || is_pinned(word) || is_ready(word)) return;
    if (cas(&table.words[slot], word, word | kReadyBit)) return;
  }
}

SLUICE_HD inline void finish(const ResolveList& list, std::uint32_t i, Slot slot, Outcome outcome) {
  list.slots[i] = slot;
  if (list.outcomes != nullptr) list.outcomes[i] = outcome;
}

// Slots that this process can touch.
SLUICE_HD inline std::uint32_t mapped_slots(const HotTable& table, const PageStore& store) {
  return store.slots < table.sizes.slots ? store.slots : table.sizes.slots;
}

// Some items of a list, between the stages of their look-up.
struct LookupBatch {
  std::uint32_t base = 0;  // of its first item in the list
  std::uint32_t size = 0;
  Page page[kLookupBatch];
  std::uint32_t slot[kLookupBatch];  // by the hint; not below the limit: none
  Word word[kLookupBatch];
};

// The first pass. Items without a result get kPending.
//
// Batches go through stages, so that their cache and TLB misses overlap: prefetch the hints; load
// the hints and prefetch the words; load the words; stamp them. A batch loads its hints while the
// one before it waits for its words, and no load waits for a stamp: a locked instruction holds up
// the loads behind it.
class Lookup {
 public:
  SLUICE_HD Lookup(const HotTable& table, const PageStore& store, Step step,
                   const ResolveList& list)
      : table_(table),
        list_(list),
        pages_(list.pages),
        slot_of_(table.slot_of),
        words_(table.words),
        page_limit_(table.pages),
        count_(list.count),
        slot_limit_(mapped_slots(table, store)),
        step_(step),
        forecasts_(any_forecasts(table)) {}

  SLUICE_HD void run(Resolving& resolving) {
    LookupBatch batches[2];
    prefetch_hints(0);
    prefetch_hints(kLookupBatch);
    load_hints(batches[0], 0);
    for (std::uint32_t base = 0, turn = 0; base < count_; base += kLookupBatch, turn ^= 1) {
      const std::uint32_t next = base + kLookupBatch;
      prefetch_hints(next + kLookupBatch);
      if (next < count_) load_hints(batches[turn ^ 1], next);
      load_words(batches[turn]);
      settle(batches[turn], resolving);
    }
  }

 private:
  SLUICE_HD std::uint32_t end_of(std::uint32_t base) const {
    return base < count_ && kLookupBatch < count_ - base ? base + kLookupBatch : count_;
  }

  SLUICE_HD void prefetch_hints(std::uint32_t base) const {
    for (std::uint32_t i = base, end = end_of(base); i < end; ++i) {
      if (pages_[i] < page_limit_) prefetch(&slot_of_[pages_[i]]);
    }
  }

  SLUICE_HD void load_hints(LookupBatch& batch, std::uint32_t base) const {
    batch.base = base;
    batch.size = end_of(base) - base;
    for (std::uint32_t j = 0; j < batch.size; ++j) {
      const Page page = pages_[base + j];
      const std::uint32_t slot = page < page_limit_ ? ~load_relaxed(&slot_of_[page]) : ~0u;
      batch.page[j] = page;
      batch.slot[j] = slot;
      if (slot < slot_limit_) prefetch_for_write(&words_[slot]);
    }
  }

  SLUICE_HD void load_words(LookupBatch& batch) const {
    for (std::uint32_t j = 0; j < batch.size; ++j) {
      const std::uint32_t slot = batch.slot[j];
      batch.word[j] = slot < slot_limit_ ? look_at(table_, static_cast<Slot>(slot)) : kFreeWord;
    }
  }

  SLUICE_HD void settle(const LookupBatch& batch, Resolving& resolving) const {
    std::uint64_t hits = 0;
    for (std::uint32_t j = 0; j < batch.size; ++j) {
      const std::uint32_t i = batch.base + j;
      const Page page = batch.page[j];
      const auto slot = static_cast<Slot>(batch.slot[j]);
      const Met met = batch.slot[j] < slot_limit_
                          ? meet(table_, slot, batch.word[j], page, step_, list_.own)
                          : Met::elsewhere;
      if (met == Met::ready) {
        ++hits;
        finish(list_, i, slot, Outcome::hit);
        if (forecasts_ && clear_forecast_mark(table_, slot)) ++resolving.counts.forecast_used;
      } else if (page >= page_limit_) {
        finish(list_, i, kNoSlot, Outcome::invalid);
        ++resolving.counts.invalid;
      } else if (met == Met::pinned) {
        finish(list_, i, kNoSlot, Outcome::pinned);
        ++resolving.counts.pinned;
      } else {
        list_.slots[i] = kPending;
        ++resolving.pending;
      }
    }
    resolving.counts.hits += hits;
  }

  // Values where the loops need them, so that nothing stored can alias them.
  const HotTable& table_;
  const ResolveList& list_;
  const Page* const pages_;
  const std::uint32_t* const slot_of_;
  Word* const words_;
  const std::uint32_t page_limit_;
  const std::uint32_t count_;
  const std::uint32_t slot_limit_;
  const Step step_;
  const bool forecasts_;
};

struct Fill {
  std::uint32_t item;
  Page page;
  Slot slot;
  const std::byte* from;
};

struct FillBatch {
  std::uint32_t count = 0;
  Fill fills[kFillBatch];

  SLUICE_HD bool has_slot(Slot slot) const {
    for (std::uint32_t i = 0; i < count; ++i) {
      if (fills[i].slot == slot) return true;
    }
    return false;
  }
};

// Of a page whose bytes this process cannot read: asks for its block, unless it is lost.
SLUICE_HD inline Outcome without_frame(const HotTable& table, Block block, Frame frame,
                                       std::uint32_t mark) {
  if (frame == kLostFrame) return Outcome::lost;
  mark_wanted(table, block, mark);
  return Outcome::absent;
}

// One pending item: served at once, or added to the batch. Looks again, since the same page may
// have come earlier in the list, or by somebody else's hand.
SLUICE_HD inline void place(const HotTable& table, const PageStore& store, const ResolveList& list,
                            std::uint32_t i, Claimer& claimer, FillBatch& batch,
                            ResolveCounts& counts) {
  const Page page = list.pages[i];
  if (page >= table.pages) {
    finish(list, i, kNoSlot, Outcome::invalid);
    ++counts.invalid;
    return;
  }
  const Slot hint = slot_hint(table, page);
  const Met met = static_cast<std::uint32_t>(hint) < store.slots
                      ? meet(table, hint, look_at(table, hint), page, claimer.step, list.own)
                      : Met::elsewhere;
  if (met == Met::pinned) {
    finish(list, i, kNoSlot, Outcome::pinned);
    ++counts.pinned;
    return;
  }
  if (met == Met::ready || (met == Met::filling && batch.has_slot(hint))) {
    finish(list, i, hint, Outcome::hit);
    ++counts.hits;
    return;
  }
  const Block block = block_of(table, page);
  const Frame frame = frame_of(table, block);
  if (!frame_readable(store, frame)) {
    const Outcome outcome = without_frame(table, block, frame, kWantedNow);
    finish(list, i, kNoSlot, outcome);
    ++(outcome == Outcome::lost ? counts.lost : counts.absent);
    return;
  }
  const std::byte* from = frame_bytes(store, frame, page_in_block(table, page));
  const Slot slot = met == Met::filling ? hint : claim_slot(table, claimer, page);
  if (slot == kNoSlot) {
    finish(list, i, kNoSlot, Outcome::no_slot);
    ++counts.no_slot;
    return;
  }
  if (met == Met::filling) {
    ++counts.refills;
  } else {
    set_slot_hint(table, page, slot);
  }
  prefetch(from);
  batch.fills[batch.count++] = {i, page, slot, from};
}

SLUICE_HD inline void fill(const HotTable& table, const PageStore& store, const ResolveList& list,
                           FillBatch& batch, ResolveCounts& counts) {
  for (std::uint32_t j = 0; j < batch.count; ++j) {
    const Fill& f = batch.fills[j];
    if constexpr (kSeededBug == SeededBug::early_ready) {
      set_ready(table, f.slot, f.page);
      seeded_window<SeededBug::early_ready>();
    }
    copy_page(slot_bytes(store, f.slot), f.from, store.page_bytes);
    set_ready(table, f.slot, f.page);
    finish(list, f.item, f.slot, Outcome::filled);
  }
  counts.fills += batch.count;
  counts.filled_bytes += batch.count * store.page_bytes;
  batch.count = 0;
}

// The second pass, or a part of it: at most `max_pages` of the items that are pending.
SLUICE_HD inline void bring_in(const HotTable& table, const PageStore& store, Step step,
                               const ResolveList& list, Resolving& resolving,
                               std::uint32_t max_pages) {
  Claimer claimer = begin_claims(table, mapped_slots(table, store), step, resolving.pending);
  FillBatch batch;
  for (; resolving.pending != 0 && max_pages != 0; ++resolving.next) {
    const std::uint32_t i = resolving.next;
    if (i >= list.count) break;
    if (list.slots[i] != kPending) continue;
    --resolving.pending;
    --max_pages;
    place(table, store, list, i, claimer, batch, resolving.counts);
    if (batch.count == kFillBatch) fill(table, store, list, batch, resolving.counts);
  }
  fill(table, store, list, batch, resolving.counts);
  end_claims(table, claimer);
}

// Only the actor writes its counters: plain additions, stored so that others read whole numbers.
SLUICE_HD inline void add(std::uint64_t* counter, std::uint64_t count) {
  if (count != 0) store_relaxed(counter, load_relaxed(counter) + count);
}

SLUICE_HD inline void account(const HotTable& table, std::uint32_t actor,
                              const ResolveCounts& counts) {
  ActorCounters& total = actor_line(table, actor)->counters;
  add(&total.hits, counts.hits);
  add(&total.fills, counts.fills);
  add(&total.refills, counts.refills);
  add(&total.no_slot, counts.no_slot);
  add(&total.absent, counts.absent + counts.lost);
  add(&total.pinned, counts.pinned);
  add(&total.filled_bytes, counts.filled_bytes);
  add(&total.forecast_used, counts.forecast_used);
}

SLUICE_HD inline void sweep_if_due(const HotTable& table, Step step) {
  const Step lead = steps_between(load_relaxed(&table.header->swept) & kStepMask, step);
  if (lead < kSweepDueSteps || lead >= kHalfRange) return;
  Sweep sweep;
  sweep_whole(table, sweep, {});
}

}  // namespace detail

// Looks up all pages of the list. The arguments stay the same until the resolve is over; the
// results belong to it, and nobody else writes them.
SLUICE_HD inline void begin_resolve(const HotTable& table, const PageStore& store, Step step,
                                    const ResolveList& list, Resolving& resolving) {
  detail::sweep_if_due(table, step);
  resolving = {};
  detail::Lookup(table, store, step, list).run(resolving);
}

// Goes on with at most `max_pages` of the missing pages. Returns whether the resolve is over; then
// the counts are complete, and the actor's counters in the table get the same.
SLUICE_HD inline bool resolve_part(const HotTable& table, const PageStore& store,
                                   std::uint32_t actor, Step step, const ResolveList& list,
                                   Resolving& resolving, std::uint32_t max_pages) {
  if (resolving.pending != 0) detail::bring_in(table, store, step, list, resolving, max_pages);
  if (resolving.pending != 0) return false;
  if (resolving.counts.absent != 0) ring_wanted_bell(table);
  detail::account(table, actor, resolving.counts);
  return true;
}

// A whole resolve. Returns its counts.
SLUICE_HD inline ResolveCounts resolve(const HotTable& table, const PageStore& store,
                                       std::uint32_t actor, Step step, const ResolveList& list) {
  Resolving resolving;
  begin_resolve(table, store, step, list, resolving);
  resolve_part(table, store, actor, step, list, resolving, list.count);
  return resolving.counts;
}

}  // namespace sluice::kernels
