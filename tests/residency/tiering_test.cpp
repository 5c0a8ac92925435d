// Blocks that leave DRAM for the block store and come back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "tests/residency/node.h"

namespace sluice::residency::test {
namespace {

constexpr std::uint32_t kExtentFrames = kExtent / kBlock;
constexpr std::uint32_t kFrames = 4 * kExtentFrames;  // of DRAM

ManagerConfig node_with_store(std::uint64_t store_blocks = 1024) {
  ManagerConfig config = small_node();
  config.nvme_bytes = store_blocks * kBlock;
  config.dram = {4 * kExtent, kExtent};
  for (TenantSpec& tenant : config.tenants) tenant.dram.limit_bytes = 4 * kExtent;
  return config;
}

std::string name_of(std::span<const std::byte> key) {
  return {reinterpret_cast<const char*>(key.data()), key.size()};
}

const EvictRequest kDropAll{EvictRequest::kAny, EvictRequest::kAny, EvictRequest::kAll, true};

// A node whose store answers when it is told to, and keeps which block is in which frame.
class TieringTest : public testing::Test {
 protected:
  explicit TieringTest(const ManagerConfig& config = node_with_store(),
                       const CacheSpec& spec = small_cache())
      : node(config), cache(node.cache(session, spec)) {}

  // Answers one action of each kind that the node itself does not.
  void answer(const Action& action) {
    if (const auto* write = std::get_if<WriteBlock>(&action)) {
      if (holds_writes) {
        writes.push_back(*write);
        return;
      }
      const std::string key = name_of(write->key);
      WriteOutcome outcome = WriteOutcome::stored;
      if (wants_likely_only && write->reuse == Reuse::unlikely) outcome = WriteOutcome::unwanted;
      const bool has = write->hold && stored.contains(key);
      if (!has && (refuses || refusals > 0)) outcome = WriteOutcome::refused;
      if (refusals > 0) --refusals;
      if (outcome == WriteOutcome::stored) stored[key] = write->valid_bytes;
      EXPECT_EQ(frames.at(write->frame.value), key) << "what is written is what is in the frame";
      const auto told = node.manager.written(write->cache, write->id, outcome, node.actions);
      EXPECT_TRUE(told || node.status(cache).state == CacheState::destroying);
    } else if (const auto* withdraw = std::get_if<Withdraw>(&action)) {
      for (const BlockId id : withdraw->ids) known.erase(id.value);
      if (holds_graces) {
        graces.push_back(*withdraw);
        const auto listing = node.manager.blocks(cache, 0, 1024);
        for (const BlockStatus& row : listing->rows) {
          if (std::ranges::find(withdraw->ids, row.id) != withdraw->ids.end()) {
            in_grace.insert(row.frame.value);
          }
        }
      } else {
        EXPECT_TRUE(node.manager.withdrawn(withdraw->cache, withdraw->batch, node.actions));
      }
    } else if (const auto* read = std::get_if<ReadBlock>(&action)) {
      if (holds_reads) {
        reads.push_back(*read);
        return;
      }
      const std::string key = name_of(read->key);
      for (const auto& [id, frame] : known) {
        EXPECT_NE(frame, read->frame.value) << "resolvers know the frame that is read into";
      }
      EXPECT_FALSE(in_grace.contains(read->frame.value)) << "someone may still read it";
      const bool whole = stored.contains(key) && !loses.contains(key);
      if (whole) frames[read->frame.value] = key;
      EXPECT_TRUE(node.manager.loaded(read->cache, read->id, whole, node.actions));
    } else if (const auto* grant = std::get_if<GrantDram>(&action); grant && grants_fail) {
      EXPECT_TRUE(node.manager.extent_failed(grant->cache, grant->extent));
    } else if (const auto* set = std::get_if<SetFrame>(&action)) {
      if (set->frame == ipc::kLostFrameId) {
        known.erase(set->id.value);
      } else {
        known[set->id.value] = set->frame.value;
      }
    } else {
      if (const auto* retire = std::get_if<Retire>(&action)) {
        for (const BlockId id : retire->ids) known.erase(id.value);
      }
      node.answer(action);
    }
  }

