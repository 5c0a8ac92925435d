#include "daemon/coordinator.h"

#include <sys/random.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "daemon/device_executor.h"
#include "daemon/logging.h"
#include "ipc/kill_point.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::Error;
using ipc::fail;
using residency::Actions;
using residency::Growth;

namespace {

constexpr std::chrono::milliseconds kTickWhileWaiting{1};
constexpr std::chrono::milliseconds kTickIdle{250};
constexpr std::chrono::milliseconds kDeviceLookInterval{100};
// Turns of unfinished work in one tick, so that requests get their turns in between.
constexpr int kTurnsPerTick = 4;
// How long the news that the node could not make an extent waits for somebody whom it concerns.
// Clients ask again within milliseconds.
constexpr std::chrono::seconds kGrantFailureKept{1};

residency::Quota quota_of(const QuotaConfig& config) {
  return {config.guaranteed_bytes, config.limit_bytes, config.weight};
}

ipc::Result<std::array<std::uint64_t, 2>> random_seed() {
  std::array<std::uint64_t, 2> seed{};
  if (getrandom(seed.data(), sizeof(seed), 0) != static_cast<ssize_t>(sizeof(seed))) {
    return ipc::fail_errno("getrandom for the directory's seed");
  }
  return seed;
}

constexpr std::int32_t kNoDevice = 0;  // DLPack's numbers, and what libsluice says for "none"
constexpr std::int32_t kCudaDevice = 2;

std::string name_of(const device_worker::DeviceFacts& gpu) {
  return gpu.name + " (" + device_worker::to_string(gpu.uuid) + ")";
}

// "A (GPU-...), B (GPU-...)", each GPU once.
std::string names_of(const Devices& devices) {
  std::string names;
  for (const auto& device : devices) {
    const std::string name = name_of(*device->gpu());
    if (names.find(name) != names.npos) continue;
    names += (names.empty() ? "" : ", ") + name;
  }
  return names;
}

bool is_asked_for(const OpenCacheRequest& request, const device_worker::DeviceFacts& gpu) {
  return request.device_uuid.size() == gpu.uuid.size() &&
         std::equal(gpu.uuid.begin(), gpu.uuid.end(),
                    reinterpret_cast<const std::uint8_t*>(request.device_uuid.data()));
}

// The device that the client asks for, of those that this daemon has.
ipc::Result<ipc::DeviceId> find_device(const OpenCacheRequest& request, const Devices& devices) {
  if (devices[0]->gpu() == nullptr) {
    if (request.device_type == kNoDevice) return ipc::DeviceId{0};
    return fail(Errc::not_supported,
                "this daemon runs the host backend; device must be none (device_type 0), or the "
                "daemon must be configured with backend.kind = \"cuda\"");
  }
  if (request.device_type != kCudaDevice) {
    return fail(Errc::not_supported,
                "device_type " + std::to_string(request.device_type) +
                    "; this daemon's arenas are on " + names_of(devices) +
                    ": open the cache with device_type 2 (CUDA) and that device's number");
  }
  std::uint32_t served = 0;
  for (std::uint32_t i = 0; i < devices.size(); ++i) {
    if (!is_asked_for(request, *devices[i]->gpu())) continue;
    if (served++ == request.device_index) return ipc::DeviceId{i};
  }
  if (served == 0) {
    return fail(Errc::not_supported,
                "the cache was asked for on another GPU; this daemon's arenas are on " +
                    names_of(devices) +
                    ": open it on one of these, or add the GPU to backend.devices");
  }
  return fail(Errc::not_supported,
              "device_index " + std::to_string(request.device_index) + "; this GPU serves as " +
                  std::to_string(served) +
                  " devices (backend.devices names it so often): give an index below that");
}

ipc::Status check_request(const OpenCacheRequest& request) {
  if (request.kind > static_cast<std::uint8_t>(ipc::wire::CacheKind::opaque_bytes)) {
    return fail(Errc::invalid_argument, "unknown kind of cache " + std::to_string(request.kind));
  }
  if (static_cast<residency::CacheKind>(request.kind) != residency::CacheKind::attention) {
    return fail(Errc::not_supported, "only caches of kind attention are built yet");
  }
  return {};
}

}  // namespace

