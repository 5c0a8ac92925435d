#include "storage/digest_table.h"

#include <utility>

namespace sluice::storage {

void DigestTable::put(std::vector<Cell>& cells, Cell cell) {
  const std::size_t mask = cells.size() - 1;
  std::size_t at = cell.tag & mask;
  while (cells[at].place != kNone) at = (at + 1) & mask;
  cells[at] = cell;
}

void DigestTable::grow(Shard& shard) {
  std::vector<Cell> larger(shard.cells.empty() ? 16 : shard.cells.size() * 2);
  for (const Cell& cell : shard.cells) {
    if (cell.place != kNone) put(larger, cell);
  }
  shard.cells = std::move(larger);
}

void DigestTable::insert(const Digest& digest, std::uint32_t place) {
  SLUICE_ASSERT(place != kNone);
  Shard& shard = shards_[shard_of(digest)];
  // At most three quarters full.
  if ((shard.count + 1) * 4 > shard.cells.size() * 3) grow(shard);
  put(shard.cells, {tag_of(digest), place});
  ++shard.count;
}

void DigestTable::erase(const Digest& digest, std::uint32_t place) {
  Shard& shard = shards_[shard_of(digest)];
  SLUICE_ASSERT(shard.count > 0);
  const std::size_t mask = shard.cells.size() - 1;
  std::size_t hole = tag_of(digest) & mask;
  while (shard.cells[hole].place != place) {
    SLUICE_ASSERT(shard.cells[hole].place != kNone);
    hole = (hole + 1) & mask;
  }
  // What follows moves back into the hole, unless that is before its home.
  for (std::size_t at = (hole + 1) & mask; shard.cells[at].place != kNone; at = (at + 1) & mask) {
    const std::size_t home = shard.cells[at].tag & mask;
    if (((at - home) & mask) < ((at - hole) & mask)) continue;
    shard.cells[hole] = shard.cells[at];
    hole = at;
  }
  shard.cells[hole] = Cell{};
  --shard.count;
}

}  // namespace sluice::storage