  void settle() {
    int turns = 0;
    for (; turns < most_turns; ++turns) {
      if (node.actions.empty() && !node.manager.pending_work()) break;
      for (const Action& action : std::exchange(node.actions, {})) {
        node.done.push_back(action);
        answer(action);
      }
      if (node.manager.pending_work()) node.manager.turn(node.actions);
    }
    EXPECT_TRUE(turns < most_turns || !graces.empty() || !reads.empty() || !writes.empty())
        << "the work does not end";
    node.manager.check();
  }

  // A sequence of `count` sealed blocks "name0" and on.
  Handle make(const std::string& name, std::uint32_t count) {
    const Keys keys(name, count);
    const Handle sequence = node.open(session, cache).sequence;
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto blocks = extend(sequence);
      EXPECT_TRUE(blocks) << blocks.error().text;
      if (!blocks) break;
      frames[blocks->frame.value] = name_of(keys[i]);
      const auto sealed = node.seal(session, sequence, i, keys[i]);
      EXPECT_TRUE(sealed);
      settle();
    }
    return sequence;
  }

  Result<BlockRef> extend(Handle sequence) {
    for (int attempt = 0; attempt < 10; ++attempt) {
      const auto extended =
          node.manager.extend(session, sequence, 1, Growth::allowed, node.actions);
      if (extended && !extended->needs_extents) return extended->blocks[0];
      if (!extended && extended.error().code != Errc::busy) {
        return std::unexpected(extended.error());
      }
      settle();
    }
    return ipc::fail(Errc::internal, "ten attempts did not end");
  }

  std::vector<BlockId> ids_of(Handle sequence) {
    const auto listing = node.manager.sequence_blocks(session, sequence, 0, 1024);
    std::vector<BlockId> ids;
    for (const BlockStatus& row : listing->rows) ids.push_back(row.id);
    return ids;
  }

  std::vector<BlockStatus> blocks_of(Handle sequence) {
    return node.manager.sequence_blocks(session, sequence, 0, 1024)->rows;
  }

  void want_soon(std::span<const BlockId> ids) {
    EXPECT_TRUE(node.manager.wanted(cache, ids, node.actions, Urgency::soon));
    settle();
  }

  void want(Handle sequence) {
    EXPECT_TRUE(node.manager.wanted(cache, ids_of(sequence), node.actions));
    settle();
  }

  // The sequence's blocks that are nowhere but in the store.
  std::vector<BlockId> absent_of(Handle sequence) {
    std::vector<BlockId> ids;
    for (const BlockStatus& block : blocks_of(sequence)) {
      if (block.place == Place::absent) ids.push_back(block.id);
    }
    return ids;
  }

  void limit_dram(std::uint64_t bytes) {
    EXPECT_TRUE(node.manager.set_quota(TenantId{0}, Tier::dram, {0, bytes, 1.0}, node.actions));
    settle();
  }

  Node node;
  std::map<std::string, std::uint64_t> stored;
  std::set<std::string> loses;
  bool refuses = false;
  bool wants_likely_only = false;
  int refusals = 0;  // of the next writes
  int most_turns = 1000;
  bool holds_graces = false;
  bool holds_reads = false;
  bool holds_writes = false;
  bool grants_fail = false;
  std::vector<ReadBlock> reads;
  std::vector<WriteBlock> writes;
  std::vector<Withdraw> graces;
  std::set<std::uint32_t> in_grace;              // the frames of these
  std::map<std::uint32_t, std::string> frames;   // what is in them
  std::map<std::uint32_t, std::uint32_t> known;  // what resolvers know: id to frame
  SessionId session = node.session();
  CacheId cache;
};

TEST_F(TieringTest, BlocksThatNobodyRefersToAreWrittenBeforeTheyLeave) {
  node.release(session, make("a", 12));
  settle();
  make("b", 12);
  EXPECT_GE(stored.size(), 8U);
  for (const auto& [key, bytes] : stored) {
    EXPECT_EQ(key[0], 'a') << "in DRAM is room for all that sequences refer to";
    EXPECT_EQ(bytes, kBlock);
  }
  EXPECT_EQ(node.status(cache).tiering_totals.written, stored.size());
}

TEST_F(TieringTest, ABlockInTheStoreIsNotWrittenTwice) {
  node.release(session, make("a", 12));
  make("b", 12);
  const std::size_t written = stored.size();
  ASSERT_GT(written, 0U);
  // They come back, and leave again.
  const Handle again = node.open(session, cache).sequence;
  const auto first = stored;
  std::vector<StoredKey> found;
  found.reserve(first.size());
  for (const auto& [key, bytes] : first) {
    found.push_back({std::as_bytes(std::span(key)), bytes});
  }
  const auto appended = node.manager.append_stored(session, again, found, node.actions);
  ASSERT_TRUE(appended) << appended.error().text;
  EXPECT_EQ(appended->matched.size(), written);
  settle();
  node.done.clear();
  node.release(session, again);
  settle();
  make("c", 12);
  for (const WriteBlock& write : Node::all<WriteBlock>(node.done)) {
    EXPECT_FALSE(first.contains(name_of(write.key))) << name_of(write.key);
  }
}

TEST_F(TieringTest, AStoreThatIsShortOfWritesHasWhatWasAskedForAgain) {
  const Keys once("once", 3);
  const Keys twice("twice", 3);
  wants_likely_only = true;
  node.release(session, make("once", 3));
  node.release(session, make("twice", 3));
  node.release(session, node.open(session, cache, twice.view()).sequence);
  const Handle other = make("other", 3 * kFrames);
  settle();
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(stored.contains(name_of(twice[i]))) << i;
    EXPECT_FALSE(stored.contains(name_of(once[i]))) << i;
  }
  // Of a running sequence, also what nobody asked for again.
  EXPECT_TRUE(stored.contains(name_of(Keys("other", 1)[0])));
  EXPECT_EQ(blocks_of(other).size(), 3 * kFrames);
}