residency::CacheSpec spec_of(const OpenCacheRequest& request, ipc::DeviceId device) {
  residency::CacheSpec spec;
  spec.device = device;
  spec.model = request.model;
  spec.salt = request.salt;
  spec.kind = static_cast<residency::CacheKind>(request.kind);
  spec.shard_index = request.shard_index;
  spec.shard_count = request.shard_count;
  spec.layout = request.layout;
  spec.hbm_bytes = request.hbm_bytes;
  return spec;
}

ipc::Result<std::unique_ptr<Coordinator>> Coordinator::create(const Config& config, Devices devices,
                                                              std::unique_ptr<NvmeTier> nvme,
                                                              std::unique_ptr<KeptState> kept) {
  SLUICE_ASSERT(!devices.empty());
  residency::ManagerConfig wanted;
  wanted.hbm = {config.hbm.capacity_bytes, config.hbm.extent_bytes};
  for (const auto& device : devices) {
    wanted.hbm.granularity_bytes =
        std::max(wanted.hbm.granularity_bytes, device->hbm_granularity());
  }
  wanted.hbm_devices = static_cast<std::uint32_t>(devices.size());
  wanted.dram = {config.dram.capacity_bytes, config.dram.extent_bytes};
  wanted.dram.extents_stay = devices[0]->users_pin_dram();
  if (nvme != nullptr) wanted.nvme_bytes = config.nvme.capacity_bytes();
  for (const TenantConfig& tenant : config.tenants) {
    wanted.tenants.push_back({tenant.name, quota_of(tenant.hbm), quota_of(tenant.dram)});
  }
  wanted.max_sessions = config.daemon.max_sessions;
  wanted.reserved_sessions = config.daemon.reserved_sessions;
  wanted.max_caches = config.limits.caches;
  wanted.max_sequences_per_session = config.limits.sequences_per_session;
  auto seed = random_seed();
  if (!seed) return std::unexpected(std::move(seed.error()));
  wanted.hash_seed = *seed;
  auto manager = residency::Manager::create(wanted);
  if (!manager) return std::unexpected(std::move(manager.error()));
  if (kept == nullptr) kept = std::make_unique<KeptState>(nullptr, std::string());
  return std::unique_ptr<Coordinator>(new Coordinator(config, std::move(devices), std::move(nvme),
                                                      std::move(kept), std::move(*manager)));
}

Coordinator::Coordinator(const Config& config, Devices devices, std::unique_ptr<NvmeTier> nvme,
                         std::unique_ptr<KeptState> kept, residency::Manager manager)
    : config_(config),
      kept_(std::move(kept)),
      devices_(std::move(devices)),
      manager_(std::move(manager)),
      counters_(config.tenants.size()),
      nvme_(std::move(nvme)) {
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    workers_.push_back(std::make_shared<MemoryWorker>());
  }
  for (std::size_t i = 0; i < config.tenants.size(); ++i) {
    reclaim_.push_back(std::make_unique<Histogram>());
    resolve_.push_back(std::make_unique<Histogram>());
  }
  if (nvme_ != nullptr) {
    mover_ = std::jthread([this](const std::stop_token& stop) { run_mover(stop); });
  }
}

// The store answers what is under way before it goes; nobody is told of it any more.
Coordinator::~Coordinator() {
  for (const auto& device : devices_) device->stop_executors();
  if (mover_.joinable()) {
    mover_.request_stop();
    call_mover();
    mover_.join();
  }
  nvme_.reset();
  answers_.clear();
  for (const auto& worker : workers_) worker->stop();
  node_worker_->stop();
}

// ---- actions

void Coordinator::execute(Actions& actions) {
  for (auto& action : actions) {
    std::visit([this](auto& one) { execute(one); }, action);
  }
  actions.clear();
}

void Coordinator::execute(const residency::SetFrame& action) {
  for_each_arena(caches_[action.cache.value], [&](ipc::DeviceId, CacheMemory& memory) {
    memory.set_frame(action.id, action.frame);
  });
}

void Coordinator::execute(residency::Retire& action) {
  PendingRetire pending{action.cache, action.batch, false, {}};
  for_each_arena(caches_[action.cache.value], [&](ipc::DeviceId device, CacheMemory& memory) {
    pending.waits.emplace(device, memory.retire(action.ids));
  });
  SLUICE_KILL_POINT("retire.ordered");
  retiring_.push_back(std::move(pending));
}

