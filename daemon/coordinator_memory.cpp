// The actions that take time, as jobs of memory workers: arenas made and freed, DRAM extents
// granted and released. Each works without the coordinator's lock and takes it to tell the manager.
#include <atomic>
#include <new>
#include <utility>

#include "daemon/coordinator.h"
#include "daemon/logging.h"
#include "ipc/kill_point.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::Error;
using ipc::fail;

// ---- an arena is made

struct Coordinator::Making {
  ipc::CacheId cache;
  ipc::DeviceId device;
  std::shared_ptr<CacheOpening> opening;
  std::uint32_t actors = 0;
  std::shared_ptr<FrameMemory> frames;
  std::unique_ptr<CacheMemory> memory;
  std::optional<Error> failure;
  std::optional<KeptCache> whole_cache;  // of the first arena, to be kept with it
  int records = -1;
  bool kept = false;
};

void Coordinator::execute(const residency::CreateArena& action) {
  Cache& cache = caches_[action.cache.value];
  Making making;
  making.cache = action.cache;
  making.device = action.device;
  making.opening = cache.arenas.at(action.device).opening;
  making.actors = config_.limits.actors_per_cache;
  if (cache.frames.memory == nullptr) {
    auto frames = FrameMemory::create(making.opening->shape);
    if (frames) {
      cache.frames = share(action.cache, std::move(*frames));
    } else {
      making.failure = std::move(frames.error());
    }
  }
  making.frames = cache.frames.memory;
  if (kept_->active() && cache.arenas.size() == 1) keep_blocks(cache, making);
  workers_[action.device.value]->post(
      action.cache, [this, making = std::move(making)]() mutable { return make_arena(making); });
}

// The cache is to outlive the daemon: its blocks get records.
void Coordinator::keep_blocks(Cache& cache, Making& making) {
  auto records = RecordMemory::create(making.opening->shape.max_blocks);
  if (!records) {
    if (!making.failure) making.failure = std::move(records.error());
    return;
  }
  cache.records = std::move(*records);
  making.records = cache.records.fd();
  making.whole_cache.emplace();
  making.whole_cache->tenant = config_.tenants[cache.tenant.value].name;
  making.whole_cache->spec = spec_of(making.opening->request, making.device);
  making.whole_cache->shape = making.opening->shape;
}

// The descriptors of an arena that is whole, and of its cache if it is the first.
void Coordinator::keep(Making& making) {
  making.kept = true;
  kept_->keep_arena(making.cache, making.device, *making.memory);
  SLUICE_KILL_POINT("arena.kept");
  if (!making.whole_cache) return;
  kept_->keep_records(making.cache, making.records);
  kept_->keep_cache(making.cache, *making.whole_cache);
}

// The first call gives addresses, the others give memory.
ipc::Status Coordinator::make_piece(Making& making) {
  Device& device = *devices_[making.device.value];
  const residency::CacheShape& shape = making.opening->shape;
  try {
    if (making.memory != nullptr) return making.memory->make_piece(device);
    auto begun = CacheMemory::create(shape, making.actors, device, making.frames);
    if (!begun) return std::unexpected(std::move(begun.error()));
    making.memory = std::move(*begun);
    SLUICE_KILL_POINT("arena.begun");
    return {};
  } catch (const std::bad_alloc&) {
    return fail(Errc::no_memory, "the daemon had no memory for what it keeps about a cache");
  }
}

MemoryWorker::Step Coordinator::make_arena(Making& making) {
  if (!making.failure) {
    auto made = make_piece(making);
    if (made) {
      if (kept_->active() && !making.kept && making.memory->whole()) keep(making);
      return hand_over(making);
    }
    making.failure = std::move(made.error());
  }
  if (std::exchange(making.kept, false)) {
    making.whole_cache ? kept_->forget_cache(making.cache)
                       : kept_->forget_arena(making.cache, making.device);
  }
  Device& device = *devices_[making.device.value];
  if (making.memory != nullptr && making.memory->free_piece(device)) return Step::more;
  making.memory.reset();
  const std::lock_guard lock(mutex_);
  making.opening->failure = std::move(making.failure);
  Cache& cache = caches_[making.cache.value];
  cache.arenas.erase(making.device);
  if (cache.arenas.empty()) cache = {};
  residency::Actions actions;
  const auto told = manager_.arena_failed(making.cache, actions, making.device);
  SLUICE_ASSERT(told.has_value());
  execute(actions);
  cache_changed_();
  return Step::last;
}