TEST_F(TieringTest, MoreBlocksThanDramHoldsCanBeReferredTo) {
  const Handle all = make("a", 5 * kFrames);
  const CacheStatus status = node.status(cache);
  EXPECT_EQ(status.blocks.sealed, 5 * kFrames);
  EXPECT_GE(status.tiering.absent, 4 * kFrames);
  EXPECT_EQ(status.tiering.lost, 0U);
  EXPECT_EQ(known.size(), status.blocks.sealed - status.tiering.absent);
  for (const BlockStatus& block : blocks_of(all)) {
    if (block.place == Place::absent) {
      EXPECT_TRUE(stored.contains(name_of(block.key)));
    } else {
      EXPECT_EQ(frames.at(block.frame.value), name_of(block.key));
    }
  }
}

TEST_F(TieringTest, WhatIsWantedComesBackWithItsBytes) {
  const Handle all = make("a", 5 * kFrames);
  for (int round = 0; round < 3; ++round) {
    for (const BlockStatus& block : blocks_of(all)) {
      if (block.place != Place::absent) continue;
      ASSERT_TRUE(node.manager.wanted(cache, std::vector{block.id}, node.actions));
      settle();
      ASSERT_TRUE(known.contains(block.id.value));
      EXPECT_EQ(frames.at(known[block.id.value]), name_of(block.key));
    }
  }
  EXPECT_GE(node.status(cache).tiering_totals.promoted, 4 * kFrames);
}

TEST_F(TieringTest, ForecastsComeBackToo) {
  const Handle all = make("a", 5 * kFrames);
  const BlockId first = absent_of(all).front();
  want_soon(std::vector{first});
  EXPECT_TRUE(known.contains(first.value));
  const auto ordered = Node::all<ReadBlock>(node.done);
  ASSERT_EQ(ordered.size(), 1U);
  EXPECT_EQ(ordered[0].urgency, Urgency::soon);
}

// Who wants it may be in a step, whose end the grace waits for.
TEST_F(TieringTest, ABlockThatIsLeavingStaysIfAStepWaitsForIt) {
  const Handle all = make("a", 2 * kFrames);
  holds_graces = true;
  // Takes of the stock, which is made up for.
  ASSERT_TRUE(node.manager.wanted(cache, std::vector{absent_of(all).front()}, node.actions));
  settle();
  ASSERT_FALSE(graces.empty());
  const BlockId leaves = graces.front().ids.front();
  ASSERT_FALSE(known.contains(leaves.value));
  ASSERT_TRUE(node.manager.wanted(cache, std::vector{leaves}, node.actions));
  settle();
  ASSERT_TRUE(known.contains(leaves.value));
  const Withdraw grace = graces.front();
  ASSERT_TRUE(node.manager.withdrawn(grace.cache, grace.batch, node.actions));
  const auto rows = blocks_of(all);
  const auto row = std::ranges::find(rows, leaves, &BlockStatus::id);
  ASSERT_NE(row, rows.end());
  EXPECT_EQ(row->place, Place::resident) << "it left with the others";
}

