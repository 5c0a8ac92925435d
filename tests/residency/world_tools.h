// What the parts of World share: sizes of the small node, keys, and how expectations fail.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/residency/world.h"

namespace sluice::residency::test {

// So large that the bounds of what is written and read at a time are reached.
inline constexpr ipc::Layout kLayout = {64, 32, 128, 16, 2, 2, ipc::PageKind::block};
inline constexpr std::uint64_t kFrame = std::uint64_t{16} << 20;
inline constexpr std::uint64_t kExtent = 8 * kFrame;
inline constexpr std::uint64_t kDramCapacity = 24 * kExtent;
inline constexpr std::uint64_t kStoreDramCapacity = 6 * kExtent;  // of a node with a block store
inline constexpr std::uint64_t kHbmExtent = 4 * kFrame;
inline constexpr std::uint64_t kHbmCapacity = 12 * kHbmExtent;
inline constexpr std::uint32_t kTenants = 3;
inline constexpr std::uint32_t kFamilies = 6;
inline constexpr std::uint32_t kMostExtended = 48;  // blocks of one extend
inline constexpr std::size_t kMostSessions = 12;
inline constexpr std::uint32_t kReservedSessions = 2;  // for each tenant
inline constexpr std::size_t kMostSequences = 48;

inline void hold(bool condition, const std::string& what) {
  if (!condition) throw Failure(what);
}

template <class T>
T hold_ok(Result<T> result, const std::string& what) {
  if (!result) throw Failure(what + ": " + result.error().text);
  return std::move(*result);
}

inline void hold_error(const Error& error, std::initializer_list<Errc> allowed,
                       const std::string& what) {
  for (const Errc code : allowed) {
    if (error.code == code) return;
  }
  throw Failure(what + " failed with " + std::string(ipc::to_string(error.code)) + ": " +
                error.text);
}

// Keys of a family are one chain; families have keys of different lengths.
inline std::string key_of(std::uint32_t family, std::uint32_t position) {
  constexpr std::size_t lengths[kFamilies] = {8, 16, 32, 33, 64, 20};
  std::string key(lengths[family % kFamilies], 'k');
  std::memcpy(key.data(), &family, sizeof family);
  std::memcpy(key.data() + key.size() - sizeof position, &position, sizeof position);
  return key;
}

inline std::span<const std::byte> bytes_of(const std::string& key) {
  return std::as_bytes(std::span(key.data(), key.size()));
}

inline std::vector<std::string> chain(std::uint32_t family, std::size_t from, std::size_t count) {
  std::vector<std::string> keys;
  keys.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    keys.push_back(key_of(family, static_cast<std::uint32_t>(from + i)));
  }
  return keys;
}

inline KeyView view_of(const std::vector<std::string>& keys, std::string& storage) {
  storage.clear();
  for (const std::string& key : keys) storage += key;
  const auto size = keys.empty() ? 1u : static_cast<std::uint32_t>(keys.front().size());
  return {reinterpret_cast<const std::byte*>(storage.data()), size, size,
          static_cast<std::uint32_t>(keys.size())};
}

}  // namespace sluice::residency::test
