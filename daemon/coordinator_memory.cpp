// The actions that take time, as jobs of the memory worker: caches made and freed, DRAM extents
// granted and released. Each works without the coordinator's lock and takes it to tell the manager.
#include <new>
#include <utility>

#include "daemon/coordinator.h"
#include "daemon/logging.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::Error;
using ipc::fail;

// ---- a cache is made

struct Coordinator::Making {
  ipc::CacheId cache;
  Device* device = nullptr;
  std::shared_ptr<CacheOpening> opening;
  std::uint32_t actors = 0;
  std::unique_ptr<CacheMemory> memory;
  std::optional<Error> failure;
};

namespace {

// The first call gives addresses, the others give memory.
ipc::Status make_piece(std::unique_ptr<CacheMemory>& memory, const residency::CacheShape& shape,
                       std::uint32_t actors, Device& device) {
  try {
    if (memory != nullptr) return memory->make_piece(device);
    auto begun = CacheMemory::create(shape, actors, device);
    if (!begun) return std::unexpected(std::move(begun.error()));
    memory = std::move(*begun);
    return {};
  } catch (const std::bad_alloc&) {
    return fail(Errc::no_memory, "the daemon had no memory for what it keeps about a cache");
  }
}

}  // namespace

void Coordinator::execute(const residency::CreateCache& action) {
  Making making;
  making.cache = action.cache;
  making.device = devices_[action.device.value].get();
  making.opening = caches_[action.cache.value].opening;
  making.actors = config_.limits.actors_per_cache;
  worker_of(action.cache).post(action.cache, [this, making = std::move(making)]() mutable {
    return make_cache(making);
  });
}

MemoryWorker::Step Coordinator::make_cache(Making& making) {
  if (!making.failure) {
    auto made = make_piece(making.memory, making.opening->shape, making.actors, *making.device);
    if (made) return hand_over(making);
    making.failure = std::move(made.error());
  }
  if (making.memory != nullptr && making.memory->free_piece(*making.device)) return Step::more;
  making.memory.reset();
  const std::lock_guard lock(mutex_);
  making.opening->failure = std::move(making.failure);
  caches_[making.cache.value] = {};
  residency::Actions actions;
  const auto told = manager_.cache_failed(making.cache, actions);
  SLUICE_ASSERT(told.has_value());
  execute(actions);
  cache_changed_();
  return Step::last;
}

MemoryWorker::Step Coordinator::hand_over(Making& making) {
  const std::lock_guard lock(mutex_);
  if (making.opening->abandoned) {
    making.failure = Error{Errc::busy, "nobody waits for this cache any more"};
    return Step::more;
  }
  if (!making.memory->whole()) return Step::more;
  Cache& cache = caches_[making.cache.value];
  making.memory->on_table_orders([id = making.cache,
                                  worker = std::weak_ptr(workers_[cache.device.value])](
                                     std::shared_ptr<CacheTable> table) {
    const auto alive = worker.lock();
    if (alive == nullptr) return;
    alive->post(id, [table = std::move(table)] { return table->work() ? Step::more : Step::last; });
  });
  cache.memory = share(making.cache, std::move(making.memory));
  cache.opening.reset();
  const auto told = manager_.cache_ready(making.cache);
  SLUICE_ASSERT(told.has_value());
  cache_changed_();
  return Step::last;
}

// ---- a cache is freed

struct Coordinator::Freeing {
  ipc::CacheId cache;
  Device* device = nullptr;
  std::unique_ptr<CacheMemory> memory;
  bool accounted = false;
};

std::shared_ptr<CacheMemory> Coordinator::share(ipc::CacheId id,
                                                std::unique_ptr<CacheMemory> memory) {
  const ipc::DeviceId number = caches_[id.value].device;
  return {memory.release(), [this, id, device = devices_[number.value].get(),
                             worker = std::weak_ptr(workers_[number.value])](CacheMemory* last) {
            Freeing freeing{id, device, std::unique_ptr<CacheMemory>(last), false};
            const auto alive = worker.lock();
            if (alive == nullptr) return;
            alive->post(
                id, [this, freeing = std::move(freeing)]() mutable { return free_cache(freeing); });
          }};
}