TEST_F(TieringTest, WhatAStepWaitsForOvertakesForecasts) {
  const Handle all = make("a", 5 * kFrames);
  const std::vector<BlockId> absent = absent_of(all);
  holds_graces = true;
  holds_reads = true;
  want_soon(absent);
  EXPECT_FALSE(graces.empty()) << "room is made for forecasts";
  EXPECT_TRUE(reads.empty());
  EXPECT_GT(node.status(cache).free_frames, 0U) << "forecasts take all frames";
  ASSERT_TRUE(node.manager.wanted(cache, std::vector{absent.back()}, node.actions));
  settle();
  ASSERT_EQ(reads.size(), 1U);
  EXPECT_EQ(reads[0].id, absent.back());
  EXPECT_EQ(reads[0].urgency, Urgency::now);
  holds_graces = false;
  in_grace.clear();
  for (const Withdraw& grace : std::exchange(graces, {})) {
    EXPECT_TRUE(node.manager.withdrawn(grace.cache, grace.batch, node.actions));
  }
  settle();
  ASSERT_GT(reads.size(), 1U) << "forecasts wait for nothing";
  EXPECT_EQ(reads[1].id, absent.front());
  EXPECT_EQ(reads[1].urgency, Urgency::soon);
  std::set<std::uint32_t> once;
  for (const ReadBlock& read : reads) {
    EXPECT_TRUE(once.insert(read.id.value).second) << read.id.value << " is read twice";
  }
}

TEST_F(TieringTest, AForecastThatAStepWaitsForIsHurriedOnce) {
  const Handle all = make("a", 5 * kFrames);
  const BlockId first = absent_of(all).front();
  holds_reads = true;
  want_soon(std::vector{first});
  ASSERT_EQ(reads.size(), 1U);
  want_soon(std::vector{first});
  EXPECT_TRUE(Node::all<HurryRead>(node.done).empty()) << "another forecast is no hurry";
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(node.manager.wanted(cache, std::vector{first}, node.actions));
    settle();
  }
  const auto hurried = Node::all<HurryRead>(node.done);
  ASSERT_EQ(hurried.size(), 1U);
  EXPECT_EQ(hurried[0].id, first);
  EXPECT_EQ(hurried[0].key, reads[0].key);
  EXPECT_EQ(reads.size(), 1U) << "it is read twice";
}

TEST_F(TieringTest, AFrameIsNobodysUntilItsGraceIsOver) {
  const Handle all = make("a", 2 * kFrames);
  holds_graces = true;
  want(all);
  want(all);
  EXPECT_FALSE(in_grace.empty());
  std::uint32_t leaving = 0;
  for (const BlockStatus& block : blocks_of(all)) {
    if (!in_grace.contains(block.frame.value)) continue;
    ++leaving;
    EXPECT_EQ(block.place, Place::leaving);
    EXPECT_EQ(frames.at(block.frame.value), name_of(block.key)) << "someone may still read it";
  }
  EXPECT_EQ(leaving, in_grace.size());
  holds_graces = false;
  in_grace.clear();
  while (!graces.empty()) {
    const Withdraw grace = graces.back();
    graces.pop_back();
    EXPECT_TRUE(node.manager.withdrawn(grace.cache, grace.batch, node.actions));
    settle();
  }
}

TEST_F(TieringTest, ALostBlockIsFoundByNobodyAndCanBeSealedAnew) {
  const Handle all = make("a", 2 * kFrames);
  const auto blocks = blocks_of(all);
  const auto absent = std::ranges::find(blocks, Place::absent, &BlockStatus::place);
  ASSERT_NE(absent, blocks.end());
  const std::string key = name_of(absent->key);
  loses.insert(key);
  ASSERT_TRUE(node.manager.wanted(cache, std::vector{absent->id}, node.actions));
  settle();
  EXPECT_EQ(node.status(cache).tiering.lost, 1U);
  EXPECT_FALSE(known.contains(absent->id.value));
  ASSERT_TRUE(node.manager.wanted(cache, std::vector{absent->id}, node.actions));
  settle();
  EXPECT_EQ(node.status(cache).tiering_totals.lost, 1U) << "it is not read again and again";

  const Handle anew = node.open(session, cache).sequence;
  const auto block = extend(anew);
  ASSERT_TRUE(block) << block.error().text;
  frames[block->frame.value] = key;
  const auto sealed = node.seal(session, anew, 0, absent->key);
  ASSERT_TRUE(sealed);
  EXPECT_FALSE(sealed->deduplicated);
  node.release(session, all);
  settle();
  EXPECT_EQ(node.status(cache).tiering.lost, 0U);
}

