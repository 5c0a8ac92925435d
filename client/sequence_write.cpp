// Sequences: the bytes of private blocks.
#include <algorithm>
#include <cstring>
#include <string>

#include "client/actor.h"
#include "client/requests.h"
#include "client/sequence.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;

ipc::Result<Sequence::Block*> Sequence::private_block(std::uint32_t block) {
  if (auto ok = check(); !ok) return std::unexpected(ok.error());
  if (block >= blocks()) {
    return fail(Errc::invalid_argument,
                "block " + std::to_string(block) + " of a sequence of " + std::to_string(blocks()));
  }
  if (blocks_[block].sealed) {
    return fail(Errc::wrong_state,
                "block " + std::to_string(block) + " is sealed, so its bytes can no longer change");
  }
  if (seals_.find(block) != nullptr) {
    return fail(Errc::wrong_state, "a seal of block " + std::to_string(block) +
                                       " is under way until the daemon answers, so its bytes can "
                                       "no longer change");
  }
  if (blocks_[block].exposed) {
    return fail(Errc::wrong_state,
                "block " + std::to_string(block) +
                    " was resolved since its seal was put off, which failed then; its bytes can no "
                    "longer change: seal it with another key, or truncate the sequence");
  }
  return &blocks_[block];
}

const std::vector<std::int32_t>* Sequence::pinned(std::uint32_t block) const {
  const auto found = pins_.find(block);
  return found == pins_.end() ? nullptr : &found->second.slots;
}

ipc::Result<std::span<std::byte>> Sequence::map(std::uint32_t index) {
  auto block = private_block(index);
  if (!block) return std::unexpected(block.error());
  if (pinned(index) != nullptr) {
    return fail(Errc::wrong_state, "the pages of block " + std::to_string(index) +
                                       " are pinned slots; write there until the seal");
  }
  std::byte* const data = cache_.frame((*block)->frame);
  if (data == nullptr) return impossible_frame();
  (*block)->in_frame = true;
  return std::span(data, cache_.geometry().block_bytes);
}

ipc::Result<Pending> Sequence::copy_to_frame(std::uint32_t block, const Sequence& to,
                                             Actor* actor) const {
  if (cache_.device() != nullptr) return actor->copy_to_frame(*this, block, to);
  const std::vector<std::int32_t>& slots = *pinned(block);
  std::byte* const bytes = cache_.frame(to.frame(block));
  const std::size_t page_bytes = cache_.geometry().page_bytes;
  for (std::size_t page = 0; page < slots.size(); ++page) {
    std::memcpy(bytes + page * page_bytes, cache_.slot(slots[page]), page_bytes);
  }
  return nullptr;
}

ipc::Status Sequence::copy_to_slots(std::uint32_t block, Actor& actor) const {
  if (cache_.device() != nullptr) return actor.copy_to_slots(*this, block);
  const std::vector<std::int32_t>& slots = *pinned(block);
  const std::byte* const from = cache_.frame(frame(block));
  const std::size_t page_bytes = cache_.geometry().page_bytes;
  for (std::size_t page = 0; page < slots.size(); ++page) {
    std::memcpy(cache_.slot(slots[page]), from + page * page_bytes, page_bytes);
  }
  return {};
}

ipc::Status Sequence::check_actor(std::uint32_t block, const Actor* actor, const char* what) const {
  if (actor != nullptr && &actor->cache() == &cache_ && actor->in_step()) return {};
  return fail(Errc::invalid_argument, "block " + std::to_string(block) +
                                          " has pinned slots: " + what +
                                          " in a step of an actor of its cache, and name "
                                          "that actor");
}

