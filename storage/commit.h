// Tells the index what became durable, and only then the catalog: the one place where both change.
//
// A batch carries first what the catalog dropped, then the new records, so that a block that is
// dropped and written again ends as written. Batches of all devices come one after another.
//
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "storage/catalog.h"
#include "storage/daily_bound.h"
#include "storage/index.h"

namespace sluice::storage {

// A record whose data is durable.
struct DurableRecord {
  IndexEntry entry;
  std::optional<std::uint64_t> moved_from;  // the sequence of the record that it replaces
  bool exists = false;                      // answer: false: forgotten while it was written
};

class Commit {
 public:
  Commit(Index& index, Catalog& catalog, DailyBound& written)
      : index_(index), catalog_(catalog), written_(written) {}

  // Errors: io_error, no_memory (the index's disk): then none of the records exists.
  Status commit(std::uint32_t device, std::vector<DurableRecord>& records,
                const Checkpoint& checkpoint);

  // What was dropped and used is in the index, and all of the index is durable.
  Status sync();
  // The same without waiting for the disk, if there is any.
  Status tell_news();

 private:
  Status write_with_news(IndexBatch& batch, std::size_t uses);

  std::mutex mutex_;
  Index& index_;
  Catalog& catalog_;
  DailyBound& written_;
};

}  // namespace sluice::storage