TEST_F(TieringTest, WithoutRoomInTheStoreBlocksAreDroppedAndServingGoesOn) {
  refuses = true;
  node.release(session, make("a", 12));
  node.release(session, make("b", 12));
  node.release(session, make("c", 12));
  settle();
  EXPECT_TRUE(stored.empty());
  EXPECT_GT(node.status(cache).tiering_totals.write_refused, 0U);
  EXPECT_GE(node.status(cache).evicted_blocks, 20U);
}

TEST_F(TieringTest, WhenTheStoreRefusesReferredBlocksStayAndTheErrorSaysWhy) {
  refuses = true;
  const Handle sequence = node.open(session, cache).sequence;
  Result<BlockRef> block = BlockRef{};
  std::uint32_t made = 0;
  const Keys keys("a", 64);
  for (; made < 64; ++made) {
    block = extend(sequence);
    if (!block) break;
    frames[block->frame.value] = name_of(keys[made]);
    ASSERT_TRUE(node.seal(session, sequence, made, keys[made]));
    settle();
  }
  EXPECT_EQ(made, kFrames);
  ASSERT_FALSE(block);
  EXPECT_EQ(block.error().code, Errc::quota_exceeded) << block.error().text;
  EXPECT_EQ(node.status(cache).tiering.absent, 0U);
}

// The store is full of blocks that it holds: it takes another one only once DRAM has one of these
// again, for which there must be a frame.
TEST_F(TieringTest, NewBlocksLeaveAFrameForThoseThatComeBack) {
  const Handle all = make("a", 2 * kFrames);
  const std::vector<BlockId> absent = absent_of(all);
  refuses = true;
  for (const BlockStatus& block : blocks_of(all)) {
    if (block.place == Place::resident) stored.erase(name_of(block.key));
  }
  const Handle other = node.open(session, cache).sequence;
  Result<BlockRef> extended = extend(other);
  while (extended) extended = extend(other);
  EXPECT_EQ(extended.error().code, Errc::quota_exceeded) << extended.error().text;
  EXPECT_THAT(extended.error().text, testing::HasSubstr("for blocks that come back"));
  EXPECT_GT(node.status(cache).free_frames, 0U);
  ASSERT_TRUE(node.manager.wanted(cache, std::vector{absent.front()}, node.actions));
  settle();
  EXPECT_TRUE(known.contains(absent.front().value));
}

TEST_F(TieringTest, AReleasedSequenceLeavesNothingBehindButWhatDramHolds) {
  const Handle all = make("a", 5 * kFrames);
  node.release(session, all);
  settle();
  const CacheStatus status = node.status(cache);
  EXPECT_EQ(status.tiering.absent, 0U);
  EXPECT_LE(status.blocks.sealed, kFrames);
  EXPECT_EQ(status.blocks.retiring, 0U);
}

TEST_F(TieringTest, ADeadSessionsBlocksGoAlsoWhileTheyMove) {
  make("a", 3 * kFrames);
  holds_graces = true;
  EXPECT_TRUE(node.manager.wanted(cache, ids_of(Handle{0, 1}), node.actions));
  EXPECT_TRUE(node.manager.session_dead(session, node.actions));
  settle();
  for (const Withdraw& grace : graces) {
    EXPECT_TRUE(node.manager.withdrawn(grace.cache, grace.batch, node.actions));
    settle();
  }
  const CacheStatus status = node.status(cache);
  EXPECT_EQ(status.sequences, 0U);
  EXPECT_EQ(status.tiering, TieringCounts{});
}

TEST_F(TieringTest, OfMoreWantedBlocksThanDramHoldsAllComeInTurn) {
  const Handle all = make("a", 5 * kFrames);
  const std::uint64_t before = node.status(cache).tiering_totals.promoted;
  const std::size_t absent = absent_of(all).size();
  want(all);
  EXPECT_GE(node.status(cache).tiering_totals.promoted, before + absent) << "each in its turn";
}

