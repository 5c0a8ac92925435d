// The residency manager: which block is where, for whom. One per node.
//
// A pure state machine: events in (the methods), actions out (actions.h). It has no threads,
// clocks, I/O, randomness or logging; the same events give the same actions and replies, bit for
// bit. Time is the number of events. The daemon, the simulator and the tests drive the same object.
//
// Who may name what, and when it may be reused (DESIGN §5, rules 5 to 8):
//   - A block is *taken* (private to one sequence), *sealed* (immutable, in the directory, any
//   number of
//     references), *retiring*, or free. It has one id and one frame from the moment it is taken
//     until its Retire batch is reported; neither is given to another block in between (rules 6 and
//     7).
//   - Only a sealed block is in the directory and only a sealed block has a frame that resolvers
//   know
//     (SetFrame comes with the seal, which the caller reports after the bytes are complete: rule
//     5). A taken one is named by the session that writes it and by nobody else.
//   - To retire, a block must have no references. It leaves the directory in the same event, so
//   nobody
//     can gain a new one, and only then is Retire ordered: the mark precedes T, as rule 6 asks.
//   - Private blocks that are truncated, released or deduplicated retire in the same way, because
//   their
//     owner may still be in a step that reads their pinned slots.
//   - A dead session's actors are set idle before its blocks retire. The caller decides when a
//   session is
//     dead (rule 8); until then nothing of it is touched.
//   - A cache has an arena with a hot table on each device that a session opened it on. Ids and
//     frames are the cache's, so what retires does so in all of them, and is free when it is in
//     each.
//   - A cache, or an arena, that no session has open has no actors, so it is destroyed whole,
//     without grace.
//
// Protocol of growth. extend and fork never wait: if they lack memory that may be granted they
// return `needs_extents` and GrantDram actions, reserve nothing, and are called again after the
// grants were reported. What was granted and not used stays as free frames of the cache: nothing
// can leak. If memory will come back after a grace period they fail with `busy`: call again after a
// `retired` event, or after turn(), within the client's timeout.
//
// Errors: stale_handle (a session, cache or sequence that is gone or another session's), busy (as
// above), quota_exceeded and no_memory (nothing will come back by waiting; the text names tenant,
// tier, used, limit and what to do), list_too_long, limit_reached, and per call as noted. An event
// that fails has changed nothing, except that it may have ordered evictions.
//
// Thread-safety: none. The caller holds one lock around every call and around reading a reply's
// spans.
//
// Cost: opening and releasing a sequence of 128 known blocks takes about 13 us of a core with a
// million blocks in scattered order.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "daemon/residency/actions.h"
#include "daemon/residency/adopt.h"
#include "daemon/residency/ledger.h"
#include "daemon/residency/status.h"
#include "daemon/residency/types.h"

namespace sluice::residency {

struct State;

class Manager {
 public:
  // bad_config: guarantees above the capacity or a limit, no tenant, a limit of limits.h exceeded.
  static Result<Manager> create(const ManagerConfig& config);
  Manager(Manager&&) noexcept;
  Manager& operator=(Manager&&) noexcept;
  ~Manager();

  // ---- tenants and sessions

  // Of HBM it is the tenant's quota on each device. A limit below what is used stops new grants;
  // unreferenced blocks and idle caches go, in turn(), and empty extents are given back. What is
  // still above is TenantTierStatus::over_limit_bytes. bad_config: as in create. not_found: no such
  // tenant.
  Status set_quota(TenantId tenant, Tier tier, const Quota& quota, Actions& actions);

  // Whether open_session would give the tenant another session. A session counts until all that it
  // held is given up. limit_reached: ManagerConfig::max_sessions, less what is reserved for the
  // other tenants and not used by them. not_found: no such tenant.
  Status admits_session(TenantId tenant) const;
  // Errors: those of admits_session.
  Result<SessionId> open_session(TenantId tenant);

