// Deliberate bugs, for the proof that the property test finds such bugs (tests/residency). Outside
// of the build with SLUICE_SEEDED_BUGS every SLUICE_SEEDED(...) is the constant false.
#pragma once

#ifdef SLUICE_SEEDED_BUGS
#include <cstdint>

namespace sluice::residency {

enum class SeededBug : std::uint8_t {
  none,
  reuse_without_grace,     // a retired block's id and frame are free at once
  stay_in_directory,       // an evicted block can still be matched
  forget_reference,        // fork does not count its references
  evict_referenced,        // a block goes to the eviction list while one reference is left
  ignore_key,              // a hit is a hit by hash, of any size
  ignore_limit,            // grants above the tenant's limit
  leak_on_death,           // private blocks of a dead session stay
  dedup_keeps_private,     // the sequence keeps the duplicate
  forget_uncharge,         // a released extent stays charged
  ignore_reserve,          // a tenant may take the sessions that are kept for others
  destroy_open_arena,      // an arena that a session has open makes room
  forget_arena_charge,     // an arena that could not be made stays charged
  withdraw_without_grace,  // a displaced block's frame is free at once
  publish_before_loaded,   // resolvers are told of a frame before it was read into
  evict_while_writing,     // a block goes when its write is ordered
  drop_unwritten,          // a block that the store has not goes as if it had it
  displace_unwritten,      // the same, under those who refer to it
  believe_refused,         // a write that was refused counts as one
  stay_lost_in_directory,  // a lost block can still be matched
  keep_lost_frame,         // the frame of a lost block stays taken
  strand_displaced,        // a displaced block stays when its last reference goes
  displace_unheld,         // a displaced block is taken to be in the store still
  forget_hold,             // a block that is found in the store is not held there
  recall_in_batch,         // a block that stays loses its frame with those that left
};
inline SeededBug seeded_bug = SeededBug::none;

}  // namespace sluice::residency

#define SLUICE_SEEDED(bug) (::sluice::residency::seeded_bug == ::sluice::residency::SeededBug::bug)
#else
#define SLUICE_SEEDED(bug) false
#endif