void Coordinator::execute(const residency::DropPins& action) {
  for_each_arena(caches_[action.cache.value], [&](ipc::DeviceId, CacheMemory& memory) {
    memory.drop_pins(action.ids, action.sealed);
  });
}

void Coordinator::execute(const residency::ActorsIdle& action) {
  for (Cache& cache : caches_) {
    for_each_arena(
        cache, [&](ipc::DeviceId, CacheMemory& memory) { memory.close_actors_of(action.session); });
  }
}

void Coordinator::end_grace(const PendingRetire& done, Actions& actions) {
  if (done.withdrawal) {
    SLUICE_KILL_POINT("store.withdraw.grace_over");
    const auto told = manager_.withdrawn(done.cache, done.batch, actions);
    SLUICE_ASSERT(told.has_value());
    SLUICE_KILL_POINT("store.withdraw.ended");
  } else {
    SLUICE_KILL_POINT("retire.grace_over");
    const auto told = manager_.retired(done.cache, done.batch, actions);
    SLUICE_ASSERT(told.has_value());
    SLUICE_KILL_POINT("retire.ended");
  }
  execute(actions);
}

bool Coordinator::settle() {
  bool some = false;
  Actions actions;
  for (std::size_t i = 0; i < retiring_.size();) {
    PendingRetire& pending = retiring_[i];
    Cache& cache = caches_[pending.cache.value];
    for (auto wait = pending.waits.begin(); wait != pending.waits.end();) {
      CacheMemory& memory = *cache.arenas.at(wait->first).memory;
      wait = memory.try_finish(wait->second) ? pending.waits.erase(wait) : std::next(wait);
    }
    if (!pending.waits.empty()) {
      ++i;
      continue;
    }
    const PendingRetire done = std::move(pending);
    retiring_.erase(retiring_.begin() + static_cast<std::ptrdiff_t>(i));
    end_grace(done, actions);
    some = true;
    i = 0;  // execute may have changed the list
  }
  return some;
}

void Coordinator::account_forecasts() {
  for (std::uint32_t i = 0; i < caches_.size(); ++i) {
    for (auto& [device, arena] : caches_[i].arenas) {
      if (arena.memory != nullptr) account_forecasts(ipc::CacheId{i}, arena, *arena.memory);
    }
  }
}

void Coordinator::account_forecasts(ipc::CacheId id, Arena& arena, const CacheMemory& memory) {
  const ResolveTotals totals = memory.totals();
  const auto tell = [&](residency::ForecastEvent event, std::uint64_t& told, std::uint64_t now) {
    if (now <= told) return;
    (void)manager_.forecast(id, event, now - told);
    told = now;
  };
  tell(residency::ForecastEvent::issued, arena.forecast_issued, totals.forecast_issued);
  tell(residency::ForecastEvent::used, arena.forecast_used, totals.forecast_used);
  tell(residency::ForecastEvent::wasted, arena.forecast_wasted, memory.forecast_wasted());
}

void Coordinator::look_after_devices() {
  const auto now = std::chrono::steady_clock::now();
  if (now - looked_after_ < kDeviceLookInterval) return;
  looked_after_ = now;
  for (const auto& device : devices_) device->look_after();
  for (Cache& cache : caches_) {
    for_each_arena(cache,
                   [&](ipc::DeviceId, CacheMemory& memory) { memory.retry_table_orders(now); });
  }
}

std::chrono::milliseconds Coordinator::tick() {
  const std::lock_guard lock(mutex_);
  look_after_devices();
  settle();
  Actions actions;
  for (int i = 0; i < kTurnsPerTick && manager_.pending_work(); ++i) {
    manager_.turn(actions);
    execute(actions);
  }
  if (retiring_.empty() && !manager_.pending_work()) {
    account_forecasts();
    const auto now = std::chrono::steady_clock::now();
    for (const Reclaim& reclaim : reclaims_) {
      const double seconds = std::chrono::duration<double>(now - reclaim.death).count();
      reclaim_[reclaim.tenant.value]->observe(seconds);
      counters_[reclaim.tenant.value].last_reclaim_seconds = seconds;
    }
    reclaims_.clear();
    return kTickIdle;
  }
  return kTickWhileWaiting;
}