  // The session is dead by rule 8, or said good-bye with nothing in flight. Its handles are stale
  // at once; its sequences, private blocks and cache references are given up here and in turn().
  Status session_dead(SessionId id, Actions& actions);

  // ---- what a manager of before left (adopt.h); before anything else happens

  // A session of before whose process lives. Errors: invalid_argument (its number is taken),
  // not_found (no such tenant).
  Status adopt_session(SessionId id, TenantId tenant);
  // A cache of before, after all sessions. Errors: invalid_argument (the number is taken or out of
  // range, the sizes do not go together), quota_exceeded (the tier is smaller than what it has),
  // not_found (tenant or device).
  Result<Adoption> adopt_cache(const AdoptedCache& adopted, Actions& actions);
  // A session that was away is back. Errors: not_found.
  Status resume_session(SessionId id, TenantId tenant);
  // Blocks that the resumed session had in a sequence, in order: of a new one (handle 0), or
  // further ones of one that it adopted. All or none. Errors: stale_handle (of a block that is not
  // the session's, or of the handle), wrong_state (the session is not resuming), list_too_long.
  Result<SequenceOpened> adopt_sequence(SessionId session_id, CacheId cache_id, Handle handle,
                                        std::span<const std::uint32_t> ids, DeviceId device,
                                        Actions& actions);
  // It has adopted all that it goes on with. Errors: wrong_state.
  Status session_resumed(SessionId id, Actions& actions);

  // From now on the manager writes records of the cache's blocks, of which there are none yet.
  // Errors: not_found, wrong_state.
  Status keep_records(CacheId id, std::span<BlockRecord> records);

  // ---- caches

  // Joins the arena on the device of the tenant's cache of that name (and keeps its size), or makes
  // one, with the cache if that is not there. A session may open an arena more than once and closes
  // it as often. invalid_layout: the layout is absurd, or the cache exists with another (the text
  // says what differs). quota_exceeded: the arena does not fit. busy: it is being made, or memory
  // for it is on its way back: call again.
  Result<CacheOpened> open_cache(SessionId session_id, const CacheSpec& spec, Actions& actions);
  Status arena_ready(CacheId id, DeviceId device = {});  // CreateArena was executed
  // It was not; the arena is gone, and the cache if it was the first.
  Status arena_failed(CacheId id, Actions& actions, DeviceId device = {});
  // wrong_state: the session has sequences that it opened with this arena. The blocks stay warm.
  Status close_cache(SessionId session_id, CacheId id, Actions& actions, DeviceId device = {});
  Status arena_destroyed(CacheId id, DeviceId device, Actions& actions);
  Status cache_destroyed(CacheId id, Actions& actions);

  Status extent_granted(CacheId id, std::uint32_t extent);
  Status extent_failed(CacheId id, std::uint32_t extent);
  Status extent_released(CacheId id, std::uint32_t extent, Actions& actions);

  // ---- sequences

  // Refers to the longest known prefix of `keys` (which may be empty), whichever arena its blocks
  // were made with. A reply's handle is valid in this session only.
  Result<SequenceOpened> open_sequence(SessionId session_id, CacheId cache_id, const KeyView& keys,
                                       DeviceId device = {});

  // Goes on with the keys that follow. wrong_state: an earlier key did not match, or the sequence
  // was extended or truncated since. The reply's `matched` are the new ones.
  Result<SequenceOpened> append_known(SessionId session, Handle handle, const KeyView& keys);

  // Appends `count` private blocks with id and frame, all or none, so that a seal cannot fail for
  // memory.
  Result<Extended> extend(SessionId session, Handle handle, std::uint32_t count, Growth growth,
                          Actions& actions);

  // Publishes a private block, in any order within the sequence; `bytes` 0 is a full block. A
  // known key of equal size: the existing block takes its place and the private one retires (its id
  // stays valid until the actor's next step). size_mismatch: the key is known with another size;
  // the block stays private. Sealing again with the same key changes nothing; with another one it
  // is wrong_state.
  Result<Sealed> seal(SessionId session, Handle handle, std::uint32_t index,
                      std::span<const std::byte> key, std::uint64_t bytes, Actions& actions);

