// What the manager asks its caller to do.
//
// Events append actions to an `Actions` buffer; the caller executes them in order, under the same
// lock as the event or in the same order after it. Those that take time are answered by an event:
//
//   CreateArena    arena_ready or arena_failed
//   GrantDram      extent_granted or extent_failed
//   ReleaseExtent  extent_released
//   DestroyArena   arena_destroyed
//   DestroyCache   arena_destroyed of each of its arenas, as it is free, and cache_destroyed
//   Retire         retired
//   Withdraw       withdrawn
//   WriteBlock     written
//   ReadBlock      loaded
//
// The others are done when the caller has executed them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "daemon/residency/types.h"
#include "ipc/ids.h"

namespace sluice::residency {

// Make an arena (`hbm_extents` extents) of a cache, and its hot table, on a device. It is the first
// of a new cache, or another one of a cache that has blocks: then its frame_of begins with the
// frames of all that are sealed. The memory is charged.
struct CreateArena {
  ipc::CacheId cache;
  ipc::DeviceId device;
  std::uint32_t hbm_extents = 0;
  std::uint64_t hbm_extent_bytes = 0;
  friend bool operator==(const CreateArena&, const CreateArena&) = default;
};

// Make DRAM extent `extent` of the cache: its frames are extent * frames_per_extent and on.
// `device` is the one that asks for it, though all that have an arena of the cache read it. The
// memory is charged. An index that was released before may be granted again, with new memory.
struct GrantDram {
  ipc::CacheId cache;
  std::uint32_t extent = 0;
  std::uint64_t bytes = 0;
  ipc::DeviceId device;
  friend bool operator==(const GrantDram&, const GrantDram&) = default;
};

// Take a DRAM extent back: no id names its frames any more and every grace period has passed. It
// stays charged to the tenant until extent_released says that the memory is really back. Extents of
// any index come back, in any order.
struct ReleaseExtent {
  ipc::CacheId cache;
  std::uint32_t extent = 0;
  friend bool operator==(const ReleaseExtent&, const ReleaseExtent&) = default;
};

// Log `frame` as the place of a sealed block, in all arenas: from now on resolvers may fill pages
// from it. The bytes are complete (DESIGN §5 rule 5); until this action the frame of an id is
// "none". kLostFrameId: the block is lost (tiering.h).
struct SetFrame {
  ipc::CacheId cache;
  ipc::BlockId id;
  ipc::FrameId frame;
  friend bool operator==(const SetFrame&, const SetFrame&) = default;
};

// Rules 6 and 7 for these ids and their frames, in each arena: log "none" for each, T = clock++,
// wait until every actor was seen idle or past T, then scan the words once and drop every page of
// these ids, pinned ones included. When that is done in all arenas, report retired(cache, batch).
// The ids were never, or are no longer, in the directory, and no sequence refers to them: nobody
// can begin to name them. Batches of a cache may end in any order.
struct Retire {
  ipc::CacheId cache;
  std::uint64_t batch = 0;  // unique in the life of the manager
  std::vector<ipc::BlockId> ids;
  friend bool operator==(const Retire&, const Retire&) = default;
};

// Rule 7 for the frames of these sealed blocks, in each arena: log "none" for each, and wait until
// every actor was seen idle or in a step whose entry had applied that. When that is done in all
// arenas, report withdrawn(cache, batch). The ids stay: pages of them that are in HBM are hit as
// before. The number is one of the batches of Retire.
struct Withdraw {
  ipc::CacheId cache;
  std::uint64_t batch = 0;
  std::vector<ipc::BlockId> ids;
  friend bool operator==(const Withdraw&, const Withdraw&) = default;
};

// Write a sealed block out of its frame to the block store; report written(cache, id). The frame
// stays what it is until then.
struct WriteBlock {
  ipc::CacheId cache;
  ipc::BlockId id;
  ipc::FrameId frame;
  std::uint64_t valid_bytes = 0;
  std::vector<std::byte> key;
  Reuse reuse = Reuse::likely;
  bool hold = false;  // the block store may not drop it from then on, as after HoldStored
  friend bool operator==(const WriteBlock&, const WriteBlock&) = default;
};

// Read a block of the store into a frame that nobody knows; report loaded(cache, id).
struct ReadBlock {
  ipc::CacheId cache;
  ipc::BlockId id;
  ipc::FrameId frame;
  std::uint64_t valid_bytes = 0;
  std::vector<std::byte> key;
  Urgency urgency = Urgency::now;
  friend bool operator==(const ReadBlock&, const ReadBlock&) = default;
};

// A step waits for a block that is being read with Urgency::soon: its read is to be one of now.
struct HurryRead {
  ipc::CacheId cache;
  ipc::BlockId id;
  std::vector<std::byte> key;
  friend bool operator==(const HurryRead&, const HurryRead&) = default;
};

// A block that only the block store has, and that somebody counts on: the store may not drop it
// (`hold`), or may again. It is told so of each such block once.
struct HoldStored {
  ipc::CacheId cache;
  ipc::BlockId id;
  std::vector<std::byte> key;
  bool hold = false;
  friend bool operator==(const HoldStored&, const HoldStored&) = default;
};

// A dead session may have left pins on pages of these ids. `sealed` false: its private blocks,
// words become {none} (a Retire follows). `sealed` true: blocks that it sealed and may not have
// unpinned, words become {same page, ready}, which is safe by whomever, since the key is published
// (rule 5).
struct DropPins {
  ipc::CacheId cache;
  bool sealed = false;
  std::vector<ipc::BlockId> ids;
  friend bool operator==(const DropPins&, const DropPins&) = default;
};

// All actors of a dead session become idle, in all caches (rule 8). Precedes its DropPins and
// Retires, so that no grace period waits for the dead.
struct ActorsIdle {
  ipc::SessionId session;
  friend bool operator==(const ActorsIdle&, const ActorsIdle&) = default;
};

// Destroy an arena with its hot table; the cache has others. No session has it open, so no actor is
// in a step in it. What waits for it in orders that are unanswered is void.
struct DestroyArena {
  ipc::CacheId cache;
  ipc::DeviceId device;
  friend bool operator==(const DestroyArena&, const DestroyArena&) = default;
};

// Destroy a cache with its arenas, their tables, and all its extents of both tiers. No session has
// it open, so no actor is in a step in it and no grace is needed. Its Retire, Withdraw, WriteBlock,
// ReadBlock and ReleaseExtent actions that are unanswered are void: do not answer them after
// cache_destroyed, when the number may be another cache's. Everything stays charged until then.
struct DestroyCache {
  ipc::CacheId cache;
  friend bool operator==(const DestroyCache&, const DestroyCache&) = default;
};

using Action = std::variant<CreateArena, GrantDram, ReleaseExtent, SetFrame, Retire, Withdraw,
                            WriteBlock, ReadBlock, HurryRead, HoldStored, DropPins, ActorsIdle,
                            DestroyArena, DestroyCache>;
using Actions = std::vector<Action>;

// One line, such as "set_frame cache=1 id=7 frame=3": for logs and for comparing runs.
std::string to_string(const Action& action);

}  // namespace sluice::residency