ipc::Status Sequence::pin(std::uint32_t index, Actor& actor, std::int32_t* slots) {
  if (auto ok = settle(&actor); !ok) return ok;
  auto block = private_block(index);
  if (!block) return std::unexpected(block.error());
  auto found = pins_.find(index);
  if (found == pins_.end()) {
    if ((*block)->in_frame && cache_.device() != nullptr) {
      // Before anything is claimed, since it may take long.
      auto ok = cache_.wait_pinned_frame((*block)->frame, cache_.client().deadline());
      if (!ok) return ok;
    }
    auto pins = actor.pin(*this, index);
    if (!pins) return std::unexpected(pins.error());
    found = pins_.emplace(index, Pins{std::move(*pins), false, nullptr}).first;
    (*block)->uncopied = (*block)->in_frame;
  }
  if ((*block)->uncopied) {
    if (auto ok = copy_to_slots(index, actor); !ok) return ok;
    (*block)->uncopied = false;
  }
  found->second.stored = false;  // they may be written to again
  std::ranges::copy(found->second.slots, slots);
  return {};
}

// ---- from pinned slots to frames

// Of two stores of the same block the second has what counts.
ipc::Status Sequence::store_pins(std::uint32_t index, Pins& pins, Actor* actor) {
  if (pins.stored) return {};
  if (auto ok = check_actor(index, actor, "store it"); !ok) return ok;
  if (cache_.frame(blocks_[index].frame) == nullptr) return impossible_frame();
  if (blocks_[index].uncopied) {
    return fail(Errc::wrong_state, "the pin of block " + std::to_string(index) +
                                       " failed before its slots had what its frame has; pin it "
                                       "again");
  }
  if (auto ok = wait_for(pins.store); !ok) return ok;
  const auto lock = lock_to_enqueue(index);
  if (!lock) return std::unexpected(lock.error());
  auto store = copy_to_frame(index, *this, actor);
  if (!store) return std::unexpected(store.error());
  if (*store != nullptr) note_in_stream(*store);
  pins.store = std::move(*store);
  pins.stored = true;
  return {};
}

ipc::Status Sequence::store(std::uint32_t index, Actor* actor) {
  if (auto ok = settle(actor); !ok) return ok;
  if (auto block = private_block(index); !block) return std::unexpected(block.error());
  const auto pins = pins_.find(index);
  return pins == pins_.end() ? ipc::Status() : store_pins(index, pins->second, actor);
}

ipc::Result<bool> Sequence::stored(std::uint32_t index) {
  if (auto ok = check(); !ok) return std::unexpected(ok.error());
  if (index >= blocks()) return std::unexpected(private_block(index).error());
  const auto pins = pins_.find(index);
  if (pins == pins_.end()) return true;
  return pins->second.stored ? passed(pins->second.store) : ipc::Result<bool>(false);
}

ipc::Status Sequence::unpin(std::uint32_t index, Actor* actor) {
  const auto pins = pins_.find(index);
  auto unpinned = actor->unpin(ids_[index], pins->second.slots);
  pins_.erase(pins);
  if (!unpinned) return std::unexpected(unpinned.error());
  if (*unpinned == nullptr) return {};
  const std::lock_guard lock(mutex_);
  note_in_stream(*unpinned);
  return {};
}

ipc::Result<std::unique_lock<std::mutex>> Sequence::lock_to_enqueue(std::uint32_t block) {
  std::unique_lock lock(mutex_, std::defer_lock);
  if (cache_.resolver() == nullptr) return lock;
  const ipc::Deadline deadline = cache_.client().deadline();
  if (auto ok = cache_.wait_pinned_frame(blocks_[block].frame, deadline); !ok) {
    return std::unexpected(ok.error());
  }
  lock.lock();
  if ((told_.load(std::memory_order_relaxed) & kToldLost) != 0) return std::unexpected(lost_why_);
  return lock;
}

void Sequence::note_in_stream(const Pending& pending) {
  std::erase_if(in_streams_, [](const Pending& one) { return passed(one).value_or(false); });
  in_streams_.push_back(pending);
}

// Where waiting fails nothing runs any more.
void Sequence::wait_for_streams() {
  std::vector<Pending> under_way;
  {
    const std::lock_guard lock(mutex_);
    under_way = in_streams_;
  }
  for (const Pending& pending : under_way) (void)wait_for(pending);
}

}  // namespace sluice::client::internal
