// Taking over what a manager of before left: its caches' memory, and the sessions whose processes
// still live (DESIGN §9).
//
// A session of before is *away* until it comes back (resume_session) and has said what of its own
// it goes on with (Manager::adopt_sequence, session_resumed), or is dead. Until then it may read
// any sealed block of its tenant and write any private block of its own, and nobody knows which:
//   - each sealed block that was found has a reference for the sessions that are away; it is given
//     up when none of the tenant's is left;
//   - private blocks stay the session's; those that it does not adopt retire;
//   - what nobody can name any more (of sessions that are gone, or in the middle of a change)
//     retires: rules 6 and 7 hold for it as for any other.
// Blocks that were on their way into a frame are absent: who read them in is dead, and nothing is
// under way any more.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "daemon/residency/record.h"
#include "daemon/residency/types.h"

namespace sluice::residency {

struct AdoptedCache {
  CacheId id;
  TenantId tenant;
  CacheSpec spec;
  CacheShape shape;
  struct Arena {
    DeviceId device;
    std::uint32_t extents = 0;
  };
  std::vector<Arena> arenas;        // at least one
  std::uint32_t frame_extents = 0;  // that exist, from index 0 on
  std::span<BlockRecord> records;   // shape.max_blocks; kept from now on
};

struct Adoption {
  // By id, as far as ids were used: where resolvers find it; none for what is private, absent or
  // retiring, kLostFrameId for what is lost.
  std::vector<FrameId> frames;
  // Nothing lies in them: they do not exist for the manager, and their memory, if it is there, is
  // to be given back before anything is granted.
  std::vector<std::uint32_t> empty_extents;
  std::uint64_t sealed_blocks = 0;
  std::uint64_t private_blocks = 0;  // of sessions that are away
  std::uint64_t given_up = 0;        // of nobody, or in the middle of a change
  std::uint64_t damaged = 0;         // of these, records that no manager would have written
};

}  // namespace sluice::residency
