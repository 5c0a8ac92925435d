// The directory of a cache: from the hash of a block key to the block's id.
//
// It knows 32 bits of the hash and no keys. A hash is not an identity: find() asks the caller
// whether a candidate has the key that is meant. Each cache has a directory of its own, so that
// tenants, models, salts and shards share nothing by construction.
//
// Open addressing with linear probing, 8 bytes an entry, at most half full, deletion by shifting
// back (no tombstones). It doubles step by step: each insert moves a few entries of the old table,
// and find() looks into both meanwhile, so no event pays for a whole copy.
//
// For many keys: hash all, prefetch() all, then find() each; the loads of a batch overlap.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "daemon/residency/types.h"

namespace sluice::residency {

class Directory {
 public:
  Directory();

  std::uint32_t size() const { return current_.count + old_.count; }

  void prefetch(std::uint32_t hash) const {
    __builtin_prefetch(&current_.entries[hash & current_.mask]);
    if (old_.entries) __builtin_prefetch(&old_.entries[hash & old_.mask]);
  }

  // The block with this hash for which `is_meant(BlockId)` holds, or kNoBlock.
  template <class IsMeant>
  BlockId find(std::uint32_t hash, IsMeant&& is_meant) const {
    const BlockId id = find_in(current_, hash, is_meant);
    if (id != ipc::kNoBlock || !old_.entries) return id;
    return find_in(old_, hash, is_meant);
  }

  // `id` is not in the directory.
  void insert(std::uint32_t hash, BlockId id);
  // `id` is in the directory, with this hash.
  void erase(std::uint32_t hash, BlockId id);

 private:
  struct Entry {
    std::uint32_t hash;
    std::uint32_t id_plus_one;  // 0: empty; kMoved: it was here before the table was replaced
  };
  struct Free {
    void operator()(Entry* entries) const { std::free(entries); }
  };
  struct Table {
    std::unique_ptr<Entry[], Free> entries;
    std::uint32_t mask = 0;
    std::uint32_t count = 0;
  };
  static constexpr std::uint32_t kMoved = 0xFFFFFFFFu;
  static constexpr std::uint32_t kFirstCapacity = 1024;
  // Of the old table, per insert. It has twice as many places as inserts are left until the new one
  // is half full; anything above 2 ends in time.
  static constexpr std::uint32_t kMovesPerInsert = 8;

  template <class IsMeant>
  static BlockId find_in(const Table& table, std::uint32_t hash, IsMeant& is_meant) {
    for (std::uint32_t at = hash & table.mask;; at = (at + 1) & table.mask) {
      const Entry& entry = table.entries[at];
      if (entry.id_plus_one == 0) return ipc::kNoBlock;
      if (entry.hash != hash || entry.id_plus_one == kMoved) continue;
      const BlockId id{entry.id_plus_one - 1};
      if (is_meant(id)) return id;
    }
  }

  static Table make_table(std::uint32_t capacity);
  static void place(Table& table, Entry entry);
  static bool remove(Table& table, std::uint32_t hash, std::uint32_t id_plus_one);
  void move_some();

  Table current_;
  Table old_;  // being emptied into current_, or none
  std::uint32_t next_move_ = 0;
};

}  // namespace sluice::residency
