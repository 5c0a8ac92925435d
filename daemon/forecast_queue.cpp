#include "daemon/forecast_queue.h"

#include <algorithm>
#include <utility>

#include "daemon/coordinator.h"
#include "kernels/forecast.h"
#include "kernels/steps.h"

namespace sluice::daemon {

namespace {

// Forecasts of one session that wait; older ones are dropped for newer ones.
constexpr std::size_t kMaxQueuedForecasts = 64;
constexpr std::size_t kMaxQueuedForecastPages = 1u << 18;
// Pages that a forecast brings in before the lane looks for requests again.
constexpr std::size_t kForecastSlice = 64;

std::uint64_t announced_key(ipc::CacheId cache, kernels::Page page) {
  return (std::uint64_t{cache.value} << 32) | page;
}

}  // namespace

void ForecastQueue::add(const SessionCache& cache, std::span<const kernels::Page> pages,
                        kernels::Step min_age, std::chrono::steady_clock::time_point deadline) {
  while (!queued_.empty() && (queued_.size() == kMaxQueuedForecasts ||
                              announced_.size() + pages.size() > kMaxQueuedForecastPages)) {
    drop_oldest();
  }
  if (pages.size() > kMaxQueuedForecastPages) pages = pages.first(kMaxQueuedForecastPages);
  for (const kernels::Page page : pages) announced_.insert(announced_key(cache.id, page));
  queued_.push_back({cache, {pages.begin(), pages.end()}, 0, min_age, deadline});
}

void ForecastQueue::drop_oldest() {
  count_dropped(queued_.front());
  queued_.pop_front();
}

void ForecastQueue::count_dropped(const Queued& waiting) {
  std::uint64_t dropped = 0;
  for (std::size_t i = waiting.done; i < waiting.pages.size(); ++i) {
    dropped += announced_.erase(announced_key(waiting.cache.id, waiting.pages[i]));
  }
  count_dropped(waiting.cache.id, dropped);
}

void ForecastQueue::count_dropped(ipc::CacheId cache, std::uint64_t pages) {
  if (pages == 0) return;
  coordinator_.forecast(cache, residency::ForecastEvent::dropped, pages);
  counts_.dropped += static_cast<std::uint32_t>(pages);
}

bool ForecastQueue::run() {
  if (queued_.empty()) return false;
  Queued& next = queued_.front();
  const auto actor = actor_of(next.cache);
  if (!actor || next.done == next.pages.size() ||
      std::chrono::steady_clock::now() > next.deadline) {
    drop_oldest();
    return true;
  }
  const kernels::HotTable& table = next.cache.memory->table();
  kernels::ForecastList list;
  list.pages = next.pages.data() + next.done;
  list.count = static_cast<std::uint32_t>(std::min(kForecastSlice, next.pages.size() - next.done));
  list.budget_bytes = ~std::uint64_t{0};
  list.min_age = next.min_age;
  const kernels::Step step = kernels::enter_step(table, *actor);
  const kernels::ForecastCounts counts =
      kernels::forecast(table, next.cache.memory->store(), *actor, step, list);
  kernels::leave_step(table, *actor);
  for (std::uint32_t i = 0; i < list.count; ++i) {
    announced_.erase(announced_key(next.cache.id, list.pages[i]));
  }
  next.done += list.count;
  count_issued(counts.issued);
  count_dropped(next.cache.id, counts.dropped);
  return true;
}

std::optional<std::uint32_t> ForecastQueue::actor_of(const SessionCache& cache) {
  // A cache's id and address may have been another's before; the weak pointer tells them apart.
  const auto found = actors_.find({cache.id.value, cache.device.value});
  if (found != actors_.end() && found->second.memory.lock() == cache.memory) {
    return found->second.index;
  }
  auto opened = coordinator_.open_lane_actor(session_, *cache.memory);
  if (!opened) return std::nullopt;
  actors_[{cache.id.value, cache.device.value}] = {cache.memory, *opened};
  return *opened;
}

bool ForecastQueue::overtaken(ipc::CacheId cache, kernels::Page page) {
  return !announced_.empty() && announced_.erase(announced_key(cache, page)) != 0;
}

void ForecastQueue::forget_cache(ipc::CacheId cache) {
  std::erase_if(queued_, [&](const Queued& forecast) {
    if (forecast.cache.id != cache) return false;
    count_dropped(forecast);
    return true;
  });
}

ForecastQueue::Counts ForecastQueue::take_counts() { return std::exchange(counts_, {}); }

}  // namespace sluice::daemon
