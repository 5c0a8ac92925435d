// What requests see: prefixes, private blocks, seals, forks.
#include "tests/residency/node.h"

namespace sluice::residency::test {
namespace {

TEST(Sequences, TheLongestKnownPrefixIsMatchedAndSharedBetweenSessions) {
  Node node;
  const SessionId writer = node.session();
  const SessionId reader = node.session();
  const CacheId cache = node.cache(writer);
  EXPECT_EQ(node.cache(reader), cache);
  const Keys keys("k", 4);
  node.sealed_sequence(writer, cache, keys);

  const auto same = node.open(reader, cache, keys.view());
  EXPECT_EQ(same.matched.size(), 4u);
  const auto longer = node.open(reader, cache, Keys("k", 9).view());
  EXPECT_EQ(longer.matched, same.matched);
  EXPECT_TRUE(node.open(reader, cache, Keys("other", 4).view()).matched.empty());

  const CacheStatus status = node.status(cache);
  EXPECT_EQ(status.blocks.sealed, 4u);
  EXPECT_EQ(status.blocks.shared, 4u);
  EXPECT_EQ(status.sharing.saved_bytes, 8 * kBlock);
  EXPECT_EQ(status.sharing.matched_blocks, 8u);
}

TEST(Sequences, AnOpenGoesOnOnlyWhileEveryKeyWasKnown) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Keys all("k", 6);
  node.sealed_sequence(session, cache, all);
  KeyView head = all.view();
  head.count = 2;
  KeyView tail = all.view();
  tail.data += 2 * tail.stride;
  tail.count = 4;

  const auto known = node.open(session, cache, head);
  const auto more = node.manager.append_known(session, known.sequence, tail);
  ASSERT_TRUE(more);
  EXPECT_EQ(more->matched.size(), 4u);
  EXPECT_EQ(node.manager.sequence_info(session, known.sequence)->blocks, 6u);

  const auto gap = node.open(session, cache, Keys("gap", 2).view());
  const auto refused = node.manager.append_known(session, gap.sequence, tail);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::wrong_state);
}

TEST(Sequences, TenantsModelsSaltsAndShardsShareNothing) {
  Node node;
  const SessionId red = node.session(0);
  const SessionId blue = node.session(1);
  const Keys keys("same", 3);
  node.sealed_sequence(red, node.cache(red), keys);
  CacheSpec shard = small_cache();
  shard.shard_count = 2;
  shard.shard_index = 1;
  CacheSpec salt = small_cache();
  salt.salt = "salt";
  CacheSpec kind = small_cache();
  kind.kind = CacheKind::latent;
  for (const CacheSpec& spec : {small_cache("other"), shard, salt, kind}) {
    EXPECT_TRUE(node.open(red, node.cache(red, spec), keys.view()).matched.empty());
  }
  EXPECT_TRUE(node.open(blue, node.cache(blue), keys.view()).matched.empty());
}

TEST(Sequences, KeysOfEveryLengthAreToldApart) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const std::string text(kMaxKeyBytes, 'k');
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  const Handle sequence = node.open(session, cache).sequence;
  node.extend(session, sequence, kMaxKeyBytes);
  for (std::uint32_t size = 1; size <= kMaxKeyBytes; ++size) {
    const auto sealed = node.seal(session, sequence, size - 1, bytes.first(size));
    ASSERT_TRUE(sealed);
    EXPECT_FALSE(sealed->deduplicated) << size;
  }
  for (std::uint32_t size = 1; size <= kMaxKeyBytes; ++size) {
    const KeyView key{bytes.data(), size, size, 1};
    EXPECT_EQ(node.open(session, cache, key).matched.size(), 1u) << size;
  }
  for (const std::size_t size : {std::size_t{0}, std::size_t{kMaxKeyBytes + 1}}) {
    const std::vector<std::byte> odd(size);
    EXPECT_EQ(node.seal(session, sequence, 0, odd).error().code, Errc::invalid_argument);
  }
}

TEST(Sequences, ABlockIsKnownByItsKeyFromItsSealOn) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Keys keys("k", 1);
  const Handle sequence = node.open(session, cache).sequence;
  const BlockRef block = node.extend(session, sequence, 1).front();
  EXPECT_TRUE(node.open(session, cache, keys.view()).matched.empty());
  ASSERT_TRUE(node.seal(session, sequence, 0, keys[0]));
  ASSERT_EQ(node.actions.size(), 1u);
  EXPECT_EQ(node.actions.front(), Action(SetFrame{cache, block.id, block.frame}));
  EXPECT_EQ(node.open(session, cache, keys.view()).matched, std::vector{block});
}

