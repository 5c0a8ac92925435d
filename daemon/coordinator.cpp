#include "daemon/coordinator.h"

#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "daemon/logging.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::Error;
using ipc::fail;
using residency::Actions;
using residency::Growth;

namespace {

constexpr std::chrono::milliseconds kTickWhileWaiting{1};
constexpr std::chrono::milliseconds kTickIdle{250};
// Turns of unfinished work in one tick, so that requests get their turns in between.
constexpr int kTurnsPerTick = 4;

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

}  // namespace

ipc::Result<std::unique_ptr<Coordinator>> Coordinator::create(const Config& config,
                                                              std::unique_ptr<Device> device) {
  residency::ManagerConfig wanted;
  wanted.hbm = {config.hbm.capacity_bytes, config.hbm.extent_bytes};
  wanted.dram = {config.dram.capacity_bytes, config.dram.extent_bytes};
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
  return std::unique_ptr<Coordinator>(
      new Coordinator(config, std::move(device), std::move(*manager)));
}

Coordinator::Coordinator(const Config& config, std::unique_ptr<Device> device,
                         residency::Manager manager)
    : config_(config),
      device_(std::move(device)),
      manager_(std::move(manager)),
      counters_(config.tenants.size()) {
  for (std::size_t i = 0; i < config.tenants.size(); ++i) {
    reclaim_.push_back(std::make_unique<Histogram>());
    resolve_.push_back(std::make_unique<Histogram>());
  }
}

Coordinator::~Coordinator() = default;

// ---- actions

CacheMemory& Coordinator::memory_of(ipc::CacheId cache) {
  SLUICE_ASSERT(cache.value < caches_.size() && caches_[cache.value].memory != nullptr);
  return *caches_[cache.value].memory;
}

void Coordinator::execute(Actions& actions) {
  // Answers to actions may order more.
  while (!actions.empty()) {
    for (auto& action : actions) {
      std::visit([this](auto& one) { execute(one); }, action);
    }
    actions.clear();
    actions.swap(follow_up_);
  }
}

void Coordinator::execute(const residency::CreateCache& action) {
  SLUICE_ASSERT(creating_.has_value());
  auto memory = CacheMemory::create(*device_, *creating_, config_.limits.actors_per_cache);
  if (!memory) {
    create_failure_ = std::move(memory.error());
    const auto told = manager_.cache_failed(action.cache, follow_up_);
    SLUICE_ASSERT(told.has_value());
    return;
  }
  if (caches_.size() <= action.cache.value) caches_.resize(action.cache.value + 1);
  caches_[action.cache.value].memory = std::move(*memory);
  const auto told = manager_.cache_ready(action.cache);
  SLUICE_ASSERT(told.has_value());
}

void Coordinator::execute(const residency::GrantDram& action) {
  // After a failure the rest of a batch fails too: clients map extents in order, without holes.
  ipc::Status told;
  if (grant_failure_) {
    told = manager_.extent_failed(action.cache, action.extent);
    SLUICE_ASSERT(told.has_value());
    return;
  }
  auto granted = memory_of(action.cache).grant_extent(*device_, action.extent);
  if (granted) {
    told = manager_.extent_granted(action.cache, action.extent);
  } else {
    grant_failure_ = std::move(granted.error());
    log_warn("the node has no memory for a DRAM extent",
             {{"bytes", action.bytes}, {"reason", grant_failure_->text}});
    told = manager_.extent_failed(action.cache, action.extent);
  }
  SLUICE_ASSERT(told.has_value());
}

void Coordinator::execute(const residency::ReleaseExtent& action) {
  memory_of(action.cache).release_extent(action.extent);
  const auto told = manager_.extent_released(action.cache, action.extent, follow_up_);
  SLUICE_ASSERT(told.has_value());
}

void Coordinator::execute(const residency::SetFrame& action) {
  memory_of(action.cache).set_frame(action.id, action.frame);
}

void Coordinator::execute(residency::Retire& action) {
  retiring_.push_back(
      {action.cache, action.batch, memory_of(action.cache).retire(std::move(action.ids))});
}

void Coordinator::execute(const residency::DropPins& action) {
  memory_of(action.cache).drop_pins(action.ids, action.sealed);
}

void Coordinator::execute(const residency::ActorsIdle& action) {
  for (const Cache& cache : caches_) {
    if (cache.memory != nullptr) cache.memory->close_actors_of(action.session);
  }
}

