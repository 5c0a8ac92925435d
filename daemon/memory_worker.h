// The thread that makes memory and gives it back. The kernel takes milliseconds to minutes for
// that; here it costs nobody a lock, a lane or the io thread.
//
// A daemon has one for DRAM and one for each device, so that none waits for a GPU but its own jobs.
//
// A job belongs to a cache and goes on step by step; a step makes, maps or frees at most one
// extent. Jobs of one cache are done one after the other, as they were posted. Caches take turns, a
// step each: who needs one extent waits for one step of each cache that has work, however large the
// arenas are that are being made.
//
// After stop(), which lets the step that runs come to its end, what is left is dropped: a job owns
// what it needs, and its destruction gives that back.
//
// Thread-safety: any thread. Steps run on the worker's thread without its lock, so they may take
// locks, and post. Jobs are destroyed without its lock too.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "daemon/residency/limits.h"
#include "ipc/ids.h"

namespace sluice::daemon {

class MemoryWorker {
 public:
  enum class Step : std::uint8_t { more, last };
  // One step of the job, and whether there are more.
  using Job = std::move_only_function<Step()>;

  // A cache is made once and destroyed once; the grants of its extents are one job, and each extent
  // is released at most once at a time. Work on its table is a job while the one before ends, and
  // so may it be for the table of the cache that had the number before.
  static constexpr std::size_t kMaxJobsPerCache = residency::kMaxExtentsPerCache + 3 + 4;

  MemoryWorker();
  // Stops.
  ~MemoryWorker();

  MemoryWorker(const MemoryWorker&) = delete;
  MemoryWorker& operator=(const MemoryWorker&) = delete;

  // After stop() the job is dropped at once.
  void post(ipc::CacheId cache, Job job);

  // Returns when no step runs and none will. Not from a step.
  void stop();

 private:
  using Jobs = std::deque<Job>;

  void run();

  std::mutex mutex_;
  std::condition_variable work_;
  std::unordered_map<ipc::CacheId, Jobs> jobs_;  // of caches that have any
  std::deque<ipc::CacheId> turns_;               // the same caches, but for the one in a step
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace sluice::daemon