  // A second sequence of the same session: sealed blocks are shared, private ones get a private
  // copy. Handles kMaxBlocksPerTurn blocks; fork_more goes on while `complete` is false. Frames are
  // asked for as many as the whole fork takes.
  Result<Forked> fork(SessionId session, Handle parent, Growth growth, Actions& actions);
  Result<Forked> fork_more(SessionId session, Handle parent, Handle child, Growth growth,
                           Actions& actions);

  // Keeps the first `blocks` blocks. invalid_argument: there are fewer.
  Status truncate(SessionId session, Handle handle, std::uint32_t blocks, Actions& actions);
  Status release(SessionId session, Handle handle, Actions& actions);

  Result<SequenceInfo> sequence_info(SessionId session, Handle handle) const;

  // Goes on with blocks that the store has, as append_known does with those in DRAM; they are read
  // in this order. The reply's `matched` are those for which there were ids. wrong_state: as there.
  Result<SequenceOpened> append_stored(SessionId session, Handle handle,
                                       std::span<const StoredKey> blocks, Actions& actions);

  // The caller has the store hold blocks before it appends them, since they could be dropped in
  // between. Of `keys`, those that were held for nobody until then: HoldStored for each that no
  // block of the cache needs held. not_found: the cache is gone, or goes, and needs none of them.
  Status let_go_of_unused(CacheId id, std::span<const std::span<const std::byte>> keys,
                          Actions& actions);

  // ---- moves to and from the block store. not_found: nothing of that kind is under way.

  Status written(CacheId id, BlockId block, WriteOutcome outcome, Actions& actions);
  Status withdrawn(CacheId id, std::uint64_t batch, Actions& actions);
  // `whole`: the frame has the block's bytes, verified. If not, the block is lost.
  Status loaded(CacheId id, BlockId block, bool whole, Actions& actions);
  // Somebody wants pages of these blocks and they are not in DRAM. Ids may be anybody's or
  // nobody's.
  Status wanted(CacheId id, std::span<const BlockId> ids, Actions& actions,
                Urgency urgency = Urgency::now);

  // ---- memory coming back

  // The batch's ids and frames are free again. not_found: no such batch is waiting (its cache may
  // have been destroyed); nothing changes.
  Status retired(CacheId id, std::uint64_t batch, Actions& actions);

  // Work beyond one turn's bound: deaths, long releases, evictions, lowered limits. Call turn()
  // while pending_work(), letting others in between.
  bool pending_work() const;
  void turn(Actions& actions);

  // ---- operators

  // not_found: no such tenant or cache. busy: kMaxEvictions are under way.
  Result<EvictOrdered> evict(const EvictRequest& request, Actions& actions);
  // What evict would order now. not_found: as there.
  Result<EvictPlan> evict_plan(const EvictRequest& request) const;

  // not_found: no such cache.
  Status forecast(CacheId id, ForecastEvent event, std::uint64_t pages);

  NodeStatus status() const;
  std::vector<TenantStatus> tenants() const;
  std::vector<SessionStatus> sessions() const;
  std::vector<CacheStatus> caches() const;
  // Listings: cursor 0 begins, Listing::next goes on; rows are at most `limit` and kMaxListedRows.
  // What changes in between may be missed or seen in either state.
  Listing<SequenceStatus> sequences(std::uint64_t cursor, std::uint32_t limit) const;
  Result<Listing<BlockStatus>> blocks(CacheId id, std::uint64_t cursor, std::uint32_t limit) const;
  // The blocks of one sequence in order. For operators: handles of any session.
  Result<Listing<BlockStatus>> sequence_blocks(SessionId session_id, Handle handle,
                                               std::uint64_t cursor, std::uint32_t limit) const;

  // Recounts everything that is kept incrementally and aborts on a difference: for tests. Takes
  // time in proportion to the number of blocks.
  void check() const;

 private:
  explicit Manager(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sluice::residency
