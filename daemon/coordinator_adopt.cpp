// Taking over what a daemon of before left, and the return of its sessions.
#include <algorithm>
#include <utility>

#include "daemon/coordinator.h"
#include "daemon/logging.h"
#include "ipc/kill_point.h"

namespace sluice::daemon {

namespace {

std::optional<ipc::TenantId> tenant_named(const Config& config, const std::string& name) {
  const auto found = std::ranges::find(config.tenants, name, &TenantConfig::name);
  if (found == config.tenants.end()) return std::nullopt;
  return ipc::TenantId{static_cast<std::uint32_t>(found - config.tenants.begin())};
}

}  // namespace

// Under one lock: the mover runs, and what a cache's users of before wanted must not take the room
// of a cache that comes later.
std::vector<KeptSession> Coordinator::adopt(KeptState::Found found) {
  const std::lock_guard lock(mutex_);
  std::vector<KeptSession> sessions;
  std::set<std::uint64_t> numbers;
  for (KeptSession& session : found.sessions) {
    const auto tenant = tenant_named(config_, session.tenant);
    if (!tenant || !manager_.adopt_session(session.id, *tenant)) {
      log_warn("a session of before is not taken over: its tenant is gone",
               {{"session", session.id.value}, {"tenant", session.tenant}});
      kept_->forget_session(session.id);
      continue;
    }
    numbers.insert(session.id.value);
    ++taken_over_.sessions;
    sessions.push_back(std::move(session));
    SLUICE_KILL_POINT("adopt.session");
  }
  for (KeptCache& cache : found.caches) adopt_cache(std::move(cache), numbers);
  return sessions;
}

// Under mutex_.
void Coordinator::adopt_cache(KeptCache kept, const std::set<std::uint64_t>& sessions) {
  const ipc::CacheId id = kept.id;
  const auto refuse = [&](const std::string& why) {
    log_warn("a cache of before is not taken over",
             {{"cache", id.value}, {"tenant", kept.tenant}, {"reason", why}});
    kept_->forget_cache(id);
    ++taken_over_.refused_caches;
  };
  const auto tenant = tenant_named(config_, kept.tenant);
  if (!tenant) return refuse("its tenant is gone");
  auto records = RecordMemory::adopt(std::move(kept.records), kept.shape.max_blocks);
  if (!records) return refuse(records.error().text);
  auto frames = FrameMemory::adopt(kept.shape, *devices_[0], std::move(kept.frame_extents));
  if (!frames) return refuse(frames.error().text);
  residency::AdoptedCache adopted{
      id, *tenant, kept.spec, kept.shape, {}, (*frames)->extents(), records->records()};
  SharedFrames shared = share(id, std::move(*frames));
  std::map<ipc::DeviceId, std::unique_ptr<CacheMemory>> arenas;
  for (KeptArena& arena : kept.arenas) {
    if (arena.device.value >= devices_.size()) return refuse("a device of it is gone");
    residency::CacheShape shape = kept.shape;
    shape.slot_extents = arena.slot_extents;
    auto memory = CacheMemory::adopt(shape, *devices_[arena.device.value], shared.memory,
                                     std::move(arena.memory));
    // Who has that one open reads the cache's frames, and nobody would know when.
    if (!memory) return refuse(memory.error().text);
    adopted.arenas.push_back({arena.device, arena.slot_extents});
    arenas.emplace(arena.device, std::move(*memory));
  }
  SLUICE_KILL_POINT("adopt.memory");
  residency::Actions actions;
  auto adoption = manager_.adopt_cache(adopted, actions);
  if (!adoption) {
    arenas.clear();
    return refuse(adoption.error().text);
  }
  SLUICE_KILL_POINT("adopt.blocks");
  if (caches_.size() <= id.value) caches_.resize(id.value + 1);
  Cache& cache = caches_[id.value];
  cache.tenant = *tenant;
  cache.shape = kept.shape;
  cache.records = std::move(*records);
  shared.kept->store(true);
  for (const std::uint32_t extent : adoption->empty_extents) shared.memory->release(extent);
  cache.frames = std::move(shared);
  if (nvme_ != nullptr) {
    if (const auto scope = nvme_->store().intern(scope_of(kept.tenant, kept.spec))) {
      cache.scope = *scope;
    }
  }
  for (auto& [device, memory] : arenas) {
    memory->take_over(adoption->frames,
                      [&](ipc::SessionId session) { return sessions.contains(session.value); });
    listen_to_orders(id, device, *memory);
    cache.arenas[device].memory = share(id, device, std::move(memory));
  }
  execute(actions);
  SLUICE_KILL_POINT("adopt.cache");
  ++taken_over_.caches;
  taken_over_.sealed_blocks += adoption->sealed_blocks;
  taken_over_.private_blocks += adoption->private_blocks;
  taken_over_.given_up += adoption->given_up;
  taken_over_.damaged += adoption->damaged;
  log_info("a cache of before is taken over", {{"cache", id.value},
                                               {"tenant", kept.tenant},
                                               {"blocks", adoption->sealed_blocks},
                                               {"private_blocks", adoption->private_blocks},
                                               {"given_up", adoption->given_up},
                                               {"damaged", adoption->damaged}});
}

ipc::Status Coordinator::resume_session(ipc::SessionId id, ipc::TenantId tenant) {
  const std::lock_guard lock(mutex_);
  auto begun = manager_.resume_session(id, tenant);
  SLUICE_KILL_POINT("resume.begun");
  return begun;
}

ipc::Result<Coordinator::Opened> Coordinator::adopt_sequence(
    ipc::SessionId session, const SessionCache& cache, ipc::Handle sequence,
    std::span<const std::uint32_t> ids, std::vector<residency::BlockRef>& blocks) {
  const std::lock_guard lock(mutex_);
  residency::Actions actions;
  auto adopted = manager_.adopt_sequence(session, cache.id, sequence, ids, cache.device, actions);
  if (adopted) blocks.assign(adopted->matched.begin(), adopted->matched.end());
  execute(actions);
  SLUICE_KILL_POINT("resume.sequence");
  if (!adopted) return std::unexpected(std::move(adopted.error()));
  return Opened{adopted->sequence, static_cast<std::uint32_t>(blocks.size())};
}

ipc::Status Coordinator::session_resumed(ipc::SessionId id) {
  const std::lock_guard lock(mutex_);
  residency::Actions actions;
  auto resumed = manager_.session_resumed(id, actions);
  execute(actions);
  SLUICE_KILL_POINT("resume.ended");
  return resumed;
}

void Coordinator::end_away_session(ipc::SessionId id, ipc::TenantId tenant,
                                   std::chrono::steady_clock::time_point death) {
  kept_->forget_session(id);
  const std::lock_guard lock(mutex_);
  end_session_locked(id);
  settle();
  ++counters_[tenant.value].session_deaths;
  reclaims_.push_back({tenant, death});
}

}  // namespace sluice::daemon