TEST_F(TieringTest, WhileTheStoreRefusesWritesBlocksThatItHasMakeRoom) {
  const Handle all = make("a", 5 * kFrames);
  want(all);  // what comes back is in the store too
  refuses = true;
  node.release(session, make("b", 1));
  const Handle more = node.open(session, cache).sequence;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(extend(more));
  ASSERT_GT(node.status(cache).tiering_totals.write_refused, 0U);
  const BlockId wanted = absent_of(all).front();
  ASSERT_TRUE(node.manager.wanted(cache, std::vector{wanted}, node.actions));
  settle();
  EXPECT_TRUE(known.contains(wanted.value));
}

TEST_F(TieringTest, PromotionsDisplaceWhenNoExtentCanBeMade) {
  limit_dram(2 * kExtent);
  const Handle all = make("a", 3 * kFrames);
  limit_dram(4 * kExtent);
  grants_fail = true;
  const std::uint64_t before = node.status(cache).tiering_totals.promoted;
  const std::size_t absent = absent_of(all).size();
  want(all);
  EXPECT_GE(node.status(cache).tiering_totals.promoted, before + absent);
}

TEST_F(TieringTest, AnExtentThatWasEmptiedForPromotionsIsNotReleased) {
  limit_dram(3 * kExtent);
  const Handle all = make("a", 6 * kExtentFrames);
  ASSERT_TRUE(node.manager.evict(EvictRequest{}, node.actions));  // no spare extent from now on
  settle();
  const std::vector<BlockId> absent = absent_of(all);
  ASSERT_GE(absent.size(), 3 * kExtentFrames)
      << "more than are in DRAM, and all of these make room";
  const std::uint64_t before = node.status(cache).tiering_totals.promoted;
  node.done.clear();
  ASSERT_TRUE(node.manager.wanted(cache, absent, node.actions));
  settle();
  const auto withdrawals = Node::all<Withdraw>(node.done);
  EXPECT_TRUE(std::ranges::any_of(withdrawals, [](const Withdraw& withdrawal) {
    return withdrawal.ids.size() > 2 * kExtentFrames;  // at once: an extent is empty then
  }));
  EXPECT_EQ(node.status(cache).tiering_totals.promoted, before + absent.size());
  EXPECT_TRUE(Node::all<ReleaseExtent>(node.done).empty());
}

TEST_F(TieringTest, ACacheThatGoesIsWrittenFirst) {
  make("a", kFrames - 1);
  ASSERT_TRUE(node.manager.session_dead(session, node.actions));
  settle();
  ASSERT_TRUE(stored.empty());
  node.done.clear();
  ASSERT_TRUE(node.manager.evict(kDropAll, node.actions));
  settle();
  EXPECT_EQ(stored.size(), kFrames - 1);
  ASSERT_EQ(Node::all<DestroyCache>(node.done).size(), 1U);
  EXPECT_TRUE(node.manager.caches().empty());
}

TEST_F(TieringTest, ACacheThatGoesAsksAgainWhenTheStoreRefused) {
  make("a", kFrames - 1);
  ASSERT_TRUE(node.manager.session_dead(session, node.actions));
  settle();
  most_turns = 2 * static_cast<int>(kWriteRefusedEvents);
  refusals = 1;
  ASSERT_TRUE(node.manager.evict(kDropAll, node.actions));
  settle();
  EXPECT_TRUE(node.manager.caches().empty());
  EXPECT_EQ(stored.size(), kFrames - 1);
}

TEST_F(TieringTest, ACacheThatGoesDoesSoInTheEndThoughTheStoreRefuses) {
  make("a", kFrames - 1);
  ASSERT_TRUE(node.manager.session_dead(session, node.actions));
  settle();
  most_turns = 2 * kMostPartingRefusals * static_cast<int>(kWriteRefusedEvents);
  refuses = true;
  ASSERT_TRUE(node.manager.evict(kDropAll, node.actions));
  settle();
  EXPECT_TRUE(node.manager.caches().empty());
}

