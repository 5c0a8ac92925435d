// Sequences: forks.
#include <algorithm>
#include <cstring>

#include "client/actor.h"
#include "client/requests.h"
#include "client/sequence.h"

namespace sluice::client::internal {

using ipc::Errc;
namespace wire = ipc::wire;

ipc::Result<Channel::Answer> Sequence::request_fork(Link& link, ipc::Deadline deadline) {
  const auto unsealed = static_cast<std::size_t>(blocks() - sealed_);
  const std::size_t reply_bytes = std::max(unsealed * sizeof(wire::ForkedRef), ipc::kMaxErrorText);
  Tries tries(deadline);
  while (true) {
    auto memory = link.channel().allocate(reply_bytes, deadline);
    if (!memory) return std::unexpected(memory.error());
    Channel::Request fork;
    fork.op = wire::Op::sequence_fork;
    fork.handle = handle_;
    fork.reply_length = bytes_u32(reply_bytes);
    auto answer = call(link, fork, std::move(*memory));
    if (answer || !tries.again(answer.error())) return answer;
  }
}

// A child whose own blocks, `copies`, have no bytes yet.
ipc::Result<std::unique_ptr<Sequence>> Sequence::fork_on(Link& link, ipc::Deadline deadline,
                                                         std::vector<std::uint32_t>& copies) {
  auto answer = request_fork(link, deadline);
  if (!answer) return std::unexpected(answer.error());
  std::unique_ptr<Sequence> child(new Sequence(cache_));
  child->handle_ = answer->completion.value0();
  child->ids_ = ids_;
  child->blocks_ = blocks_;
  child->sealed_ = sealed_;
  child->seals_ = seals_.of_copies();
  if (auto ok = cache_.map_frame_extents(link, answer->completion.frame_extents()); !ok) {
    (void)child->release_on(link);
    return std::unexpected(ok.error());
  }
  const std::byte* const refs = answer->memory.bytes().data();
  const std::size_t count = std::min<std::size_t>(answer->completion.value1(), blocks() - sealed_);
  copies.clear();
  for (std::size_t i = 0; i < count; ++i) {
    wire::ForkedRef ref;
    std::memcpy(&ref, refs + i * sizeof(ref), sizeof(ref));
    if (ref.index() >= blocks()) continue;
    child->ids_[ref.index()] = ref.id();
    child->blocks_[ref.index()].frame = ref.frame();
    copies.push_back(ref.index());
  }
  child->be_registered();
  cache_.adjust_stock(link);
  return child;
}

ipc::Result<Pending> Sequence::copy_to_child(Sequence& child, std::uint32_t block, Actor* actor) {
  Block& copy = child.blocks_[block];
  copy.exposed = false;  // it has an id of its own
  std::byte* const to = cache_.frame(copy.frame);
  if (to == nullptr) return impossible_frame();
  copy.uncopied = false;
  if (pinned(block) != nullptr && !blocks_[block].uncopied) {
    copy.in_frame = true;
    // As in store_pins(), of the child.
    const auto lock = child.lock_to_enqueue(block);
    if (!lock) return std::unexpected(lock.error());
    auto enqueued = copy_to_frame(block, child, actor);
    if (enqueued && *enqueued != nullptr) child.note_in_stream(*enqueued);
    return enqueued;
  }
  if (copy.in_frame) {
    std::memcpy(to, cache_.frame(blocks_[block].frame), cache_.geometry().block_bytes);
  }
  return nullptr;
}

// Waits for those that a stream copies after all are enqueued, also if one fails: the frames may be
// given up then.
ipc::Status Sequence::copy_all_to_child(Sequence& child, std::span<const std::uint32_t> blocks,
                                        Actor* actor) {
  ipc::Status status;
  std::vector<Pending> copies;
  for (const std::uint32_t block : blocks) {
    auto copy = copy_to_child(child, block, actor);
    if (copy) {
      if (*copy != nullptr) copies.push_back(std::move(*copy));
    } else {
      status = std::unexpected(copy.error());
      break;
    }
  }
  for (const Pending& copy : copies) {
    if (auto ok = wait_for(copy); !ok && status) status = std::move(ok);
  }
  return status;
}

// The bytes are copied outside of the gate: that may wait for a stream, and asks nobody.
ipc::Result<std::unique_ptr<Sequence>> Sequence::fork(Actor* actor) {
  if (auto ok = settle(actor); !ok) return std::unexpected(ok.error());
  if (has_pins() && cache_.device() != nullptr) {
    if (auto ok = check_actor(pins_.begin()->first, actor, "fork the sequence"); !ok) {
      return std::unexpected(ok.error());
    }
  }
  Client& client = cache_.client();
  const ipc::Deadline deadline = client.deadline();
  std::vector<std::uint32_t> copies;
  auto child = client.ask(deadline, [&](Link& link) -> ipc::Result<std::unique_ptr<Sequence>> {
    if (auto ok = check(); !ok) return std::unexpected(ok.error());
    Stock* const stock = cache_.stock();
    if (stock == nullptr || stock->blocks() == 0) return fork_on(link, deadline, copies);
    auto forked = fork_on(link, std::min(deadline, ipc::deadline_in(kStockPatience)), copies);
    if (forked || !is_for_memory(forked.error().code)) return forked;
    (void)stock->give_back(link);
    return fork_on(link, deadline, copies);
  });
  if (!child) return child;
  if (auto copied = copy_all_to_child(**child, copies, actor); !copied) {
    (void)(*child)->release();
    return std::unexpected(copied.error());
  }
  return child;
}

}  // namespace sluice::client::internal
