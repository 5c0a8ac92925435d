// A manager that takes over what one of before left in records.
#include "daemon/residency/adopt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <set>

#include "tests/residency/node.h"

namespace sluice::residency::test {
namespace {

// A node whose blocks have records, and what comes of it in the next life.
struct KeptNode : Node {
  explicit KeptNode(const ManagerConfig& config = small_node()) : Node(config) {}

  CacheId kept_cache(SessionId session, const CacheSpec& spec = small_cache()) {
    const auto opened = manager.open_cache(session, spec, actions);
    EXPECT_TRUE(opened) << opened.error().text;
    kept.id = opened->cache;
    kept.tenant = TenantId{0};
    kept.spec = spec;
    kept.shape = opened->shape;
    kept.arenas = {{DeviceId{}, opened->shape.slot_extents}};
    records = std::make_unique<BlockRecord[]>(opened->shape.max_blocks);
    kept.records = {records.get(), opened->shape.max_blocks};
    EXPECT_TRUE(manager.keep_records(kept.id, kept.records));
    settle();
    return kept.id;
  }

  // The manager is gone; a new one has the cache, and the sessions that are named.
  Adoption restart(std::initializer_list<SessionId> living,
                   const ManagerConfig& config = small_node()) {
    kept.frame_extents = frame_extents;
    manager = std::move(*Manager::create(config));
    actions.clear();
    for (const SessionId id : living) EXPECT_TRUE(manager.adopt_session(id, TenantId{0}));
    auto adopted = manager.adopt_cache(kept, actions);
    EXPECT_TRUE(adopted) << adopted.error().text;
    for (const Action& action : actions) done.push_back(action);
    manager.check();
    return adopted ? *adopted : Adoption{};
  }

  AdoptedCache kept;
  std::unique_ptr<BlockRecord[]> records;
  std::uint32_t frame_extents = 4;
};

std::uint32_t matched(Node& node, SessionId session, CacheId cache, const Keys& keys) {
  return static_cast<std::uint32_t>(node.open(session, cache, keys.view()).matched.size());
}

TEST(Adopt, SealedBlocksAreFoundAgainWhereTheyWere) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Keys keys("k", 6);
  const Handle sequence = node.sealed_sequence(before, cache, keys);
  const auto blocks = node.open(before, cache, keys.view()).matched;
  ASSERT_EQ(blocks.size(), 6u);
  node.release(before, sequence);

  node.frame_extents = 2;
  const Adoption adoption = node.restart({});
  EXPECT_EQ(adoption.sealed_blocks, 6u);
  EXPECT_EQ(adoption.damaged, 0u);
  EXPECT_EQ(adoption.given_up, 0u);
  for (const BlockRef& block : blocks) EXPECT_EQ(adoption.frames[block.id.value], block.frame);
  node.settle();
  const SessionId session = node.session();
  EXPECT_GT(session.value, 0u);
  EXPECT_EQ(node.cache(session), cache) << "it is joined, not made anew";
  EXPECT_EQ(node.open(session, cache, keys.view()).matched, blocks);
}

TEST(Adopt, APrivateBlockOfNobodyRetiresAndComesBack) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Handle sequence = node.open(before, cache).sequence;
  const auto blocks = node.extend(before, sequence, 3);
  node.frame_extents = 1;
  const Adoption adoption = node.restart({});
  EXPECT_EQ(adoption.given_up, 3u);
  const auto retires = Node::all<Retire>(node.actions);
  ASSERT_EQ(retires.size(), 1u) << "their pages may still be in HBM";
  EXPECT_EQ(retires[0].ids.size(), 3u);
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.retiring, 0u);
}

