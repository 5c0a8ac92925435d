// Sequences: seals, and those that are put off while the daemon is away.
//
// A seal whose bytes are in the frame needs nothing more but that the key becomes known. With
// executor direct the engine does not wait for that while nobody is there who could tell others of
// it: the seal is promised, the block keeps its id, and the sequence's own thread does it when it
// next uses the sequence and there is a daemon. Nobody else could: what the block is afterwards
// (another id, slots that are no longer pinned) has to be known to whoever resolves it before it
// does so. Until then the block is exposed: resolves and plans find it, as if it were sealed.
#include <cstring>
#include <string>

#include "client/actor.h"
#include "client/requests.h"
#include "client/sequence.h"
#include "ipc/protocol.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

ipc::Result<bool> Sequence::seal_on(Link& link, const Seal& seal, Actor* actor) {
  const std::size_t spec_bytes = sizeof(wire::KeySpec);
  const std::size_t key_area = round8(seal.key.size());
  auto memory = link.channel().allocate(spec_bytes + key_area + ipc::kMaxErrorText,
                                        cache_.client().deadline());
  if (!memory) return std::unexpected(memory.error());
  std::byte* const at = memory->bytes().data();
  const wire::KeySpec spec(bytes_u32(seal.key.size()), 1);
  std::memcpy(at, &spec, spec_bytes);
  std::memcpy(at + spec_bytes, seal.key.data(), seal.key.size());
  Channel::Request request;
  request.op = wire::Op::seal;
  request.handle = handle_;
  request.value = seal.valid_bytes;
  request.count = seal.index;
  if (actor != nullptr) request.actor = actor->index();
  if (!pins_.contains(seal.index)) request.flags = ipc::kSealNoPins;
  request.length = bytes_u32(spec_bytes + seal.key.size());
  request.reply_offset = bytes_u32(spec_bytes + key_area);
  request.reply_length = ipc::kMaxErrorText;
  auto answer = call(link, request, std::move(*memory));
  if (!answer) return std::unexpected(answer.error());
  Block& block = blocks_[seal.index];
  const bool deduplicated = answer->completion.value0() != 0;
  ipc::Status settled;
  if (const auto pins = pins_.find(seal.index); pins != pins_.end()) {
    // After a deduplication the old id retires, pins and all; it may even be somebody else's by
    // now.
    if (deduplicated) {
      pins_.erase(pins);
    } else {
      settled = unpin(seal.index, actor);
    }
  }
  wire::BlockRef ref;
  std::memcpy(&ref, answer->memory.bytes().data() + request.reply_offset, sizeof(ref));
  ids_[seal.index] = ref.id();
  block.frame = ref.frame();
  if (!block.sealed) ++sealed_;
  block.sealed = true;
  block.in_frame = false;
  block.exposed = false;
  seals_.drop(seal.index);
  // The existing block may lie in an extent that another session made the cache grow by.
  if (auto ok = cache_.map_frame_extents(link, answer->completion.frame_extents()); !ok) {
    return std::unexpected(ok.error());
  }
  if (deduplicated) {
    cache_.stats().blocks_deduplicated.fetch_add(1, std::memory_order_relaxed);
    settled = update_row(seal.index);
  }
  if (!settled) return std::unexpected(settled.error());
  return deduplicated;
}

// Nobody else names the block, so that its frame may be known before its key is, and its pins may
// be pages like others. On the host pins stay: the library resolves them itself. Inside the gate,
// while nobody resumes.
ipc::Status Sequence::expose(const Seal& seal, Actor* actor) {
  Block& block = blocks_[seal.index];
  const bool is_pinned = pinned(seal.index) != nullptr;
  if (is_pinned && cache_.device() == nullptr) return {};
  if (auto ok = cache_.expose_frame(ids_[seal.index], block.frame); !ok) return ok;
  block.exposed = true;
  if (!is_pinned) return {};
  block.in_frame = true;
  return unpin(seal.index, actor);
}

// A daemon that came back has the table as it knows it.
ipc::Status Sequence::expose_promised() {
  if (cache_.device() != nullptr) return {};  // whose own copy only takes what is newer
  for (const Seal& seal : seals_.all()) {
    if (!seal.promised || seal.uncertain) continue;
    if (auto ok = expose(seal, nullptr); !ok) return ok;
  }
  return {};
}

