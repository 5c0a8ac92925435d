#include "client/stock.h"

#include <algorithm>

#include "client/cache.h"
#include "client/sequence.h"

namespace sluice::client::internal {

std::uint32_t blocks_for_outage(std::uint32_t outage_ms, std::uint32_t block_tokens) {
  const std::uint64_t ms_per_block =
      std::uint64_t{block_tokens} * static_cast<std::uint64_t>(kStepTime.count());
  const std::uint64_t blocks =
      (outage_ms + ms_per_block - 1) / std::max<std::uint64_t>(ms_per_block, 1);
  return static_cast<std::uint32_t>(std::max<std::uint64_t>(blocks, 1));
}

Stock::Stock(Cache& cache, std::uint32_t blocks_per_sequence)
    : cache_(cache), blocks_per_sequence_(blocks_per_sequence) {}

Stock::~Stock() = default;

std::uint32_t Stock::blocks() const {
  const std::lock_guard lock(mutex_);
  return sequence_ == nullptr ? 0 : sequence_->blocks();
}

bool Stock::make_sequence(Link& link) {
  if (sequence_ != nullptr && !sequence_->check()) drop(link);
  if (sequence_ != nullptr) return true;
  std::unique_ptr<Sequence> made(new Sequence(cache_, Sequence::Hidden{}));
  std::uint32_t matched = 0;
  // The daemon looks at the size of keys also where there are none.
  if (!made->match_all(link, Keys{nullptr, 1, 1, 0}, matched)) return false;
  sequence_ = std::move(made);
  return true;
}

void Stock::drop(Link& link) {
  if (sequence_ != nullptr && sequence_->handle_ != 0) (void)sequence_->release_on(link);
  sequence_.reset();
}

// If there is no memory for all of it, there may be for a half.
void Stock::grow(Link& link, std::uint32_t blocks) {
  const std::uint32_t before = sequence_->blocks();
  for (; blocks > 0; blocks /= 2) {
    const auto grown = sequence_->extend_on(link, blocks, ipc::Clock::now());
    if (grown) return;
    // What came before the error may lie in extents that are not mapped; the daemon gives it up.
    sequence_->cut(before);
    grow_again_ = ipc::deadline_in(kStockPause);
    if (!is_for_memory(grown.error().code)) return;
  }
}

void Stock::adjust(Link& link, std::size_t sequences) {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return;  // another thread is at it, or about to be
  const auto wanted = static_cast<std::uint32_t>(
      std::min<std::size_t>(sequences * blocks_per_sequence_, cache_.max_blocks()));
  const std::uint32_t have = sequence_ == nullptr ? 0 : sequence_->blocks();
  if (have < wanted) {
    if (ipc::Clock::now() >= grow_again_ && make_sequence(link)) grow(link, wanted - have);
  } else if (have > wanted + std::max(blocks_per_sequence_, wanted / 4)) {
    (void)sequence_->truncate_on(link, wanted);
  }
}

bool Stock::take(Sequence& to, std::uint32_t count) {
  const std::lock_guard lock(mutex_);
  if (sequence_ == nullptr || !sequence_->check() || sequence_->blocks() < count) return false;
  const std::uint32_t left = sequence_->blocks() - count;
  for (std::uint32_t i = left; i < left + count; ++i) {
    to.append(sequence_->ids_[i], sequence_->blocks_[i]);
  }
  sequence_->cut(left);
  return true;
}

bool Stock::give_back(Link& link) {
  const std::lock_guard lock(mutex_);
  grow_again_ = ipc::deadline_in(kStockPause);
  if (sequence_ == nullptr || sequence_->blocks() == 0) return false;
  return sequence_->truncate_on(link, 0).has_value();
}

void Stock::release(Link& link) {
  const std::lock_guard lock(mutex_);
  drop(link);
}

ipc::Status Stock::resume(Link& link) {
  const std::lock_guard lock(mutex_);
  return sequence_ == nullptr ? ipc::Status() : sequence_->resume(link);
}

}  // namespace sluice::client::internal
