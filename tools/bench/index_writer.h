// What the measured store of an index is made of, and the process that writes into it until it is
// killed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>

#include "storage/block_store.h"

namespace sluice::tools {

inline constexpr std::uint64_t kIndexSegmentBytes = std::uint64_t{256} << 20;
inline constexpr std::uint64_t kWrittenBlockBytes = std::uint64_t{64} << 10;
inline constexpr std::uint64_t kAcknowledgedBlocks = 4096;

// 32 bytes, as of a block hash.
struct IndexKey {
  std::array<std::uint64_t, 4> words{};
  std::span<const std::byte> view() const { return std::as_bytes(std::span(words)); }
};
// Of a row, and of a block that the killed process writes.
inline IndexKey index_key(std::uint64_t block) {
  return {{block * 0x9E3779B97F4A7C15U, block, 1, 0}};
}
inline IndexKey written_key(std::uint64_t block) {
  return {{block * 0x9E3779B97F4A7C15U, block, 2, 0}};
}

storage::Namespace index_scope();
// Room for the rows' segments, and for what is written.
storage::StoreConfig index_config(const std::filesystem::path& directory);

// In the forked process: waits for a directory on `go`, writes blocks there, and tells on `told` of
// each that was acknowledged, in the order of their numbers. Returns only if it fails.
void write_until_killed(int go, int told);

}  // namespace sluice::tools