void Coordinator::listen_to_orders(ipc::CacheId id, ipc::DeviceId device, CacheMemory& memory) {
  memory.on_table_orders([id, worker = std::weak_ptr(workers_[device.value])](
                             std::shared_ptr<CacheTable> table) {
    const auto alive = worker.lock();
    if (alive == nullptr) return;
    alive->post(id, [table = std::move(table)] { return table->work() ? Step::more : Step::last; });
  });
}

MemoryWorker::Step Coordinator::hand_over(Making& making) {
  const std::lock_guard lock(mutex_);
  if (making.opening->abandoned) {
    making.failure = Error{Errc::busy, "nobody waits for this cache any more"};
    return Step::more;
  }
  if (!making.memory->whole()) return Step::more;
  listen_to_orders(making.cache, making.device, *making.memory);
  Cache& cache = caches_[making.cache.value];
  cache.frames.kept->store(true);
  // What was sealed before is logged nowhere here. Any of the others knows all of it.
  for (const auto& [device, arena] : cache.arenas) {
    if (arena.memory == nullptr) continue;
    making.memory->begin_like(*arena.memory);
    break;
  }
  Arena& arena = cache.arenas.at(making.device);
  arena.memory = share(making.cache, making.device, std::move(making.memory));
  arena.opening.reset();
  if (making.whole_cache) {
    const auto kept = manager_.keep_records(making.cache, cache.records.records());
    SLUICE_ASSERT(kept.has_value());
  }
  const auto told = manager_.arena_ready(making.cache, making.device);
  SLUICE_ASSERT(told.has_value());
  SLUICE_KILL_POINT("arena.handed_over");
  cache_changed_();
  return Step::last;
}

// ---- arenas and caches are freed

struct Coordinator::Freeing {
  ipc::CacheId cache;
  ipc::DeviceId device;
  std::unique_ptr<CacheMemory> memory;
  bool accounted = false;
};

std::shared_ptr<CacheMemory> Coordinator::share(ipc::CacheId id, ipc::DeviceId device,
                                                std::unique_ptr<CacheMemory> memory) {
  const auto free = [this, id, device,
                     worker = std::weak_ptr(workers_[device.value])](CacheMemory* last) {
    Freeing freeing{id, device, std::unique_ptr<CacheMemory>(last), false};
    const auto alive = worker.lock();
    if (alive == nullptr) return;
    alive->post(id, [this, freeing = std::move(freeing)]() mutable { return free_arena(freeing); });
  };
  return {memory.release(), free};
}

Coordinator::SharedFrames Coordinator::share(ipc::CacheId id, std::unique_ptr<FrameMemory> frames) {
  auto kept = std::make_shared<std::atomic<bool>>(false);
  const auto free = [this, id, kept, worker = std::weak_ptr(node_worker_)](FrameMemory* last) {
    std::unique_ptr<FrameMemory> frames_now(last);
    const auto alive = worker.lock();
    if (alive == nullptr || !kept->load()) return;
    alive->post(
        id, [this, id, gone = std::move(frames_now)]() mutable { return free_frames(id, gone); });
  };
  return {std::shared_ptr<FrameMemory>(frames.release(), free), kept};
}

// Whoever looks at the memory at this moment keeps it; it is freed when all have let go of it.
void Coordinator::let_go(Cache& cache, Arena& arena) {
  counters_[cache.tenant.value].resolved_before += arena.memory->totals();
  arena.memory.reset();
  arena.executor.reset();
}

void Coordinator::execute(const residency::DestroyArena& action) {
  for (PendingRetire& pending : retiring_) {
    if (pending.cache == action.cache) pending.waits.erase(action.device);
  }
  kept_->disown_arena(action.cache, action.device);
  SLUICE_KILL_POINT("arena.disowned");
  Cache& cache = caches_[action.cache.value];
  let_go(cache, cache.arenas.at(action.device));
}

void Coordinator::execute(const residency::DestroyCache& action) {
  std::erase_if(retiring_, [&](const auto& pending) { return pending.cache == action.cache; });
  Cache& cache = caches_[action.cache.value];
  kept_->disown_cache(action.cache);
  SLUICE_KILL_POINT("cache.disowned");
  for (auto& [device, arena] : cache.arenas) let_go(cache, arena);
  cache.frames.memory.reset();
}