TEST(Adopt, ASessionThatIsAwayHoldsWhatItMayReadUntilItIsBack) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Keys keys("k", 4);
  node.sealed_sequence(before, cache, keys);
  const Handle tail = node.open(before, cache).sequence;
  const auto own = node.extend(before, tail, 2);
  node.frame_extents = 2;
  const Adoption adoption = node.restart({before});
  EXPECT_EQ(adoption.private_blocks, 2u);
  EXPECT_EQ(adoption.sealed_blocks, 4u);
  node.settle();

  // Nothing of it can be evicted, and the cache cannot be destroyed.
  EvictRequest all;
  all.drop_idle_caches = true;
  EXPECT_TRUE(node.manager.evict(all, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.sealed, 4u);
  EXPECT_EQ(node.status(cache).blocks.taken, 2u);

  ASSERT_TRUE(node.manager.resume_session(before, TenantId{0}));
  EXPECT_FALSE(node.manager.resume_session(before, TenantId{0})) << "once";
  ASSERT_EQ(node.cache(before), cache);
  const std::vector<std::uint32_t> ids{0, 1, own[0].id.value};
  const auto adopted =
      node.manager.adopt_sequence(before, cache, Handle{}, ids, DeviceId{}, node.actions);
  ASSERT_TRUE(adopted) << adopted.error().text;
  EXPECT_EQ(adopted->matched.size(), 3u);
  EXPECT_EQ(adopted->matched[2], own[0]);
  const Handle sequence = adopted->sequence;
  ASSERT_TRUE(node.manager.session_resumed(before, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.taken, 1u) << "what it did not adopt is given up";
  EXPECT_EQ(node.status(cache).blocks.unreferenced, 2u);
  EXPECT_TRUE(node.manager.evict({}, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.sealed, 2u) << "what it refers to stays";
  // And it goes on as any other.
  EXPECT_TRUE(node.seal(before, sequence, 2, Keys("t", 1)[0]));
  EXPECT_EQ(matched(node, before, cache, Keys("t", 1)), 1u);
  node.settle();
}

TEST(Adopt, ASessionAdoptsOnlyWhatIsItsOwn) {
  KeptNode node;
  const SessionId before = node.session();
  const SessionId other = node.session();
  const CacheId cache = node.kept_cache(before);
  ASSERT_EQ(node.cache(other), cache);
  const auto own = node.extend(before, node.open(before, cache).sequence, 1);
  const auto others = node.extend(other, node.open(other, cache).sequence, 1);
  node.frame_extents = 2;
  node.restart({before, other});
  const SessionId later = node.session();
  node.sealed_sequence(later, node.cache(later), Keys("later", 1));
  node.settle();
  const BlockId since = node.open(later, cache, Keys("later", 1).view()).matched[0].id;
  const auto adopt = [&](std::vector<std::uint32_t> ids) {
    auto done = node.manager.adopt_sequence(before, cache, Handle{}, ids, DeviceId{}, node.actions);
    node.manager.check();
    return done ? Errc::ok : done.error().code;
  };
  EXPECT_EQ(adopt({own[0].id.value}), Errc::wrong_state) << "it has not come back";
  ASSERT_TRUE(node.manager.resume_session(before, TenantId{0}));
  EXPECT_EQ(adopt({own[0].id.value}), Errc::stale_handle) << "the cache is not open";
  ASSERT_EQ(node.cache(before), cache);
  EXPECT_EQ(adopt({others[0].id.value}), Errc::stale_handle);
  EXPECT_EQ(adopt({since.value}), Errc::stale_handle) << "sealed since";
  EXPECT_EQ(adopt({7}), Errc::stale_handle);
  EXPECT_EQ(adopt({0xFFFFFFFFu}), Errc::stale_handle);
  EXPECT_EQ(adopt({own[0].id.value, own[0].id.value}), Errc::stale_handle) << "twice";
  EXPECT_EQ(adopt({own[0].id.value}), Errc::ok);
  EXPECT_EQ(adopt({own[0].id.value}), Errc::stale_handle) << "in another sequence by now";
  EXPECT_TRUE(node.manager.session_resumed(before, node.actions));
  EXPECT_EQ(adopt({}), Errc::wrong_state) << "it said that it is done";
  node.settle();
}

// Its last block turned out to be another's copy, and the daemon died before it could say so.
TEST(Adopt, AnIdThatASessionMayStillUseIsNotGivenToAnotherWhileItIsAway) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Keys keys("k", 1);
  node.sealed_sequence(before, cache, keys);
  const Handle tail = node.open(before, cache).sequence;
  const BlockId copy = node.extend(before, tail, 1)[0].id;
  const auto sealed = node.manager.seal(before, tail, 0, keys[0], kBlock, node.actions);
  ASSERT_TRUE(sealed && sealed->deduplicated);
  node.frame_extents = 1;
  EXPECT_EQ(node.restart({before}).given_up, 1U);
  EXPECT_TRUE(Node::all<Retire>(node.actions).empty());
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.retiring, 1U);
  const SessionId other = node.session();
  const Handle its = node.open(other, node.cache(other)).sequence;
  EXPECT_NE(node.extend(other, its, 1)[0].id.value, copy.value);

  ASSERT_TRUE(node.manager.resume_session(before, TenantId{0}));
  ASSERT_EQ(node.cache(before), cache);
  ASSERT_TRUE(node.manager.session_resumed(before, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.retiring, 0U);
}

TEST(Adopt, ASessionThatDiesAwayLeavesNothing) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Keys keys("k", 3);
  node.sealed_sequence(before, cache, keys);
  const auto own = node.extend(before, node.open(before, cache).sequence, 2);
  node.frame_extents = 2;
  node.restart({before});
  node.settle();
  node.done.clear();
  EXPECT_TRUE(node.manager.session_dead(before, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.taken, 0u);
  EXPECT_EQ(node.status(cache).blocks.unreferenced, 3u);
  const auto drops = Node::all<DropPins>(node.done);
  ASSERT_EQ(drops.size(), 2u);
  EXPECT_EQ(drops[0].ids.size(), 2u) << "its private blocks'";
  EXPECT_FALSE(drops[0].sealed);
  EXPECT_EQ(drops[1].ids.size(), 3u) << "and of what it sealed";
  EXPECT_TRUE(drops[1].sealed);
  EXPECT_TRUE(node.manager.evict({}, node.actions));
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.sealed, 0u);
}