TEST(Sequences, BlocksAreSealedInAnyOrder) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Keys keys("k", 3);
  const Handle sequence = node.open(session, cache).sequence;
  node.extend(session, sequence, 3);
  ASSERT_TRUE(node.seal(session, sequence, 2, keys[2]));
  ASSERT_TRUE(node.seal(session, sequence, 0, keys[0]));
  EXPECT_EQ(node.open(session, cache, keys.view()).matched.size(), 1u);
  ASSERT_TRUE(node.seal(session, sequence, 1, keys[1]));
  EXPECT_EQ(node.open(session, cache, keys.view()).matched.size(), 3u);
}

TEST(Sequences, ASecondSealWithTheSameKeyTakesTheExistingBlock) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Keys keys("k", 1);
  const Handle first = node.sealed_sequence(session, cache, keys);
  const Handle second = node.open(session, cache).sequence;
  const BlockRef own = node.extend(session, second, 1).front();
  node.actions.clear();

  const auto sealed = node.seal(session, second, 0, keys[0]);
  ASSERT_TRUE(sealed);
  EXPECT_TRUE(sealed->deduplicated);
  EXPECT_NE(sealed->block.id, own.id);
  // The duplicate may still be read in the running step: it goes through a grace period.
  const auto retired = Node::all<Retire>(node.actions);
  ASSERT_EQ(retired.size(), 1u);
  EXPECT_EQ(retired.front().ids, std::vector{own.id});
  EXPECT_EQ(node.status(cache).blocks.shared, 1u);
  EXPECT_EQ(node.status(cache).sharing.deduplicated_blocks, 1u);

  node.release(session, first);
  EXPECT_EQ(node.status(cache).blocks.unreferenced, 0u);
  node.settle();
}

TEST(Sequences, AKeyIsNotSealedWithAnotherSize) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Keys keys("k", 1);
  node.sealed_sequence(session, cache, keys);
  const Handle other = node.open(session, cache).sequence;
  node.extend(session, other, 1);
  const auto refused = node.seal(session, other, 0, keys[0], kBlock / 2);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::size_mismatch);
  EXPECT_EQ(node.manager.sequence_info(session, other)->taken, 1u);  // still private
  EXPECT_EQ(node.seal(session, other, 0, keys[0], kBlock + 1).error().code, Errc::invalid_argument);
  EXPECT_TRUE(node.seal(session, other, 0, Keys("partial", 1)[0], kBlock / 2));
}

TEST(Sequences, SealingAgainChangesNothingAndAnotherKeyIsRefused) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Keys keys("k", 2);
  const Handle sequence = node.open(session, cache).sequence;
  node.extend(session, sequence, 1);
  const auto first = node.seal(session, sequence, 0, keys[0]);
  node.actions.clear();
  const auto again = node.seal(session, sequence, 0, keys[0]);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->block, first->block);
  EXPECT_TRUE(node.actions.empty());
  EXPECT_EQ(node.seal(session, sequence, 0, keys[1]).error().code, Errc::wrong_state);
}

TEST(Sequences, AForkSharesSealedBlocksAndCopiesPrivateOnes) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Handle parent = node.sealed_sequence(session, cache, Keys("k", 2));
  const BlockRef tail = node.extend(session, parent, 1).front();
  auto forked = node.manager.fork(session, parent, Growth::allowed, node.actions);
  if (forked && forked->needs_extents) {
    node.settle();
    forked = node.manager.fork(session, parent, Growth::allowed, node.actions);
  }
  ASSERT_TRUE(forked);
  EXPECT_TRUE(forked->complete);
  EXPECT_EQ(forked->blocks, 3u);
  ASSERT_EQ(forked->copies.size(), 1u);
  EXPECT_EQ(forked->copies[0].index, 2u);
  EXPECT_EQ(forked->copies[0].parent, tail);
  EXPECT_NE(forked->copies[0].child.id, tail.id);
  EXPECT_NE(forked->copies[0].child.frame, tail.frame);
  const Handle child = forked->sequence;
  EXPECT_EQ(node.status(cache).blocks.shared, 2u);
  node.release(session, parent);
  EXPECT_EQ(node.manager.sequence_info(session, child)->blocks, 3u);
  node.settle();
}

