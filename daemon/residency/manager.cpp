// Construction, tenants, sessions, and the work that goes on in turns.
#include "daemon/residency/manager.h"

#include <algorithm>
#include <bit>
#include <span>
#include <string>
#include <utility>

#include "daemon/residency/eviction.h"
#include "daemon/residency/pressure.h"
#include "daemon/residency/seeded.h"
#include "daemon/residency/state.h"
#include "daemon/residency/tiering.h"

namespace sluice::residency {
namespace {

Status check_config(const ManagerConfig& config) {
  const auto bad = [](std::string text) { return ipc::fail(Errc::bad_config, std::move(text)); };
  if (config.tenants.empty() || config.tenants.size() > kMaxTenants) {
    return bad(std::to_string(config.tenants.size()) + " tenants; expected 1 to " +
               std::to_string(kMaxTenants));
  }
  if (config.max_sessions == 0 || config.max_sessions > kMaxSessions) {
    return bad("max_sessions is " + std::to_string(config.max_sessions) + "; expected 1 to " +
               std::to_string(kMaxSessions));
  }
  if (config.max_caches == 0 || config.max_caches > kMaxCaches) {
    return bad("max_caches is " + std::to_string(config.max_caches) + "; expected 1 to " +
               std::to_string(kMaxCaches));
  }
  if (config.max_sequences_per_session == 0 ||
      config.max_sequences_per_session > kMaxSequencesPerSession) {
    return bad("max_sequences_per_session is " + std::to_string(config.max_sequences_per_session) +
               "; expected 1 to " + std::to_string(kMaxSequencesPerSession));
  }
  if (config.hbm_devices == 0 || config.hbm_devices > kMaxDevices) {
    return bad("hbm_devices is " + std::to_string(config.hbm_devices) + "; expected 1 to " +
               std::to_string(kMaxDevices));
  }
  if (config.hbm.extent_bytes == 0 || config.dram.extent_bytes == 0) {
    return bad("an extent size is 0; expected some MiB");
  }
  if (!std::has_single_bit(config.hbm.granularity_bytes) ||
      !std::has_single_bit(config.dram.granularity_bytes)) {
    return bad("the granularity of a tier's extents is no power of two");
  }
  return {};
}

Status fill_book(TierBook& book, Tier tier, const TierSpec& spec,
                 const std::vector<TenantSpec>& tenants) {
  book.tier = tier;
  book.capacity = spec.capacity_bytes;
  book.extent_bytes = spec.extent_bytes;
  book.granularity = spec.granularity_bytes;
  book.extents_stay = spec.extents_stay;
  for (const TenantSpec& tenant : tenants) book.tenants.emplace_back().name = tenant.name;
  for (std::uint32_t i = 0; i < tenants.size(); ++i) {
    const Quota& quota = tier == Tier::hbm ? tenants[i].hbm : tenants[i].dram;
    if (auto ok = check_quota(book, TenantId{i}, quota); !ok) return ok;
    book.tenants[i].quota = quota;
  }
  return {};
}

// The tail of a list of references; the whole list over several turns.
void drain_some(State& state, std::uint32_t& budget) {
  Drain& drain = state.drains.front();
  Cache& cache = *state.caches[drain.cache.value];
  for (; budget > 0 && !drain.blocks.empty(); --budget) {
    dereference(cache, state.config.hash_seed, drain.blocks.back(), state.now);
    drain.blocks.pop_back();
  }
  if (!drain.blocks.empty()) return;
  --cache.drains;
  state.drains.pop_front();
}

void order_all_batches(State& state, Actions& actions) {
  for (const auto& cache : state.caches) {
    if (cache) order_batches(*cache, state.next_batch, actions);
  }
}

void work(State& state, Actions& actions) {
  std::uint32_t budget = kMaxBlocksPerTurn;
  while (budget > 0 && !state.ending.empty()) {
    Session& session = state.sessions.at(state.ending.front().value);
    if (!end_session(state, session, budget, actions)) break;
    while (!session.caches.empty()) leave_cache(state, session, session.caches.begin());
    state.sessions.erase(state.ending.front().value);
    state.ending.pop_front();
  }
  while (budget > 0 && !state.drains.empty()) drain_some(state, budget);
  for (const auto& cache : state.caches) {
    if (cache && !cache->vacate_scans.empty()) {
      budget -= scan_vacating(state, *cache, budget, actions);
    }
    if (cache && cache->parting) budget -= go_on_parting(state, *cache, budget, actions);
  }
  while (budget > 0 && !state.evictions.empty()) {
    const std::uint32_t evicted = evict_some(state, state.evictions.front(), budget);
    if (state.evictions.front().bytes_left == 0) {
      state.evictions.pop_front();
    } else if (evicted == 0) {
      break;  // the store has to write what it was given first
    }
    budget -= evicted;
  }
  for (std::uint32_t tenant = 0; tenant < state.shrinking.size(); ++tenant) {
    if (state.shrinking[tenant]) shrink_tenant(state, TenantId{tenant}, actions);
  }
  for (const auto& cache : state.caches) {
    if (cache) promote(state, *cache, actions);
  }
  order_all_batches(state, actions);
}

}  // namespace

// ---- what state.h declares

Result<Session*> find_session(State& state, SessionId id) {
  const auto found = state.sessions.find(id.value);
  if (found == state.sessions.end() || found->second.ending) {
    return ipc::fail(Errc::stale_handle, "session " + std::to_string(id.value) + " has ended");
  }
  return &found->second;
}

Result<Cache*> find_cache(State& state, CacheId id) {
  if (id.value < state.caches.size() && state.caches[id.value]) {
    return state.caches[id.value].get();
  }
  return ipc::fail(Errc::stale_handle, "there is no cache " + std::to_string(id.value));
}

void charge(TierBook& book, TenantId tenant, std::uint64_t bytes) {
  book.tenants[tenant.value].used += bytes;
}

void uncharge(TierBook& book, TenantId tenant, std::uint64_t bytes) {
  SLUICE_ASSERT(book.tenants[tenant.value].used >= bytes);
  book.tenants[tenant.value].used -= bytes;
}

std::uint64_t bytes_in(const TierBook& book, const Cache& cache) {
  if (book.tier == Tier::dram) return cache.dram_bytes();
  const auto arena = std::ranges::find(cache.arenas, book.device, &Arena::device);
  return arena == cache.arenas.end() ? 0 : cache.hbm_bytes(*arena);
}

std::uint64_t returning_bytes(const State& state, const TierBook& book, TenantId tenant) {
  std::uint64_t sum = 0;
  for (const auto& cache : state.caches) {
    if (!cache || cache->tenant != tenant) continue;
    sum += leaving_bytes(book, *cache);
    if (book.tier == Tier::dram && !cache->is_going()) {
      sum += cache->frames.returning() * cache->extent_bytes();
    }
  }
  return sum;
}

std::uint64_t leaving_bytes(const TierBook& book, const Cache& cache) {
  if (book.tier == Tier::dram) {
    return cache.is_going() ? cache.dram_bytes() : 0;
  }
  const auto arena = std::ranges::find(cache.arenas, book.device, &Arena::device);
  if (arena == cache.arenas.end()) return 0;
  return cache.is_going() || arena->state == CacheState::destroying ? cache.hbm_bytes(*arena) : 0;
}

bool over_any_limit(const State& state, TenantId tenant) {
  return over_limit(state.dram, tenant) > 0 ||
         std::ranges::any_of(state.hbm,
                             [&](const TierBook& book) { return over_limit(book, tenant) > 0; });
}

// ---- Manager

Manager::Manager(std::unique_ptr<State> state) : state_(std::move(state)) {}
Manager::Manager(Manager&&) noexcept = default;
Manager& Manager::operator=(Manager&&) noexcept = default;
Manager::~Manager() = default;

Result<Manager> Manager::create(const ManagerConfig& config) {
  if (auto ok = check_config(config); !ok) return std::unexpected(ok.error());
  auto state = std::make_unique<State>();
  state->config = config;
  for (std::uint32_t device = 0; device < config.hbm_devices; ++device) {
    TierBook& book = state->hbm.emplace_back();
    book.device = DeviceId{device};
    if (auto ok = fill_book(book, Tier::hbm, config.hbm, config.tenants); !ok) {
      return std::unexpected(ok.error());
    }
  }
  if (auto ok = fill_book(state->dram, Tier::dram, config.dram, config.tenants); !ok) {
    return std::unexpected(ok.error());
  }
  state->past.resize(config.tenants.size());
  state->away.resize(config.tenants.size());
  state->shrinking.resize(config.tenants.size());
  state->caches.resize(config.max_caches);
  return Manager(std::move(state));
}

Status Manager::set_quota(TenantId tenant, Tier tier, const Quota& quota, Actions& actions) {
  State& state = *state_;
  ++state.now;
  if (tenant.value >= state.past.size()) {
    return ipc::fail(Errc::not_found, "there is no tenant " + std::to_string(tenant.value));
  }
  if (tier != Tier::hbm && tier != Tier::dram) {
    return ipc::fail(Errc::not_supported, "quotas exist for the tiers hbm and dram only");
  }
  // Those of HBM have the same quotas, so that what one refuses all do.
  const std::span<TierBook> books =
      tier == Tier::hbm ? std::span(state.hbm) : std::span(&state.dram, 1);
  if (auto ok = check_quota(books[0], tenant, quota); !ok) return ok;
  for (TierBook& book : books) book.tenants[tenant.value].quota = quota;
  if (!over_any_limit(state, tenant)) {
    stop_shrinking(state, tenant);
    return {};
  }
  state.shrinking[tenant.value] = true;
  shrink_tenant(state, tenant, actions);
  return {};
}

Status Manager::admits_session(TenantId tenant) const {
  const State& state = *state_;
  if (tenant.value >= state.past.size()) {
    return ipc::fail(Errc::not_found, "there is no tenant " + std::to_string(tenant.value));
  }
  std::vector<std::uint32_t> used(state.past.size());
  for (const auto& [number, session] : state.sessions) ++used[session.tenant.value];
  const std::uint64_t most = state.config.max_sessions;
  const auto reserve = std::min<std::uint64_t>(state.config.reserved_sessions, most / used.size());
  std::uint64_t kept = 0;  // for the others
  for (std::uint32_t other = 0; other < used.size(); ++other) {
    if (other != tenant.value && used[other] < reserve) kept += reserve - used[other];
  }
  if (SLUICE_SEEDED(ignore_reserve)) kept = 0;
  if (state.sessions.size() + kept < most) return {};
  std::string text = "tenant " + state.dram.tenants[tenant.value].name + " has " +
                     std::to_string(used[tenant.value]) + " of the " +
                     std::to_string(state.sessions.size()) + " sessions that are open; " +
                     std::to_string(most) + " are allowed (daemon.max_sessions)";
  if (kept > 0) {
    text += ", of which the last " + std::to_string(kept) +
            " are kept for other tenants (daemon.reserved_sessions)";
  }
  return ipc::fail(Errc::limit_reached, text + "; end sessions, or raise daemon.max_sessions");
}

Result<SessionId> Manager::open_session(TenantId tenant) {
  State& state = *state_;
  ++state.now;
  if (auto ok = admits_session(tenant); !ok) return std::unexpected(std::move(ok.error()));
  Session session;
  session.id = SessionId{state.next_session++};
  session.tenant = tenant;
  const SessionId id = session.id;
  state.sessions.emplace(id.value, std::move(session));
  return id;
}

Status Manager::session_dead(SessionId id, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto session = find_session(state, id);
  if (!session) return std::unexpected(session.error());
  (*session)->ending = true;
  state.ending.push_back(id);
  actions.push_back(ActorsIdle{id});
  work(state, actions);
  return {};
}

Status Manager::retired(CacheId id, std::uint64_t batch, Actions& actions) {
  State& state = *state_;
  ++state.now;
  auto cache = find_cache(state, id);
  if (!cache || !reclaim(**cache, batch, actions)) {
    return ipc::fail(Errc::not_found, "cache " + std::to_string(id.value) + " waits for no batch " +
                                          std::to_string(batch));
  }
  order_batches(**cache, state.next_batch, actions);
  return {};
}

bool Manager::pending_work() const {
  const State& state = *state_;
  return !state.ending.empty() || !state.drains.empty() || !state.evictions.empty() ||
         std::ranges::find(state.shrinking, true) != state.shrinking.end() ||
         std::ranges::any_of(state.caches, [&](const auto& cache) {
           return cache && (!cache->vacate_scans.empty() || cache->tiering.has_promotions() ||
                            can_go_on_parting(state, *cache));
         });
}

void Manager::turn(Actions& actions) {
  ++state_->now;
  work(*state_, actions);
}

Result<EvictPlan> Manager::evict_plan(const EvictRequest& request) const {
  return plan_eviction(*state_, request);
}

Result<EvictOrdered> Manager::evict(const EvictRequest& request, Actions& actions) {
  State& state = *state_;
  ++state.now;
  const auto plan = plan_eviction(state, request);
  if (!plan) return std::unexpected(plan.error());
  if (state.evictions.size() >= kMaxEvictions) {
    return ipc::fail(Errc::busy, std::to_string(state.evictions.size()) +
                                     " evictions are still at work; try again when they are done");
  }
  std::uint64_t evictable = 0;
  for (const EvictPlan::Row& row : plan->caches) {
    Cache& cache = *state.caches[row.cache.value];
    if (row.dropped) {
      part_with(state, cache, EvictReason::admin, actions);
      continue;
    }
    if (request.bytes == EvictRequest::kAll) release_empty_extents(cache, actions);
    evictable += row.evictable_bytes;
  }
  if (const std::uint64_t bytes = std::min(request.bytes, evictable); bytes > 0) {
    state.evictions.push_back(Eviction{request.tenant, request.cache, bytes});
    work(state, actions);
  }
  return plan->ordered;
}

Status Manager::forecast(CacheId id, ForecastEvent event, std::uint64_t pages) {
  ++state_->now;
  auto cache = find_cache(*state_, id);
  if (!cache) return ipc::fail(Errc::not_found, cache.error().text);
  (*cache)->forecasts.add(event, pages, (*cache)->shape.geometry.page_bytes);
  return {};
}

}  // namespace sluice::residency