// ---- sessions and caches

ipc::Result<ipc::SessionId> Coordinator::open_session(ipc::TenantId tenant) {
  const std::lock_guard lock(mutex_);
  return manager_.open_session(tenant);
}

void Coordinator::end_session(const std::shared_ptr<Session>& session, bool died,
                              std::chrono::steady_clock::time_point death) {
  kept_->forget_session(session->id);
  const std::lock_guard lock(mutex_);
  end_session_locked(session->id);
  session->drop_caches();
  settle();
  if (died) {
    ++counters_[session->tenant.value].session_deaths;
    reclaims_.push_back({session->tenant, death});
  }
}

void Coordinator::end_session_locked(ipc::SessionId id) {
  Actions actions;
  const auto told = manager_.session_dead(id, actions);
  SLUICE_ASSERT(told.has_value());
  execute(actions);
}

void Coordinator::count_violation(ipc::TenantId tenant, Violation kind) {
  const std::lock_guard lock(mutex_);
  ++counters_[tenant.value].violations[static_cast<std::size_t>(kind)];
}

ipc::Result<std::optional<OpenedCache>> Coordinator::open_cache(
    Session& session, const std::shared_ptr<CacheOpening>& opening) {
  const OpenCacheRequest& request = opening->request;
  const auto device = find_device(request, devices_);
  if (!device) return std::unexpected(device.error());
  for (const auto& ok : {check_request(request), check_executor(session, request)}) {
    if (!ok) return std::unexpected(ok.error());
  }
  if (auto ok = session.check_room(); !ok) return std::unexpected(std::move(ok.error()));
  const std::lock_guard lock(mutex_);
  if (opening->failure) return std::unexpected(*opening->failure);
  if (opening->making) {
    const ipc::CacheId made = *opening->making;
    if (caches_[made.value].arenas.at(*device).memory == nullptr) return std::nullopt;
    return give_cache(session, request, made, *device, true);
  }
  Actions actions;
  auto opened = manager_.open_cache(session.id, spec_of(request, *device), actions);
  if (opened && opened->created) {
    opening->making = opened->cache;
    opening->device = *device;
    opening->shape = opened->shape;
    opening->waits_for = "its memory is still being made";
    if (caches_.size() <= opened->cache.value) caches_.resize(opened->cache.value + 1);
    Cache& cache = caches_[opened->cache.value];
    cache.tenant = session.tenant;
    cache.shape = opened->shape;
    if (nvme_ != nullptr && !cache.scope) {
      const auto scope = nvme_->store().intern(
          scope_of(config_.tenants[session.tenant.value].name, spec_of(request, *device)));
      if (scope) cache.scope = *scope;
      if (!scope) {
        log_warn("a cache is served without the block store",
                 {{"cache", opened->cache.value}, {"reason", scope.error().text}});
      }
    }
    cache.arenas[*device].opening = opening;
  }
  execute(actions);
  if (opened) {
    if (opened->created) return std::nullopt;
    return give_cache(session, request, opened->cache, *device, false);
  }
  if (opened.error().code != Errc::busy) return std::unexpected(std::move(opened.error()));
  opening->waits_for = std::move(opened.error().text);
  return std::nullopt;
}

ipc::Result<OpenedCache> Coordinator::give_cache(Session& session, const OpenCacheRequest& request,
                                                 ipc::CacheId cache, ipc::DeviceId device,
                                                 bool created) {
  Arena& arena = caches_[cache.value].arenas.at(device);
  std::shared_ptr<CacheMemory> memory = arena.memory;
  auto on_device = executor_for(session, request, device, arena);
  if (on_device) {
    auto handle =
        session.add_cache({cache, memory, request.executor, device, std::move(*on_device)});
    if (handle) return OpenedCache{*handle, created, std::move(memory)};
    on_device = std::unexpected(std::move(handle.error()));
  }
  Actions actions;
  const auto closed = manager_.close_cache(session.id, cache, actions, device);
  SLUICE_ASSERT(closed.has_value());
  execute(actions);
  return std::unexpected(std::move(on_device.error()));
}

