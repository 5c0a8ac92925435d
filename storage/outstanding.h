// Counts requests that are not answered yet, so that somebody can wait for those of before.
//
// Thread-safety: any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>

namespace sluice::storage {

class Outstanding {
 public:
  // What end() is told.
  std::uint64_t begin() {
    const std::lock_guard lock(mutex_);
    ++counts_[epoch_];
    return epoch_;
  }

  void end(std::uint64_t epoch) {
    const std::lock_guard lock(mutex_);
    const auto count = counts_.find(epoch);
    if (--count->second > 0) return;
    counts_.erase(count);
    changed_.notify_all();
  }

  // Until all that began before are ended; false: not in this time.
  bool wait(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    const std::uint64_t before = epoch_++;
    return changed_.wait_for(lock, timeout,
                             [&] { return counts_.empty() || counts_.begin()->first > before; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t epoch_ = 0;
  std::map<std::uint64_t, std::uint64_t> counts_;  // by epoch; one for each wait() at most
};

}  // namespace sluice::storage