TEST(Sequences, AForkOfManyTurnsAsksForAllItsExtentsAtOnce) {
  ManagerConfig config = small_node();
  config.dram.capacity_bytes = config.tenants[0].dram.limit_bytes = 1024 * kExtent;
  Node node(config);
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Handle parent = node.open(session, cache).sequence;
  node.extend(session, parent, kMaxBlocksPerTurn);
  node.extend(session, parent, 400);
  const auto asked = node.manager.fork(session, parent, Growth::allowed, node.actions);
  ASSERT_TRUE(asked && asked->needs_extents);
  EXPECT_EQ(Node::all<GrantDram>(node.actions).size(), (kMaxBlocksPerTurn + 400) / 4);
  node.settle();
  auto forked = node.manager.fork(session, parent, Growth::allowed, node.actions);
  ASSERT_TRUE(forked && !forked->needs_extents && !forked->complete);
  const Handle child = forked->sequence;
  forked = node.manager.fork_more(session, parent, child, Growth::allowed, node.actions);
  ASSERT_TRUE(forked && forked->complete) << "nothing was missing half-way";
  EXPECT_EQ(node.manager.sequence_info(session, child)->taken, kMaxBlocksPerTurn + 400);
  node.settle();
}

TEST(Sequences, HandlesOfOtherSessionsAndOfReleasedSequencesAreStale) {
  Node node;
  const SessionId session = node.session();
  const SessionId other = node.session();
  const CacheId cache = node.cache(session);
  node.cache(other);
  const Handle sequence = node.open(session, cache).sequence;
  const Handle theirs = node.open(other, cache).sequence;
  EXPECT_NE(sequence, theirs);
  EXPECT_EQ(node.manager.fork(other, sequence, Growth::allowed, node.actions).error().code,
            Errc::stale_handle);
  node.release(session, sequence);
  const Handle next = node.open(session, cache).sequence;
  EXPECT_EQ(next.index, sequence.index);
  EXPECT_EQ(node.manager.release(session, sequence, node.actions).error().code, Errc::stale_handle);
  EXPECT_EQ(node.manager.release(session, Handle{}, node.actions).error().code, Errc::stale_handle);
}

TEST(Sequences, TruncatedPrivateBlocksComeBackAfterGraceOnly) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  const Handle sequence = node.open(session, cache).sequence;
  const auto blocks = node.extend(session, sequence, 3);
  ASSERT_TRUE(node.manager.truncate(session, sequence, 1, node.actions));
  const auto retired = Node::all<Retire>(node.actions);
  ASSERT_EQ(retired.size(), 1u);
  EXPECT_EQ(retired[0].ids, (std::vector{blocks[2].id, blocks[1].id}));

  const Actions held = std::exchange(node.actions, {});
  for (const BlockRef& block : node.extend(session, sequence, 3)) {
    EXPECT_NE(block.frame, blocks[1].frame);
    EXPECT_NE(block.frame, blocks[2].frame);
  }
  node.answer(held.front());
  EXPECT_EQ(node.status(cache).blocks.retiring, 0u);
  EXPECT_EQ(node.manager.truncate(session, sequence, 9, node.actions).error().code,
            Errc::invalid_argument);
}

TEST(Sequences, LongListsAreRefusedAndLongReleasesGoOnInTurns) {
  Node node;
  const SessionId session = node.session();
  const CacheId cache = node.cache(session);
  EXPECT_EQ(node.manager.open_sequence(session, cache, Keys("k", 1025).view()).error().code,
            Errc::list_too_long);
  const Keys one("k", 1);
  node.sealed_sequence(session, cache, one);
  KeyView many = one.view();
  std::string copies;
  for (std::uint32_t i = 0; i < kMaxBlocksPerTurn; ++i) {
    copies.append(reinterpret_cast<const char*>(many.data), many.key_bytes);
  }
  many.data = reinterpret_cast<const std::byte*>(copies.data());
  many.count = kMaxBlocksPerTurn;
  const Handle sequence = node.open(session, cache, many).sequence;
  ASSERT_TRUE(node.manager.append_known(session, sequence, many));

  auto forked = node.manager.fork(session, sequence, Growth::allowed, node.actions);
  ASSERT_TRUE(forked);
  EXPECT_FALSE(forked->complete);
  forked =
      node.manager.fork_more(session, sequence, forked->sequence, Growth::allowed, node.actions);
  ASSERT_TRUE(forked && forked->complete);

  node.release(session, sequence);
  EXPECT_TRUE(node.manager.pending_work());
  EXPECT_EQ(node.status(cache).sharing.saved_bytes, 4096 * kBlock);
  node.settle();
  EXPECT_EQ(node.status(cache).sharing.saved_bytes, 2048 * kBlock);
}

}  // namespace
}  // namespace sluice::residency::test
