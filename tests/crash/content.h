// What is in a block, as a function of what it is: whoever is served any byte can tell whether it
// is the right one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>

#include "client/sluice.hpp"

namespace sluice::crash {

inline constexpr std::uint32_t kTenants = 2;
inline constexpr std::uint32_t kModels = 2;
inline constexpr std::uint32_t kChains = 32;
inline constexpr std::uint32_t kBlocksPerChain = 8;
inline constexpr std::uint32_t kKeys = kTenants * kModels * kChains * kBlocksPerChain;
// Caches that nobody relies on, so that they may go at any time.
inline constexpr std::uint32_t kScratchModels = 3;
inline constexpr std::uint32_t kKeyBytes = 16;

// A block that has a key. Models from kModels on are scratch ones.
struct BlockName {
  std::uint32_t tenant = 0;
  std::uint32_t model = 0;
  std::uint32_t chain = 0;
  std::uint32_t block = 0;

  bool is_scratch() const { return model >= kModels; }
  std::uint32_t number() const {
    return ((tenant * kModels + model) * kChains + chain) * kBlocksPerChain + block;
  }
};

using KeyBytes = std::array<char, kKeyBytes>;

inline KeyBytes key_of(const BlockName& name) {
  KeyBytes key{};
  std::snprintf(key.data(), key.size(), "%c%u.%04u.%04u", static_cast<char>('a' + name.tenant % 26),
                name.model % 100, name.chain % 10'000, name.block % 10'000);
  return key;
}

inline std::uint64_t mixed(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

inline std::uint64_t seed_of(const BlockName& name) {
  return mixed((std::uint64_t{name.tenant} << 48) + (std::uint64_t{name.model} << 40) +
               (std::uint64_t{name.chain} << 16) + name.block + 1);
}

inline constexpr std::size_t kWord = sizeof(std::uint64_t);

// The bytes of a block from `first_byte` on, a multiple of 8 as their number is.
inline void fill(std::span<std::byte> bytes, std::uint64_t seed, std::size_t first_byte = 0) {
  for (std::size_t at = 0; at < bytes.size(); at += kWord) {
    const std::uint64_t word = mixed(seed + (first_byte + at) / kWord);
    std::memcpy(bytes.data() + at, &word, kWord);
  }
}

// How many of the words are other ones.
inline std::size_t wrong_words(std::span<const std::byte> bytes, std::uint64_t seed,
                               std::size_t first_byte = 0) {
  std::size_t wrong = 0;
  for (std::size_t at = 0; at < bytes.size(); at += kWord) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, kWord);
    wrong += word == mixed(seed + (first_byte + at) / kWord) ? 0 : 1;
  }
  return wrong;
}

// Pages of 2 KiB, blocks of 8, an arena of 256 blocks. `model` is kept by the caller.
inline sluice_cache_desc layout_of(const char* model, sluice_executor executor) {
  sluice_cache_desc desc = SLUICE_CACHE_DESC_INIT;
  desc.model = model;
  desc.executor = executor;
  desc.layers = 4;
  desc.kv_heads = 2;
  desc.head_dim = 16;
  desc.block_tokens = 16;
  desc.dtype_bytes = 2;
  desc.page_kind = SLUICE_PAGE_LAYER;
  desc.hbm_bytes = 2 << 20;
  return desc;
}

}  // namespace sluice::crash