// Whoever looks at the memory at this moment keeps it; it is freed when all have let go of it.
void Coordinator::execute(const residency::DestroyCache& action) {
  std::erase_if(retiring_, [&](const auto& pending) { return pending.cache == action.cache; });
  Cache& cache = caches_[action.cache.value];
  counters_[cache.tenant.value].resolved_before += cache.memory->totals();
  cache.memory.reset();
}

MemoryWorker::Step Coordinator::free_cache(Freeing& freeing) {
  if (!std::exchange(freeing.accounted, true)) {
    const std::lock_guard lock(mutex_);
    account_forecasts(freeing.cache, *freeing.memory);
  }
  if (freeing.memory->free_piece(*freeing.device)) return Step::more;
  freeing.memory.reset();
  const std::lock_guard lock(mutex_);
  caches_[freeing.cache.value] = {};
  residency::Actions actions;
  const auto told = manager_.cache_destroyed(freeing.cache, actions);
  SLUICE_ASSERT(told.has_value());
  execute(actions);
  cache_changed_();
  return Step::last;
}

// ---- DRAM extents

void Coordinator::execute(const residency::GrantDram& action) {
  Cache& cache = caches_[action.cache.value];
  cache.granting.push_back(action.extent);
  if (cache.granting.size() > 1) return;  // its job goes on with this one
  worker_of(action.cache)
      .post(action.cache, [this, id = action.cache, memory = cache.memory,
                           device = devices_[cache.device.value].get()] {
        return grant_next(id, *memory, *device);
      });
}

MemoryWorker::Step Coordinator::grant_next(ipc::CacheId id, CacheMemory& memory, Device& device) {
  const std::uint32_t extent = [&] {
    const std::lock_guard lock(mutex_);
    return caches_[id.value].granting.front();
  }();
  auto granted = memory.grant_extent(device, extent);
  if (!granted) {
    log_warn(
        "the node has no memory for a DRAM extent",
        {{"bytes", memory.shape().sizes.frame_extent_bytes}, {"reason", granted.error().text}});
  }
  const std::lock_guard lock(mutex_);
  Cache& cache = caches_[id.value];
  if (granted) {
    cache.granting.pop_front();
    const auto told = manager_.extent_granted(id, extent);
    SLUICE_ASSERT(told.has_value());
    return cache.granting.empty() ? Step::last : Step::more;
  }
  // The others fail with it: a hole among the extents would be in the way of clients that map them.
  for (const std::uint32_t each : std::exchange(cache.granting, {})) {
    const auto told = manager_.extent_failed(id, each);
    SLUICE_ASSERT(told.has_value());
  }
  cache.grant_failure = GrantFailure{std::move(granted.error()), std::chrono::steady_clock::now()};
  return Step::last;
}

void Coordinator::execute(const residency::ReleaseExtent& action) {
  worker_of(action.cache)
      .post(action.cache, [this, id = action.cache, extent = action.extent,
                           memory = caches_[action.cache.value].memory] {
        return release_extent(id, extent, memory);
      });
}

MemoryWorker::Step Coordinator::release_extent(ipc::CacheId id, std::uint32_t extent,
                                               const std::shared_ptr<CacheMemory>& memory) {
  memory->release_extent(extent);
  const std::lock_guard lock(mutex_);
  if (caches_[id.value].memory != memory) return Step::last;  // the cache goes, with all it has
  residency::Actions actions;
  const auto told = manager_.extent_released(id, extent, actions);
  SLUICE_ASSERT(told.has_value());
  execute(actions);
  return Step::last;
}

}  // namespace sluice::daemon
