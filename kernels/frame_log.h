// frame_of[block]: the DRAM frame of a block, or none; and the log that changes it (rule 7).
//
// One writer, in the daemon, appends {block, frame, version}; every actor applies the log when it
// enters a step. An entry of frame_of is {frame: 32, version: 32}, and applying is a
// compare-and-swap that only raises the version. So any number of actors apply the same log to one
// copy, in any interleaving, and a late one cannot bring back an old frame. (With plain stores: A
// reads "frame 7" and sleeps; the frame is withdrawn and "none" applied; A wakes up and stores
// "frame 7".)
//
// The ring is overwritten. The writer applies what it is about to overwrite, so a reader that finds
// its entry gone may skip it.
//
// Thread-safety: one FrameLogWriter per table; apply_log and frame_of from anywhere.
#pragma once

#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/seeded_bug.h"
#include "kernels/table.h"

namespace sluice::kernels {

// The frame is stored inverted: zero is "none, never set".
SLUICE_HD constexpr std::uint64_t make_frame_entry(Frame frame, std::uint32_t version) {
  return (std::uint64_t{static_cast<Frame>(~frame)} << 32) | version;
}
SLUICE_HD constexpr Frame frame_in(std::uint64_t entry) { return ~static_cast<Frame>(entry >> 32); }
SLUICE_HD constexpr std::uint32_t version_in(std::uint64_t entry) {
  return static_cast<std::uint32_t>(entry);
}

// Read it once per fill, after entering the step. kNoFrame: not in DRAM.
// Acquire: pairs with the release by which the entry was set, after the frame's bytes were written.
SLUICE_HD inline Frame frame_of(const HotTable& table, Block block) {
  return frame_in(load_acquire(&table.frame_of[block]));
}

namespace detail {

// Versions are serial numbers. Only a newer one is set, so a failed exchange means that somebody
// else raised the version, by an entry that is still in the ring: its capacity bounds the tries.
SLUICE_HD inline void raise_frame_entry(std::uint64_t* at, Frame frame, std::uint32_t version,
                                        std::uint32_t max_tries) {
  if constexpr (kSeededBug == SeededBug::plain_log) {
    seeded_window<SeededBug::plain_log>();
    store_release(at, make_frame_entry(frame, version));
    return;
  }
  std::uint64_t seen = load_relaxed(at);
  for (std::uint32_t i = 0; i < max_tries; ++i) {
    if (static_cast<std::int32_t>(version - version_in(seen)) <= 0) return;
    if (cas(at, seen, make_frame_entry(frame, version))) return;
  }
}

SLUICE_HD inline void raise_position(std::uint64_t* at, std::uint64_t position) {
  constexpr int kMaxTries = 64;  // a position that stays behind only makes others apply again
  std::uint64_t seen = load_relaxed(at);
  for (int i = 0; i < kMaxTries && seen < position; ++i) {
    if (cas(at, seen, position)) return;
  }
}

// Applies one entry of the ring to `frame_of`. An entry that is being or has been overwritten is
// skipped: the writer applied it before (and its release store of the stamp, acquired here, makes
// that visible).
SLUICE_HD inline void apply_entry(const HotTable& table, std::uint64_t position) {
  const LogEntry* entry = &table.log[position & (table.sizes.log_capacity - 1)];
  const auto expected = static_cast<std::uint32_t>(position + 1);
  const std::uint64_t stamp = load_acquire(&entry->stamp);
  // Acquire: the second look at the stamp stays behind it.
  const std::uint64_t change = load_acquire(&entry->change);
  if (static_cast<std::uint32_t>(stamp) != expected || load_acquire(&entry->stamp) != stamp) return;
  const auto block = static_cast<Block>(change >> 32);
  if (block >= table.sizes.blocks) return;
  raise_frame_entry(&table.frame_of[block], static_cast<Frame>(change),
                    static_cast<std::uint32_t>(stamp >> 32), table.sizes.log_capacity);
}

}  // namespace detail

// Brings frame_of up to the end of the log and returns that position. At most one ring of entries.
SLUICE_HD inline std::uint64_t apply_log(const HotTable& table) {
  // Acquire: pairs with append's release, so the entries below are complete.
  const std::uint64_t end = load_acquire(table.log_end);
  if (table.log_applied == nullptr) return end;
  std::uint64_t at = load_acquire(table.log_applied);  // acquire: who raised it had applied it
  if (at >= end) return end;
  if (end - at > table.sizes.log_capacity) at = end - table.sizes.log_capacity;
  for (; at < end; ++at) detail::apply_entry(table, at);
  detail::raise_position(table.log_applied, end);
  return end;
}

// By a client while there is no daemon to log it: the frame of a block that is private to it, and
// whose bytes are complete. From now on whoever may name the block finds it. The entry keeps its
// version, so whatever the writer logs of the block later holds; a writer that is started anew does
// not know of it, and may put what was there before back.
inline void expose_frame(const HotTable& table, Block block, Frame frame) {
  constexpr int kMaxTries = 64;  // against one who changes it all the time
  std::uint64_t seen = load_relaxed(&table.frame_of[block]);
  for (int i = 0; i < kMaxTries && frame_in(seen) != frame; ++i) {
    if (cas(&table.frame_of[block], seen, make_frame_entry(frame, version_in(seen)))) return;
  }
}

// The writer's end. `current` is the daemon's own frame_of, in private memory: the truth that
// clients cannot touch. A view whose frame_of is `current` and whose log_end is `&end` is always up
// to date; see use_private_frames().
struct FrameLogWriter {
  std::uint64_t* current = nullptr;  // [blocks], zeroed at first
  std::uint64_t end = 0;             // entries written
  std::uint64_t applied = 0;         // entries that the writer put into the shared frame_of itself
};

// Puts what the writer logged into the shared frame_of. Bounded by what the writer knows itself,
// whatever the table says. Plain stores: nobody has a later version of an entry than the writer.
inline void apply_written(const HotTable& shared, FrameLogWriter& writer) {
  for (; writer.applied < writer.end; ++writer.applied) {
    const LogEntry* entry = &shared.log[writer.applied & (shared.sizes.log_capacity - 1)];
    const auto block = static_cast<Block>(load_acquire(&entry->change) >> 32);
    if (block >= shared.sizes.blocks) continue;
    store_release(&shared.frame_of[block], load_relaxed(&writer.current[block]));
  }
  detail::raise_position(&shared.header->log_applied, writer.end);
}

// From now on, this view reads the writer's own copy instead of the shared one.
inline void use_private_frames(HotTable& table, FrameLogWriter& writer) {
  table.frame_of = writer.current;
  table.log_end = &writer.end;
  table.log_applied = nullptr;
}

// Logs that `block` is now in `frame`, or in none. The frame's bytes are complete by now. `shared`
// is a view with the shared frame_of; block < blocks. One thread.
inline void append_log(const HotTable& shared, FrameLogWriter& writer, Block block, Frame frame) {
  const std::uint32_t capacity = shared.sizes.log_capacity;
  if (writer.end - writer.applied >= capacity) apply_written(shared, writer);
  const std::uint32_t version = version_in(load_relaxed(&writer.current[block])) + 1;
  store_release(&writer.current[block], make_frame_entry(frame, version));

  LogEntry* entry = &shared.log[writer.end & (capacity - 1)];
  // A reader of the old entry sees this first, then the new change, then the new stamp; each
  // release orders the store before it, and exchange keeps the change from moving up.
  exchange(&entry->stamp, std::uint64_t{0});
  store_release(&entry->change, (std::uint64_t{block} << 32) | frame);
  store_release(&entry->stamp,
                (std::uint64_t{version} << 32) | static_cast<std::uint32_t>(writer.end + 1));
  store_release(&writer.end, writer.end + 1);
  store_release(&shared.header->log_end, writer.end);
}

// Begins a table, which nobody uses yet, with the frames that the writer of another one knows. Both
// have as many blocks. The log seems to have gone round once, so that every copy of frame_of takes
// the original first.
inline void adopt_frames(const HotTable& shared, FrameLogWriter& writer,
                         const FrameLogWriter& from) {
  for (Block block = 0; block < shared.sizes.blocks; ++block) {
    const Frame frame = frame_in(load_relaxed(&from.current[block]));
    if (frame == kNoFrame) continue;
    const std::uint64_t entry = make_frame_entry(frame, 1);
    store_release(&writer.current[block], entry);
    store_release(&shared.frame_of[block], entry);
  }
  writer.end = writer.applied = shared.sizes.log_capacity;
  store_release(&shared.header->log_applied, writer.end);
  store_release(&shared.header->log_end, writer.end);
}

}  // namespace sluice::kernels