// On GPUs it resolves in a process that shares the fate of the tenant's own.
ipc::Status Coordinator::check_executor(const Session& session,
                                        const OpenCacheRequest& request) const {
  const TenantConfig& tenant = config_.tenants[session.tenant.value];
  if (request.executor != ipc::wire::Executor::daemon || serves_daemon_executor(session.tenant)) {
    return {};
  }
  return fail(
      Errc::not_supported,
      "executor daemon on a GPU is for tenants whose processes run under one MPS server and "
      "trust one another: open the cache with executor direct, which resolves in the stream "
      "of the process itself, or set mps_pipe_directory of tenant \"" +
          tenant.name + "\"");
}

// Null where lanes resolve, or nobody of the daemon does.
ipc::Result<std::shared_ptr<ExecutorArena>> Coordinator::executor_for(
    const Session& session, const OpenCacheRequest& request, ipc::DeviceId device, Arena& arena) {
  if (request.executor != ipc::wire::Executor::daemon) return nullptr;
  if (auto shared = arena.executor.lock()) return shared;
  auto executor = devices_[device.value]->executor(
      session.tenant, config_.tenants[session.tenant.value].mps_pipe_directory);
  if (executor == nullptr) return nullptr;
  auto made = ExecutorArena::make(std::move(executor), arena.memory);
  if (made) arena.executor = *made;
  return made;
}

void Coordinator::seal_pins(CacheMemory& cache, const std::vector<ipc::BlockId>& ids) {
  const std::lock_guard lock(mutex_);
  cache.drop_pins(ids, true);
}

void Coordinator::abandon_open(Session& session, CacheOpening& opening) {
  const std::lock_guard lock(mutex_);
  if (!opening.making || opening.failure) return;
  opening.abandoned = true;
  Actions actions;
  const auto closed = manager_.close_cache(session.id, *opening.making, actions, opening.device);
  SLUICE_ASSERT(closed.has_value());
  // It may be ready since a moment ago. If nobody else has the cache, it goes; one that was there
  // before, with an arena elsewhere, stays.
  const auto& arenas = caches_[opening.making->value].arenas;
  if (arenas.size() == 1 && arenas.at(opening.device).memory != nullptr) {
    residency::EvictRequest only_this;
    only_this.cache = opening.making->value;
    only_this.bytes = 0;
    only_this.drop_idle_caches = true;
    (void)manager_.evict(only_this, actions);
  }
  execute(actions);
}

void Coordinator::on_cache_change(std::function<void()> listener) {
  const std::lock_guard lock(mutex_);
  cache_changed_ = std::move(listener);
}

ipc::Result<ipc::CacheId> Coordinator::close_cache(Session& session, ipc::Handle handle) {
  const std::lock_guard lock(mutex_);
  auto cache = session.cache(handle);
  if (!cache) return std::unexpected(std::move(cache.error()));
  if (cache->memory->actors_of(session.id) > 0) {
    return fail(Errc::wrong_state, "the session has actors in this cache; close them first");
  }
  Actions actions;
  auto closed = manager_.close_cache(session.id, cache->id, actions, cache->device);
  execute(actions);
  if (!closed) return std::unexpected(std::move(closed.error()));
  (void)session.remove_cache(handle);
  return cache->id;
}

ipc::Result<std::uint32_t> Coordinator::open_actor(Session& session, ipc::Handle handle) {
  const std::lock_guard lock(mutex_);
  auto cache = session.cache(handle);
  if (!cache) return std::unexpected(std::move(cache.error()));
  return cache->memory->open_actor(session.id, cache->executor);
}

ipc::Status Coordinator::close_actor(Session& session, ipc::Handle handle, std::uint32_t actor) {
  const std::lock_guard lock(mutex_);
  auto cache = session.cache(handle);
  if (!cache) return std::unexpected(std::move(cache.error()));
  return cache->memory->close_actor(session.id, actor);
}

// ---- sequences

