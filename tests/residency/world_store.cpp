// The part of World about frames and the block store: what moves between them, and when.
#include <algorithm>
#include <utility>

#include "tests/residency/world.h"
#include "tests/residency/world_tools.h"

namespace sluice::residency::test {
namespace {

// What the store's copies belong to: it outlives caches.
std::string store_name(TenantId tenant, const CacheSpec& spec, const std::string& key) {
  return std::to_string(tenant.value) + spec.model + std::to_string(spec.shard_index) + ":" +
         std::to_string(spec.layout.block_tokens) + ":" + key;
}

std::string text_of(const std::vector<std::byte>& key) {
  return {reinterpret_cast<const char*>(key.data()), key.size()};
}

bool one_in(std::uint32_t chances, std::uint32_t luck) {
  return chances != 0 && luck % chances == chances - 1;
}

}  // namespace

// ---- frames

void World::take_frame(OracleCache& cache, FrameId frame, std::uint32_t owner) {
  const auto extent = cache.extents.find(frame.value / cache.shape.frames_per_extent);
  hold(extent != cache.extents.end() && extent->second == Extent::present,
       "a frame of an extent that does not exist");
  const auto used = cache.frames.find(frame.value);
  if (used != cache.frames.end()) {
    const OracleBlock& block = cache.blocks.at(used->second.owner);
    hold(!block.writing, "a frame was reused while a write out of it is in flight");
    hold(block.place != Place::leaving, "a frame was reused before its grace was answered");
    hold(!used->second.known, "a frame was reused that resolvers may know");
    throw Failure("frame " + std::to_string(frame.value) + " given twice");
  }
  cache.frames[frame.value].owner = owner;
}

void World::free_frame(OracleCache& cache, OracleBlock& block) {
  if (block.frame == ipc::kNoFrameId) return;
  hold(!block.writing, "a frame became free while a write out of it is in flight");
  cache.frames.erase(block.frame.value);
  block.frame = ipc::kNoFrameId;
}

void World::hold_evictable(const OracleCache& cache, const OracleBlock& block) {
  hold(!block.writing, "a block was evicted while it is written");
  hold(block.place != Place::leaving, "a block was evicted in the grace of its frame");
  hold(block.place != Place::arriving, "a block was evicted while it is read");
  hold(!store_ || block.stored || block.lost || cache.may_drop,
       "a block was dropped that the store has not, and was not asked to take");
}

std::uint64_t World::OracleCache::most_moving() const {
  return std::max<std::uint64_t>(1, kMaxWritingBytes / shape.geometry.frame_stride);
}

// ---- following actions

void World::follow_set_frame(const SetFrame& set) {
  OracleCache& cache = caches_.at(set.cache.value);
  const auto frame = cache.frames.find(set.frame.value);
  const auto block = cache.blocks.find(set.id.value);
  if (set.frame == ipc::kLostFrameId) {
    // The references of a dead session go in turns, and here at once.
    const auto sessions = manager_.sessions();
    hold(
        block != cache.blocks.end() && block->second.lost &&
            (block->second.references > 0 || std::ranges::any_of(sessions, &SessionStatus::ending)),
        "resolvers are told that a block is lost that is not");
    return;
  }
  hold(frame != cache.frames.end() && block != cache.blocks.end() &&
           frame->second.owner == set.id.value && block->second.frame == set.frame,
       "a SetFrame of a frame that is not the block's");
  hold(!frame->second.key.empty(), "a SetFrame before the bytes are complete");
  hold(frame->second.key == block->second.key && frame->second.bytes == block->second.bytes,
       "a SetFrame of another block's bytes");
  if (block->second.place == Place::leaving) {  // it stays
    for (auto& [number, ids] : cache.withdrawals) std::erase(ids, set.id);
    block->second.place = Place::resident;
    count("block recalled");
    return;
  }
  const auto expected = std::ranges::find(new_frames_, BlockRef{set.id, set.frame});
  hold(expected != new_frames_.end(), "a SetFrame that no seal and no read explains");
  new_frames_.erase(expected);
  frame->second.known = true;
}

void World::follow_withdraw(const Withdraw& withdraw) {
  OracleCache& cache = caches_.at(withdraw.cache.value);
  hold(!withdraw.ids.empty() && withdraw.ids.size() <= kMaxBlocksPerTurn,
       "a withdrawal of an odd size");
  hold(!cache.batches.contains(withdraw.batch) && !cache.withdrawals.contains(withdraw.batch),
       "a batch number was used twice");
  hold(cache.withdrawals.size() < kMaxRetireBatches, "more withdrawals at a time than may be");
  for (const BlockId id : withdraw.ids) {
    OracleBlock& block = cache.blocks.at(id.value);
    hold(block.life == Life::sealed && block.place == Place::resident,
         "a block was withdrawn that is not in DRAM");
    hold(block.stored && held_.contains(store_name(cache.tenant, cache.spec, block.key)),
         "a block is displaced that the store has not, or may drop");
    hold(cache.frames.at(block.frame.value).known, "a frame was withdrawn that nobody knows");
    block.place = Place::leaving;
  }
  cache.withdrawals[withdraw.batch] = withdraw.ids;
  unanswered_.push_back({Unanswered::withdraw, withdraw.cache.value, withdraw.batch});
}

void World::follow_write(const WriteBlock& write) {
  OracleCache& cache = caches_.at(write.cache.value);
  hold(cache.blocks.contains(write.id.value), "a free block is written");
  OracleBlock& block = cache.blocks.at(write.id.value);
  hold(block.life == Life::sealed && block.place == Place::resident && block.frame == write.frame,
       "a block is written that is not in that frame");
  hold(!block.writing, "a block is written twice at a time");
  hold(!block.stored || write.hold, "a block is written that the store has");
  const OracleFrame& frame = cache.frames.at(write.frame.value);
  hold(frame.key == text_of(write.key) && frame.bytes == write.valid_bytes &&
           frame.key == block.key && frame.bytes == block.bytes,
       "what is written is not what is in the frame");
  block.writing = true;
  block.confirms = block.stored;
  block.stored = false;
  block.hold = write.hold;
  // The store has it: it holds it at once, and has nothing to refuse.
  const std::string name = store_name(cache.tenant, cache.spec, block.key);
  block.exists = write.hold && stored_.contains(name);
  if (block.exists) held_.insert(name);
  block.likely = write.reuse == Reuse::likely;
  hold(block.likely || block.references == 0, "what a sequence has is written as unlikely");
  auto& writes = block.confirms ? cache.confirmations : cache.writes;
  ++writes;
  hold(writes <= cache.most_moving(), "more writes at a time than may be");
  unanswered_.push_back({Unanswered::write, write.cache.value, write.id.value});
  count("block written");
}

void World::follow_read(const ReadBlock& read) {
  OracleCache& cache = caches_.at(read.cache.value);
  hold(cache.blocks.contains(read.id.value), "a free block is read");
  OracleBlock& block = cache.blocks.at(read.id.value);
  hold(block.life == Life::sealed && block.place == Place::absent, "a block is read that is there");
  hold(block.stored && !block.lost, "a block is read that the store has not");
  hold(block.key == text_of(read.key) && block.bytes == read.valid_bytes, "another block is read");
  take_frame(cache, read.frame, read.id.value);
  block.frame = read.frame;
  block.place = Place::arriving;
  ++cache.reads;
  hold(cache.reads <= cache.most_moving(), "more reads at a time than may be");
  unanswered_.push_back({Unanswered::read, read.cache.value, read.id.value});
}

void World::follow_hurry(const HurryRead& read) {
  const OracleCache& cache = caches_.at(read.cache.value);
  hold(cache.blocks.contains(read.id.value), "the read of a free block is hurried");
  const OracleBlock& block = cache.blocks.at(read.id.value);
  hold(block.place == Place::arriving, "a read is hurried that nobody asked for");
  hold(block.key == text_of(read.key), "the read of another block is hurried");
  count("read hurried");
}

void World::follow_hold(const HoldStored& held) {
  const OracleCache& cache = caches_.at(held.cache.value);
  hold(!cache.destroying, "something is held for a cache that goes");
  const std::string name = store_name(cache.tenant, cache.spec, text_of(held.key));
  if (!held.hold) {
    held_.erase(name);
    count("let go in the store");
  } else if (stored_.contains(name)) {
    held_.insert(name);
    count("held in the store");
  }
}

// ---- answering them

void World::answer_withdraw(const Unanswered& wait) {
  OracleCache& cache = caches_.at(wait.cache);
  const bool waits = cache.withdrawals.contains(wait.number);
  hold(waits || cache.destroying, "a withdrawal that nobody ordered");
  if (waits) {
    for (const BlockId id : cache.withdrawals.at(wait.number)) {
      OracleBlock& block = cache.blocks.at(id.value);
      free_frame(cache, block);
      block.place = Place::absent;
      count("block displaced");
    }
    cache.withdrawals.erase(wait.number);
  }
  const Status status = manager_.withdrawn(CacheId{wait.cache}, wait.number, actions_);
  hold(status.has_value() == waits, "withdrawn() of a batch that (does not wait) waits");
}

void World::answer_write(const Unanswered& wait, std::uint32_t luck) {
  OracleCache& cache = caches_.at(wait.cache);
  const BlockId id{static_cast<std::uint32_t>(wait.number)};
  const auto asked = cache.blocks.find(id.value);
  const bool exists = asked != cache.blocks.end() && asked->second.exists;
  const bool refused = !exists && one_in(store_->refuses_one_in, luck);
  WriteOutcome outcome = refused ? WriteOutcome::refused : WriteOutcome::stored;
  if (!cache.destroying) {
    OracleBlock& block = cache.blocks.at(id.value);
    const auto frame = cache.frames.find(block.frame.value);
    hold(frame != cache.frames.end() && frame->second.key == block.key &&
             frame->second.bytes == block.bytes,
         "a frame changed before the write out of it was answered");
    block.writing = false;
    --(block.confirms ? cache.confirmations : cache.writes);
    if (refused) {
      cache.may_drop = true;
      const bool unwanted = !block.likely && luck / store_->refuses_one_in % 2 == 0;
      if (unwanted) outcome = WriteOutcome::unwanted;
      count(unwanted ? "write unwanted" : "write refused");
    } else {
      block.stored = true;
      const std::string name = store_name(cache.tenant, cache.spec, block.key);
      if (!stored_.contains(name) && block.hold) count("written to be held");
      stored_[name] = block.bytes;
      if (block.hold) held_.insert(name);
    }
  }
  const Status status = manager_.written(CacheId{wait.cache}, id, outcome, actions_);
  hold(status.has_value() != cache.destroying, "written() of a block that is (not) written");
}

void World::answer_read(const Unanswered& wait, std::uint32_t luck) {
  OracleCache& cache = caches_.at(wait.cache);
  const BlockId id{static_cast<std::uint32_t>(wait.number)};
  bool whole = false;
  if (!cache.destroying) {
    OracleBlock& block = cache.blocks.at(id.value);
    const auto copy = stored_.find(store_name(cache.tenant, cache.spec, block.key));
    whole =
        copy != stored_.end() && copy->second == block.bytes && !one_in(store_->loses_one_in, luck);
    --cache.reads;
    if (whole) {
      OracleFrame& frame = cache.frames.at(block.frame.value);
      frame.key = block.key;
      frame.bytes = block.bytes;
      block.place = Place::resident;
      new_frames_.push_back({id, block.frame});
      ++promoted_;
      count("block promoted");
    } else {
      if (copy != stored_.end()) stored_.erase(copy);
      free_frame(cache, block);
      block.place = Place::absent;
      block.stored = false;
      block.lost = true;
      hold(cache.by_key.erase(block.key) == 1, "a block was read that was not in the directory");
      count("block lost");
    }
  }
  const Status status = manager_.loaded(CacheId{wait.cache}, id, whole, actions_);
  hold(status.has_value() != cache.destroying, "loaded() of a block that is (not) read");
}

// ---- events

// Some of the keys that the store has behind the sequence's blocks; sometimes it has them no more,
// or they are nonsense.
void World::append_stored(const Event& event) {
  const std::size_t which = pick_sequence(event.a);
  if (!store_ || which == sequences_.size()) return;
  OracleSequence& sequence = sequences_[which];
  const OracleCache& cache = caches_.at(sequence.cache);
  const auto keys = chain(sequence.family, sequence.blocks.size(), 1 + event.b % 12);
  std::vector<StoredKey> asked;
  for (const std::string& key : keys) {
    const auto copy = stored_.find(store_name(cache.tenant, cache.spec, key));
    const bool had = copy != stored_.end();
    if (!had && event.d % 64 != 0) break;
    asked.push_back({bytes_of(key), had ? copy->second : cache.shape.geometry.block_bytes});
  }
  if (!asked.empty() && event.d % 16 == 1) {
    StoredKey& bad = asked[event.c % asked.size()];
    if (event.c / 16 % 2 == 0) {
      bad.key = {};
    } else {
      bad.valid_bytes = cache.shape.geometry.block_bytes + 1;
    }
  }
  std::vector<std::span<const std::byte>> newly;
  for (const StoredKey& one : asked) {
    const std::string name = store_name(
        cache.tenant, cache.spec, {reinterpret_cast<const char*>(one.key.data()), one.key.size()});
    if (!stored_.contains(name)) break;
    if (held_.insert(name).second) newly.push_back(one.key);
  }
  const auto more = manager_.append_stored(sequence.session, sequence.handle, asked, actions_);
  hold(manager_.let_go_of_unused(CacheId{sequence.cache}, newly, actions_).has_value(),
       "let_go_of_unused");
  const bool taken = std::ranges::any_of(
      sequence.blocks, [&](std::uint32_t id) { return cache.blocks.at(id).life == Life::taken; });
  if (taken) {
    hold(!more && more.error().code == Errc::wrong_state, "append_stored behind private blocks");
    return;
  }
  follow_append_stored(sequence, asked, hold_ok(more, "append_stored").matched);
  hold_length(sequence);
}

void World::follow_append_stored(OracleSequence& sequence, std::span<const StoredKey> asked,
                                 std::span<const BlockRef> matched) {
  OracleCache& cache = caches_.at(sequence.cache);
  std::size_t right = 0;
  while (right < asked.size() && !asked[right].key.empty() &&
         asked[right].valid_bytes <= cache.shape.geometry.block_bytes) {
    ++right;
  }
  hold(matched.size() <= right, "nonsense was appended");
  for (std::size_t i = 0; i < matched.size(); ++i) {
    const std::string key(reinterpret_cast<const char*>(asked[i].key.data()), asked[i].key.size());
    const std::uint32_t id = matched[i].id.value;
    mix(id);
    sequence.blocks.push_back(id);
    auto known = cache.by_key.find(key);
    if (known != cache.by_key.end() && known->second != id) {
      hold_evicted(cache, known->second);
      known = cache.by_key.end();
    }
    if (known != cache.by_key.end()) {
      OracleBlock& block = cache.blocks.at(id);
      hold(matched[i].frame == block.frame, "a key of the store matched another block");
      ++block.references;
      continue;
    }
    hold(id < cache.shape.max_blocks && !cache.blocks.contains(id), "an id in use for a new block");
    hold(matched[i].frame == ipc::kNoFrameId, "a block that is only in the store has a frame");
    OracleBlock& block = cache.blocks[id];
    block.life = Life::sealed;
    block.references = 1;
    block.key = key;
    block.bytes = asked[i].valid_bytes;
    block.place = Place::absent;
    block.stored = true;
    cache.by_key[key] = id;
    count("appended from the store");
  }
  hold(matched.size() == right || cache.blocks.size() == cache.shape.max_blocks,
       "stored blocks were left out although there are ids");
  sequence.all_known = matched.size() == asked.size();
}

// Hints come from the words of clients' tables: they may name anything.
void World::wanted(const Event& event) {
  const std::size_t which = pick_sequence(event.a);
  CacheId cache{event.a % 8};
  std::vector<BlockId> ids;
  if (which != sequences_.size() && event.d % 8 != 0) {
    cache.value = sequences_[which].cache;
    const auto& blocks = sequences_[which].blocks;
    for (std::size_t i = 0; i < std::min<std::size_t>(blocks.size(), event.c % 32); ++i) {
      ids.push_back(BlockId{blocks[(event.b + i) % blocks.size()]});
    }
  }
  if (event.d % 4 == 0) {
    ids.push_back(BlockId{event.b});
    ids.push_back(BlockId{event.b % 64});
    ids.push_back(ipc::kNoBlock);
  }
  const auto named = caches_.find(cache.value);
  const bool there = named != caches_.end() && !named->second.destroying;
  const Urgency urgency = event.b / 64 % 2 == 0 ? Urgency::now : Urgency::soon;
  hold(manager_.wanted(cache, ids, actions_, urgency).has_value() == there,
       "wanted() of a cache that is (not) there");
}

void World::store_drop(const Event& event) {
  if (stored_.empty()) return;
  auto copy = stored_.begin();
  std::advance(copy, event.a % stored_.size());
  if (!held_.contains(copy->first)) stored_.erase(copy);
}

// ---- what must be true in between

void World::hold_place(const OracleCache& cache, const OracleBlock& block, const BlockStatus& row) {
  // Its Withdraw may have to wait for others.
  const bool leaves = row.place == Place::leaving && block.place == Place::resident &&
                      !block.writing && cache.withdrawals.size() == kMaxRetireBatches;
  hold(row.place == block.place || leaves, "the place of a block");
  hold(row.stored == block.stored, "whether the store has a block");
  const std::string name = store_name(cache.tenant, cache.spec, block.key);
  hold(block.place == Place::resident || !block.stored || !stored_.contains(name) ||
           held_.contains(name),
       "the store may drop a block that is nowhere else");
  hold(block.references > 0 || block.place != Place::absent,
       "a block that is only in the store stays although nobody refers to it");
  hold(block.frame != ipc::kNoFrameId || block.stored || block.lost,
       "a block is neither in DRAM nor in the store, and was not lost");
  if (block.frame == ipc::kNoFrameId) return;
  const OracleFrame& frame = cache.frames.at(block.frame.value);
  hold(frame.known == (block.place == Place::resident || block.place == Place::leaving),
       "resolvers know a frame, or not");
  hold(block.place == Place::arriving || frame.key == block.key, "the bytes in a block's frame");
}

void World::hold_tiering(const OracleCache& cache, const CacheStatus& status) {
  TieringCounts counts;
  std::size_t framed = 0;
  for (const auto& [id, block] : cache.blocks) {
    if (block.frame != ipc::kNoFrameId) ++framed;
    if (block.life != Life::sealed) continue;
    if (block.place == Place::absent) ++counts.absent;
    if (block.lost) ++counts.lost;
    if (block.place == Place::arriving) ++counts.arriving;
    if (block.writing) ++counts.writing;
    if (block.place == Place::leaving) ++counts.leaving;
  }
  hold(framed == cache.frames.size(), "frames in use without a block");
  TieringCounts found = status.tiering;
  hold(found.leaving >= counts.leaving, "leaving blocks of a cache");
  found.leaving = counts.leaving;
  hold(found == counts, "counts of what moves");
}

// What is wanted comes back, if the store has it and there is a frame that could be made free: all
// at once as far as there is room, and one by one for certain.
void World::hold_promotions(Grants grants) {
  if (!store_) return;
  answer_everything();
  for (std::uint32_t which = 0; which < sequences_.size(); which += 5) {
    answer_everything(grants);
    const OracleSequence& sequence = sequences_[which];
    OracleCache& cache = caches_.at(sequence.cache);
    std::vector<BlockId> absent;
    for (const std::uint32_t id : sequence.blocks) {
      const OracleBlock& block = cache.blocks.at(id);
      if (block.place == Place::absent && !block.lost) absent.push_back(BlockId{id});
    }
    const auto rows = manager_.caches();
    const auto row = std::ranges::find(rows, CacheId{sequence.cache}, &CacheStatus::cache);
    const bool room =
        row->free_frames > 0 || std::ranges::any_of(cache.blocks, [](const auto& entry) {
          return entry.second.life == Life::sealed && entry.second.place == Place::resident &&
                 entry.second.stored;
        });
    // Above its limit, what a tenant displaces goes to others.
    const std::size_t tenant = cache.tenant.value;
    const bool over = used_[kDram][tenant] > quotas_[1][tenant].limit_bytes;
    if (absent.empty() || !room || over) continue;
    count(grants == Grants::fail ? "wanted without growth" : "wanted at the end");
    const std::uint64_t before = promoted_ + seen_["block lost"];
    hold(manager_.wanted(CacheId{sequence.cache}, absent, actions_).has_value(), "wanted");
    absorb();
    answer_everything(grants);
    hold(promoted_ + seen_["block lost"] > before, "of many wanted blocks none comes back");
    const OracleBlock& block = cache.blocks.at(absent.front().value);
    if (block.place == Place::resident) continue;  // asked again, it could be displaced again
    const std::vector<BlockId> one{absent.front()};
    hold(manager_.wanted(CacheId{sequence.cache}, one, actions_).has_value(), "wanted");
    absorb();
    answer_everything(grants);
    hold(block.place == Place::resident || block.lost, "a wanted block does not come back");
  }
}

// Nobody refers to anything, and nothing is under way.
void World::hold_settled() {
  verify();
  hold(held_.empty(), "the store holds what nobody counts on");
  for (const CacheStatus& status : manager_.caches()) {
    const OracleCache& cache = caches_.at(status.cache.value);
    hold(status.tiering == TieringCounts{}, "something still moves at the end");
    hold(status.blocks.sealed == cache.frames.size() &&
             status.blocks.unreferenced == status.blocks.sealed,
         "frames are in use at the end without a sealed block");
    hold(status.blocks.taken == 0 && status.blocks.retiring == 0, "blocks are left at the end");
  }
}

}  // namespace sluice::residency::test
