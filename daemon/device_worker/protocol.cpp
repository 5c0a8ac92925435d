#include "daemon/device_worker/protocol.h"

#include <algorithm>
#include <bit>

#include "ipc/frame.h"
#include "ipc/message.h"

namespace sluice::device_worker {

using ipc::Errc;
using ipc::fail;

namespace {

// Message, body, sizes.
constexpr flatbuffers::uoffset_t kMaxDepth = 4;
constexpr flatbuffers::uoffset_t kMaxTables = 8;
constexpr std::size_t kMaxNameBytes = 256;

}  // namespace

std::string to_string(const Uuid& uuid) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text = "GPU-";
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[uuid[i] >> 4];
    text += kDigits[uuid[i] & 15];
  }
  return text;
}

ipc::Result<const wire::Message*> verify_message(std::span<const std::byte> bytes) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  flatbuffers::Verifier verifier(data, bytes.size(), kMaxDepth, kMaxTables);
  if (bytes.size() > ipc::kMaxFrameBytes || !wire::VerifyMessageBuffer(verifier)) {
    return fail(Errc::peer_violation, "a frame of " + std::to_string(bytes.size()) +
                                          " bytes is no message of a device worker");
  }
  const wire::Message* message = wire::GetMessage(data);
  // The verifier lets a union pass that has a type and no value.
  if (message->body_type() == wire::Body::NONE || message->body() == nullptr) {
    return fail(Errc::peer_violation, "a message without a body");
  }
  return message;
}

ipc::Result<kernels::TableSizes> sizes_from(const wire::Sizes* sizes) {
  if (sizes == nullptr) return fail(Errc::peer_violation, "a table without sizes");
  kernels::TableSizes table;
  table.slots = sizes->slots();
  table.blocks = sizes->blocks();
  table.pages_per_block = sizes->pages_per_block();
  table.actors = sizes->actors();
  table.log_capacity = sizes->log_capacity();
  table.hint_capacity = sizes->hint_capacity();
  if (const auto wrong = kernels::check_sizes(table); wrong != kernels::SizesError::none) {
    return fail(Errc::peer_violation, "the sizes of a table cannot be: size " +
                                          std::to_string(static_cast<int>(wrong)) +
                                          " is out of range");
  }
  return table;
}

ipc::Status check_shape(const ArenaShape& shape, const kernels::TableSizes& table) {
  const auto fits = [](std::uint64_t count, std::uint64_t bytes) {
    return bytes != 0 && count != 0 && count <= kMaxArenaBytes / bytes;
  };
  const bool possible =
      fits(shape.slot_extents, shape.slot_extent_bytes) && fits(table.slots, shape.page_bytes) &&
      fits(shape.frame_extents, shape.frame_extent_bytes) &&
      fits(shape.frames_per_extent, shape.frame_stride) &&
      table.slots * shape.page_bytes <= shape.arena_bytes() &&
      table.pages_per_block * shape.page_bytes <= shape.frame_stride &&
      shape.frames_per_extent * shape.frame_stride <= shape.frame_extent_bytes &&
      shape.frames() <= ~std::uint32_t{0} && table.pages_per_block <= kMaxListItems;
  if (possible) return {};
  return fail(Errc::peer_violation, "an arena that cannot be: " + std::to_string(table.slots) +
                                        " slots of " + std::to_string(shape.page_bytes) +
                                        " bytes in " + std::to_string(shape.slot_extents) +
                                        " extents, frames of " +
                                        std::to_string(shape.frame_stride) + " bytes in " +
                                        std::to_string(shape.frame_extents));
}

flatbuffers::Offset<wire::Sizes> write_sizes(flatbuffers::FlatBufferBuilder& builder,
                                             const kernels::TableSizes& sizes) {
  return wire::CreateSizes(builder, sizes.slots, sizes.blocks, sizes.pages_per_block, sizes.actors,
                           sizes.log_capacity, sizes.hint_capacity);
}

ipc::Result<DeviceFacts> facts_from(const wire::Device& device) {
  DeviceFacts facts;
  const auto* uuid = device.uuid();
  if (uuid == nullptr || uuid->size() != facts.uuid.size()) {
    return fail(Errc::peer_violation, "a device without a UUID of 16 bytes");
  }
  std::copy(uuid->begin(), uuid->end(), facts.uuid.begin());
  facts.name = ipc::text_of(device.name()).substr(0, kMaxNameBytes);
  facts.hbm_total_bytes = device.hbm_total_bytes();
  facts.hbm_free_bytes = device.hbm_free_bytes();
  facts.granularity_bytes = device.granularity_bytes();
  facts.gpus = device.gpus();
  facts.pci_bus_id = ipc::text_of(device.pci_bus_id()).substr(0, kMaxNameBytes);
  if (!std::has_single_bit(facts.granularity_bytes)) {
    return fail(Errc::peer_violation, "allocations in units of " +
                                          std::to_string(facts.granularity_bytes) +
                                          " bytes; expected a power of two");
  }
  return facts;
}

}  // namespace sluice::device_worker
