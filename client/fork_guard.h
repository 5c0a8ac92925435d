// Tells whether this process is the one that made the object, without a system call.
//
// A page with MADV_WIPEONFORK reads as zero in a forked child, where rings, cursors and locks of
// the parent must not be used. Thread-safety: const after it is made.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <memory>

#include "ipc/error.h"

namespace sluice::client::internal {

class ForkGuard {
 public:
  static ipc::Result<ForkGuard> make() {
    void* page = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return ipc::fail_errno("mmap of a page that tells forks");
    ForkGuard guard(static_cast<std::atomic<int>*>(page));
    if (madvise(page, kBytes, MADV_WIPEONFORK) != 0) {
      return ipc::fail_errno("madvise(MADV_WIPEONFORK)");
    }
    guard.page_->store(1, std::memory_order_relaxed);
    return guard;
  }

  bool in_owner() const { return page_->load(std::memory_order_relaxed) == 1; }

 private:
  static constexpr std::size_t kBytes = 4096;
  struct Unmap {
    void operator()(std::atomic<int>* page) const { munmap(page, kBytes); }
  };
  explicit ForkGuard(std::atomic<int>* page) : page_(page) {}

  std::unique_ptr<std::atomic<int>, Unmap> page_;
};

}  // namespace sluice::client::internal
