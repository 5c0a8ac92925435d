#include "storage/digest.h"

#include <sys/random.h>
#include <xxhash.h>

#include <array>

#include "storage/bytes.h"

namespace sluice::storage {
namespace {

constexpr std::size_t kWords = 5;

}  // namespace

Result<StoreId> make_store_id() {
  StoreId id;
  if (getrandom(&id, sizeof id, 0) != static_cast<ssize_t>(sizeof id)) {
    return ipc::fail_errno("getrandom");
  }
  return id;
}

std::string encode_namespace(const Namespace& scope) {
  std::string bytes;
  for (const std::string* word :
       {&scope.tenant, &scope.model, &scope.salt, &scope.layout, &scope.shard}) {
    append_number(bytes, static_cast<std::uint16_t>(word->size()));
    bytes += *word;
  }
  return bytes;
}

std::optional<Namespace> decode_namespace(std::span<const std::byte> bytes) {
  std::array<std::string, kWords> words;
  for (std::string& word : words) {
    std::uint16_t length = 0;
    if (!take_number(bytes, length) || bytes.size() < length) return std::nullopt;
    word = as_text(bytes.first(length));
    bytes = bytes.subspan(length);
  }
  if (!bytes.empty()) return std::nullopt;
  return Namespace{words[0], words[1], words[2], words[3], words[4]};
}

Digest digest_of(const StoreId& store, std::string_view encoded_namespace,
                 std::span<const std::byte> key) {
  // An encoded namespace says where it ends, so that no two names are the same bytes.
  std::array<char, kMaxEncodedNamespaceBytes + kMaxKeyBytes> name;
  SLUICE_ASSERT(encoded_namespace.size() <= kMaxEncodedNamespaceBytes &&
                key.size() <= kMaxKeyBytes);
  const std::size_t scope_bytes = encoded_namespace.copy(name.data(), encoded_namespace.size());
  as_text(key).copy(name.data() + scope_bytes, key.size());
  const XXH128_hash_t hash =
      XXH3_128bits_withSeed(name.data(), scope_bytes + key.size(), store.high ^ store.low);
  return {hash.high64, hash.low64};
}

}  // namespace sluice::storage
