// Ids and handles that cross folders and processes, as strong types.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace sluice::ipc {

// A number that cannot be mixed up with another kind of number. `Tag` only names the kind.
template <class Tag, class Number = std::uint32_t>
struct Id {
  Number value{};
  friend constexpr auto operator<=>(const Id&, const Id&) = default;
};

using TenantId = Id<struct TenantTag>;
using SessionId = Id<struct SessionTag, std::uint64_t>;  // never reused in the life of a daemon
using CacheId = Id<struct CacheTag>;                     // index of a cache, node-wide
using DeviceId = Id<struct DeviceTag>;  // index of a device that arenas lie on, node-wide
using BlockId = Id<struct BlockTag>;    // attached id: index of a block in its cache
using FrameId = Id<struct FrameTag>;    // index of a frame in its cache
using ActorId = Id<struct ActorTag>;    // index of an actor in a cache's hot table

inline constexpr BlockId kNoBlock{0xFFFFFFFFu};
inline constexpr FrameId kNoFrameId{0xFFFFFFFFu};
// Told to resolvers in place of a frame: the block is lost (kernels::kLostFrame).
inline constexpr FrameId kLostFrameId{0xFFFFFFFEu};

// An index plus a generation: valid in one session, and stale for good once its object is gone.
// Generation 0 is never issued, so a zeroed handle is always stale.
struct Handle {
  std::uint32_t index = 0;
  std::uint32_t generation = 0;

  static constexpr Handle from_bits(std::uint64_t bits) {
    return {static_cast<std::uint32_t>(bits), static_cast<std::uint32_t>(bits >> 32)};
  }
  constexpr std::uint64_t bits() const { return index | (std::uint64_t{generation} << 32); }
  friend constexpr auto operator<=>(const Handle&, const Handle&) = default;
};

enum class Tier : std::uint8_t { hbm = 0, dram = 1, nvme = 2 };
inline constexpr int kTiers = 3;

}  // namespace sluice::ipc

template <class Tag, class Number>
struct std::hash<sluice::ipc::Id<Tag, Number>> {
  std::size_t operator()(const sluice::ipc::Id<Tag, Number>& id) const noexcept {
    return std::hash<Number>{}(id.value);
  }
};
