// How large a hot table is, which sizes are allowed, and where its arrays lie.
//
// Every user of a table brings the sizes from a trusted place (the daemon, or its reply to
// open_cache) and never reads them from the shared memory.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace sluice::kernels {

struct TableSizes {
  std::uint32_t slots = 0;   // pages that the arena holds
  std::uint32_t blocks = 0;  // attached ids
  std::uint32_t pages_per_block = 0;
  std::uint32_t actors = 0;
  std::uint32_t log_capacity = 0;  // entries of the frame log; a power of two
  std::uint32_t hint_capacity =
      0;  // free slots remembered; a power of two. About slots / 16 is good

  SLUICE_HD constexpr std::uint64_t pages() const {
    return std::uint64_t{blocks} * pages_per_block;
  }
  friend constexpr bool operator==(const TableSizes&, const TableSizes&) = default;
};

inline constexpr std::uint32_t kMaxSlots = 1u << 30;
inline constexpr std::uint32_t kMaxBlocks = 1u << 27;
inline constexpr std::uint64_t kMaxPages = 0xFFFFFFFEu;  // the number above is kNoPage
inline constexpr std::uint32_t kMaxActors = 1024;
inline constexpr std::uint32_t kMinLogCapacity = 16;
inline constexpr std::uint32_t kMaxLogCapacity = 1u << 24;
inline constexpr std::uint32_t kMinHintCapacity = 64;
inline constexpr std::uint32_t kMaxHintCapacity = 1u << 30;

enum class SizesError : std::uint8_t {
  none,
  slots,
  blocks,
  pages,
  actors,
  log_capacity,
  hint_capacity
};

// The first size that is zero, beyond its limit, or not a power of two where that is needed.
SLUICE_HD constexpr SizesError check_sizes(const TableSizes& sizes) {
  const auto power_of_two = [](std::uint32_t n) { return n != 0 && (n & (n - 1)) == 0; };
  if (sizes.slots == 0 || sizes.slots > kMaxSlots) return SizesError::slots;
  if (sizes.blocks == 0 || sizes.blocks > kMaxBlocks) return SizesError::blocks;
  if (sizes.pages() == 0 || sizes.pages() > kMaxPages) return SizesError::pages;
  if (sizes.actors == 0 || sizes.actors > kMaxActors) return SizesError::actors;
  if (!power_of_two(sizes.log_capacity) || sizes.log_capacity < kMinLogCapacity ||
      sizes.log_capacity > kMaxLogCapacity) {
    return SizesError::log_capacity;
  }
  if (!power_of_two(sizes.hint_capacity) || sizes.hint_capacity < kMinHintCapacity ||
      sizes.hint_capacity > kMaxHintCapacity) {
    return SizesError::hint_capacity;
  }
  return SizesError::none;
}

// Blocks whose wanted marks share one summary byte (wanted.h).
inline constexpr std::uint32_t kWantedGroup = 1024;

inline constexpr std::uint64_t kHeaderBytes = 4096;
inline constexpr std::uint64_t kActorBytes = 256;
inline constexpr std::uint64_t kLogEntryBytes = 16;

// Byte offsets of the arrays from the start of the table. Each begins on a 4 KiB page of its own.
struct TableOffsets {
  std::uint64_t actors = 0;
  std::uint64_t words = 0;
  std::uint64_t hints = 0;
  std::uint64_t log = 0;
  std::uint64_t frame_of = 0;
  std::uint64_t wanted = 0;
  std::uint64_t wanted_groups = 0;
  std::uint64_t forecast_bits = 0;
  std::uint64_t slot_of = 0;
  std::uint64_t end = 0;  // bytes of the whole table
};

// Requires check_sizes(sizes) == none.
SLUICE_HD constexpr TableOffsets offsets_of(const TableSizes& sizes) {
  TableOffsets offsets;
  std::uint64_t at = kHeaderBytes;
  const auto place = [&at](std::uint64_t bytes) {
    const std::uint64_t begin = at;
    at += (bytes + 4095) / 4096 * 4096;
    return begin;
  };
  offsets.actors = place(sizes.actors * kActorBytes);
  offsets.words = place(std::uint64_t{sizes.slots} * 8);
  offsets.hints = place(std::uint64_t{sizes.hint_capacity} * 4);
  offsets.log = place(std::uint64_t{sizes.log_capacity} * kLogEntryBytes);
  offsets.frame_of = place(std::uint64_t{sizes.blocks} * 8);
  offsets.wanted = place(std::uint64_t{sizes.blocks} * 4);
  offsets.wanted_groups = place((sizes.blocks + kWantedGroup - 1) / kWantedGroup);
  offsets.forecast_bits = place((std::uint64_t{sizes.slots} + 63) / 64 * 8);
  offsets.slot_of = place(sizes.pages() * 4);
  offsets.end = at;
  return offsets;
}

SLUICE_HD constexpr std::uint64_t table_bytes(const TableSizes& sizes) {
  return offsets_of(sizes).end;
}

// A table whose users are GPUs lies in two memories: what resolves read and change is in the
// device's, what the daemon's CPU reads and writes is in the node's, pinned by the users. Offsets
// from the start of the part that holds the array.
struct SplitOffsets {
  // Of the device.
  std::uint64_t actors = 0;
  std::uint64_t words = 0;
  std::uint64_t hints = 0;
  std::uint64_t frame_of = 0;
  std::uint64_t forecast_bits = 0;
  std::uint64_t slot_of = 0;
  std::uint64_t device_end = 0;
  // Of the node.
  std::uint64_t mirrors = 0;  // an ActorLine per actor, written by it, read by the daemon
  std::uint64_t log = 0;
  std::uint64_t frame_original = 0;
  std::uint64_t wanted = 0;
  std::uint64_t wanted_groups = 0;
  std::uint64_t host_end = 0;
};

// Requires check_sizes(sizes) == none.
SLUICE_HD constexpr SplitOffsets split_offsets_of(const TableSizes& sizes) {
  SplitOffsets offsets;
  std::uint64_t at = kHeaderBytes;
  const auto place = [&at](std::uint64_t bytes) {
    const std::uint64_t begin = at;
    at += (bytes + 4095) / 4096 * 4096;
    return begin;
  };
  offsets.actors = place(sizes.actors * kActorBytes);
  offsets.words = place(std::uint64_t{sizes.slots} * 8);
  offsets.hints = place(std::uint64_t{sizes.hint_capacity} * 4);
  offsets.frame_of = place(std::uint64_t{sizes.blocks} * 8);
  offsets.forecast_bits = place((std::uint64_t{sizes.slots} + 63) / 64 * 8);
  offsets.slot_of = place(sizes.pages() * 4);
  offsets.device_end = at;
  at = kHeaderBytes;
  offsets.mirrors = place(sizes.actors * kActorBytes);
  offsets.log = place(std::uint64_t{sizes.log_capacity} * kLogEntryBytes);
  offsets.frame_original = place(std::uint64_t{sizes.blocks} * 8);
  offsets.wanted = place(std::uint64_t{sizes.blocks} * 4);
  offsets.wanted_groups = place((sizes.blocks + kWantedGroup - 1) / kWantedGroup);
  offsets.host_end = at;
  return offsets;
}

}  // namespace sluice::kernels