MemoryWorker::Step Coordinator::free_arena(Freeing& freeing) {
  if (!std::exchange(freeing.accounted, true)) {
    const std::lock_guard lock(mutex_);
    Arena& arena = caches_[freeing.cache.value].arenas.at(freeing.device);
    account_forecasts(freeing.cache, arena, *freeing.memory);
  }
  if (freeing.memory->free_piece(*devices_[freeing.device.value])) return Step::more;
  SLUICE_KILL_POINT("arena.freed");
  kept_->forget_arena(freeing.cache, freeing.device);
  SLUICE_KILL_POINT("arena.forgotten");
  {
    const std::lock_guard lock(mutex_);
    caches_[freeing.cache.value].arenas.erase(freeing.device);
    // Of a cache that goes, too: others need not wait for its frames, which may be many.
    residency::Actions actions;
    const auto told = manager_.arena_destroyed(freeing.cache, freeing.device, actions);
    SLUICE_ASSERT(told.has_value());
    execute(actions);
    cache_changed_();
  }
  // The last one of a cache lets go of its frames, and then the number may be another cache's.
  freeing.memory.reset();
  return Step::last;
}

MemoryWorker::Step Coordinator::free_frames(ipc::CacheId id, std::unique_ptr<FrameMemory>& frames) {
  // Which device does not matter: memory of the node is given back in the same way by all.
  if (frames->free_piece(*devices_[0])) return Step::more;
  frames.reset();
  SLUICE_KILL_POINT("cache.freed");
  kept_->forget_cache(id);
  SLUICE_KILL_POINT("cache.forgotten");
  const std::lock_guard lock(mutex_);
  caches_[id.value] = {};
  residency::Actions actions;
  const auto told = manager_.cache_destroyed(id, actions);
  SLUICE_ASSERT(told.has_value());
  execute(actions);
  cache_changed_();
  return Step::last;
}

// ---- DRAM extents

void Coordinator::execute(const residency::GrantDram& action) {
  Cache& cache = caches_[action.cache.value];
  cache.granting.push_back({action.extent, action.device});
  if (cache.granting.size() > 1) return;  // its job goes on with this one
  node_worker_->post(action.cache, [this, id = action.cache, frames = cache.frames.memory] {
    return grant_next(id, *frames);
  });
}

MemoryWorker::Step Coordinator::grant_next(ipc::CacheId id, FrameMemory& frames) {
  const Grant grant = [&] {
    const std::lock_guard lock(mutex_);
    return caches_[id.value].granting.front();
  }();
  SLUICE_KILL_POINT("extent.granting");
  auto granted = frames.grant(*devices_[grant.device.value], grant.extent, [&](int fd) {
    SLUICE_KILL_POINT("extent.granted");
    kept_->keep_frame_extent(id, grant.extent, fd);
    SLUICE_KILL_POINT("extent.kept");
  });
  if (!granted) {
    log_warn("the node has no memory for a DRAM extent",
             {{"bytes", frames.extent_bytes()}, {"reason", granted.error().text}});
  }
  const std::lock_guard lock(mutex_);
  Cache& cache = caches_[id.value];
  if (granted) {
    cache.granting.pop_front();
    const auto told = manager_.extent_granted(id, grant.extent);
    SLUICE_ASSERT(told.has_value());
    SLUICE_KILL_POINT("extent.told");
    return cache.granting.empty() ? Step::last : Step::more;
  }
  // The others fail with it: a hole among the extents would be in the way of clients that map them.
  for (const Grant& each : std::exchange(cache.granting, {})) {
    const auto told = manager_.extent_failed(id, each.extent);
    SLUICE_ASSERT(told.has_value());
  }
  cache.grant_failure = GrantFailure{std::move(granted.error()), std::chrono::steady_clock::now()};
  return Step::last;
}

void Coordinator::execute(const residency::ReleaseExtent& action) {
  node_worker_->post(action.cache, [this, id = action.cache, extent = action.extent,
                                    frames = caches_[action.cache.value].frames.memory] {
    return release_extent(id, extent, frames);
  });
}

MemoryWorker::Step Coordinator::release_extent(ipc::CacheId id, std::uint32_t extent,
                                               const std::shared_ptr<FrameMemory>& frames) {
  SLUICE_KILL_POINT("extent.releasing");
  frames->release(extent);
  SLUICE_KILL_POINT("extent.released");
  const std::lock_guard lock(mutex_);
  if (caches_[id.value].frames.memory != frames)
    return Step::last;  // the cache goes, with all it has
  residency::Actions actions;
  const auto told = manager_.extent_released(id, extent, actions);
  SLUICE_ASSERT(told.has_value());
  execute(actions);
  return Step::last;
}

}  // namespace sluice::daemon
