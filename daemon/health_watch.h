// The daemon's health as it stands: asks the coordinator, and remembers what was counted lately.
//
// Thread-safety: any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/health.h"

namespace sluice::daemon {

class Coordinator;

class HealthWatch {
 public:
  // `mps_pipe_directories`: as HealthInput; by tenant.
  HealthWatch(Coordinator& coordinator, std::vector<std::string> mps_pipe_directories);

  // To be called every RecentCounts::kSampleInterval.
  void sample();
  void drain(bool on) { draining_.store(on, std::memory_order_relaxed); }
  bool draining() const { return draining_.load(std::memory_order_relaxed); }

  std::vector<HealthFinding> look();

 private:
  // Sessions of before are back within this time, if at all.
  static constexpr std::chrono::seconds kReturnPatience{10};

  Coordinator& coordinator_;
  const std::vector<std::string> mps_pipe_directories_;
  const std::chrono::steady_clock::time_point started_;
  std::atomic<bool> draining_{false};
  std::mutex mutex_;  // for recent_
  RecentCounts recent_;
};

}  // namespace sluice::daemon
