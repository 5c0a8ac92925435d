// What daemon and device worker say to each other, as values; worker.fbs is how it is written.
//
// Thread-safety: plain data and pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "daemon/device_worker/worker_generated.h"
#include "ipc/error.h"
#include "kernels/table_sizes.h"

namespace sluice::device_worker {

inline constexpr std::size_t kUuidBytes = 16;
using Uuid = std::array<std::uint8_t, kUuidBytes>;

// "GPU-01234567-89ab-...", as nvidia-smi shows it.
std::string to_string(const Uuid& uuid);

struct DeviceFacts {
  Uuid uuid{};
  std::string name;
  std::uint64_t hbm_total_bytes = 0;
  std::uint64_t hbm_free_bytes = 0;
  std::uint64_t granularity_bytes = 0;  // a power of two
  std::uint32_t gpus = 1;               // that the worker can choose from, by ordinal
  std::string pci_bus_id;               // "0000:17:00.0", as in /sys/bus/pci/devices; or empty
};

// What is to be done to the words of a table, in this order.
struct TableWork {
  std::vector<std::uint32_t> idle_actors;
  std::vector<std::uint32_t> seal_pins;   // blocks
  std::vector<std::uint32_t> drop_pins;   // blocks
  std::vector<std::uint32_t> drop_pages;  // blocks

  std::size_t items() const {
    return idle_actors.size() + seal_pins.size() + drop_pins.size() + drop_pages.size();
  }
};

// Of one request: it fits into a frame with room to spare.
inline constexpr std::size_t kMaxWorkItems = std::size_t{1} << 17;
inline constexpr std::uint32_t kMaxWordsPerRead = 1u << 20;

// An arena of executor daemon: how its memory is cut.
struct ArenaShape {
  std::uint64_t page_bytes = 0;
  std::uint64_t frame_stride = 0;
  std::uint64_t slot_extent_bytes = 0;
  std::uint32_t slot_extents = 0;
  std::uint64_t frame_extent_bytes = 0;
  std::uint32_t frames_per_extent = 0;
  std::uint32_t frame_extents = 0;  // at most

  std::uint64_t arena_bytes() const { return slot_extents * slot_extent_bytes; }
  std::uint64_t frames_bytes() const { return frame_extents * frame_extent_bytes; }
  std::uint64_t frames() const { return std::uint64_t{frames_per_extent} * frame_extents; }
};
// What one may promise, so that products of its numbers stay far below 2^63.
inline constexpr std::uint64_t kMaxArenaBytes = std::uint64_t{1} << 46;
// Errors: peer_violation (numbers that no arena of a table of these sizes has).
ipc::Status check_shape(const ArenaShape& shape, const kernels::TableSizes& table);

// The memory that both ends map for the lists of a request: items, then slots, then outcomes.
inline constexpr std::uint32_t kMaxListItems = 1u << 16;
struct ListMemory {
  static constexpr std::size_t kSlots = kMaxListItems * sizeof(std::int32_t);
  static constexpr std::size_t kOutcomes = 2 * kSlots;
  static constexpr std::size_t kBytes = kOutcomes + kMaxListItems;

  std::byte* data = nullptr;

  std::int32_t* items() const { return reinterpret_cast<std::int32_t*>(data); }
  std::int32_t* slots() const { return reinterpret_cast<std::int32_t*>(data + kSlots); }
  std::uint8_t* outcomes() const { return reinterpret_cast<std::uint8_t*>(data + kOutcomes); }
};

// Bytes of the allocation that the device's part of a table lies in.
constexpr std::uint64_t device_part_bytes(const kernels::TableSizes& sizes,
                                          std::uint64_t granularity) {
  const std::uint64_t bytes = kernels::split_offsets_of(sizes).device_end;
  return (bytes + granularity - 1) / granularity * granularity;
}

// The message in `bytes`, which must outlive it. Guaranteed: a body that is there, of whatever
// type; what it says is untrusted. Errors: peer_violation.
ipc::Result<const wire::Message*> verify_message(std::span<const std::byte> bytes);

// Errors: peer_violation (missing, or sizes that no table has).
ipc::Result<kernels::TableSizes> sizes_from(const wire::Sizes* sizes);
flatbuffers::Offset<wire::Sizes> write_sizes(flatbuffers::FlatBufferBuilder& builder,
                                             const kernels::TableSizes& sizes);

ipc::Result<DeviceFacts> facts_from(const wire::Device& device);

namespace detail {
template <class Offset>
struct BodyOf;
template <class Table>
struct BodyOf<flatbuffers::Offset<Table>> {
  static constexpr wire::Body kType = wire::BodyTraits<Table>::enum_value;
};
}  // namespace detail

// A message around the table that `make(builder)` returns.
template <class Make>
std::vector<std::byte> make_message(std::uint64_t request, Make&& make) {
  flatbuffers::FlatBufferBuilder builder;
  const auto body = std::forward<Make>(make)(builder);
  constexpr wire::Body type = detail::BodyOf<std::remove_const_t<decltype(body)>>::kType;
  builder.Finish(wire::CreateMessage(builder, request, type, body.Union()),
                 wire::MessageIdentifier());
  const auto* first = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  return {first, first + builder.GetSize()};
}

}  // namespace sluice::device_worker
