// Operations on sequences: open, extend, fork, truncate, release, seal, pin.
#include <cstring>
#include <string>
#include <utility>

#include "daemon/lane_session_impl.h"
#include "ipc/protocol.h"
#include "kernels/pins.h"

namespace sluice::daemon {

namespace wire = ipc::wire;
using ipc::Errc;
using ipc::fail;
using ipc::Handle;

namespace {

template <class T>
void put(std::byte* to, const T& value) {
  std::memcpy(to, &value, sizeof(T));
}

}  // namespace

std::unexpected<ipc::Error> no_pins(std::size_t pages) {
  return fail(Errc::no_slot, "the arena has no " + std::to_string(pages) +
                                 " slots that running steps do not use; end a step, or give the "
                                 "cache more HBM");
}

ipc::Result<LaneSequence*> LaneSession::Impl::sequence(std::uint64_t bits) {
  const Handle handle = Handle::from_bits(bits);
  if (handle.generation == 0 || handle.index >= sequences.size() ||
      sequences[handle.index].generation != handle.generation) {
    return fail(Errc::stale_handle,
                "no sequence of this session has that handle; it was released, "
                "or belongs to another session");
  }
  return &sequences[handle.index];
}

LaneSequence& LaneSession::Impl::add_sequence(Handle handle) {
  if (handle.index >= sequences.size()) sequences.resize(handle.index + 1);
  sequences[handle.index] = {};
  sequences[handle.index].generation = handle.generation;
  return sequences[handle.index];
}

ipc::Result<residency::KeyView> LaneSession::Impl::keys_of(ipc::ByteCursor& cursor,
                                                           std::uint32_t key_bytes,
                                                           std::uint32_t count) {
  if (key_bytes == 0 || key_bytes > residency::kMaxKeyBytes) {
    return fail(Errc::invalid_argument, "a key of " + std::to_string(key_bytes) +
                                            " bytes; expected 1 to " +
                                            std::to_string(residency::kMaxKeyBytes));
  }
  auto bytes = cursor.take_bytes(std::size_t{key_bytes} * count, "keys");
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  return residency::KeyView{bytes->data(), key_bytes, key_bytes, count};
}

// Goes on with what the block store has, then with what is in DRAM behind that, and so on: a block
// may be in either, whatever the one before it is in. What is found is a bonus: an error leaves
// what was found before.
void LaneSession::Impl::match_stored(ipc::CacheId cache, Handle sequence,
                                     const residency::KeyView& keys) {
  const auto rest = [&] {
    const auto matched = static_cast<std::uint32_t>(blocks.size());
    return residency::KeyView{keys.data + std::size_t{matched} * keys.stride, keys.key_bytes,
                              keys.stride, keys.count - matched};
  };
  while (blocks.size() < keys.count) {
    const std::size_t before = blocks.size();
    if (!coordinator.append_stored(session->id, cache, sequence, rest(), blocks)) return;
    if (blocks.size() == before || blocks.size() == keys.count) return;
    std::vector<residency::BlockRef> known;
    if (!coordinator.append_known(session->id, sequence, rest(), known)) return;
    blocks.insert(blocks.end(), known.begin(), known.end());
  }
}

ipc::Result<LaneReply> LaneSession::Impl::open(const wire::Submission& request,
                                               std::span<std::byte> reply, bool more) {
  auto bytes = copy(request);
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  ipc::ByteCursor cursor(*bytes);
  auto spec = cursor.take<wire::OpenSpec>("OpenSpec");
  if (!spec) return std::unexpected(std::move(spec.error()));
  auto keys = keys_of(cursor, spec->key_bytes(), spec->keys());
  if (!keys) return std::unexpected(std::move(keys.error()));
  const std::size_t need = std::size_t{spec->keys()} * sizeof(wire::BlockRef);
  if (reply.size() < need) return small_reply(need, reply.size());

  auto cache = session->cache(Handle::from_bits(spec->cache()));
  if (!cache) return std::unexpected(std::move(cache.error()));
  LaneSequence* target = nullptr;
  if (more) {
    auto found = sequence(request.handle());
    if (!found) return std::unexpected(std::move(found.error()));
    target = *found;
  }
  auto opened =
      more ? coordinator.append_known(session->id, Handle::from_bits(request.handle()), *keys,
                                      blocks)
           : coordinator.open_sequence(session->id, cache->id, *keys, blocks, cache->device);
  if (!opened) return std::unexpected(std::move(opened.error()));
  match_stored(cache->id, opened->sequence, *keys);
  if (!more) {
    target = &add_sequence(opened->sequence);
    target->be_of(*cache);
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    target->add(blocks[i], true);
    put(reply.data() + i * sizeof(wire::BlockRef),
        wire::BlockRef(blocks[i].id.value, blocks[i].frame.value));
  }
  return LaneReply{more ? request.handle() : opened->sequence.bits(), blocks.size(),
                   target->memory->frame_extents()};
}

ipc::Result<LaneReply> LaneSession::Impl::extend(const wire::Submission& request,
                                                 std::span<std::byte> reply) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  const std::size_t need = std::size_t{request.count()} * sizeof(wire::BlockRef);
  if (reply.size() < need) return small_reply(need, reply.size());
  auto first = coordinator.extend(session->id, (*found)->cache, Handle::from_bits(request.handle()),
                                  request.count(), blocks);
  if (!first) return std::unexpected(std::move(first.error()));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    (*found)->add(blocks[i], false);
    put(reply.data() + i * sizeof(wire::BlockRef),
        wire::BlockRef(blocks[i].id.value, blocks[i].frame.value));
  }
  return LaneReply{*first, blocks.size(), (*found)->memory->frame_extents()};
}