TEST_F(TieringTest, ACacheThatIsOpenedWhileItGoesStaysAsItIs) {
  make("a", kFrames - 1);
  ASSERT_TRUE(node.manager.session_dead(session, node.actions));
  settle();
  holds_writes = true;
  ASSERT_TRUE(node.manager.evict(kDropAll, node.actions));
  settle();
  ASSERT_FALSE(writes.empty());
  EXPECT_FALSE(node.manager.pending_work()) << "it turns while it has to wait";
  session = node.session();
  ASSERT_EQ(node.cache(session), cache);
  holds_writes = false;
  for (const WriteBlock& write : std::exchange(writes, {})) answer(write);
  settle();
  const Keys keys("a", kFrames - 1);
  const Node::Opened again = node.open(session, cache, keys.view());
  EXPECT_EQ(again.matched.size(), kFrames - 1);
  for (const BlockRef& block : again.matched) EXPECT_TRUE(known.contains(block.id.value));
}

// Of which few may be written at a time.
class LargeBlocksTest : public TieringTest {
 protected:
  static constexpr std::uint64_t kLarge = kMaxWritingBytes / 4;
  static constexpr std::uint64_t kLargeExtent = kExtentFrames * kLarge;

  LargeBlocksTest() : TieringTest(large_node(), large_cache()) {}

  static ManagerConfig large_node() {
    ManagerConfig config = node_with_store();
    config.nvme_bytes = 1024 * kLarge;
    config.hbm = {16 * kLargeExtent, kLargeExtent};
    config.dram = {4 * kLargeExtent, kLargeExtent};
    for (TenantSpec& tenant : config.tenants) {
      tenant.hbm.limit_bytes = 16 * kLargeExtent;
      tenant.dram.limit_bytes = 4 * kLargeExtent;
    }
    return config;
  }

  static CacheSpec large_cache() {
    CacheSpec spec = small_cache();
    spec.layout.layers = kLarge / kBlock / 64;
    spec.layout.kv_heads = 64;
    spec.layout.page_kind = ipc::PageKind::layer;
    spec.hbm_bytes = kLargeExtent;
    return spec;
  }
};

TEST_F(LargeBlocksTest, WhatIsVacatedIsWrittenThoughTheStoreIsBusy) {
  const Handle all = make("a", kFrames - 1);
  std::set<std::string> left;
  for (const BlockStatus& block : blocks_of(all)) left.insert(name_of(block.key));
  ASSERT_EQ(left.size(), kFrames - 1);
  node.release(session, all);
  settle();
  holds_writes = true;
  limit_dram(kLargeExtent);
  EXPECT_EQ(writes.size(), 4U) << "as many as may be at a time";
  while (!writes.empty()) {
    holds_writes = false;
    for (const WriteBlock& write : std::exchange(writes, {})) answer(write);
    holds_writes = true;
    settle();
  }
  EXPECT_LE(node.status(cache).dram_bytes, kLargeExtent);
  const auto listing = node.manager.blocks(cache, 0, 1024);
  for (const BlockStatus& block : listing->rows) {
    if (block.state == BlockState::sealed) left.erase(name_of(block.key));
  }
  for (const auto& [key, bytes] : stored) left.erase(key);
  EXPECT_TRUE(left.empty()) << left.size() << " blocks are nowhere";
}

TEST_F(LargeBlocksTest, WhatTheStoreHasLeavesThoughWritesAreSlow) {
  const Handle all = make("a", 2 * kFrames);
  want(all);  // what comes back is in the store too
  make("b", 6);
  holds_writes = true;
  ASSERT_TRUE(node.manager.wanted(cache, absent_of(all), node.actions));
  settle();
  const auto confirmations = std::ranges::count_if(
      writes, [&](const WriteBlock& write) { return stored.contains(name_of(write.key)); });
  EXPECT_EQ(std::ssize(writes) - confirmations, 4) << "as many as may be written at a time";
  EXPECT_EQ(confirmations, 4) << "as many as may be asked for at a time";
}

// A node with 256 frames.
class ManyFramesTest : public TieringTest {
 protected:
  static constexpr std::uint32_t kMany = 64 * kExtentFrames;
  ManyFramesTest() : TieringTest(many()) {}
  static ManagerConfig many() {
    ManagerConfig config = node_with_store(32 * kMany);
    config.dram = {64 * kExtent, kExtent};
    for (TenantSpec& tenant : config.tenants) tenant.dram.limit_bytes = 64 * kExtent;
    return config;
  }
};

