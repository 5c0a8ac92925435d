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
  return found == pins_.end() ? nullptr : &found->second;
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

ipc::Status Sequence::copy_to_frame(std::uint32_t block, const Sequence& to, Actor* actor) const {
  if (cache_.device() != nullptr) return actor->copy_to_frame(*this, block, to);
  const std::vector<std::int32_t>& slots = *pinned(block);
  std::byte* const bytes = cache_.frame(to.frame(block));
  const std::size_t page_bytes = cache_.geometry().page_bytes;
  for (std::size_t page = 0; page < slots.size(); ++page) {
    std::memcpy(bytes + page * page_bytes, cache_.slot(slots[page]), page_bytes);
  }
  return {};
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
    found = pins_.emplace(index, std::move(*pins)).first;
    (*block)->uncopied = (*block)->in_frame;
  }
  if ((*block)->uncopied) {
    if (auto ok = copy_to_slots(index, actor); !ok) return ok;
    (*block)->uncopied = false;
  }
  std::copy(found->second.begin(), found->second.end(), slots);
  return {};
}

}  // namespace sluice::client::internal