ipc::Result<LaneReply> LaneSession::Impl::fork(const wire::Submission& request,
                                               std::span<std::byte> reply) {
  auto parent = sequence(request.handle());
  if (!parent) return std::unexpected(std::move(parent.error()));
  auto child =
      coordinator.fork(session->id, (*parent)->cache, Handle::from_bits(request.handle()), copies);
  if (!child) return std::unexpected(std::move(child.error()));
  const std::size_t need = copies.size() * sizeof(wire::ForkedRef);
  if (reply.size() < need) {
    (void)coordinator.release(session->id, *child);
    return small_reply(need, reply.size());
  }
  LaneSequence same = **parent;
  same.pins.clear();
  same.maybe_pinned.clear();
  same.not_looked_at.clear();
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const residency::ForkedBlock& block = copies[i];
    same.put(block.index, block.child, false);
    put(reply.data() + i * sizeof(wire::ForkedRef),
        wire::ForkedRef(block.index, block.parent.id.value, block.parent.frame.value,
                        block.child.id.value, block.child.frame.value));
  }
  same.generation = child->generation;
  LaneSequence& made = add_sequence(*child) = std::move(same);
  return LaneReply{child->bits(), copies.size(), made.memory->frame_extents()};
}

ipc::Result<LaneReply> LaneSession::Impl::truncate(const wire::Submission& request) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  auto done =
      coordinator.truncate(session->id, Handle::from_bits(request.handle()), request.count());
  if (!done) return std::unexpected(std::move(done.error()));
  (*found)->ids.resize(request.count());
  (*found)->frames.resize(request.count());
  std::erase_if((*found)->pins, [&](const auto& pin) { return pin.first >= request.count(); });
  std::erase_if((*found)->maybe_pinned, [&](auto index) { return index >= request.count(); });
  std::erase_if((*found)->not_looked_at, [&](auto index) { return index >= request.count(); });
  return LaneReply{};
}

ipc::Result<LaneReply> LaneSession::Impl::release(const wire::Submission& request) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  auto done = coordinator.release(session->id, Handle::from_bits(request.handle()));
  if (!done) return std::unexpected(std::move(done.error()));
  **found = {};
  return LaneReply{};
}

