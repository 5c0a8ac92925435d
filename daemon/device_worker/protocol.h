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