void Coordinator::execute(const residency::DestroyCache& action) {
  std::erase_if(retiring_, [&](const auto& pending) { return pending.cache == action.cache; });
  account_forecasts(action.cache);
  Cache& cache = caches_[action.cache.value];
  counters_[cache.tenant.value].resolved_before += cache.memory->totals();
  cache = {};
  const auto told = manager_.cache_destroyed(action.cache, follow_up_);
  SLUICE_ASSERT(told.has_value());
}

bool Coordinator::settle() {
  bool some = false;
  Actions actions;
  for (std::size_t i = 0; i < retiring_.size();) {
    PendingRetire& pending = retiring_[i];
    if (!memory_of(pending.cache).try_finish(pending.wait)) {
      ++i;
      continue;
    }
    const PendingRetire done = std::move(pending);
    retiring_.erase(retiring_.begin() + static_cast<std::ptrdiff_t>(i));
    const auto told = manager_.retired(done.cache, done.batch, actions);
    SLUICE_ASSERT(told.has_value());
    execute(actions);
    some = true;
    i = 0;  // execute may have changed the list
  }
  return some;
}

void Coordinator::account_forecasts(ipc::CacheId id) {
  Cache& cache = caches_[id.value];
  const ResolveTotals totals = cache.memory->totals();
  const auto tell = [&](residency::ForecastEvent event, std::uint64_t& told, std::uint64_t now) {
    if (now <= told) return;
    (void)manager_.forecast(id, event, now - told);
    told = now;
  };
  tell(residency::ForecastEvent::issued, cache.forecast_issued, totals.forecast_issued);
  tell(residency::ForecastEvent::used, cache.forecast_used, totals.forecast_used);
  tell(residency::ForecastEvent::wasted, cache.forecast_wasted, cache.memory->forecast_wasted());
}