ipc::Result<LaneReply> LaneSession::Impl::seal(const wire::Submission& request,
                                               std::span<std::byte> reply) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  auto bytes = copy(request);
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  ipc::ByteCursor cursor(*bytes);
  auto spec = cursor.take<wire::KeySpec>("KeySpec");
  if (!spec) return std::unexpected(std::move(spec.error()));
  auto keys = keys_of(cursor, spec->key_bytes(), 1);
  if (!keys) return std::unexpected(std::move(keys.error()));
  if (reply.size() < sizeof(wire::BlockRef)) {
    return small_reply(sizeof(wire::BlockRef), reply.size());
  }
  const std::uint32_t index = request.count();
  const bool unknown = (request.flags() & ipc::kSealNoPins) != 0;
  const bool has_pins = (*found)->pins.contains(index);
  const bool drops = (*found)->maybe_pinned.contains(index) || (unknown && has_pins);
  if (drops && (*found)->on_device && !(*found)->is_sealed(index)) {
    return drop_pins_and_seal(**found, request, reply);
  }
  if (unknown && has_pins) {
    drop_pins(**found, index);
  } else if (has_pins && (*found)->on_device) {
    auto actor = actor_of({(*found)->cache, (*found)->memory, wire::Executor::daemon},
                          request.actor(), true);
    if (!actor) return std::unexpected(std::move(actor.error()));
  }
  auto sealed = coordinator.seal(session->id, Handle::from_bits(request.handle()), index,
                                 (*keys)[0], request.value());
  if (!sealed) return std::unexpected(std::move(sealed.error()));
  LaneSequence& target = **found;
  // After a deduplication the old id retires, pins and all; it may even be somebody else's by now.
  if (sealed->deduplicated) target.pins.erase(index);
  target.maybe_pinned.erase(index);
  const auto pins = target.pins.find(index);
  const bool seals_on_device = pins != target.pins.end() && target.on_device;
  if (pins != target.pins.end() && !seals_on_device) {
    const kernels::HotTable& table = target.memory->table();
    kernels::seal_pins(table, target.ids[index], kernels::clock_of(table), pins->second.data());
    target.pins.erase(pins);
  }
  target.put(index, sealed->block, true);
  put(reply.data(), wire::BlockRef(sealed->block.id.value, sealed->block.frame.value));
  const LaneReply done{sealed->deduplicated ? 1U : 0U, 0, target.memory->frame_extents()};
  return seals_on_device ? seal_pins_on_device(target, index, request.actor(), done) : done;
}

// On the host; see drop_pins_and_seal().
void LaneSession::Impl::drop_pins(LaneSequence& target, std::uint32_t index) {
  const kernels::HotTable& table = target.memory->table();
  const auto pins = target.pins.find(index);
  for (std::uint32_t i = 0; i < pins->second.size(); ++i) {
    kernels::drop_pin(table, pins->second[i], kernels::page_number(table, target.ids[index], i));
  }
  target.pins.erase(pins);
}

ipc::Result<LaneReply> LaneSession::Impl::pin(const wire::Submission& request,
                                              std::span<std::byte> reply) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  LaneSequence& target = **found;
  // Of executor direct the daemon may not see the words of the table.
  if (target.executor != wire::Executor::daemon) {
    return fail(Errc::wrong_state,
                "this cache was opened for executor direct: its pins are claimed in the client");
  }
  const std::uint32_t index = request.count();
  const kernels::HotTable& table = target.memory->table();
  const std::uint32_t per_block = table.sizes.pages_per_block;
  const std::size_t need = std::size_t{per_block} * sizeof(std::int32_t);
  if (reply.size() < need) return small_reply(need, reply.size());
  if (index >= target.ids.size()) {
    return fail(Errc::invalid_argument, "block " + std::to_string(index) + " of a sequence of " +
                                            std::to_string(target.ids.size()));
  }
  auto actor =
      actor_of({target.cache, target.memory, wire::Executor::daemon}, request.actor(), true);
  if (!actor) return std::unexpected(std::move(actor.error()));
  if (target.on_device && !target.pins.contains(index)) {
    return pin_on_device(target, index, request.actor(), reply);
  }
  auto& pins = target.pins[index];
  if (pins.empty()) {
    // Only a private block has no frame that resolvers know.
    if (kernels::frame_of(table, target.ids[index]) != kernels::kNoFrame) {
      target.pins.erase(index);
      return fail(Errc::wrong_state, "block " + std::to_string(index) + " is sealed");
    }
    pins.resize(per_block);
    if (!kernels::claim_pins(table, table.sizes.slots, target.ids[index], (*actor)->step,
                             pins.data())) {
      target.pins.erase(index);
      return no_pins(per_block);
    }
  }
  std::memcpy(reply.data(), pins.data(), need);
  return LaneReply{};
}

}  // namespace sluice::daemon
