// Points at which a crash test ends the process: before and after what outlives it.
//
// SLUICE_KILL_POINT("name") is nothing, unless it is compiled with SLUICE_KILL_POINTS. Then a
// process whose environment says SLUICE_KILL_AT=name:N dies by SIGKILL at the N-th passage of that
// point, in whichever thread; the others pass on. A point costs one relaxed load while another is
// meant, or none.
//
// Names are those below, and nothing else compiles. The folder of a name says what is interrupted;
// those of `store` need a block store, those of `keeper.` that one is started.
//
// Thread-safety: any thread.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#ifdef SLUICE_KILL_POINTS
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstdlib>
#endif

namespace sluice::ipc::kill_points {

inline constexpr const char* kVariable = "SLUICE_KILL_AT";

inline constexpr std::array kNames = std::to_array<std::string_view>({
    // What is kept beyond the daemon, a descriptor under a name.
    "kept.putting",
    "kept.put",
    "kept.removing",
    "kept.removed",
    // A block's record, and the log of frames.
    "record.changing",
    "record.written",
    "record.changed",
    "log.appending",
    "log.appended",
    // Publishing a seal: its record is there, resolvers do not know of it yet.
    "seal.recorded",
    "seal.published",
    // Ids and frames that are given up.
    "retire.ordered",
    "retire.grace_over",
    "retire.ended",
    "store.withdraw.ordered",
    "store.withdraw.grace_over",
    "store.withdraw.ended",
    // Extents of DRAM.
    "extent.granting",
    "extent.granted",
    "extent.kept",
    "extent.told",
    "extent.releasing",
    "extent.released",
    // Arenas and caches.
    "arena.begun",
    "arena.kept",
    "arena.handed_over",
    "arena.disowned",
    "arena.freed",
    "arena.forgotten",
    "cache.disowned",
    "cache.freed",
    "cache.forgotten",
    // A takeover.
    "adopt.taken",
    "adopt.sorted",
    "adopt.session",
    "adopt.memory",
    "adopt.blocks",
    "adopt.frames",
    "adopt.seats",
    "adopt.cache",
    "adopt.serving",
    // A session that comes back.
    "resume.begun",
    "resume.sequence",
    "resume.ended",
    // Who holds what outlives the daemon.
    "keeper.starting",
    "keeper.started",
    "keeper.greeted",
    "keeper.listening",
    // The block store.
    "store.record.written",
    "store.record.syncing",
    "store.record.synced",
    "store.index.writing",
    "store.index.written",
    "store.index.synced",
    "store.segment.making",
    "store.segment.made",
    "store.segment.freeing",
    "store.segment.freed",
    "store.move.read",
    "store.move.written",
    "store.recovery.begun",
    "store.recovery.replaying",
    "store.recovery.replayed",
    "store.recovery.ended",
});

consteval int number_of(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<int>(i);
  }
  throw "a kill point has a name of the list";
}

#ifdef SLUICE_KILL_POINTS

inline constexpr int kNone = -1;

inline std::atomic<int> left{1};  // passages until the end

inline int armed_by_environment() {
  const char* const text = std::getenv(kVariable);
  if (text == nullptr) return kNone;
  const std::string_view wanted(text);
  const std::string_view name = wanted.substr(0, wanted.find(':'));
  int passages = 1;
  if (name.size() < wanted.size()) {
    (void)std::from_chars(text + name.size() + 1, text + wanted.size(), passages);
  }
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] != name) continue;
    left.store(passages, std::memory_order_relaxed);
    return static_cast<int>(i);
  }
  return kNone;
}

inline const std::atomic<int> armed{armed_by_environment()};

inline void pass(int number) {
  if (armed.load(std::memory_order_relaxed) != number) return;
  if (left.fetch_sub(1, std::memory_order_relaxed) != 1) return;
  (void)kill(getpid(), SIGKILL);
  while (true) (void)pause();
}

#endif

}  // namespace sluice::ipc::kill_points

#ifdef SLUICE_KILL_POINTS
#define SLUICE_KILL_POINT(name)                                                    \
  ([] {                                                                            \
    constexpr int sluice_kill_point = ::sluice::ipc::kill_points::number_of(name); \
    ::sluice::ipc::kill_points::pass(sluice_kill_point);                           \
  }())
#else
#define SLUICE_KILL_POINT(name) (static_cast<void>(::sluice::ipc::kill_points::number_of(name)))
#endif
