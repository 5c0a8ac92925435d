// A session that comes back after a restart takes up its sequences again.
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "daemon/lane_session_impl.h"
#include "kernels/pins.h"

namespace sluice::daemon {

namespace wire = ipc::wire;
using ipc::Errc;
using ipc::fail;
using ipc::Handle;

namespace {

// A lane of before published the block and did not come to its pins. Hints find them: nobody else
// writes those of pinned pages.
void seal_left_pins(const kernels::HotTable& table, kernels::Block block) {
  const kernels::Step step = kernels::clock_of(table);
  for (std::uint32_t i = 0; i < table.sizes.pages_per_block; ++i) {
    const kernels::Page page = kernels::page_number(table, block, i);
    kernels::seal_pin(table, kernels::slot_hint(table, page), page, step);
  }
}

}  // namespace

ipc::Result<LaneReply> LaneSession::Impl::adopt(const wire::Submission& request,
                                                std::span<std::byte> reply) {
  auto bytes = copy(request);
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  ipc::ByteCursor cursor(*bytes);
  auto spec = cursor.take<wire::AdoptSpec>("AdoptSpec");
  if (!spec) return std::unexpected(std::move(spec.error()));
  if (spec->blocks() > residency::kMaxBlocksPerTurn) {
    return fail(Errc::list_too_long, std::to_string(spec->blocks()) + " blocks; at most " +
                                         std::to_string(residency::kMaxBlocksPerTurn) +
                                         " in a call");
  }
  auto area = cursor.take_bytes(std::size_t{spec->blocks()} * sizeof(std::uint32_t), "ids");
  if (!area) return std::unexpected(std::move(area.error()));
  std::vector<std::uint32_t> ids(spec->blocks());
  if (!ids.empty()) std::memcpy(ids.data(), area->data(), area->size());
  const std::size_t need = ids.size() * sizeof(wire::BlockRef);
  if (reply.size() < need) return small_reply(need, reply.size());
  auto cache = session->cache(Handle::from_bits(spec->cache()));
  if (!cache) return std::unexpected(std::move(cache.error()));
  const bool more = request.handle() != 0;
  LaneSequence* target = nullptr;
  if (more) {
    auto found = sequence(request.handle());
    if (!found) return std::unexpected(std::move(found.error()));
    target = *found;
    if (target->memory != cache->memory || target->executor != cache->executor) {
      return fail(Errc::invalid_argument, "the sequence is of another cache");
    }
  }
  auto adopted = coordinator.adopt_sequence(session->id, *cache,
                                            Handle::from_bits(request.handle()), ids, blocks);
  if (!adopted) return std::unexpected(std::move(adopted.error()));
  if (!more) {
    target = &add_sequence(adopted->sequence);
    target->be_of(*cache);
  }
  const auto first = static_cast<std::uint32_t>(target->ids.size());
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    target->add(blocks[i], false);
    const wire::BlockRef ref(blocks[i].id.value, blocks[i].frame.value);
    std::memcpy(reply.data() + i * sizeof(ref), &ref, sizeof(ref));
  }
  const LaneReply done{adopted->sequence.bits(), blocks.size(), target->memory->frame_extents()};
  if (target->on_device) {
    adopt_on_device(*target, first);
  } else if (cache->executor == wire::Executor::daemon) {
    find_pins(*target, first);
  }
  return done;
}

// Pins that a lane of before claimed for private blocks: the client has their slots.
void LaneSession::Impl::find_pins(LaneSequence& target, std::uint32_t first) {
  const kernels::HotTable& table = target.memory->table();
  for (std::uint32_t i = first; i < target.ids.size(); ++i) {
    if (kernels::frame_of(table, target.ids[i]) != kernels::kNoFrame) {
      seal_left_pins(table, target.ids[i]);
      continue;
    }
    std::vector<kernels::Slot> pinned(table.sizes.pages_per_block);
    bool all = true;
    for (std::uint32_t page = 0; page < pinned.size() && all; ++page) {
      pinned[page] = kernels::find_pinned(table, kernels::page_number(table, target.ids[i], page));
      all = pinned[page] != kernels::kNoSlot;
    }
    if (all) target.pins.emplace(i, std::move(pinned));
  }
}

}  // namespace sluice::daemon