// The daemon died before the session heard of its seal, and it gave the block up meanwhile: nobody
// else would unpin it. What it goes on with it unpins itself, and uses its slots until then.
TEST(Adopt, PinsOnWhatASessionSealedAndDoesNotNameAreDropped) {
  KeptNode node;
  const SessionId before = node.session();
  const SessionId other = node.session();
  const CacheId cache = node.kept_cache(before);
  ASSERT_EQ(node.cache(other), cache);
  node.sealed_sequence(before, cache, Keys("k", 3));
  node.sealed_sequence(other, cache, Keys("o", 2));
  node.frame_extents = 2;
  node.restart({before, other});
  node.settle();
  ASSERT_TRUE(node.manager.resume_session(before, TenantId{0}));
  ASSERT_EQ(node.cache(before), cache);
  const std::vector<std::uint32_t> goes_on{1};
  ASSERT_TRUE(
      node.manager.adopt_sequence(before, cache, Handle{}, goes_on, DeviceId{}, node.actions));
  node.done.clear();
  ASSERT_TRUE(node.manager.session_resumed(before, node.actions));
  node.settle();
  const auto drops = Node::all<DropPins>(node.done);
  ASSERT_EQ(drops.size(), 1u);
  EXPECT_TRUE(drops[0].sealed);
  EXPECT_EQ(drops[0].ids, (std::vector<BlockId>{BlockId{0}, BlockId{2}}));
}

// Whatever is in the records, nothing but whole blocks of theirs comes of it.
TEST(Adopt, RecordsAreNotBelieved) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    KeptNode node;
    const SessionId before = node.session();
    const CacheId cache = node.kept_cache(before);
    const Keys keys("k", 8);
    node.sealed_sequence(before, cache, keys);
    node.extend(before, node.open(before, cache).sequence, 3);
    auto* const bytes = reinterpret_cast<unsigned char*>(node.records.get());
    const std::size_t size = 12 * sizeof(BlockRecord);
    for (int i = 0; i < 1 + round % 40; ++i) {
      // State words are small numbers: random bits alone would seldom leave anything to look at.
      const std::size_t at = random() % size;
      bytes[at] = at % sizeof(BlockRecord) == 0 ? static_cast<unsigned char>(random() % 6)
                                                : static_cast<unsigned char>(random());
    }
    node.frame_extents = 3;
    const Adoption adoption = node.restart({before});
    std::set<std::uint32_t> frames;
    for (const FrameId frame : adoption.frames) {
      if (frame == ipc::kNoFrameId || frame == ipc::kLostFrameId) continue;
      ASSERT_LT(frame.value, 12u);
      ASSERT_TRUE(frames.insert(frame.value).second) << "a frame is one block's";
    }
    node.settle();
    ASSERT_TRUE(node.manager.resume_session(before, TenantId{0}));
    ASSERT_EQ(node.cache(before), cache);
    ASSERT_TRUE(node.manager.session_resumed(before, node.actions));
    node.settle();
    node.sealed_sequence(before, cache, Keys("new", 12));
    node.settle();
  }
}

