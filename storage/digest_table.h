// From a digest to the place of an entry: open addressing in many small tables, so that growing
// never rehashes more than a few thousand entries while a lock is held.
//
// Eight bytes per place: the low half of the digest, and the entry's place. The caller compares
// whole digests. Thread-safety: none.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "storage/digest.h"

namespace sluice::storage {

class DigestTable {
 public:
  // `same(place)`: whether the entry there has this digest.
  template <class Same>
  std::optional<std::uint32_t> find(const Digest& digest, const Same& same) const {
    const Shard& shard = shards_[shard_of(digest)];
    if (shard.cells.empty()) return std::nullopt;
    const std::size_t mask = shard.cells.size() - 1;
    const std::uint32_t tag = tag_of(digest);
    for (std::size_t at = tag & mask; shard.cells[at].place != kNone; at = (at + 1) & mask) {
      if (shard.cells[at].tag == tag && same(shard.cells[at].place)) return shard.cells[at].place;
    }
    return std::nullopt;
  }

  // It is not there. `place` is less than 2^32 - 1.
  void insert(const Digest& digest, std::uint32_t place);
  // It is there, with this place.
  void erase(const Digest& digest, std::uint32_t place);

 private:
  static constexpr std::size_t kShards = 1024;
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  struct Cell {
    std::uint32_t tag = 0;
    std::uint32_t place = kNone;
  };
  struct Shard {
    std::vector<Cell> cells;  // a power of two, or none
    std::size_t count = 0;
  };

  static std::size_t shard_of(const Digest& digest) { return digest.high % kShards; }
  static std::uint32_t tag_of(const Digest& digest) {
    return static_cast<std::uint32_t>(digest.low);
  }
  static void put(std::vector<Cell>& cells, Cell cell);
  static void grow(Shard& shard);

  std::array<Shard, kShards> shards_;
};

}  // namespace sluice::storage
