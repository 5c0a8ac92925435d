#include "tests/residency/world.h"

#include <algorithm>
#include <array>
#include <utility>

#include "tests/residency/world_tools.h"

namespace sluice::residency::test {
namespace {

ManagerConfig config_of(const std::optional<StoreSpec>& store, std::uint64_t dram_capacity) {
  ManagerConfig config;
  config.hbm = {kHbmCapacity, kHbmExtent};
  config.hbm_devices = kDevices;
  config.dram = {dram_capacity, kExtent};
  if (store) config.nvme_bytes = store->blocks * kFrame;
  config.tenants = {
      {"a", {kHbmExtent, kHbmCapacity, 1.0}, {2 * kExtent, dram_capacity, 1.0}},
      {"b", {0, kHbmCapacity, 2.0}, {0, dram_capacity * 2 / 3 / kExtent * kExtent, 2.0}},
      {"c", {0, 4 * kHbmExtent, 1.0}, {kExtent, 6 * kExtent, 1.0}},
  };
  config.hash_seed = {11, 22};
  config.max_sessions = kMostSessions;
  config.reserved_sessions = kReservedSessions;
  config.max_caches = 6;
  config.max_sequences_per_session = 16;
  return config;
}

CacheSpec spec_of(const Event& event) {
  CacheSpec spec;
  spec.model = event.b % 2 == 0 ? "m" : "n";
  spec.shard_count = 2;
  spec.shard_index = event.b / 2 % 2;
  spec.device.value = event.b / 4 % kDevices;
  spec.layout = kLayout;
  if (event.c % 16 == 0) spec.layout.block_tokens = 32;
  spec.hbm_bytes = event.d % 4 * kHbmExtent;
  return spec;
}

bool same_name(const CacheSpec& a, const CacheSpec& b) {
  return a.model == b.model && a.shard_index == b.shard_index;
}

}  // namespace

World::World(const std::optional<StoreSpec>& store)
    : store_(store),
      dram_capacity_(store ? kStoreDramCapacity : kDramCapacity),
      manager_(std::move(*Manager::create(config_of(store_, dram_capacity_)))) {
  const ManagerConfig initial = config_of(store_, dram_capacity_);
  for (std::size_t tenant = 0; tenant < kTenants; ++tenant) {
    quotas_[0][tenant] = initial.tenants[tenant].hbm;
    quotas_[1][tenant] = initial.tenants[tenant].dram;
  }
}

void World::mix(std::uint64_t value) {
  digest_ = (digest_ ^ value) * 0x9E3779B97F4A7C15u;
  digest_ ^= digest_ >> 29;
}

void World::mix(const std::string& text) { mix(std::hash<std::string>{}(text)); }

void World::apply(const Event& event) {
  new_frames_.clear();
  dying_ = {};
  switch (event.kind) {
    case Kind::open_session:
      open_session(event);
      break;
    case Kind::session_dead:
      session_dead(event);
      break;
    case Kind::open_cache:
      open_cache(event);
      break;
    case Kind::close_cache:
      close_cache(event);
      break;
    case Kind::open_sequence:
      open_sequence(event);
      break;
    case Kind::append_known:
      append_known(event);
      break;
    case Kind::extend:
      static_cast<void>(extend(event));
      break;
    case Kind::seal:
      seal(event);
      break;
    case Kind::fork:
      fork(event);
      break;
    case Kind::truncate:
      truncate(event);
      break;
    case Kind::release:
      release(event);
      break;
    case Kind::answer:
      answer(event.a, true, event.b);
      break;
    case Kind::answer_failed:
      answer(event.a, false, event.b);
      break;
    case Kind::set_quota:
      set_quota(event);
      break;
    case Kind::evict:
      evict(event);
      break;
    case Kind::bad_input:
      bad_input(event);
      break;
    case Kind::repeat_key:
      repeat_key(event);
      break;
    case Kind::append_stored:
      append_stored(event);
      break;
    case Kind::wanted:
      wanted(event);
      break;
    case Kind::store_drop:
      store_drop(event);
      break;
    default:
      manager_.turn(actions_);
      break;
  }
  absorb();
  hold(new_frames_.empty(), "a seal or a read gave no SetFrame");
  hold(dying_ == SessionId{}, "a death gave no ActorsIdle");
}

// ---- following actions

void World::absorb() {
  for (const Action& action : actions_) {
    mix(to_string(action));
    follow(action);
  }
  actions_.clear();
}

void World::follow(const Action& action) {
  if (const auto* create = std::get_if<CreateArena>(&action)) {
    OracleCache& cache = caches_.at(create->cache.value);
    OracleArena& arena = cache.arenas.at(create->device.value);
    hold(arena.state == CacheState::opening && arena.bytes == 0, "an arena was made twice");
    arena.bytes = create->hbm_extents * create->hbm_extent_bytes;
    hold_quota(create->device.value, cache.tenant, arena.bytes);
    used_[create->device.value][cache.tenant.value] += arena.bytes;
    unanswered_.push_back({Unanswered::create, create->cache.value, create->device.value});
  } else if (const auto* grant = std::get_if<GrantDram>(&action)) {
    follow_grant(*grant);
  } else if (const auto* release = std::get_if<ReleaseExtent>(&action)) {
    OracleCache& cache = caches_.at(release->cache.value);
    const auto extent = cache.extents.find(release->extent);
    hold(extent != cache.extents.end() && extent->second == Extent::present,
         "an extent was released that does not exist");
    for (const auto& [frame, use] : cache.frames) {
      hold(frame / cache.shape.frames_per_extent != release->extent,
           "an extent was released while frame " + std::to_string(frame) + " is in use");
    }
    extent->second = Extent::releasing;
    unanswered_.push_back({Unanswered::release, release->cache.value, release->extent});
    count("extent released");
  } else if (const auto* set = std::get_if<SetFrame>(&action)) {
    follow_set_frame(*set);
  } else if (const auto* retire = std::get_if<Retire>(&action)) {
    follow_retire(*retire);
  } else if (const auto* withdraw = std::get_if<Withdraw>(&action)) {
    follow_withdraw(*withdraw);
  } else if (const auto* write = std::get_if<WriteBlock>(&action)) {
    follow_write(*write);
  } else if (const auto* read = std::get_if<ReadBlock>(&action)) {
    follow_read(*read);
  } else if (const auto* hurried = std::get_if<HurryRead>(&action)) {
    follow_hurry(*hurried);
  } else if (const auto* held = std::get_if<HoldStored>(&action)) {
    follow_hold(*held);
  } else if (const auto* pins = std::get_if<DropPins>(&action)) {
    for (const BlockId id : pins->ids) {
      OracleBlock& block = caches_.at(pins->cache.value).blocks.at(id.value);
      hold(pins->sealed || block.life == Life::dropped, "DropPins of a block that lives");
      hold(!pins->sealed || !block.key.empty(), "DropPins as sealed of a block that was not");
      block.may_be_pinned = false;
    }
  } else if (const auto* idle = std::get_if<ActorsIdle>(&action)) {
    hold(idle->session == dying_, "ActorsIdle of a session that did not die now");
    dying_ = {};
  } else if (const auto* arena = std::get_if<DestroyArena>(&action)) {
    follow_destroy_arena(*arena);
  } else {
    follow_destroy(std::get<DestroyCache>(action).cache);
  }
}

void World::hold_quota(std::size_t book, TenantId tenant, std::uint64_t bytes) {
  const auto& used_here = used_[book];
  const auto& quotas = quotas_[book == kDram ? 1 : 0];
  const std::uint64_t capacity = book == kDram ? dram_capacity_ : kHbmCapacity;
  std::uint64_t used = 0;
  std::uint64_t unmet = 0;
  for (std::uint32_t other = 0; other < kTenants; ++other) {
    used += used_here[other];
    const std::uint64_t guaranteed = quotas[other].guaranteed_bytes;
    if (other != tenant.value && guaranteed > used_here[other])
      unmet += guaranteed - used_here[other];
  }
  hold(used_here[tenant.value] + bytes <= quotas[tenant.value].limit_bytes,
       "a grant above the tenant's limit");
  hold(used + unmet + bytes <= capacity, "a grant of what is guaranteed to others");
}

void World::follow_grant(const GrantDram& grant) {
  OracleCache& cache = caches_.at(grant.cache.value);
  hold(cache.arenas.contains(grant.device.value), "an extent for a device without an arena");
  hold(grant.bytes == cache.shape.frame_extent_bytes, "a grant of an odd size");
  hold(grant.extent < cache.shape.max_frame_extents, "an extent beyond the table");
  hold(!cache.extents.contains(grant.extent), "an extent was granted twice");
  hold_quota(kDram, cache.tenant, grant.bytes);
  used_[kDram][cache.tenant.value] += grant.bytes;
  cache.extents[grant.extent] = Extent::granting;
  unanswered_.push_back({Unanswered::grant, grant.cache.value, grant.extent});
  count("extent granted");
}

void World::follow_retire(const Retire& retire) {
  OracleCache& cache = caches_.at(retire.cache.value);
  hold(!retire.ids.empty() && retire.ids.size() <= kMaxBlocksPerTurn, "a batch of an odd size");
  hold(!cache.batches.contains(retire.batch), "a batch number was used twice");
  hold(cache.batches.size() < kMaxRetireBatches, "more batches at a time than may be");
  for (const BlockId id : retire.ids) {
    const auto found = cache.blocks.find(id.value);
    hold(found != cache.blocks.end(), "a free block was retired");
    OracleBlock& block = found->second;
    hold(!block.may_be_pinned, "a dead session's block was retired before its pins were dropped");
    hold(block.life == Life::dropped || block.life == Life::sealed, "a block was retired twice");
    hold(block.references == 0, "a block was retired that somebody refers to");
    if (block.life == Life::sealed) {
      count("block evicted");
      hold_evictable(cache, block);
      hold(block.lost || cache.by_key.erase(block.key) == 1,
           "an evicted block was not in the directory");
    }
    block.life = Life::retiring;
  }
  cache.batches[retire.batch] = retire.ids;
  unanswered_.push_back({Unanswered::retire, retire.cache.value, retire.batch});
}

void World::follow_destroy_arena(const DestroyArena& destroy) {
  OracleCache& cache = caches_.at(destroy.cache.value);
  OracleArena& arena = cache.arenas.at(destroy.device.value);
  hold(!cache.destroying && arena.state == CacheState::idle && arena.opens == 0,
       "an arena was destroyed that a session has open, or that is not there");
  hold(std::ranges::any_of(cache.arenas,
                           [&](const auto& other) {
                             return other.first != destroy.device.value &&
                                    (other.second.state == CacheState::open ||
                                     other.second.state == CacheState::idle);
                           }),
       "the last arena of a cache was destroyed without it");
  arena.state = CacheState::destroying;
  unanswered_.push_back({Unanswered::destroy_arena, destroy.cache.value, destroy.device.value});
  count("arena destroyed");
}

void World::follow_destroy(CacheId id) {
  OracleCache& cache = caches_.at(id.value);
  hold(!cache.destroying && cache.opens() == 0, "a cache was destroyed that a session has open");
  for (const auto& [device, arena] : cache.arenas) {
    hold(arena.state == CacheState::idle, "a cache was destroyed with an arena under way");
  }
  for (const auto& [number, block] : cache.blocks) {
    hold(block.life != Life::taken && block.references == 0, "a cache in use was destroyed");
    hold(!store_ || block.life != Life::sealed || block.stored || block.lost || cache.may_drop,
         "a cache was destroyed with blocks that the store has not, and was not asked to take");
  }
  cache.destroying = true;
  cache.blocks.clear();
  cache.by_key.clear();
  cache.frames.clear();
  cache.withdrawals.clear();
  // Of the moves some end unseen, others are answered still: both until it is destroyed.
  std::erase_if(unanswered_, [&](const Unanswered& wait) {
    const bool unseen = wait.kind >= Unanswered::withdraw && wait.number % 2 == 0;
    return wait.cache == id.value && (wait.kind == Unanswered::release || unseen);
  });
  for (auto& [device, arena] : cache.arenas) {
    arena.state = CacheState::destroying;
    unanswered_.push_back({Unanswered::destroy_arena, id.value, device});
  }
  unanswered_.push_back({Unanswered::destroy, id.value, 0});
  count("cache destroyed");
}

// ---- answering them

std::uint32_t World::OracleCache::opens() const {
  std::uint32_t sum = 0;
  for (const auto& [device, arena] : arenas) sum += arena.opens;
  return sum;
}

void World::answer_retire(const Unanswered& wait) {
  const auto cache = caches_.find(wait.cache);
  const bool waits = cache != caches_.end() && cache->second.batches.contains(wait.number) &&
                     !cache->second.destroying;
  if (waits) {
    for (const BlockId block : cache->second.batches.at(wait.number)) {
      free_frame(cache->second, cache->second.blocks.at(block.value));
      cache->second.blocks.erase(block.value);
    }
    cache->second.batches.erase(wait.number);
  }
  const Status status = manager_.retired(CacheId{wait.cache}, wait.number, actions_);
  hold(status.has_value() == waits, "retired() of a batch that (does not wait) waits");
}

void World::answer_create(const Unanswered& wait, bool well) {
  OracleCache& cache = caches_.at(wait.cache);
  const auto device = static_cast<std::uint32_t>(wait.number);
  OracleArena& arena = cache.arenas.at(device);
  if (well) {
    hold(manager_.arena_ready(CacheId{wait.cache}, DeviceId{device}).has_value(),
         "arena_ready was refused");
    arena.state = arena.opens > 0 ? CacheState::open : CacheState::idle;
    return;
  }
  hold(manager_.arena_failed(CacheId{wait.cache}, actions_, DeviceId{device}).has_value(),
       "arena_failed was refused");
  used_[device][cache.tenant.value] -= arena.bytes;
  for (OracleSession& session : sessions_) session.opens.erase({wait.cache, device});
  cache.arenas.erase(device);
  if (cache.arenas.empty()) caches_.erase(wait.cache);
}

void World::answer(std::size_t which, bool well, std::uint32_t luck) {
  if (unanswered_.empty()) return;
  which %= unanswered_.size();
  const Unanswered wait = unanswered_[which];
  if (!well && wait.kind != Unanswered::create && wait.kind != Unanswered::grant) return;
  unanswered_.erase(unanswered_.begin() + static_cast<std::ptrdiff_t>(which));
  if (wait.kind == Unanswered::retire) return answer_retire(wait);
  if (wait.kind == Unanswered::create) return answer_create(wait, well);
  if (wait.kind == Unanswered::withdraw) return answer_withdraw(wait);
  if (wait.kind == Unanswered::write) return answer_write(wait, luck);
  if (wait.kind == Unanswered::read) return answer_read(wait, luck);
  const CacheId id{wait.cache};
  const auto number = static_cast<std::uint32_t>(wait.number);
  OracleCache& cache = caches_.at(wait.cache);
  const std::size_t tenant = cache.tenant.value;
  switch (wait.kind) {
    case Unanswered::grant:
      hold((well ? manager_.extent_granted(id, number) : manager_.extent_failed(id, number))
               .has_value(),
           "the answer to a grant was refused");
      if (well) {
        cache.extents[number] = Extent::present;
      } else {
        cache.extents.erase(number);
        used_[kDram][tenant] -= cache.shape.frame_extent_bytes;
      }
      return;
    case Unanswered::release:
      hold(manager_.extent_released(id, number, actions_).has_value(),
           "extent_released was refused");
      cache.extents.erase(number);
      used_[kDram][tenant] -= cache.shape.frame_extent_bytes;
      return;
    case Unanswered::destroy_arena:
      hold(manager_.arena_destroyed(id, DeviceId{number}, actions_).has_value(),
           "arena_destroyed was refused");
      used_[number][tenant] -= cache.arenas.at(number).bytes;
      cache.arenas.erase(number);
      return;
    default:
      if (!cache.arenas.empty()) {  // its frames go last
        unanswered_.push_back(wait);
        return;
      }
      hold(manager_.cache_destroyed(id, actions_).has_value(), "cache_destroyed was refused");
      used_[kDram][tenant] -= cache.extents.size() * cache.shape.frame_extent_bytes;
      caches_.erase(wait.cache);
      std::erase_if(unanswered_, [&](const Unanswered& other) {
        return other.cache == wait.cache && other.kind >= Unanswered::withdraw;
      });
      return;
  }
}

// Mostly, as a daemon would do in the same turn. False: one failed, or was left for later.
bool World::answer_new_grants(std::size_t from, const Event& event) {
  bool all = true;
  for (std::size_t i = unanswered_.size(); i > from; --i) {
    if (unanswered_[i - 1].kind != Unanswered::grant) continue;
    const std::uint32_t luck = (event.d >> 8) % 16;
    if (luck == 0) return false;
    answer(i - 1, luck != 1, 0);
    all = all && luck != 1;
  }
  return all;
}

// ---- sessions and caches

World::OracleSession* World::pick_session(std::uint32_t number) {
  return sessions_.empty() ? nullptr : &sessions_[number % sessions_.size()];
}

void World::open_session(const Event& event) {
  const TenantId tenant{event.a % kTenants};
  const auto session = manager_.open_session(tenant);
  if (!session) {
    hold_error(session.error(), {Errc::limit_reached}, "open_session");
    const std::vector<SessionStatus> rows = manager_.sessions();  // with those that are ending
    std::array<std::uint32_t, kTenants> used{};
    for (const SessionStatus& row : rows) ++used[row.tenant.value];
    std::uint32_t kept = 0;
    for (std::uint32_t other = 0; other < kTenants; ++other) {
      if (other != tenant.value)
        kept += kReservedSessions - std::min(used[other], kReservedSessions);
    }
    hold(rows.size() + kept >= kMostSessions, "a session was refused although there was room");
    hold(used[tenant.value] >= kReservedSessions, "a tenant was refused what is reserved for it");
    count("session refused");
    return;
  }
  for (const OracleSession& other : sessions_) hold(other.id != *session, "a session id twice");
  sessions_.push_back({*session, tenant, {}});
}

void World::session_dead(const Event& event) {
  if (sessions_.empty()) return;
  const std::size_t which = event.a % sessions_.size();
  const OracleSession session = sessions_[which];
  for (std::size_t i = sequences_.size(); i > 0; --i) {
    if (sequences_[i - 1].session == session.id) drop_sequence(i - 1, true);
  }
  for (const auto& [place, opens] : session.opens) {
    OracleArena& arena = caches_.at(place.first).arenas.at(place.second);
    arena.opens -= opens;
    if (arena.opens == 0 && arena.state == CacheState::open) arena.state = CacheState::idle;
  }
  sessions_.erase(sessions_.begin() + static_cast<std::ptrdiff_t>(which));
  dying_ = session.id;
  hold(manager_.session_dead(session.id, actions_).has_value(), "session_dead was refused");
  count("session died");
}

void World::open_cache(const Event& event) {
  OracleSession* session = pick_session(event.a);
  if (session == nullptr) return;
  const CacheSpec spec = spec_of(event);
  const std::uint32_t device = spec.device.value;
  const auto existing = std::ranges::find_if(caches_, [&](const auto& entry) {
    return entry.second.tenant == session->tenant && same_name(entry.second.spec, spec) &&
           !entry.second.destroying;
  });
  const auto opened = manager_.open_cache(session->id, spec, actions_);
  const bool exists = existing != caches_.end();
  const bool fits = exists && existing->second.spec.layout == spec.layout;
  const OracleArena* arena = nullptr;
  if (exists && existing->second.arenas.contains(device)) {
    arena = &existing->second.arenas.at(device);
  }
  if (!opened) {
    const bool settled =
        arena == nullptr || arena->state == CacheState::open || arena->state == CacheState::idle;
    if (!settled) {
      hold_error(opened.error(), {Errc::busy}, "open_cache of one that is being made or destroyed");
    } else if (fits && arena != nullptr) {
      throw Failure("joining a cache was refused: " + opened.error().text);
    } else if (exists && !fits && existing->second.opens() > 0) {
      hold_error(opened.error(), {Errc::invalid_layout}, "open_cache with another layout");
    } else {
      hold_error(opened.error(),
                 {Errc::busy, Errc::quota_exceeded, Errc::limit_reached, Errc::invalid_layout},
                 "open_cache");
    }
    return;
  }
  const std::uint32_t id = opened->cache.value;
  mix(id);
  if (fits) {
    hold(id == existing->first, "a namespace has two caches");
    hold(opened->created == (arena == nullptr), "an arena was not joined, or made twice");
    if (opened->created) count("arena beside others made");
  } else {
    hold(opened->created && !caches_.contains(id), "a cache was made in place of another");
    OracleCache cache;
    cache.tenant = session->tenant;
    cache.spec = spec;
    cache.shape = opened->shape;
    caches_[id] = std::move(cache);
    count("cache made");
  }
  OracleArena& entered = caches_.at(id).arenas[device];
  if (entered.state == CacheState::idle) entered.state = CacheState::open;
  ++entered.opens;
  ++session->opens[{id, device}];
  // A daemon makes the arena at once; sometimes it takes longer or fails.
  const std::size_t from = unanswered_.size();
  absorb();
  if (opened->created && event.d / 4 % 8 != 0) {
    for (std::size_t i = unanswered_.size(); i > from; --i) {
      if (unanswered_[i - 1].kind == Unanswered::create) answer(i - 1, event.d / 4 % 8 != 1, 0);
    }
  }
}

void World::close_cache(const Event& event) {
  OracleSession* session = pick_session(event.a);
  if (session == nullptr || session->opens.empty()) return;
  auto open = session->opens.begin();
  std::advance(open, event.b % session->opens.size());
  const auto [id, device] = open->first;
  const auto close = [&] {
    return manager_.close_cache(session->id, CacheId{id}, actions_, DeviceId{device});
  };
  const bool used = std::ranges::any_of(sequences_, [&](const OracleSequence& sequence) {
    return sequence.session == session->id &&
           ArenaName(sequence.cache, sequence.device) == open->first;
  });
  if (used && open->second == 1) {
    const Status status = close();
    hold(!status && status.error().code == Errc::wrong_state, "a cache with sequences was closed");
    return;
  }
  OracleArena& arena = caches_.at(id).arenas.at(device);
  if (--open->second == 0) session->opens.erase(open);
  if (--arena.opens == 0 && arena.state == CacheState::open) arena.state = CacheState::idle;
  hold(close().has_value(), "close_cache was refused");
}

void World::set_quota(const Event& event) {
  const std::uint32_t tenant = event.a % kTenants;
  const std::size_t tier = event.b % 2;
  const std::uint64_t unit = tier == 0 ? kHbmExtent : kExtent;
  const std::uint64_t most = tier == 0 ? kHbmCapacity : dram_capacity_;
  Quota quota;
  quota.limit_bytes = std::min(most, event.c % 24 * unit);
  quota.guaranteed_bytes = event.d % 4 * unit;
  quota.weight = 1.0 + event.d % 3;
  std::uint64_t others = 0;
  for (std::uint32_t other = 0; other < kTenants; ++other) {
    if (other != tenant) others += quotas_[tier][other].guaranteed_bytes;
  }
  const bool right =
      quota.guaranteed_bytes <= quota.limit_bytes && others + quota.guaranteed_bytes <= most;
  const Status status =
      manager_.set_quota(TenantId{tenant}, tier == 0 ? Tier::hbm : Tier::dram, quota, actions_);
  hold(status.has_value() == right, "a quota was wrongly accepted or refused");
  if (right) quotas_[tier][tenant] = quota;
}

void World::evict(const Event& event) {
  EvictRequest request;
  if (event.a % 2 == 0) request.tenant = event.b % kTenants;
  request.bytes = event.c % 4 == 0 ? EvictRequest::kAll : event.c % 16 * kFrame;
  request.drop_idle_caches = event.d % 8 == 0;
  const auto ordered = manager_.evict(request, actions_);
  if (!ordered) hold_error(ordered.error(), {Errc::busy}, "evict");
}

void World::answer_everything(Grants grants) {
  constexpr int kMostRounds = 10'000;
  for (int round = 0; round < kMostRounds && anything_under_way(); ++round) {
    for (int answers = 0; answers < kMostRounds && !unanswered_.empty(); ++answers) {
      const bool fails = grants == Grants::fail && unanswered_.front().kind == Unanswered::grant;
      apply(Event{fails ? Kind::answer_failed : Kind::answer, 0, 0, 0, 0});
    }
    if (manager_.pending_work()) apply(Event{Kind::turn, 0, 0, 0, 0});
  }
  hold(!anything_under_way(), "the work never ends");
}

void World::hold_progress() {
  constexpr int kMostAttempts = 40;
  for (std::uint32_t which = 0; which < sequences_.size(); which += 7) {
    bool busy = true;
    for (int attempt = 0; busy && attempt < kMostAttempts; ++attempt) {
      answer_everything();
      busy = extend(Event{Kind::extend, which, 1, 4, 2u << 8});
      absorb();
    }
    hold(!busy, "busy without end");
  }
}

void World::finish() {
  hold_progress();
  hold_promotions(Grants::made);
  // Half of the sessions go, so that there is memory to grow into; but it cannot be made.
  for (std::size_t left = sessions_.size() / 2; left > 0; --left) {
    apply(Event{Kind::session_dead, 0, 0, 0, 0});
  }
  apply(Event{Kind::evict, 1, 0, 0, 0});
  hold_promotions(Grants::fail);
  while (!sessions_.empty()) apply(Event{Kind::session_dead, 0, 0, 0, 0});
  answer_everything();
  hold_settled();
  apply(Event{Kind::evict, 1, 0, 0, 0});  // all, and the idle caches too
  answer_everything();
  verify();
  const NodeStatus status = manager_.status();
  hold(caches_.empty() && status.caches == 0, "caches are left at the end");
  hold(status.sessions == 0 && status.sequences == 0, "sessions or sequences are left at the end");
  hold(status.hbm.used_bytes == 0 && status.dram.used_bytes == 0, "memory is left at the end");
  hold(status.blocks == BlockCounts{}, "blocks are left at the end");
}

}  // namespace sluice::residency::test
