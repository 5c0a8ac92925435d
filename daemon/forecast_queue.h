// Pages that a session expects to resolve, waiting for its lane to have nothing better to do.
//
// Bounded: older forecasts are dropped for newer ones. Runs them with an actor of the lane's own,
// so that the client may leave its step before they ran.
//
// Thread-safety: the lane's thread only.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_set>
#include <utility>
#include <vector>

#include "daemon/session.h"
#include "ipc/ids.h"
#include "kernels/table.h"

namespace sluice::daemon {

class Coordinator;

class ForecastQueue {
 public:
  ForecastQueue(ipc::SessionId session, Coordinator& coordinator)
      : session_(session), coordinator_(coordinator) {}

  // The pages are brought in by `deadline`, or dropped; see kernels::ForecastList for `min_age`.
  void add(const SessionCache& cache, std::span<const kernels::Page> pages, kernels::Step min_age,
           std::chrono::steady_clock::time_point deadline);

  // A slice of the oldest forecast; whether there was one.
  bool run();

  // A resolve brought the page in: whether it was announced and still waited.
  bool overtaken(ipc::CacheId cache, kernels::Page page);

  // The lane's own actor for this session's forecasts in a cache. Nothing: there is none left.
  std::optional<std::uint32_t> actor_of(const SessionCache& cache);

  // What became of pages that a device forecasts.
  void count_issued(std::uint64_t pages) { counts_.issued += static_cast<std::uint32_t>(pages); }
  void count_dropped(ipc::CacheId cache, std::uint64_t pages);

  // What waits for this cache is dropped, and the cache's memory with it.
  void forget_cache(ipc::CacheId cache);

  // Pages, since the last call.
  struct Counts {
    std::uint32_t issued = 0;
    std::uint32_t dropped = 0;
  };
  Counts take_counts();

 private:
  struct Queued {
    SessionCache cache;
    std::vector<kernels::Page> pages;
    std::size_t done = 0;  // of pages
    kernels::Step min_age = 1;
    std::chrono::steady_clock::time_point deadline;
  };
  struct Actor {
    std::weak_ptr<CacheMemory> memory;
    std::uint32_t index = 0;
  };

  void drop_oldest();
  void count_dropped(const Queued& waiting);

  ipc::SessionId session_;
  Coordinator& coordinator_;
  std::deque<Queued> queued_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, Actor> actors_;  // by cache and device
  std::unordered_set<std::uint64_t> announced_;                      // cache and page of what waits
  Counts counts_;
};

}  // namespace sluice::daemon
