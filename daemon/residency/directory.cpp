#include "daemon/residency/directory.h"

#include <new>
#include <utility>

namespace sluice::residency {

Directory::Directory() : current_(make_table(kFirstCapacity)) {}

// calloc: a large table is fresh zero pages, which cost when they are touched and not now.
Directory::Table Directory::make_table(std::uint32_t capacity) {
  Table table;
  table.entries.reset(static_cast<Entry*>(std::calloc(capacity, sizeof(Entry))));
  if (!table.entries) throw std::bad_alloc();
  table.mask = capacity - 1;
  return table;
}

void Directory::place(Table& table, Entry entry) {
  std::uint32_t at = entry.hash & table.mask;
  while (table.entries[at].id_plus_one != 0) at = (at + 1) & table.mask;
  table.entries[at] = entry;
  ++table.count;
}

void Directory::insert(std::uint32_t hash, BlockId id) {
  const std::uint32_t capacity = current_.mask + 1;
  if (!old_.entries && current_.count >= capacity / 2) {
    old_ = std::exchange(current_, make_table(capacity * 2));
    next_move_ = 0;
  }
  if (old_.entries) move_some();
  place(current_, {hash, id.value + 1});
}

void Directory::move_some() {
  for (std::uint32_t moves = 0; moves < kMovesPerInsert; ++moves) {
    if (next_move_ > old_.mask) {
      old_ = Table{};
      return;
    }
    Entry& entry = old_.entries[next_move_++];
    if (entry.id_plus_one == 0 || entry.id_plus_one == kMoved) continue;
    place(current_, entry);
    entry.id_plus_one = kMoved;  // chains of the old table stay whole
    --old_.count;
  }
}

void Directory::erase(std::uint32_t hash, BlockId id) {
  if (remove(current_, hash, id.value + 1)) return;
  SLUICE_ASSERT(old_.entries != nullptr);
  for (std::uint32_t at = hash & old_.mask;; at = (at + 1) & old_.mask) {
    Entry& entry = old_.entries[at];
    SLUICE_ASSERT(entry.id_plus_one != 0);
    if (entry.id_plus_one != id.value + 1) continue;
    entry.id_plus_one = kMoved;
    --old_.count;
    return;
  }
}

bool Directory::remove(Table& table, std::uint32_t hash, std::uint32_t id_plus_one) {
  std::uint32_t hole = hash & table.mask;
  for (;; hole = (hole + 1) & table.mask) {
    if (table.entries[hole].id_plus_one == 0) return false;
    if (table.entries[hole].id_plus_one == id_plus_one) break;
  }
  // Close the hole: an entry may move back unless that would put it before its home.
  for (std::uint32_t at = (hole + 1) & table.mask; table.entries[at].id_plus_one != 0;
       at = (at + 1) & table.mask) {
    const std::uint32_t home = table.entries[at].hash & table.mask;
    if (((at - home) & table.mask) < ((at - hole) & table.mask)) continue;
    table.entries[hole] = table.entries[at];
    hole = at;
  }
  table.entries[hole] = Entry{};
  --table.count;
  return true;
}

}  // namespace sluice::residency
