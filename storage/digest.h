// Names of blocks as fixed-size numbers.
//
// The index finds a block by a digest of its namespace and key. The digest is seeded with the
// store's secret (its id), so that nobody who cannot read the store can make two names collide; and
// a collision would be a miss, never a wrong byte, because a read compares the whole name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "storage/block_store.h"

namespace sluice::storage {

// 128 random bits, made with the store. Never leaves it: it is also what makes a record's header
// impossible to forge from inside a payload (record.h).
struct StoreId {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend bool operator==(const StoreId&, const StoreId&) = default;
};

Result<StoreId> make_store_id();

struct Digest {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend auto operator<=>(const Digest&, const Digest&) = default;
};

struct DigestHash {
  std::size_t operator()(const Digest& digest) const { return digest.low; }
};

// The five words one after another, each behind its length (2 bytes, little-endian).
std::string encode_namespace(const Namespace& scope);
// nullopt: these bytes are not an encoded namespace.
std::optional<Namespace> decode_namespace(std::span<const std::byte> bytes);
inline constexpr std::size_t kMaxEncodedNamespaceBytes = kMaxNamespaceBytes + 5 * 2;

Digest digest_of(const StoreId& store, std::string_view encoded_namespace,
                 std::span<const std::byte> key);

}  // namespace sluice::storage