TEST_F(ManyFramesTest, NewBlocksHaveTheirTurnBesideForecasts) {
  const Handle all = make("a", 3 * kMany);
  const Handle other = node.open(session, cache).sequence;
  std::uint32_t busy = 0;
  for (std::uint32_t extended = 0; extended < 60;) {
    ASSERT_TRUE(node.manager.wanted(cache, absent_of(all), node.actions, Urgency::soon));
    for (const Action& action : std::exchange(node.actions, {})) answer(action);
    if (node.manager.pending_work()) node.manager.turn(node.actions);
    const auto one = node.manager.extend(session, other, 1, Growth::allowed, node.actions);
    if (one) {
      ++extended;
    } else {
      ASSERT_EQ(one.error().code, Errc::busy) << one.error().text;
      ASSERT_LT(++busy, 60U);
    }
  }
  settle();
}

// A cache of the same name may have asked for it since, or be about to.
TEST_F(TieringTest, OnlyWhatNobodyNeedsHeldIsLetGo) {
  const Handle all = make("a", 2 * kFrames);
  want(all);
  holds_writes = true;
  ASSERT_TRUE(node.manager.wanted(cache, absent_of(all), node.actions));
  settle();
  ASSERT_FALSE(writes.empty());
  const auto let_go = [&](std::span<const std::byte> key) {
    const std::span<const std::byte> keys[] = {key};
    Actions actions;
    EXPECT_TRUE(node.manager.let_go_of_unused(cache, keys, actions));
    const auto ordered = Node::all<HoldStored>(actions);
    return ordered.size() == 1 && !ordered[0].hold;
  };
  for (const BlockStatus& block : blocks_of(all)) {
    const bool leaves = std::ranges::find(writes, block.id, &WriteBlock::id) != writes.end();
    EXPECT_EQ(let_go(block.key), block.place == Place::resident && !leaves);
  }
  EXPECT_TRUE(let_go(Keys("b", 1)[0]));
  holds_writes = false;
  for (const WriteBlock& write : std::exchange(writes, {})) answer(write);
  settle();
}

TEST_F(TieringTest, AnswersToMovesOfACacheThatIsBeingDestroyedAreVoid) {
  const Handle all = make("a", 2 * kFrames);
  const std::vector<BlockId> absent = absent_of(all);
  ASSERT_FALSE(absent.empty());
  holds_reads = true;
  want(all);
  ASSERT_FALSE(reads.empty());
  ASSERT_TRUE(node.manager.session_dead(session, node.actions));
  ASSERT_TRUE(node.manager.evict(kDropAll, node.actions));
  refuses = true;
  most_turns = 2 * kMostPartingRefusals * static_cast<int>(kWriteRefusedEvents);
  settle();
  ASSERT_EQ(Node::all<DestroyCache>(node.done).size(), 1U);
  const auto is_void = [](const Status& status) {
    return !status && status.error().code == Errc::not_found;
  };
  const BlockId id = reads.front().id;
  EXPECT_TRUE(is_void(node.manager.loaded(cache, id, true, node.actions)));
  EXPECT_TRUE(is_void(node.manager.written(cache, id, WriteOutcome::stored, node.actions)));
  EXPECT_TRUE(is_void(node.manager.wanted(cache, absent, node.actions)));
}

class FewIdsTest : public TieringTest {
 protected:
  FewIdsTest() : TieringTest(node_with_store(4)) {}
};

TEST_F(FewIdsTest, IdsOfBlocksThatAreReadForNobodyAreWaitedFor) {
  const std::uint32_t ids = kFrames + 4;
  make("a", ids - 1);
  holds_reads = true;
  const Keys stored_keys("b", 1);
  const Handle reader = node.open(session, cache).sequence;
  const std::vector<StoredKey> found{{stored_keys[0], kBlock}};
  ASSERT_EQ(node.manager.append_stored(session, reader, found, node.actions)->matched.size(), 1U);
  settle();
  ASSERT_EQ(reads.size(), 1U);
  node.release(session, reader);
  const Handle more = node.open(session, cache).sequence;
  const auto early = node.manager.extend(session, more, 1, Growth::allowed, node.actions);
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code, Errc::busy) << early.error().text;
  ASSERT_TRUE(node.manager.loaded(cache, reads[0].id, false, node.actions));
  settle();
  EXPECT_TRUE(extend(more));
}

}  // namespace
}  // namespace sluice::residency::test