// Memory that was given up returns when its grace period is over; often it is already, and only
// nobody has looked.
template <class Attempt>
auto Coordinator::with_memory(ipc::CacheId cache, Attempt&& attempt) {
  std::optional<GrantFailure>& failure = caches_[cache.value].grant_failure;
  if (failure && std::chrono::steady_clock::now() - failure->at > kGrantFailureKept) {
    failure.reset();
  }
  const Growth growth = failure ? Growth::refused : Growth::allowed;
  Actions actions;
  auto reply = attempt(growth, actions);
  execute(actions);
  if (!reply && reply.error().code == Errc::busy) {
    if (manager_.pending_work()) manager_.turn(actions);
    execute(actions);
    if (settle()) {
      reply = attempt(growth, actions);
      execute(actions);
    }
  }
  if (reply && reply->needs_extents) {
    reply = fail(Errc::busy, "extents for this cache are being made; try again");
  } else if (!reply && reply.error().code == Errc::no_memory && failure) {
    reply.error().text += " (" + failure->reason.text + ")";
    failure.reset();
  }
  return reply;
}

ipc::Result<Coordinator::Opened> Coordinator::open_sequence(
    ipc::SessionId session, ipc::CacheId cache, const residency::KeyView& keys,
    std::vector<residency::BlockRef>& blocks, ipc::DeviceId device) {
  const std::lock_guard lock(mutex_);
  auto opened = manager_.open_sequence(session, cache, keys, device);
  if (!opened) return std::unexpected(std::move(opened.error()));
  blocks.assign(opened->matched.begin(), opened->matched.end());
  return Opened{opened->sequence, static_cast<std::uint32_t>(blocks.size())};
}

ipc::Result<Coordinator::Opened> Coordinator::append_known(
    ipc::SessionId session, ipc::Handle sequence, const residency::KeyView& keys,
    std::vector<residency::BlockRef>& blocks) {
  const std::lock_guard lock(mutex_);
  auto opened = manager_.append_known(session, sequence, keys);
  if (!opened) return std::unexpected(std::move(opened.error()));
  blocks.assign(opened->matched.begin(), opened->matched.end());
  return Opened{opened->sequence, static_cast<std::uint32_t>(blocks.size())};
}

ipc::Result<std::uint32_t> Coordinator::extend(ipc::SessionId session, ipc::CacheId cache,
                                               ipc::Handle sequence, std::uint32_t count,
                                               std::vector<residency::BlockRef>& blocks) {
  const std::lock_guard lock(mutex_);
  auto extended = with_memory(cache, [&](Growth growth, Actions& actions) {
    auto reply = manager_.extend(session, sequence, count, growth, actions);
    if (reply) blocks.assign(reply->blocks.begin(), reply->blocks.end());
    return reply;
  });
  if (!extended) return std::unexpected(std::move(extended.error()));
  return extended->first_index;
}

ipc::Result<residency::Sealed> Coordinator::seal(ipc::SessionId session, ipc::Handle sequence,
                                                 std::uint32_t index,
                                                 std::span<const std::byte> key,
                                                 std::uint64_t valid_bytes) {
  const std::lock_guard lock(mutex_);
  Actions actions;
  auto sealed = manager_.seal(session, sequence, index, key, valid_bytes, actions);
  SLUICE_KILL_POINT("seal.recorded");
  execute(actions);
  SLUICE_KILL_POINT("seal.published");
  return sealed;
}

ipc::Result<ipc::Handle> Coordinator::fork(ipc::SessionId session, ipc::CacheId cache,
                                           ipc::Handle parent,
                                           std::vector<residency::ForkedBlock>& copies) {
  copies.clear();
  const auto turn = [&](auto&& part) {
    const std::lock_guard lock(mutex_);
    return with_memory(cache, [&](Growth growth, Actions& actions) {
      auto reply = part(growth, actions);
      // The spans of a reply last until the next call.
      if (reply) copies.insert(copies.end(), reply->copies.begin(), reply->copies.end());
      return reply;
    });
  };
  auto forked = turn([&](Growth growth, Actions& actions) {
    return manager_.fork(session, parent, growth, actions);
  });
  if (!forked) return std::unexpected(std::move(forked.error()));
  const ipc::Handle child = forked->sequence;
  while (!forked->complete) {
    forked = turn([&](Growth growth, Actions& actions) {
      return manager_.fork_more(session, parent, child, growth, actions);
    });
    if (!forked) {
      (void)release(session, child);
      return std::unexpected(std::move(forked.error()));
    }
  }
  return child;
}