// Random lives of two sessions, killed at a random moment, with orders unanswered. What was sealed
// last under a key is found again where it was, or not at all; all that a living session refers to
// is found.
class KilledAtAnyMoment : public testing::TestWithParam<bool> {
 protected:
  static ManagerConfig config() {
    ManagerConfig config = small_node();
    config.dram.capacity_bytes = 6 * kExtent;
    for (TenantSpec& tenant : config.tenants) tenant.dram.limit_bytes = 6 * kExtent;
    if (GetParam()) config.nvme_bytes = 64 * kExtent;
    return config;
  }

  struct Life {
    SessionId session;
    struct Held {
      Handle handle;
      std::vector<BlockId> blocks;
      std::vector<bool> sealed;
    };
    std::vector<Held> sequences;
  };

  // Answers some of what was ordered, in order; what is left is lost with the manager.
  void answer_some() {
    const Actions ordered = std::exchange(node.actions, {});
    std::size_t answered = 0;
    const std::size_t most = random() % (ordered.size() + 1);
    for (const Action& action : ordered) {
      // Extents are made before anybody learns of it; others may take their time.
      if (const auto* grant = std::get_if<GrantDram>(&action)) {
        grants = std::max(grants, grant->extent + 1);
      } else if (answered++ >= most) {
        later.push_back(action);
        continue;
      }
      answer(action);
    }
    if (random() % 4 == 0) {
      for (const Action& action : std::exchange(later, {})) answer(action);
    }
    if (node.manager.pending_work()) node.manager.turn(node.actions);
    node.manager.check();
  }

  void answer(const Action& action) {
    Manager& manager = node.manager;
    if (const auto* write = std::get_if<WriteBlock>(&action)) {
      const bool stored = random() % 8 != 0;
      if (stored) in_store.insert(write->key);
      ASSERT_TRUE(manager.written(write->cache, write->id,
                                  stored ? WriteOutcome::stored : WriteOutcome::refused,
                                  node.actions));
    } else if (const auto* read = std::get_if<ReadBlock>(&action)) {
      ASSERT_TRUE(manager.loaded(read->cache, read->id, true, node.actions));
    } else if (const auto* withdraw = std::get_if<Withdraw>(&action)) {
      ASSERT_TRUE(manager.withdrawn(withdraw->cache, withdraw->batch, node.actions));
    } else {
      node.answer(action);
    }
  }

  void live(Life& life, CacheId cache) {
    const std::uint32_t what = random() % 10;
    if (life.sequences.empty() || what == 0) {
      const Keys keys("k" + std::to_string(random() % 3) + "-", 1 + random() % 4);
      const auto opened = node.manager.open_sequence(life.session, cache, keys.view());
      ASSERT_TRUE(opened);
      Life::Held held{opened->sequence, {}, {}};
      for (const BlockRef& block : opened->matched) {
        held.blocks.push_back(block.id);
        held.sealed.push_back(true);
      }
      life.sequences.push_back(std::move(held));
      return;
    }
    const std::size_t at = random() % life.sequences.size();
    Life::Held& held = life.sequences[at];
    if (what < 5) {
      const auto extended =
          node.manager.extend(life.session, held.handle, 1, Growth::allowed, node.actions);
      if (!extended || extended->needs_extents) return;
      held.blocks.push_back(extended->blocks[0].id);
      held.sealed.push_back(false);
    } else if (what < 8) {
      const std::uint32_t index =
          random() % std::max(static_cast<std::uint32_t>(held.blocks.size()), 1u);
      if (held.blocks.empty() || held.sealed[index]) return;
      const std::uint32_t number = random() % 4;
      const Keys keys("k" + std::to_string(random() % 3) + "-", number + 1);
      const auto sealed =
          node.manager.seal(life.session, held.handle, index, keys[number], 0, node.actions);
      ASSERT_TRUE(sealed);
      held.blocks[index] = sealed->block.id;
      held.sealed[index] = true;
    } else if (what == 8) {
      ASSERT_TRUE(node.manager.release(life.session, held.handle, node.actions));
      life.sequences.erase(life.sequences.begin() + static_cast<std::ptrdiff_t>(at));
    } else {
      std::vector<BlockId> wanted;
      wanted.reserve(4);
      for (std::uint32_t i = 0; i < 4; ++i) wanted.push_back(BlockId{random() % 24});
      ASSERT_TRUE(node.manager.wanted(cache, wanted, node.actions));
    }
  }

