// The hot table: all state of a cache's hot buffer, one POD in memory that the daemon and the
// tenant's processes share; and HotTable, the view of it that each process builds for itself.
//
// Invariants:
//  - Nothing in the shared memory is trusted. Sizes and pointers live in the view; a number read
//  from
//    the table is checked against the view before it is an index, and no loop runs until the table
//    says something. Whoever scribbles on a table gets wrong slots and wrong counts, never a fault.
//  - Zeroed memory is an empty table: "none", "idle" and "free" are all stored as zero.
//
// Thread-safety: a view is a value; any number of threads of any number of processes use views of
// the same table at the same time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/table_sizes.h"
#include "kernels/words.h"

namespace sluice::kernels {

// What happened to pages, since the table was formatted. Written by one actor, read by anyone.
struct ActorCounters {
  std::uint64_t hits = 0;
  std::uint64_t fills = 0;    // pages brought in
  std::uint64_t refills = 0;  // of these: claimed by somebody else and not complete when we came
  std::uint64_t no_slot = 0;
  std::uint64_t absent = 0;
  std::uint64_t pinned = 0;  // pinned by somebody else
  std::uint64_t filled_bytes = 0;
  std::uint64_t forecast_issued = 0;  // pages brought in because of a forecast
  std::uint64_t forecast_used = 0;    // of anybody's forecasts, hit by this actor
  std::uint64_t forecast_bytes = 0;
  std::uint64_t forecast_dropped = 0;  // for which there was no slot or budget, or that are lost
};

// One actor's own cache lines: what it publishes for sweeps and graces, and its counters.
struct alignas(64) ActorLine {
  std::uint32_t active = 0;        // 0: idle; else (step << 1) | 1
  std::uint64_t log_position = 0;  // frame_of was at least this far when the step began
  std::uint64_t entries = 0;       // steps entered
  // Of an actor on a device (cuda/steps.cuh). Not mirrored.
  std::uint32_t step = 0;      // entered last
  std::uint32_t previous = 0;  // and the one before it
  alignas(16) std::uint32_t launches = 0;
  std::uint32_t next[2] = {0, 0};  // the step of a launch that advances, by the parity of advances
  std::uint32_t advances = 0;      // launches that did
  alignas(64) ActorCounters counters;
};
static_assert(sizeof(ActorLine) <= kActorBytes);

struct TableHeader {
  alignas(64) std::uint32_t clock = 0;  // free running; its low 30 bits are the step
  // Read by all, rarely written.
  alignas(64) std::uint32_t swept = 0;  // the cut of a sweep that ran to its end: no word is older
  std::uint32_t limit = 0;              // slots from here on are not claimed
  std::uint32_t forecasts = 0;          // pages brought in by forecasts, not used yet
  std::uint32_t exhausted = 0;          // see claim.h
  std::uint64_t log_end = 0;            // entries of the frame log ever written
  std::uint64_t log_applied = 0;        // entries that frame_of is known to have
  // Cursors of the ring of free slots.
  alignas(64) std::uint32_t hints_taken = 0;
  alignas(64) std::uint32_t hints_given = 0;
  // Seldom touched.
  alignas(64) std::uint32_t wanted_bell = 0;
  std::uint32_t scan_from = 0;   // where the next search for free slots begins
  std::uint32_t pin_from = 0;    // no free slot for a pin below, by a guess
  std::uint32_t round_from = 0;  // of a device: the clock when scan_from last was 0
  std::uint32_t fresh = 0;       // of a device: slots below were claimed at least once
  std::uint64_t sweeps = 0;
  std::uint64_t freed = 0;            // slots
  std::uint64_t forecast_wasted = 0;  // pages brought in by forecasts, dropped unused
};
static_assert(sizeof(TableHeader) <= kHeaderBytes);

// A change of frame_of; see frame_log.h.
struct LogEntry {
  std::uint64_t change = 0;  // {block: 32, frame: 32}
  std::uint64_t stamp = 0;   // {version: 32, low half of its position plus one: 32}
};
static_assert(sizeof(LogEntry) == kLogEntryBytes);

struct HotTable {
  TableSizes sizes;
  std::uint32_t pages = 0;         // sizes.pages()
  std::uint64_t blocks_magic = 0;  // see page_in_block
  TableHeader* header = nullptr;
  std::byte* actors = nullptr;        // ActorLine each kActorBytes
  Word* words = nullptr;              // [slots]
  std::uint32_t* hints = nullptr;     // [hint_capacity] slot numbers
  LogEntry* log = nullptr;            // [log_capacity]
  std::uint64_t* frame_of = nullptr;  // [blocks] see frame_log.h; may be an array of this process
  std::uint64_t* log_end = nullptr;   // in the header, or of this process
  std::uint64_t* log_applied = nullptr;    // null: whoever writes the log also writes this frame_of
  std::uint32_t* wanted = nullptr;         // [blocks] see wanted.h
  std::uint8_t* wanted_groups = nullptr;   // [blocks / kWantedGroup, rounded up]
  std::uint64_t* forecast_bits = nullptr;  // one bit per slot
  std::uint32_t* slot_of = nullptr;        // [pages] inverted slot: a hint, "look there first"
  // Of a split table, else null: what lies in the node's memory beside log and wanted.
  TableHeader* host_header = nullptr;       // log_end, log_applied, wanted_bell; sums, mirrored
  std::byte* mirrors = nullptr;             // ActorLine each kActorBytes
  std::uint64_t* frame_original = nullptr;  // [blocks] as of host_header->log_applied
};

SLUICE_HD inline ActorLine* actor_line(const HotTable& table, std::uint32_t actor) {
  return reinterpret_cast<ActorLine*>(table.actors + std::size_t{actor} * kActorBytes);
}

// 2^64 / blocks, rounded up; see page_in_block.
SLUICE_HD constexpr std::uint64_t blocks_magic(std::uint32_t blocks) {
  return ~std::uint64_t{0} / blocks + 1;
}

namespace detail {
SLUICE_HD inline HotTable sized_view(const TableSizes& sizes) {
  HotTable table;
  table.sizes = sizes;
  table.pages = static_cast<std::uint32_t>(sizes.pages());
  table.blocks_magic = blocks_magic(sizes.blocks);
  return table;
}
}  // namespace detail

// The view of the table at `memory`, which is aligned to 64 bytes and has table_bytes(sizes) bytes.
// Requires check_sizes(sizes) == none.
SLUICE_HD inline HotTable view_table(void* memory, const TableSizes& sizes) {
  auto* base = static_cast<std::byte*>(memory);
  const TableOffsets offsets = offsets_of(sizes);
  HotTable table = detail::sized_view(sizes);
  table.header = reinterpret_cast<TableHeader*>(base);
  table.actors = base + offsets.actors;
  table.words = reinterpret_cast<Word*>(base + offsets.words);
  table.hints = reinterpret_cast<std::uint32_t*>(base + offsets.hints);
  table.log = reinterpret_cast<LogEntry*>(base + offsets.log);
  table.frame_of = reinterpret_cast<std::uint64_t*>(base + offsets.frame_of);
  table.log_end = &table.header->log_end;
  table.log_applied = &table.header->log_applied;
  table.wanted = reinterpret_cast<std::uint32_t*>(base + offsets.wanted);
  table.wanted_groups = reinterpret_cast<std::uint8_t*>(base + offsets.wanted_groups);
  table.forecast_bits = reinterpret_cast<std::uint64_t*>(base + offsets.forecast_bits);
  table.slot_of = reinterpret_cast<std::uint32_t*>(base + offsets.slot_of);
  return table;
}

// A user's view of a split table (see SplitOffsets): both parts as the device addresses them.
SLUICE_HD inline HotTable view_split_table(void* device_part, void* host_part,
                                           const TableSizes& sizes) {
  auto* device = static_cast<std::byte*>(device_part);
  auto* host = static_cast<std::byte*>(host_part);
  const SplitOffsets offsets = split_offsets_of(sizes);
  HotTable table = detail::sized_view(sizes);
  table.header = reinterpret_cast<TableHeader*>(device);
  table.actors = device + offsets.actors;
  table.words = reinterpret_cast<Word*>(device + offsets.words);
  table.hints = reinterpret_cast<std::uint32_t*>(device + offsets.hints);
  table.frame_of = reinterpret_cast<std::uint64_t*>(device + offsets.frame_of);
  table.forecast_bits = reinterpret_cast<std::uint64_t*>(device + offsets.forecast_bits);
  table.slot_of = reinterpret_cast<std::uint32_t*>(device + offsets.slot_of);
  table.log_applied = &table.header->log_applied;
  table.host_header = reinterpret_cast<TableHeader*>(host);
  table.log_end = &table.host_header->log_end;
  table.mirrors = host + offsets.mirrors;
  table.log = reinterpret_cast<LogEntry*>(host + offsets.log);
  table.frame_original = reinterpret_cast<std::uint64_t*>(host + offsets.frame_original);
  table.wanted = reinterpret_cast<std::uint32_t*>(host + offsets.wanted);
  table.wanted_groups = reinterpret_cast<std::uint8_t*>(host + offsets.wanted_groups);
  return table;
}

// The daemon's view of the node's part of a split table: actor lines are the mirrors, frame_of is
// the original, and there are no words, hints or slot_of to look at.
SLUICE_HD inline HotTable view_host_part(void* host_part, const TableSizes& sizes) {
  auto* host = static_cast<std::byte*>(host_part);
  const SplitOffsets offsets = split_offsets_of(sizes);
  HotTable table = detail::sized_view(sizes);
  table.header = reinterpret_cast<TableHeader*>(host);
  table.actors = host + offsets.mirrors;
  table.log = reinterpret_cast<LogEntry*>(host + offsets.log);
  table.frame_of = reinterpret_cast<std::uint64_t*>(host + offsets.frame_original);
  table.log_end = &table.header->log_end;
  table.log_applied = &table.header->log_applied;
  table.wanted = reinterpret_cast<std::uint32_t*>(host + offsets.wanted);
  table.wanted_groups = reinterpret_cast<std::uint8_t*>(host + offsets.wanted_groups);
  return table;
}

// Slots at and above `limit` are not claimed any more, and sweeps vacate them.
SLUICE_HD inline void set_limit(const HotTable& table, std::uint32_t limit) {
  store_relaxed(&table.header->limit, limit);
  store_relaxed(&table.header->exhausted, 0u);
}

SLUICE_HD inline std::uint32_t limit_of(const HotTable& table) {
  const std::uint32_t limit = load_relaxed(&table.header->limit);
  return limit < table.sizes.slots ? limit : table.sizes.slots;
}

// Makes an empty table in zeroed memory (a fresh memfd is), once, before anyone else has a view.
SLUICE_HD inline HotTable format_table(void* zeroed_memory, const TableSizes& sizes) {
  const HotTable table = view_table(zeroed_memory, sizes);
  set_limit(table, sizes.slots);
  return table;
}

// Pages are numbered page by page and not block by block: a list reads the same page (layer, head)
// of many blocks, and ids of a sequence lie dense, so the hints of a list lie side by side.
// Numbered block by block each would cost a cache line, and in a large table a TLB entry, of its
// own.
SLUICE_HD constexpr Page page_number(const HotTable& table, Block block, std::uint32_t in_block) {
  return in_block * table.sizes.blocks + block;
}

// page / blocks without a division: exact for 32-bit pages.
SLUICE_HD inline std::uint32_t page_in_block(const HotTable& table, Page page) {
  if (table.sizes.blocks == 1) return page;  // its magic does not fit into 64 bits
#ifdef __CUDA_ARCH__
  return static_cast<std::uint32_t>(__umul64hi(table.blocks_magic, page));
#else
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint32_t>((Wide{table.blocks_magic} * page) >> 64);
#endif
}

SLUICE_HD inline Block block_of(const HotTable& table, Page page) {
  return page - page_in_block(table, page) * table.sizes.blocks;
}

SLUICE_HD inline bool is_slot(const HotTable& table, Slot slot) {
  return static_cast<std::uint32_t>(slot) < table.sizes.slots;
}

// Where to look first for a page of the table; kNoSlot if nowhere. Only ever a hint, so relaxed.
SLUICE_HD inline Slot slot_hint(const HotTable& table, Page page) {
  const Slot slot = static_cast<Slot>(~load_relaxed(&table.slot_of[page]));
  return is_slot(table, slot) ? slot : kNoSlot;
}

SLUICE_HD inline void set_slot_hint(const HotTable& table, Page page, Slot slot) {
  store_relaxed(&table.slot_of[page], ~static_cast<std::uint32_t>(slot));
}

}  // namespace sluice::kernels
