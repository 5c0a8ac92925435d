// Waiting for what another thread or process does, by looking again and again.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace sluice::test {

// Longer than anything takes, also under sanitizers on a busy machine.
inline constexpr std::chrono::seconds kDeadline{20};

// Waits until `condition` holds; false at the deadline.
inline bool eventually(const std::function<bool()>& condition,
                       std::chrono::milliseconds deadline = kDeadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace sluice::test