  std::uint32_t random() { return static_cast<std::uint32_t>(engine()); }

  std::mt19937 engine;
  KeptNode node{config()};
  Actions later;
  std::uint32_t grants = 0;
  std::set<std::vector<std::byte>> in_store;
};

TEST_P(KilledAtAnyMoment, NothingOfTheLivingIsLostOrMistaken) {
  for (unsigned round = 0; round < 1500; ++round) {
    engine.seed(round);
    node.~KeptNode();
    new (&node) KeptNode(config());
    later.clear();
    in_store.clear();
    grants = 0;
    Life lives[2] = {{node.session(), {}}, {node.session(), {}}};
    const CacheId cache = node.kept_cache(lives[0].session);
    ASSERT_EQ(node.cache(lives[1].session), cache);
    const std::uint32_t events = 1 + random() % 120;
    for (std::uint32_t i = 0; i < events; ++i) {
      live(lives[random() % 2], cache);
      answer_some();
      if (HasFatalFailure()) return;
    }
    // Where each block is, as far as anybody was told.
    std::map<std::uint32_t, std::pair<std::vector<std::byte>, FrameId>> before;
    const auto listed = node.manager.blocks(cache, 0, 1000);
    ASSERT_TRUE(listed);
    std::map<std::uint32_t, FrameId> readable;  // frames that somebody may be reading or writing
    for (const BlockStatus& block : listed->rows) {
      if (block.state == BlockState::sealed) before[block.id.value] = {block.key, block.frame};
      const bool known = block.state != BlockState::free && block.frame != ipc::kNoFrameId;
      if (known && block.place != Place::arriving) readable[block.id.value] = block.frame;
    }
    const bool lives_on = random() % 2 == 0;
    node.frame_extents = grants;
    const Adoption adoption =
        lives_on ? node.restart({lives[0].session}, config()) : node.restart({}, config());
    EXPECT_EQ(adoption.damaged, 0u);
    for (std::uint32_t id = 0; id < adoption.frames.size(); ++id) {
      const FrameId frame = adoption.frames[id];
      if (frame == ipc::kNoFrameId || frame == ipc::kLostFrameId) continue;
      ASSERT_TRUE(before.contains(id)) << "round " << round;
      ASSERT_EQ(before[id].second, frame) << "round " << round;
    }
    const auto now = node.manager.blocks(cache, 0, 1000);
    ASSERT_TRUE(now);
    for (const BlockStatus& block : now->rows) {
      const auto was = readable.find(block.id.value);
      if (was == readable.end()) continue;
      ASSERT_EQ(block.frame, was->second) << "round " << round << ": before its grace is over";
      readable.erase(was);
    }
    ASSERT_TRUE(readable.empty()) << "round " << round;
    if (!lives_on) continue;
    const SessionId session = lives[0].session;
    ASSERT_TRUE(node.manager.resume_session(session, TenantId{0}));
    ASSERT_TRUE(node.manager.open_cache(session, small_cache(), node.actions));
    for (const Life::Held& held : lives[0].sequences) {
      std::vector<std::uint32_t> ids;
      ids.reserve(held.blocks.size());
      for (const BlockId id : held.blocks) ids.push_back(id.value);
      const auto adopted =
          node.manager.adopt_sequence(session, cache, Handle{}, ids, DeviceId{}, node.actions);
      ASSERT_TRUE(adopted) << "round " << round << ": " << adopted.error().text;
    }
    node.manager.check();
    ASSERT_TRUE(node.manager.session_resumed(session, node.actions));
    later.clear();
    for (int i = 0; i < 200 && (!node.actions.empty() || node.manager.pending_work()); ++i) {
      for (const Action& action : std::exchange(node.actions, {})) answer(action);
      if (node.manager.pending_work()) node.manager.turn(node.actions);
      node.manager.check();
    }
    EXPECT_EQ(node.status(cache).blocks.retiring, 0u) << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Store, KilledAtAnyMoment, testing::Bool());

// What was given back before is still there, as files without memory.
TEST(Adopt, ExtentsThatNothingLiesInAreNotCharged) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  node.release(before, node.sealed_sequence(before, cache, Keys("k", 5)));
  ManagerConfig small = small_node();
  small.dram.capacity_bytes = 2 * kExtent;
  for (TenantSpec& tenant : small.tenants) tenant.dram.limit_bytes = 2 * kExtent;
  node.frame_extents = 4;
  const Adoption adoption = node.restart({}, small);
  EXPECT_EQ(adoption.sealed_blocks, 5u);
  EXPECT_EQ(adoption.empty_extents, (std::vector<std::uint32_t>{2, 3}));
  EXPECT_EQ(node.manager.tenants()[0].dram.used_bytes, 2 * kExtent);
  node.settle();
  EXPECT_EQ(node.status(cache).blocks.sealed, 5u) << "and nothing had to make room";
}

