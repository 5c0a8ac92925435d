// A residency manager beside a naive oracle, driven by abstract events.
//
// The World plays the daemon: it applies an event to the manager, follows with plain maps what must
// be true now, and keeps what the manager ordered and nobody has answered yet (batches, grants,
// releases), to be answered by later events in any order. The manager chooses ids, frames, extents
// and what to evict; the oracle holds that each choice was allowed. Everything else it predicts
// exactly.
//
// A node may have a block store. Then the oracle also keeps what is in each frame, who may still
// read or write it, and what the store has; the store refuses, loses and drops blocks at random.
//
// An event names its objects by numbers that are reduced modulo what exists. So any subset of a
// list of events is again a list of events: a failing one can be shrunk.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/residency/manager.h"

namespace sluice::residency::test {

inline constexpr std::uint32_t kDevices = 2;

enum class Kind : std::uint8_t {
  open_session,
  session_dead,
  open_cache,
  close_cache,
  open_sequence,
  append_known,
  extend,
  seal,
  fork,
  truncate,
  release,
  answer,
  answer_failed,
  turn,
  set_quota,
  evict,
  bad_input,
  repeat_key,
  append_stored,
  wanted,
  store_drop,
  count_,  // NOLINT(readability-identifier-naming): no event, their number
};

struct Event {
  Kind kind = Kind::turn;
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
};
std::string to_string(const Event& event);

// The block store of a world's node. Chances are of an answer; 0: never.
struct StoreSpec {
  std::uint32_t blocks = 0;  // its size
  std::uint32_t refuses_one_in = 0;
  std::uint32_t loses_one_in = 0;
};

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class World {
 public:
  explicit World(const std::optional<StoreSpec>& store);

  // Throws Failure if the manager did what it must not.
  void apply(const Event& event);
  // Compares all of the manager's blocks and counters with the oracle's.
  void verify();
  // Holds that `busy` ends when all orders are answered; then ends everything and holds that
  // nothing is left.
  void finish();

  // Of all actions and replies so far: equal events must give equal ones.
  std::uint64_t digest() const { return digest_; }
  const std::map<std::string, std::uint64_t>& seen() const { return seen_; }

 private:
  enum class Life : std::uint8_t { taken, sealed, dropped, retiring };
  struct OracleBlock {
    FrameId frame = ipc::kNoFrameId;
    Life life = Life::taken;
    std::uint32_t references = 0;
    std::string key;
    std::uint64_t bytes = 0;
    bool may_be_pinned = false;  // its session died: a DropPins must come before its Retire
    // Of a sealed one, as far as it was ordered and answered:
    Place place = Place::resident;
    bool writing = false;
    bool confirms = false;
    bool likely = true;   // as which it is written
    bool stored = false;  // the manager was told so
    bool hold = false;    // the store is to hold what is written
    bool exists = false;  // and had it when it was told so
    bool lost = false;
  };
  // A frame in use: until the grace of the Retire or Withdraw of its block is answered.
  struct OracleFrame {
    std::uint32_t owner = 0;  // block id
    std::string key;          // whose complete bytes are in it; empty: private, or incomplete
    std::uint64_t bytes = 0;
    bool known = false;  // resolvers may read it
  };
  enum class Extent : std::uint8_t { granting, present, releasing };
  struct OracleArena {
    CacheState state = CacheState::opening;
    std::uint32_t opens = 0;
    std::uint64_t bytes = 0;
  };
  struct OracleCache {
    TenantId tenant;
    CacheSpec spec;
    CacheShape shape;
    bool destroying = false;
    std::map<std::uint32_t, OracleArena> arenas;  // by device
    std::map<std::uint32_t, OracleBlock> blocks;  // by id
    std::map<std::string, std::uint32_t> by_key;
    std::unordered_map<std::uint32_t, OracleFrame> frames;  // in use
    std::map<std::uint32_t, Extent> extents;
    std::map<std::uint64_t, std::vector<BlockId>> batches;      // of Retire
    std::map<std::uint64_t, std::vector<BlockId>> withdrawals;  // of Withdraw
    std::uint32_t writes = 0;                                   // unanswered
    std::uint32_t confirmations = 0;  // unanswered, of blocks that the store had
    std::uint32_t reads = 0;
    bool may_drop = false;  // the store refused: blocks go unwritten

    std::uint32_t opens() const;
    std::uint64_t most_moving() const;
  };
  // An arena of a cache: cache, device.
  using ArenaName = std::pair<std::uint32_t, std::uint32_t>;
  struct OracleSession {
    SessionId id;
    TenantId tenant;
    std::map<ArenaName, std::uint32_t> opens;
  };
  struct OracleSequence {
    SessionId session;
    Handle handle;
    std::uint32_t cache = 0;
    std::uint32_t device = 0;
    std::uint32_t family = 0;
    bool all_known = false;
    std::vector<std::uint32_t> blocks;
  };
  struct Unanswered {
    enum Kind {
      create,
      grant,
      release,
      destroy_arena,
      destroy,
      retire,
      withdraw,
      write,
      read
    } kind;
    std::uint32_t cache;
    std::uint64_t number;  // of the device, the extent, the batch or the block
  };

  // One per Kind.
  void open_session(const Event& event);
  void session_dead(const Event& event);
  void open_cache(const Event& event);
  void close_cache(const Event& event);
  void open_sequence(const Event& event);
  void append_known(const Event& event);
  // True: it ended with `busy`.
  bool extend(const Event& event);
  void seal(const Event& event);
  void fork(const Event& event);
  void truncate(const Event& event);
  void release(const Event& event);
  // `luck`: of what the store answers.
  void answer(std::size_t which, bool well, std::uint32_t luck);
  void answer_retire(const Unanswered& wait);
  void answer_withdraw(const Unanswered& wait);
  void answer_write(const Unanswered& wait, std::uint32_t luck);
  void answer_read(const Unanswered& wait, std::uint32_t luck);
  void answer_create(const Unanswered& wait, bool well);
  void set_quota(const Event& event);
  void evict(const Event& event);
  void bad_input(const Event& event);
  void repeat_key(const Event& event);
  void append_stored(const Event& event);
  void wanted(const Event& event);
  void store_drop(const Event& event);

  void follow(const Action& action);
  void absorb();
  void follow_grant(const GrantDram& grant);
  void follow_retire(const Retire& retire);
  void follow_set_frame(const SetFrame& set);
  void follow_withdraw(const Withdraw& withdraw);
  void follow_write(const WriteBlock& write);
  void follow_read(const ReadBlock& read);
  void follow_hurry(const HurryRead& read);
  void follow_hold(const HoldStored& held);
  void follow_destroy(CacheId id);
  void follow_destroy_arena(const DestroyArena& destroy);
  static constexpr std::size_t kDram = kDevices;  // the last of used_
  void hold_quota(std::size_t book, TenantId tenant, std::uint64_t bytes);
  bool answer_new_grants(std::size_t from, const Event& event);

  void expect_matched(OracleSequence& sequence, const std::vector<std::string>& keys,
                      std::span<const BlockRef> matched);
  void hold_evicted(OracleCache& cache, std::uint32_t id);
  void hold_growth_error(const Error& error, const OracleCache& cache, std::size_t blocks,
                         bool may_grow);
  void take(OracleCache& cache, const BlockRef& ref);
  // The manager uses a frame that must be nobody's, and of an extent that is there.
  void take_frame(OracleCache& cache, FrameId frame, std::uint32_t owner);
  void free_frame(OracleCache& cache, OracleBlock& block);
  void hold_evictable(const OracleCache& cache, const OracleBlock& block);
  void hold_place(const OracleCache& cache, const OracleBlock& block, const BlockStatus& row);
  void hold_tiering(const OracleCache& cache, const CacheStatus& status);
  void follow_append_stored(OracleSequence& sequence, std::span<const StoredKey> asked,
                            std::span<const BlockRef> matched);
  void drop_reference(OracleCache& cache, std::uint32_t id, bool dead);
  void drop_sequence(std::size_t index, bool dead);
  void hold_length(const OracleSequence& sequence);

  OracleSession* pick_session(std::uint32_t number);
  std::size_t pick_sequence(std::uint32_t number) const;
  enum class Grants : std::uint8_t { made, fail };
  void answer_everything(Grants grants = Grants::made);
  void hold_progress();
  void hold_promotions(Grants grants);
  void hold_settled();
  bool anything_under_way() const;
  void mix(std::uint64_t value);
  void mix(const std::string& text);
  void count(const std::string& what) { ++seen_[what]; }

  std::optional<StoreSpec> store_;
  std::uint64_t dram_capacity_;
  Manager manager_;
  Actions actions_;
  Quota quotas_[2][3];                        // of HBM on each device, of DRAM
  std::uint64_t used_[kDevices + 1][3] = {};  // by device, and of DRAM
  std::map<std::uint32_t, OracleCache> caches_;
  std::vector<OracleSession> sessions_;
  std::vector<OracleSequence> sequences_;
  std::vector<Unanswered> unanswered_;
  std::map<std::string, std::uint64_t> stored_;  // what the store has: size by cache name and key
  std::set<std::string> held_;                   // of these: that it may not drop
  std::uint64_t promoted_ = 0;
  std::vector<BlockRef> new_frames_;  // SetFrame actions that the running event must give
  SessionId dying_{};                 // ActorsIdle that the running event must give
  std::uint64_t digest_ = 0;
  std::map<std::string, std::uint64_t> seen_;
};

}  // namespace sluice::residency::test