ipc::Status Coordinator::truncate(ipc::SessionId session, ipc::Handle sequence,
                                  std::uint32_t blocks) {
  const std::lock_guard lock(mutex_);
  Actions actions;
  auto done = manager_.truncate(session, sequence, blocks, actions);
  execute(actions);
  return done;
}

ipc::Status Coordinator::release(ipc::SessionId session, ipc::Handle sequence) {
  const std::lock_guard lock(mutex_);
  Actions actions;
  auto done = manager_.release(session, sequence, actions);
  execute(actions);
  return done;
}

ipc::Result<std::uint32_t> Coordinator::open_lane_actor(ipc::SessionId session,
                                                        CacheMemory& cache) {
  const std::lock_guard lock(mutex_);
  return cache.open_actor(session, ipc::wire::Executor::daemon, true);
}

void Coordinator::forecast(ipc::CacheId cache, residency::ForecastEvent event,
                           std::uint64_t pages) {
  const std::lock_guard lock(mutex_);
  (void)manager_.forecast(cache, event, pages);
}

// ---- operators

std::vector<std::pair<ipc::SessionId, SessionEnd>> Coordinator::overdue_steps(
    std::chrono::steady_clock::time_point now) {
  const std::lock_guard lock(mutex_);
  const Error late{Errc::limit_reached,
                   "an actor stayed in one step for longer than limits.step_deadline (" +
                       std::to_string(config_.limits.step_deadline.count()) +
                       " ms); end a step when its stream has passed it"};
  std::vector<std::pair<ipc::SessionId, SessionEnd>> overdue;
  for (Cache& cache : caches_) {
    for_each_arena(cache, [&](ipc::DeviceId, CacheMemory& memory) {
      for (const ipc::SessionId session :
           memory.overdue_actors(now, config_.limits.step_deadline)) {
        overdue.emplace_back(session, SessionEnd{late, Violation::step_deadline});
      }
    });
  }
  return overdue;
}

ipc::Result<residency::EvictOrdered> Coordinator::evict(const residency::EvictRequest& request) {
  const std::lock_guard lock(mutex_);
  Actions actions;
  auto ordered = manager_.evict(request, actions);
  execute(actions);
  return ordered;
}

ipc::Status Coordinator::set_quota(ipc::TenantId tenant, ipc::Tier tier,
                                   const residency::Quota& quota) {
  const std::lock_guard lock(mutex_);
  Actions actions;
  auto done = manager_.set_quota(tenant, tier, quota, actions);
  execute(actions);
  return done;
}

std::shared_ptr<CacheMemory> Coordinator::cache_memory(ipc::CacheId cache,
                                                       ipc::DeviceId device) const {
  const std::lock_guard lock(mutex_);
  if (cache.value >= caches_.size()) return nullptr;
  const auto& found = caches_[cache.value].arenas;
  const auto arena = found.find(device);
  return arena == found.end() ? nullptr : arena->second.memory;
}

std::vector<std::shared_ptr<CacheMemory>> Coordinator::arenas(ipc::CacheId cache) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<CacheMemory>> all;
  if (cache.value >= caches_.size()) return all;
  for (const auto& [device, arena] : caches_[cache.value].arenas) {
    if (arena.memory != nullptr) all.push_back(arena.memory);
  }
  return all;
}

std::vector<Coordinator::TenantCounters> Coordinator::tenant_counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

std::vector<ResolveTotals> Coordinator::resolve_totals() const {
  std::vector<ResolveTotals> totals;
  std::vector<std::pair<ipc::TenantId, std::shared_ptr<CacheMemory>>> open;
  {
    const std::lock_guard lock(mutex_);
    for (const TenantCounters& tenant : counters_) totals.push_back(tenant.resolved_before);
    for (const Cache& cache : caches_) {
      for (const auto& [device, arena] : cache.arenas) {
        if (arena.memory != nullptr) open.emplace_back(cache.tenant, arena.memory);
      }
    }
  }
  // Reading the counters of every actor takes time, and lanes need the lock.
  for (const auto& [tenant, memory] : open) totals[tenant.value] += memory->totals();
  return totals;
}

}  // namespace sluice::daemon