// A record between two of its blocks' lives, whose frame is another block's by now.
TEST(Adopt, ARecordThatIsTakenAnewDoesNotClaimItsOldFrame) {
  KeptNode node;
  const SessionId before = node.session();
  const CacheId cache = node.kept_cache(before);
  const Handle passing = node.open(before, cache).sequence;
  const auto old = node.extend(before, passing, 5);
  node.release(before, passing);
  node.settle();
  const Keys keys("k", 1);
  node.release(before, node.sealed_sequence(before, cache, keys));
  const BlockRef sealed = node.open(before, cache, keys.view()).matched.at(0);
  const auto same_frame = std::ranges::find(old, sealed.frame, &BlockRef::frame);
  ASSERT_NE(same_frame, old.end());
  ASSERT_NE(same_frame->id, sealed.id) << "the test is about two ids";
  const std::uint32_t changing = BlockRecord::changing;
  std::memcpy(static_cast<void*>(&node.records[same_frame->id.value]), &changing, sizeof(changing));
  node.frame_extents = 2;
  const Adoption adoption = node.restart({});
  EXPECT_EQ(adoption.damaged, 0u);
  EXPECT_EQ(adoption.sealed_blocks, 1u);
}

TEST(Adopt, WhatDoesNotFitIsRefused) {
  KeptNode node;
  const SessionId before = node.session();
  node.kept_cache(before);
  const AdoptedCache kept = node.kept;
  const auto refused = [&](const AdoptedCache& wrong, const ManagerConfig& config = small_node()) {
    Manager manager = std::move(*Manager::create(config));
    Actions actions;
    const auto adopted = manager.adopt_cache(wrong, actions);
    manager.check();
    return adopted ? Errc::ok : adopted.error().code;
  };
  EXPECT_EQ(refused(kept), Errc::ok);
  AdoptedCache wrong = kept;
  wrong.tenant = TenantId{2};
  EXPECT_EQ(refused(wrong), Errc::not_found);
  wrong = kept;
  wrong.id = CacheId{100'000};
  EXPECT_EQ(refused(wrong), Errc::invalid_argument);
  wrong = kept;
  wrong.frame_extents = kept.shape.max_frame_extents + 1;
  EXPECT_EQ(refused(wrong), Errc::invalid_argument);
  wrong = kept;
  wrong.records = wrong.records.subspan(1);
  EXPECT_EQ(refused(wrong), Errc::invalid_argument);
  wrong = kept;
  wrong.arenas = {{DeviceId{3}, 1}};
  EXPECT_EQ(refused(wrong), Errc::not_found);
  wrong = kept;
  wrong.arenas = {};
  EXPECT_EQ(refused(wrong), Errc::invalid_argument);
  wrong = kept;
  wrong.arenas = {{DeviceId{}, 1000}};
  EXPECT_EQ(refused(wrong), Errc::quota_exceeded);
  ManagerConfig small = small_node();
  small.dram.capacity_bytes = kExtent;
  small.tenants[0].dram.limit_bytes = small.tenants[1].dram.limit_bytes = kExtent;
  node.sealed_sequence(before, kept.id, Keys("k", 5));
  wrong = kept;
  wrong.frame_extents = 2;
  EXPECT_EQ(refused(wrong, small), Errc::quota_exceeded);
  ManagerConfig gpus = small_node();
  gpus.dram.extents_stay = true;
  EXPECT_EQ(refused(kept, gpus), Errc::invalid_argument);
}

}  // namespace
}  // namespace sluice::residency::test
