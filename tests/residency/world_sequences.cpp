// The part of World about sequences and blocks.
#include <algorithm>
#include <utility>

#include "tests/residency/world.h"
#include "tests/residency/world_tools.h"

namespace sluice::residency::test {
// ---- the oracle's blocks

void World::take(OracleCache& cache, const BlockRef& ref) {
  hold(ref.id.value < cache.shape.max_blocks, "an id beyond the table");
  hold(!cache.blocks.contains(ref.id.value), "id " + std::to_string(ref.id.value) + " given twice");
  take_frame(cache, ref.frame, ref.id.value);
  OracleBlock& block = cache.blocks[ref.id.value];
  block.frame = ref.frame;
  block.references = 1;
  mix(ref.id.value);
  mix(ref.frame.value);
}

void World::drop_reference(OracleCache& cache, std::uint32_t id, bool dead) {
  OracleBlock& block = cache.blocks.at(id);
  if (block.life == Life::taken) {
    block.life = Life::dropped;
    block.may_be_pinned = dead;
  }
  --block.references;
}

void World::drop_sequence(std::size_t index, bool dead) {
  OracleSequence& sequence = sequences_[index];
  OracleCache& cache = caches_.at(sequence.cache);
  for (const std::uint32_t id : sequence.blocks) drop_reference(cache, id, dead);
  std::swap(sequence, sequences_.back());
  sequences_.pop_back();
}

// The manager does not know a key that the oracle has: right only if the block is on its way out.
void World::hold_evicted(OracleCache& cache, std::uint32_t id) {
  OracleBlock& block = cache.blocks.at(id);
  hold(block.references == 0, "a block in use is not known by its key");
  hold_evictable(cache, block);
  for (const auto& [number, other] : caches_) {
    if (&other != &cache) continue;
    const auto listing = hold_ok(manager_.blocks(CacheId{number}, id, 1), "blocks");
    hold(listing.rows.size() == 1 && listing.rows[0].id.value == id &&
             listing.rows[0].state == BlockState::retiring,
         "a key did not match although its block was not evicted");
  }
  if (!block.lost) cache.by_key.erase(block.key);
  block.life = Life::dropped;
  count("block evicted");
}

void World::expect_matched(OracleSequence& sequence, const std::vector<std::string>& keys,
                           std::span<const BlockRef> matched) {
  OracleCache& cache = caches_.at(sequence.cache);
  hold(matched.size() <= keys.size(), "more keys matched than were given");
  for (std::size_t i = 0; i < matched.size(); ++i) {
    const auto known = cache.by_key.find(keys[i]);
    hold(known != cache.by_key.end(), "a key matched that nobody sealed, or after its eviction");
    OracleBlock& block = cache.blocks.at(known->second);
    hold(matched[i] == BlockRef{BlockId{known->second}, block.frame},
         "a key matched another block");
    ++block.references;
    sequence.blocks.push_back(known->second);
    mix(known->second);
  }
  sequence.all_known = matched.size() == keys.size();
  if (sequence.all_known) return;
  const auto known = cache.by_key.find(keys[matched.size()]);
  if (known != cache.by_key.end()) hold_evicted(cache, known->second);
}

void World::hold_length(const OracleSequence& sequence) {
  const auto info = hold_ok(manager_.sequence_info(sequence.session, sequence.handle), "info");
  const OracleCache& cache = caches_.at(sequence.cache);
  const auto taken = std::ranges::count_if(
      sequence.blocks, [&](std::uint32_t id) { return cache.blocks.at(id).life == Life::taken; });
  hold(info.blocks == sequence.blocks.size(), "a sequence has another length");
  hold(info.taken == static_cast<std::uint32_t>(taken),
       "a sequence counts its private blocks wrong");
}

bool World::anything_under_way() const { return !unanswered_.empty() || manager_.pending_work(); }

void World::hold_growth_error(const Error& error, const OracleCache& cache, std::size_t blocks,
                              bool may_grow) {
  mix(static_cast<std::uint64_t>(error.code));
  count("growth: " + std::string(ipc::to_string(error.code)));
  if (error.code == Errc::busy) {
    hold(anything_under_way(), "busy, and nothing is under way: " + error.text);
    return;
  }
  if (store_ && cache.blocks.size() + blocks > cache.shape.max_blocks) {
    hold_error(error, {Errc::quota_exceeded}, "growth without ids");
    const auto coming = std::ranges::count_if(
        cache.blocks, [](const auto& entry) { return entry.second.references == 0; });
    hold(
        manager_.pending_work() || cache.blocks.size() - static_cast<std::size_t>(coming) + blocks >
                                       cache.shape.max_blocks,
        "quota_exceeded although ids come back: " + error.text);
    count("growth without ids");
    return;
  }
  hold_error(error, {may_grow ? Errc::quota_exceeded : Errc::no_memory, Errc::quota_exceeded},
             "growth");
  if (!may_grow) return;
  // Refused for quota: all of it as new extents must be against a limit (or a share, while others
  // want).
  const std::size_t extents = blocks / cache.shape.frames_per_extent + 1;
  if (cache.extents.size() + extents > cache.shape.max_frame_extents) return;
  for (const TenantStatus& other : manager_.tenants()) {
    if (other.dram.wanting && other.tenant != cache.tenant) return;
  }
  bool admitted = true;
  try {
    hold_quota(kDram, cache.tenant, extents * cache.shape.frame_extent_bytes);
  } catch (const Failure&) {
    admitted = false;
  }
  hold(!admitted, "quota_exceeded although the quota admits more: " + error.text);
}

// ---- events

std::size_t World::pick_sequence(std::uint32_t number) const {
  return sequences_.empty() ? sequences_.size() : number % sequences_.size();
}

void World::open_sequence(const Event& event) {
  OracleSession* session = pick_session(event.a);
  if (session == nullptr || session->opens.empty()) return;
  if (sequences_.size() >= kMostSequences) return;
  auto open = session->opens.begin();
  std::advance(open, event.b % session->opens.size());
  OracleSequence sequence;
  sequence.session = session->id;
  sequence.cache = open->first.first;
  sequence.device = open->first.second;
  sequence.family = event.c % kFamilies;
  const auto keys = chain(sequence.family, 0, event.d % 16);
  std::string storage;
  const auto opened = manager_.open_sequence(session->id, CacheId{sequence.cache},
                                             view_of(keys, storage), DeviceId{sequence.device});
  if (!opened) {
    const OracleArena& arena = caches_.at(sequence.cache).arenas.at(sequence.device);
    const bool opening = arena.state == CacheState::opening;
    hold_error(opened.error(), {opening ? Errc::busy : Errc::limit_reached}, "open_sequence");
    return;
  }
  for (const OracleSequence& other : sequences_) {
    hold(other.handle != opened->sequence, "a handle was given twice");
  }
  sequence.handle = opened->sequence;
  mix(sequence.handle.bits());
  expect_matched(sequence, keys, opened->matched);
  if (!sequence.blocks.empty()) count("prefix matched");
  sequences_.push_back(std::move(sequence));
  hold_length(sequences_.back());
}

void World::append_known(const Event& event) {
  const std::size_t which = pick_sequence(event.a);
  if (which == sequences_.size()) return;
  OracleSequence& sequence = sequences_[which];
  const auto keys = chain(sequence.family, sequence.blocks.size(), 1 + event.b % 8);
  std::string storage;
  const auto more =
      manager_.append_known(sequence.session, sequence.handle, view_of(keys, storage));
  if (!sequence.all_known) {
    hold(!more && more.error().code == Errc::wrong_state, "append_known to a sequence with a gap");
    return;
  }
  expect_matched(sequence, keys, hold_ok(more, "append_known").matched);
  hold_length(sequence);
}

bool World::extend(const Event& event) {
  const std::size_t which = pick_sequence(event.a);
  if (which == sequences_.size()) return false;
  OracleSequence& sequence = sequences_[which];
  OracleCache& cache = caches_.at(sequence.cache);
  const std::uint32_t wanted = event.b % 24 == 0 ? event.c % kMostExtended : event.c % 5;
  Growth growth = Growth::allowed;
  bool busy = false;
  for (;;) {
    const auto extended =
        manager_.extend(sequence.session, sequence.handle, wanted, growth, actions_);
    if (extended && !extended->needs_extents) {
      hold(extended->first_index == sequence.blocks.size(), "extend: another first index");
      hold(extended->blocks.size() == wanted, "extend: not all blocks");
      for (const BlockRef& ref : extended->blocks) {
        take(cache, ref);
        sequence.blocks.push_back(ref.id.value);
      }
      sequence.all_known = false;
      break;
    }
    const std::size_t from = unanswered_.size();
    absorb();
    if (!extended) {
      busy = extended.error().code == Errc::busy;
      hold_growth_error(extended.error(), cache, wanted, growth == Growth::allowed);
      break;
    }
    hold(unanswered_.size() > from, "extents are needed, and none was asked for");
    if (answer_new_grants(from, event)) continue;
    if (growth == Growth::refused)
      throw Failure("a grant was asked for although growth is refused");
    growth = Growth::refused;
  }
  hold_length(sequence);
  return busy;
}

void World::seal(const Event& event) {
  const std::size_t which = pick_sequence(event.a);
  if (which == sequences_.size() || sequences_[which].blocks.empty()) return;
  OracleSequence& sequence = sequences_[which];
  OracleCache& cache = caches_.at(sequence.cache);
  const std::size_t size = sequence.blocks.size();
  std::size_t index = event.b % size;
  for (std::size_t step = 0; event.d % 16 != 0 && step < size; ++step) {
    if (cache.blocks.at(sequence.blocks[index]).life == Life::taken) break;
    index = (index + 1) % size;
  }
  const std::uint32_t family = event.c % 16 == 0 ? event.c / 16 % kFamilies : sequence.family;
  const std::string key = key_of(family, static_cast<std::uint32_t>(index));
  const std::uint64_t bytes = event.c % 16 == 1 ? 100 : cache.shape.geometry.block_bytes;

  const auto sealed =
      manager_.seal(sequence.session, sequence.handle, static_cast<std::uint32_t>(index),
                    bytes_of(key), bytes, actions_);
  const std::uint32_t own = sequence.blocks[index];
  OracleBlock& block = cache.blocks.at(own);
  if (block.life == Life::sealed) {
    if (block.key != key) {
      hold(!sealed && sealed.error().code == Errc::wrong_state, "sealed again with another key");
    } else if (block.bytes != bytes) {
      hold(!sealed && sealed.error().code == Errc::size_mismatch, "sealed again with another size");
    } else {
      hold(sealed && !sealed->deduplicated && sealed->block.id.value == own, "sealing again");
    }
    return;
  }
  auto known = cache.by_key.find(key);
  if (known != cache.by_key.end() && sealed && !sealed->deduplicated) {
    hold_evicted(cache, known->second);
    known = cache.by_key.end();
  }
  if (known == cache.by_key.end()) {
    hold_ok(sealed, "seal");
    hold(!sealed->deduplicated && sealed->block == BlockRef{BlockId{own}, block.frame},
         "a new key was deduplicated");
    block.life = Life::sealed;
    block.key = key;
    block.bytes = bytes;
    cache.by_key[key] = own;
    OracleFrame& frame = cache.frames.at(block.frame.value);
    frame.key = key;
    frame.bytes = bytes;
    new_frames_.push_back(sealed->block);
    return;
  }
  OracleBlock& existing = cache.blocks.at(known->second);
  if (existing.bytes != bytes) {
    hold(!sealed && sealed.error().code == Errc::size_mismatch, "a key was sealed with two sizes");
    count("size mismatch");
    return;
  }
  hold_ok(sealed, "seal of a known key");
  hold(sealed->block == BlockRef{BlockId{known->second}, existing.frame}, "another block's place");
  ++existing.references;
  drop_reference(cache, own, false);
  sequence.blocks[index] = known->second;
  hold_length(sequence);
  count("deduplicated");
}

void World::fork(const Event& event) {
  const std::size_t which = pick_sequence(event.a);
  if (which == sequences_.size() || sequences_.size() >= kMostSequences) return;
  const OracleSequence parent = sequences_[which];
  OracleCache& cache = caches_.at(parent.cache);
  OracleSequence child{parent.session, {}, parent.cache, parent.device, parent.family, false, {}};
  Growth growth = Growth::allowed;
  bool begun = false;
  for (bool complete = false; !complete;) {
    const auto forked =
        begun ? manager_.fork_more(parent.session, parent.handle, child.handle, growth, actions_)
              : manager_.fork(parent.session, parent.handle, growth, actions_);
    const std::size_t from = unanswered_.size();
    if (forked && !forked->needs_extents) {
      begun = true;
      child.handle = forked->sequence;
      std::size_t copies = 0;
      for (std::size_t i = child.blocks.size(); i < forked->blocks; ++i) {
        OracleBlock& block = cache.blocks.at(parent.blocks[i]);
        if (block.life == Life::sealed) {
          ++block.references;
          child.blocks.push_back(parent.blocks[i]);
          continue;
        }
        hold(copies < forked->copies.size(), "a private block was not copied");
        const ForkedBlock& copy = forked->copies[copies++];
        hold(copy.index == i && copy.parent.id.value == parent.blocks[i] &&
                 copy.parent.frame == block.frame,
             "a copy of another block");
        take(cache, copy.child);
        child.blocks.push_back(copy.child.id.value);
      }
      hold(copies == forked->copies.size(), "more copies than private blocks");
      complete = forked->complete;
      hold(complete == (child.blocks.size() == parent.blocks.size()), "complete, or not");
      absorb();
      continue;
    }
    absorb();
    if (!forked) {
      if (forked.error().code != Errc::limit_reached) {
        const auto private_blocks = std::count_if(
            parent.blocks.begin() + static_cast<std::ptrdiff_t>(child.blocks.size()),
            parent.blocks.end(),
            [&](std::uint32_t id) { return cache.blocks.at(id).life == Life::taken; });
        hold_growth_error(forked.error(), cache, static_cast<std::size_t>(private_blocks),
                          growth == Growth::allowed);
      }
      break;
    }
    if (!answer_new_grants(from, event)) growth = Growth::refused;
  }
  if (!begun) return;
  sequences_.push_back(std::move(child));
  hold_length(sequences_.back());
  count("forked");
}

void World::truncate(const Event& event) {
  const std::size_t which = pick_sequence(event.a);
  if (which == sequences_.size()) return;
  OracleSequence& sequence = sequences_[which];
  OracleCache& cache = caches_.at(sequence.cache);
  const std::size_t size = sequence.blocks.size();
  const std::size_t keep = size - std::min<std::size_t>(size, event.b % 4);
  while (sequence.blocks.size() > keep) {
    drop_reference(cache, sequence.blocks.back(), false);
    sequence.blocks.pop_back();
  }
  sequence.all_known = false;
  hold(manager_
           .truncate(sequence.session, sequence.handle, static_cast<std::uint32_t>(keep), actions_)
           .has_value(),
       "truncate was refused");
  hold_length(sequence);
}

void World::release(const Event& event) {
  const std::size_t which = pick_sequence(event.a);
  if (which == sequences_.size()) return;
  const OracleSequence sequence = sequences_[which];
  drop_sequence(which, false);
  hold(manager_.release(sequence.session, sequence.handle, actions_).has_value(),
       "release was refused");
  hold(!manager_.sequence_info(sequence.session, sequence.handle), "a released handle is alive");
}

// One block many times over: lists longer than a turn handles.
void World::repeat_key(const Event& event) {
  const std::size_t which = pick_sequence(event.a);
  if (which == sequences_.size() || sequences_.size() >= kMostSequences) return;
  OracleCache& cache = caches_.at(sequences_[which].cache);
  if (sequences_[which].blocks.empty()) return;
  const OracleBlock& block = cache.blocks.at(sequences_[which].blocks.front());
  if (block.life != Life::sealed || block.lost) return;
  OracleSequence sequence;
  sequence.session = sequences_[which].session;
  sequence.cache = sequences_[which].cache;
  sequence.device = sequences_[which].device;
  const std::vector<std::string> keys(kMaxBlocksPerTurn, block.key);
  std::string storage;
  const KeyView view = view_of(keys, storage);
  const auto opened = manager_.open_sequence(sequence.session, CacheId{sequence.cache}, view,
                                             DeviceId{sequence.device});
  if (!opened) {
    hold_error(opened.error(), {Errc::limit_reached}, "open_sequence");
    return;
  }
  sequence.handle = opened->sequence;
  expect_matched(sequence, keys, opened->matched);
  hold(sequence.all_known, "a block in use did not match");
  const auto more = manager_.append_known(sequence.session, sequence.handle, view);
  expect_matched(sequence, keys, hold_ok(more, "append_known").matched);
  sequences_.push_back(std::move(sequence));
  count("long sequence");
}

void World::bad_input(const Event& event) {
  const auto expect = [](const auto& result, Errc code, const char* what) {
    hold(!result && result.error().code == code, what);
  };
  expect(manager_.session_dead(SessionId{~std::uint64_t{0}}, actions_), Errc::stale_handle,
         "session");
  expect(manager_.retired(CacheId{event.a % 8}, ~std::uint64_t{0}, actions_), Errc::not_found,
         "batch");
  expect(manager_.withdrawn(CacheId{~0u}, 0, actions_), Errc::not_found,
         "a withdrawal of no cache");
  const std::size_t which = pick_sequence(event.a);
  if (which == sequences_.size()) return;
  const OracleSequence& sequence = sequences_[which];
  const CacheId cache{sequence.cache};
  const auto moving = [&](const Place place) {
    const auto found = caches_.at(cache.value).blocks.find(event.b % 64);
    if (found == caches_.at(cache.value).blocks.end()) return false;
    return place == Place::arriving ? found->second.place == place : found->second.writing;
  };
  if (!moving(Place::resident)) {
    expect(manager_.written(cache, BlockId{event.b % 64}, WriteOutcome::stored, actions_),
           Errc::not_found, "an answer to no write");
  }
  if (!moving(Place::arriving)) {
    expect(manager_.loaded(cache, BlockId{event.b % 64}, true, actions_), Errc::not_found,
           "an answer to no read");
  }
  expect(manager_.withdrawn(cache, ~std::uint64_t{0}, actions_), Errc::not_found,
         "an answer to no Withdraw");
  const SessionId session = sequence.session;
  const Handle handle = sequence.handle;
  const auto size = static_cast<std::uint32_t>(sequence.blocks.size());
  const Handle stale{handle.index, handle.generation + 1'000'000};
  const std::string key = key_of(0, 0);
  expect(manager_.extend(session, stale, 1, Growth::allowed, actions_), Errc::stale_handle,
         "stale");
  expect(manager_.truncate(session, handle, size + 1, actions_), Errc::invalid_argument,
         "truncate");
  expect(manager_.seal(session, handle, size, bytes_of(key), 0, actions_), Errc::invalid_argument,
         "seal behind the end");
  expect(manager_.extend(session, handle, kMaxBlocksPerTurn + 1, Growth::allowed, actions_),
         Errc::list_too_long, "extend");
  const std::vector<StoredKey> long_list(kMaxBlocksPerTurn + 1);
  const bool taken = hold_ok(manager_.sequence_info(session, handle), "info").taken > 0;
  expect(manager_.append_stored(session, handle, long_list, actions_),
         taken ? Errc::wrong_state : Errc::list_too_long, "append_stored");
  for (const OracleSession& other : sessions_) {
    if (other.id == session) continue;
    expect(manager_.fork(other.id, handle, Growth::allowed, actions_), Errc::stale_handle,
           "fork of another session's sequence");
  }
  hold_length(sequence);
}

// ---- everything at once

void World::verify() {
  manager_.check();
  if (manager_.pending_work()) return;
  std::map<std::uint32_t, CacheStatus> statuses;
  for (const CacheStatus& status : manager_.caches()) statuses[status.cache.value] = status;
  hold(statuses.size() == caches_.size(), "another number of caches");
  for (auto& [number, cache] : caches_) {
    if (cache.destroying) continue;
    std::size_t listed = 0;
    BlockCounts counts;
    std::uint64_t cursor = 0;
    do {
      const auto listing = hold_ok(manager_.blocks(CacheId{number}, cursor, 100), "blocks");
      for (const BlockStatus& row : listing.rows) {
        ++listed;
        OracleBlock& block = cache.blocks.at(row.id.value);
        if (row.state == BlockState::retiring && block.life == Life::sealed) {
          hold_evicted(cache, row.id.value);
        }
        const bool retiring = block.life == Life::dropped || block.life == Life::retiring;
        hold((row.state == BlockState::retiring) == retiring, "retiring, or not");
        hold((row.state == BlockState::taken) == (block.life == Life::taken), "private, or not");
        hold(row.references == block.references, "references of a block");
        hold(row.frame == block.frame, "frame of a block");
        if (block.life != Life::sealed) continue;
        hold_place(cache, block, row);
        if (block.references == 0 && row.place == Place::resident && !block.writing) {
          ++counts.unreferenced;
        }
        const auto key = bytes_of(block.key);
        hold(std::ranges::equal(row.key, key), "key of a block");
        hold(row.valid_bytes == block.bytes, "size of a block");
      }
      cursor = listing.next;
    } while (cursor != 0);
    hold(listed == cache.blocks.size(), "another number of blocks");
    std::uint64_t saved = 0;
    for (const auto& [id, block] : cache.blocks) {
      if (block.life == Life::taken) {
        ++counts.taken;
      } else if (block.life != Life::sealed) {
        ++counts.retiring;
      } else {
        ++counts.sealed;
        if (block.references > 1) ++counts.shared;
        if (block.references > 1) saved += block.references - 1;
      }
    }
    const CacheStatus& status = statuses.at(number);
    hold(counts == status.blocks, "counts of a cache");
    hold_tiering(cache, status);
    hold(status.sharing.saved_bytes == saved * cache.shape.geometry.block_bytes, "bytes saved");
    hold(status.arenas.size() == cache.arenas.size(), "another number of arenas");
    for (const ArenaStatus& arena : status.arenas) {
      hold(arena.hbm_bytes == cache.arenas.at(arena.device.value).bytes, "HBM of an arena");
    }
    hold(status.dram_bytes == cache.extents.size() * cache.shape.frame_extent_bytes,
         "DRAM of a cache");
    hold(status.sequences == static_cast<std::uint32_t>(
                                 std::ranges::count(sequences_, number, &OracleSequence::cache)),
         "sequences of a cache");
  }
  for (const TenantStatus& tenant : manager_.tenants()) {
    for (std::uint32_t device = 0; device < kDevices; ++device) {
      hold(tenant.devices[device].used_bytes == used_[device][tenant.tenant.value],
           "HBM of a tenant");
    }
    hold(tenant.dram.used_bytes == used_[kDram][tenant.tenant.value], "DRAM of a tenant");
  }
}

}  // namespace sluice::residency::test
