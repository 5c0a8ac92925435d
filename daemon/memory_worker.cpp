#include "daemon/memory_worker.h"

#include <utility>

#include "ipc/error.h"

namespace sluice::daemon {

MemoryWorker::MemoryWorker() : thread_([this] { run(); }) {}

MemoryWorker::~MemoryWorker() { stop(); }

void MemoryWorker::post(ipc::CacheId cache, Job job) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;  // `job` ends after the lock does
  Jobs& jobs = jobs_[cache];
  SLUICE_ASSERT(jobs.size() < kMaxJobsPerCache);
  jobs.push_back(std::move(job));
  if (jobs.size() > 1) return;
  turns_.push_back(cache);
  work_.notify_one();
}

void MemoryWorker::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  if (thread_.joinable()) thread_.join();
  jobs_.clear();
}

void MemoryWorker::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return stopping_ || !turns_.empty(); });
    if (stopping_) return;
    const ipc::CacheId cache = turns_.front();
    turns_.pop_front();
    Jobs& jobs = jobs_.at(cache);  // stays where it is; others only append
    Job& job = jobs.front();
    lock.unlock();
    const Step step = job();
    lock.lock();
    Job finished;
    if (step == Step::last) {
      finished = std::move(job);
      jobs.pop_front();
    }
    if (jobs.empty()) {
      jobs_.erase(cache);
    } else {
      turns_.push_back(cache);
    }
    lock.unlock();
    finished = nullptr;
    lock.lock();
  }
}

}  // namespace sluice::daemon