// The bytes are in the frame. Made again when the daemon dies over it: where it was done, it
// changes nothing.
ipc::Result<bool> Sequence::try_seal(const Seal& wanted, Actor* actor) {
  Seal seal = wanted;
  Client& client = cache_.client();
  const ipc::Deadline deadline = client.deadline();
  while (true) {
    // A daemon that died over the seal may have given the id up, if the key was known. It is
    // nobody else's yet if an actor of ours has been in its step since we asked: then, and if we
    // did not ask, we go on without one.
    const bool is_ours = !seal.uncertain || (!wanted.uncertain &&
                                             check_actor(seal.index, actor, "seal it").has_value());
    const bool goes_on = cache_.executor() == wire::Executor::direct && is_ours;
    auto stay = enter(deadline, goes_on ? Gate::Needs::nothing : Gate::Needs::daemon);
    if (!stay) return std::unexpected(stay.error());
    // The daemon had done it, and the resume found the block that was known by this key.
    if (seal.uncertain && seals_.find(seal.index) == nullptr) return true;
    if (stay->link() == nullptr) {
      if (auto ok = expose(seal, actor); !ok) return std::unexpected(ok.error());
      seal.promised = true;
      seals_.put(seal);
      return false;
    }
    auto sealed = seal_on(*stay->link(), seal, actor);
    if (sealed) return sealed;
    if (!client.lost(*stay->link(), sealed.error())) {
      seals_.drop(seal.index);
      return sealed;
    }
    seal.uncertain = true;
    seals_.put(seal);
  }
}

ipc::Result<bool> Sequence::seal(std::uint32_t index, std::span<const std::byte> key,
                                 std::uint64_t valid_bytes, Actor* actor) {
  if (auto ok = check(); !ok) return std::unexpected(ok.error());
  if (index >= blocks()) return std::unexpected(private_block(index).error());
  if (auto ok = settle(actor); !ok) return std::unexpected(ok.error());
  Seal seal{index, {key.begin(), key.end()}, valid_bytes};
  if (const Seal* const before = seals_.find(index); before != nullptr) {
    if (!before->says_the_same(seal)) {
      return fail(Errc::wrong_state, "block " + std::to_string(index) +
                                         " is being sealed with another key, or size, as soon as "
                                         "the daemon is back");
    }
    seal = *before;
    if (seal.promised) return false;
  }
  const auto pins = pins_.find(index);
  if (pins != pins_.end()) {
    if (auto ok = check_actor(index, actor, "seal it"); !ok) return std::unexpected(ok.error());
    auto stored = store_pins(index, pins->second, actor);
    if (stored) stored = wait_for(pins->second.store);
    // If the key is known these slots are given up, which steps that begin later must know.
    if (stored) stored = actor->await_begin();
    if (!stored) return std::unexpected(stored.error());
  }
  return try_seal(seal, actor);
}

// On a GPU a block whose seal is put off is exposed. If its key is known, it is withdrawn, which
// steps that begin later must know; so some actor has begun its step, and nothing later is
// enqueued.
ipc::Status Sequence::settle_seals(Actor* actor, bool last) {
  if (seals_.next() == nullptr) return {};
  Client& client = cache_.client();
  {
    auto stay = enter(ipc::Clock::now(), Gate::Needs::nothing);
    if (!stay) return check();
    if (stay->link() == nullptr) return expose_promised();
  }
  const bool in_step = actor != nullptr && &actor->cache() == &cache_ && actor->in_step();
  const bool on_device = cache_.resolver() != nullptr;
  if (on_device) {
    if (!last && !(in_step && actor->await_begin())) return {};
    wait_for_streams();
  }
  while (const Seal* const next = seals_.next()) {
    const Seal seal = *next;
    auto stay = enter(ipc::Clock::now(), Gate::Needs::nothing);
    if (!stay) return check();
    if (stay->link() == nullptr) return expose_promised();
    const bool is_pinned = pinned(seal.index) != nullptr;
    if (is_pinned && !in_step) return {};
    if (seals_.find(seal.index) == nullptr) continue;  // the resume found that it was done
    auto sealed = seal_on(*stay->link(), seal, actor);
    if (sealed) continue;
    if (client.lost(*stay->link(), sealed.error())) {
      Seal again = seal;
      again.uncertain = true;
      seals_.put(again);
      return {};
    }
    seals_.drop(seal.index);
    return fail(sealed.error().code, "the seal of block " + std::to_string(seal.index) +
                                         ", which was put off while the daemon was away, failed: " +
                                         sealed.error().text);
  }
  return {};
}

}  // namespace sluice::client::internal