std::chrono::milliseconds Coordinator::tick() {
  const std::lock_guard lock(mutex_);
  settle();
  Actions actions;
  for (int i = 0; i < kTurnsPerTick && manager_.pending_work(); ++i) {
    manager_.turn(actions);
    execute(actions);
  }
  if (retiring_.empty() && !manager_.pending_work()) {
    for (std::uint32_t i = 0; i < caches_.size(); ++i) {
      if (caches_[i].memory != nullptr) account_forecasts(ipc::CacheId{i});
    }
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
  const std::lock_guard lock(mutex_);
  Actions actions;
  const auto told = manager_.session_dead(session->id, actions);
  SLUICE_ASSERT(told.has_value());
  execute(actions);
  settle();
  if (died) {
    ++counters_[session->tenant.value].session_deaths;
    reclaims_.push_back({session->tenant, death});
  }
}

void Coordinator::count_violation(ipc::TenantId tenant, Violation kind) {
  const std::lock_guard lock(mutex_);
  ++counters_[tenant.value].violations[static_cast<std::size_t>(kind)];
}

ipc::Result<OpenedCache> Coordinator::open_cache(Session& session,
                                                 const OpenCacheRequest& request) {
  residency::CacheSpec spec;
  spec.model = request.model;
  spec.salt = request.salt;
  spec.kind = static_cast<residency::CacheKind>(request.kind);
  spec.shard_index = request.shard_index;
  spec.shard_count = request.shard_count;
  spec.layout = request.layout;
  spec.hbm_bytes = request.hbm_bytes;
  if (request.kind > static_cast<std::uint8_t>(ipc::wire::CacheKind::opaque_bytes)) {
    return fail(Errc::invalid_argument, "unknown kind of cache " + std::to_string(request.kind));
  }
  if (spec.kind != residency::CacheKind::attention) {
    return fail(Errc::not_supported, "only caches of kind attention are built yet");
  }
  const std::lock_guard lock(mutex_);
  Actions actions;
  auto opened = manager_.open_cache(session.id, spec, actions);
  if (!opened) {
    execute(actions);
    return std::unexpected(std::move(opened.error()));
  }
  create_failure_.reset();
  creating_ = opened->shape;
  execute(actions);
  creating_.reset();
  if (create_failure_) return std::unexpected(std::move(*create_failure_));
  caches_[opened->cache.value].tenant = session.tenant;
  std::shared_ptr<CacheMemory> memory = caches_[opened->cache.value].memory;
  auto handle = session.add_cache({opened->cache, memory, request.executor});
  if (!handle) {
    const auto closed = manager_.close_cache(session.id, opened->cache, actions);
    SLUICE_ASSERT(closed.has_value());
    execute(actions);
    return std::unexpected(std::move(handle.error()));
  }
  return OpenedCache{*handle, opened->created, std::move(memory)};
}

ipc::Status Coordinator::close_cache(Session& session, ipc::Handle handle) {
  const std::lock_guard lock(mutex_);
  auto cache = session.cache(handle);
  if (!cache) return std::unexpected(std::move(cache.error()));
  if (cache->memory->actors_of(session.id) > 0) {
    return fail(Errc::wrong_state, "the session has actors in this cache; close them first");
  }
  Actions actions;
  auto closed = manager_.close_cache(session.id, cache->id, actions);
  execute(actions);
  if (!closed) return closed;
  (void)session.remove_cache(handle);
  return {};
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
auto Coordinator::with_memory(Attempt&& attempt) {
  Actions actions;
  Growth growth = Growth::allowed;
  bool settled = false;
  while (true) {
    grant_failure_.reset();
    auto reply = attempt(growth, actions);
    const bool grows = reply && reply->needs_extents;
    execute(actions);
    if (grows) {
      if (grant_failure_) growth = Growth::refused;
      continue;
    }
    if (!reply && reply.error().code == Errc::busy && !std::exchange(settled, true)) {
      if (manager_.pending_work()) manager_.turn(actions);
      execute(actions);
      if (settle()) continue;
    }
    return reply;
  }
}

ipc::Result<Coordinator::Opened> Coordinator::open_sequence(
    ipc::SessionId session, ipc::CacheId cache, const residency::KeyView& keys,
    std::vector<residency::BlockRef>& blocks) {
  const std::lock_guard lock(mutex_);
  auto opened = manager_.open_sequence(session, cache, keys);
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

ipc::Result<std::uint32_t> Coordinator::extend(ipc::SessionId session, ipc::Handle sequence,
                                               std::uint32_t count,
                                               std::vector<residency::BlockRef>& blocks) {
  const std::lock_guard lock(mutex_);
  auto extended = with_memory([&](Growth growth, Actions& actions) {
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
  execute(actions);
  return sealed;
}

ipc::Result<ipc::Handle> Coordinator::fork(ipc::SessionId session, ipc::Handle parent,
                                           std::vector<residency::ForkedBlock>& copies) {
  const std::lock_guard lock(mutex_);
  copies.clear();
  // The spans of a reply last until the next call, and actions call back.
  const auto keep_copies = [&](auto reply) {
    if (reply) copies.insert(copies.end(), reply->copies.begin(), reply->copies.end());
    return reply;
  };
  auto forked = with_memory([&](Growth growth, Actions& actions) {
    return keep_copies(manager_.fork(session, parent, growth, actions));
  });
  if (!forked) return std::unexpected(std::move(forked.error()));
  const ipc::Handle child = forked->sequence;
  while (!forked->complete) {
    forked = with_memory([&](Growth growth, Actions& actions) {
      return keep_copies(manager_.fork_more(session, parent, child, growth, actions));
    });
    if (!forked) {
      Error error = std::move(forked.error());
      Actions actions;
      (void)manager_.release(session, child, actions);
      execute(actions);
      return std::unexpected(std::move(error));
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
  const Error late{Errc::timed_out,
                   "an actor stayed in one step for longer than limits.step_deadline (" +
                       std::to_string(config_.limits.step_deadline.count()) +
                       " ms); end a step when its stream has passed it"};
  std::vector<std::pair<ipc::SessionId, SessionEnd>> overdue;
  for (const Cache& cache : caches_) {
    if (cache.memory == nullptr) continue;
    for (const ipc::SessionId session :
         cache.memory->overdue_actors(now, config_.limits.step_deadline)) {
      overdue.emplace_back(session, SessionEnd{late, Violation::step_deadline});
    }
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

std::shared_ptr<CacheMemory> Coordinator::cache_memory(ipc::CacheId cache) const {
  const std::lock_guard lock(mutex_);
  return cache.value < caches_.size() ? caches_[cache.value].memory : nullptr;
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
      if (cache.memory != nullptr) open.emplace_back(cache.tenant, cache.memory);
    }
  }
  // Reading the counters of every actor takes time, and lanes need the lock.
  for (const auto& [tenant, memory] : open) totals[tenant.value] += memory->totals();
  return totals;
}

}  // namespace sluice::daemon
