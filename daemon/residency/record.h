// What is kept of a block where it outlives the manager, so that a later one finds its memory
// again.
//
// One record per id, in memory that the caller keeps (a memfd, in the daemon). The manager writes
// it at each change; nobody else does. The process may be killed between any two stores: while a
// record changes its state is `changing`, and frame and owner are then the old ones or the new
// ones.
//
// Thread-safety: as the manager. A reader looks when the writer is dead.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "daemon/residency/limits.h"
#include "daemon/residency/types.h"
#include "ipc/kill_point.h"

namespace sluice::residency {

struct BlockRecord {
  enum State : std::uint32_t { free = 0, changing, taken, sealed, retiring };

  // What a killed process leaves. All of it is to be checked by who reads it.
  struct Content {
    std::uint64_t owner = 0;  // of a taken one: its session; of a sealed one: who sealed it, or 0
    std::uint32_t frame = 0xFFFFFFFFu;
    std::uint32_t valid_bytes_less_one = 0;
    std::uint8_t key_bytes = 0;
    std::uint8_t sealer = 0;
    Place place = Place::resident;
    std::uint8_t stored = 0;  // 0 or 1; no bool, since what is found may be garbage
    std::array<std::byte, kMaxKeyBytes> key{};
  };

  State state() const { return static_cast<State>(__atomic_load_n(&state_, __ATOMIC_ACQUIRE)); }
  const Content& content() const { return content_; }

  void write(State state, const Content& content) {
    begin();
    SLUICE_KILL_POINT("record.changing");
    content_ = content;
    SLUICE_KILL_POINT("record.written");
    end(state);
    SLUICE_KILL_POINT("record.changed");
  }
  // Of a sealed block whose frame and key stay. One byte each: it is whole at any moment, since it
  // is not to be lost for being written to the store, or taken over.
  void update(Place place, bool stored) {
    content_.place = place;
    content_.stored = stored ? 1 : 0;
    SLUICE_KILL_POINT("record.changed");
  }
  // Everything else stays.
  void write(State state) {
    begin();
    SLUICE_KILL_POINT("record.changing");
    end(state);
    SLUICE_KILL_POINT("record.changed");
  }

 private:
  // These keep the stores between them in order, which is all: no reader runs beside.
  void begin() {
    __atomic_store_n(&state_, std::uint32_t{changing}, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
  }
  void end(State state) { __atomic_store_n(&state_, std::uint32_t{state}, __ATOMIC_RELEASE); }

  std::uint32_t state_ = free;
  std::uint32_t reserved_ = 0;
  Content content_;
};
static_assert(sizeof(BlockRecord) == 96);

}  // namespace sluice::residency
