#include "storage/commit.h"

#include <utility>

namespace sluice::storage {
namespace {

// Last uses that a batch tells on the way.
constexpr std::size_t kUsesPerBatch = 256;

}  // namespace

Status Commit::write_with_news(IndexBatch& batch, std::size_t uses) {
  Catalog::News news = catalog_.take_news(uses);
  batch.deletes = std::move(news.deletes);
  // Before the records: one of them may be the same block's.
  batch.puts.insert(batch.puts.begin(), news.uses.begin(), news.uses.end());
  batch.written = written_.value();
  Status done = index_.write(batch);
  if (!done) catalog_.give_back({std::move(batch.deletes), {}});
  return done;
}

Status Commit::commit(std::uint32_t device, std::vector<DurableRecord>& records,
                      const Checkpoint& checkpoint) {
  const std::lock_guard lock(mutex_);
  IndexBatch batch;
  batch.device = device;
  batch.checkpoint = checkpoint;
  for (DurableRecord& record : records) {
    record.exists = catalog_.wanted(record.entry.digest, record.moved_from);
    if (record.exists) batch.puts.push_back(record.entry);
  }
  if (Status done = write_with_news(batch, kUsesPerBatch); !done) return done;
  for (const DurableRecord& record : records) {
    if (record.exists) catalog_.apply(record.entry, record.moved_from);
  }
  return {};
}

Status Commit::tell_news() {
  const std::lock_guard lock(mutex_);
  if (!catalog_.has_news()) return {};
  IndexBatch batch;
  return write_with_news(batch, kUsesPerBatch);
}

Status Commit::sync() {
  {
    const std::lock_guard lock(mutex_);
    IndexBatch batch;
    if (Status done = write_with_news(batch, kMaxUses); !done) return done;
  }
  return index_.sync();
}

}  // namespace sluice::storage
