#include "daemon/admin.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "daemon/device_report.h"
#include "daemon/version.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using nlohmann::json;
using residency::EvictRequest;

namespace {

constexpr std::uint32_t kDefaultListedBlocks = 100;
// Characters of a residency map; each stands for as many blocks as it takes.
constexpr std::size_t kMapCells = 1024;

json document(const char* schema) { return {{"schema", schema}, {"version", 1}}; }

json tier_json(const char* name, const residency::TierStatus& tier) {
  return {{"tier", name},
          {"capacity_bytes", tier.capacity_bytes},
          {"used_bytes", tier.used_bytes},
          {"free_bytes", tier.capacity_bytes - std::min(tier.capacity_bytes, tier.used_bytes)},
          {"guaranteed_bytes", tier.guaranteed_bytes},
          {"lent_bytes", tier.lent_bytes}};
}

json blocks_json(const residency::BlockCounts& blocks) {
  return {{"private", blocks.taken},
          {"sealed", blocks.sealed},
          {"shared", blocks.shared},
          {"unreferenced", blocks.unreferenced},
          {"retiring", blocks.retiring}};
}

json sharing_json(const residency::SharingCounts& sharing) {
  return {{"saved_bytes", sharing.saved_bytes},
          {"matched_blocks", sharing.matched_blocks},
          {"matched_bytes", sharing.matched_bytes},
          {"deduplicated_blocks", sharing.deduplicated_blocks},
          {"deduplicated_bytes", sharing.deduplicated_bytes}};
}

json forecasts_json(const residency::ForecastLedger& ledger) {
  return {{"issued_pages", ledger.issued.pages},   {"used_pages", ledger.used.pages},
          {"late_pages", ledger.late.pages},       {"wasted_pages", ledger.wasted.pages},
          {"dropped_pages", ledger.dropped.pages}, {"wasted_bytes", ledger.wasted.bytes}};
}

json quota_json(const residency::TenantTierStatus& tier) {
  return {{"used_bytes", tier.used_bytes},
          {"guaranteed_bytes", tier.quota.guaranteed_bytes},
          {"limit_bytes", tier.quota.limit_bytes},
          {"weight", tier.quota.weight},
          {"over_limit_bytes", tier.over_limit_bytes},
          {"wanting", tier.wanting}};
}

json resolve_json(const ResolveTotals& totals) {
  // A client's counters may be anything: their sum fits into no integer.
  const double pages = static_cast<double>(totals.hits) + static_cast<double>(totals.misses) +
                       static_cast<double>(totals.no_slot) + static_cast<double>(totals.absent);
  return {{"hits", totals.hits},
          {"misses", totals.misses},
          {"no_slot", totals.no_slot},
          {"absent", totals.absent},
          {"bytes_filled", totals.bytes_filled},
          {"hit_ratio", pages == 0 ? 0.0 : static_cast<double>(totals.hits) / pages}};
}

json violations_json(const ViolationCounts& counts) {
  json by_reason = json::object();
  for (std::size_t i = 0; i < kViolations; ++i) {
    by_reason[std::string(to_string(static_cast<Violation>(i)))] = counts[i];
  }
  return by_reason;
}

std::string key_hex(const std::vector<std::byte>& key) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : key) {
    text += digits[std::to_integer<unsigned>(byte) >> 4];
    text += digits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

// Text of a client in a JSON document must be valid UTF-8.
std::string dump(const json& out) {
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

// One request: its arguments, and whom it may see.
class Request {
 public:
  Request(const Config& config, Coordinator& coordinator, const AdminScope& scope, json arguments)
      : config_(config),
        coordinator_(coordinator),
        scope_(scope),
        arguments_(std::move(arguments)) {}

  bool sees(ipc::TenantId tenant) const {
    return (scope_.everything || scope_.tenant == tenant) &&
           (!only_tenant_ || *only_tenant_ == tenant);
  }
  bool everything() const { return scope_.everything; }

  // Reads the selectors that all verbs share.
  ipc::Status select() {
    auto name = text("tenant");
    if (!name) return std::unexpected(name.error());
    if (name->empty()) return {};
    for (std::uint32_t i = 0; i < config_.tenants.size(); ++i) {
      if (config_.tenants[i].name != *name) continue;
      only_tenant_ = ipc::TenantId{i};
      if (!scope_.everything && scope_.tenant != *only_tenant_) {
        return fail(Errc::permission_denied, "you may see your own tenant only, not " + *name);
      }
      return {};
    }
    return fail(Errc::not_found, "no tenant is named " + *name);
  }

  ipc::Result<std::string> text(const char* key) const {
    if (!arguments_.contains(key)) return std::string();
    if (!arguments_[key].is_string()) return wrong(key, "a string");
    return arguments_[key].get<std::string>();
  }
  ipc::Result<std::uint64_t> number(const char* key, std::uint64_t otherwise) const {
    if (!arguments_.contains(key)) return otherwise;
    if (!arguments_[key].is_number_unsigned()) return wrong(key, "a number of 0 or more");
    return arguments_[key].get<std::uint64_t>();
  }
  ipc::Result<bool> flag(const char* key) const {
    if (!arguments_.contains(key)) return false;
    if (!arguments_[key].is_boolean()) return wrong(key, "true or false");
    return arguments_[key].get<bool>();
  }

  std::optional<ipc::TenantId> only_tenant() const { return only_tenant_; }
  const std::string& tenant_name(ipc::TenantId tenant) const {
    return config_.tenants[tenant.value].name;
  }
  Coordinator& coordinator() const { return coordinator_; }

 private:
  static std::unexpected<ipc::Error> wrong(const char* key, const char* expected) {
    return fail(Errc::invalid_argument,
                std::string("argument \"") + key + "\" must be " + expected);
  }

  const Config& config_;
  Coordinator& coordinator_;
  const AdminScope& scope_;
  json arguments_;
  std::optional<ipc::TenantId> only_tenant_;
};

ipc::Result<json> tenants_of(const Request& request, const std::vector<ResolveTotals>& resolved) {
  const auto rows = request.coordinator().with_manager([](auto& m) { return m.tenants(); });
  const auto counters = request.coordinator().tenant_counters();
  json list = json::array();
  for (const auto& row : rows) {
    if (!request.sees(row.tenant)) continue;
    const auto& counted = counters[row.tenant.value];
    list.push_back({{"tenant", row.name},
                    {"sessions", row.sessions},
                    {"caches", row.caches},
                    {"sequences", row.sequences},
                    {"hbm", quota_json(row.hbm)},
                    {"dram", quota_json(row.dram)},
                    {"blocks", blocks_json(row.blocks)},
                    {"sharing", sharing_json(row.sharing)},
                    {"forecasts", forecasts_json(row.forecasts)},
                    {"resolve", resolve_json(resolved[row.tenant.value])},
                    {"evicted_bytes", residency::sum_of(row.evicted_bytes)},
                    {"session_deaths", counted.session_deaths},
                    {"violations", std::accumulate(counted.violations.begin(),
                                                   counted.violations.end(), std::uint64_t{0})},
                    {"violations_by_reason", violations_json(counted.violations)},
                    {"last_reclaim_seconds", counted.last_reclaim_seconds}});
  }
  return list;
}

// A cache's row; `detail` adds what takes a scan of its table.
ipc::Result<json> cache_json(const Request& request, const residency::CacheStatus& row,
                             bool detail) {
  json cache = {{"cache", row.cache.value},
                {"tenant", request.tenant_name(row.tenant)},
                {"model", row.spec.model},
                {"salt", row.spec.salt},
                {"shard_index", row.spec.shard_index},
                {"shard_count", row.spec.shard_count},
                {"device", row.spec.device.value},
                {"state", std::string(residency::to_string(row.state))},
                {"page_bytes", row.shape.geometry.page_bytes},
                {"pages_per_block", row.shape.geometry.pages_per_block},
                {"block_bytes", row.shape.geometry.block_bytes},
                {"frame_stride_bytes", row.shape.geometry.frame_stride},
                {"slots", row.shape.slot_extents * row.shape.slots_per_extent},
                {"max_blocks", row.shape.max_blocks},
                {"sessions", row.sessions},
                {"sequences", row.sequences},
                {"hbm_bytes", row.hbm_bytes},
                {"dram_bytes", row.dram_bytes},
                {"free_frames", row.free_frames},
                {"blocks", blocks_json(row.blocks)},
                {"sharing", sharing_json(row.sharing)},
                {"forecasts", forecasts_json(row.forecasts)},
                {"evicted_bytes", row.evicted_bytes}};
  const auto memory = request.coordinator().cache_memory(row.cache);
  if (memory == nullptr) return cache;
  cache["table_bytes"] = memory->shape().table_bytes;
  cache["device_table_bytes"] = memory->shape().device_table_extent_bytes;
  cache["resolve"] = resolve_json(memory->totals());
  if (detail) {
    const auto hbm = memory->scan();
    if (!hbm) return std::unexpected(hbm.error());
    cache["hbm_pages"] = {
        {"cached", hbm->cached_pages}, {"pinned", hbm->pinned_pages}, {"free", hbm->free_slots}};
    cache["hbm_used_bytes"] =
        (hbm->cached_pages + hbm->pinned_pages) * row.shape.geometry.page_bytes;
  }
  return cache;
}

// Has the words of all these caches fetched that a device has, at the same time.
void fetch_words(const Request& request, const std::vector<residency::CacheStatus>& rows) {
  if (!request.coordinator().on_gpus()) return;
  for (const auto& row : rows) {
    const auto memory = request.coordinator().cache_memory(row.cache);
    if (memory != nullptr && request.sees(row.tenant)) (void)memory->scan();
  }
}

ipc::Result<json> caches_of(const Request& request, bool detail) {
  auto only = request.number("cache", EvictRequest::kAny);
  if (!only) return std::unexpected(only.error());
  const auto rows = request.coordinator().with_manager([](auto& m) { return m.caches(); });
  if (detail) fetch_words(request, rows);
  json list = json::array();
  for (const auto& row : rows) {
    if (!request.sees(row.tenant)) continue;
    if (*only != EvictRequest::kAny && row.cache.value != *only) continue;
    auto cache = cache_json(request, row, detail);
    if (!cache) return std::unexpected(std::move(cache.error()));
    list.push_back(std::move(*cache));
  }
  if (*only != EvictRequest::kAny && list.empty()) {
    return fail(Errc::not_found, "no cache " + std::to_string(*only) + " that you may see");
  }
  return list;
}

json block_json(const residency::BlockStatus& block, const HbmResidency* hbm) {
  json row = {{"block", block.id.value},
              {"frame", block.frame == ipc::kNoFrameId ? json(nullptr) : json(block.frame.value)},
              {"state", block.state == residency::BlockState::taken
                            ? "private"
                            : std::string(residency::to_string(block.state))},
              {"references", block.references},
              {"valid_bytes", block.valid_bytes},
              {"key", key_hex(block.key)},
              {"dram", block.state == residency::BlockState::sealed}};
  if (hbm != nullptr && block.id.value < hbm->pages_of_block.size()) {
    row["hbm_pages"] = hbm->pages_of_block[block.id.value];
    row["pinned_pages"] = hbm->pinned_of_block[block.id.value];
  }
  return row;
}

// '.' not there, 'd' DRAM only, 'b' HBM and DRAM, 'P' pinned in HBM, 'w' private without pins; a
// cell of several blocks shows the greatest of them in this order.
char cell_of(const residency::BlockStatus& block, const HbmResidency& hbm) {
  if (block.state == residency::BlockState::free) return '.';
  const std::uint32_t id = block.id.value;
  if (hbm.pinned_of_block[id] > 0) return 'P';
  if (block.state == residency::BlockState::taken) return 'w';
  if (hbm.pages_of_block[id] > 0) return 'b';
  return 'd';
}

ipc::Result<json> map_of(const Request& request, const residency::CacheStatus& cache) {
  const auto memory = request.coordinator().cache_memory(cache.cache);
  if (memory == nullptr) return fail(Errc::not_found, "the cache is gone");
  const auto hbm = memory->scan();
  if (!hbm) return std::unexpected(hbm.error());
  const std::string order = ".dbwP";
  std::string all;
  std::uint64_t cursor = 0;
  do {
    auto page = request.coordinator().with_manager(
        [&](auto& m) { return m.blocks(cache.cache, cursor, residency::kMaxListedRows); });
    if (!page) return std::unexpected(page.error());
    for (const auto& block : page->rows) {
      if (all.size() <= block.id.value) all.resize(block.id.value + 1, '.');
      all[block.id.value] = cell_of(block, *hbm);
    }
    cursor = page->next;
  } while (cursor != 0);
  const std::size_t per_cell = std::max<std::size_t>(1, (all.size() + kMapCells - 1) / kMapCells);
  std::string cells;
  for (std::size_t i = 0; i < all.size(); i += per_cell) {
    char most = '.';
    for (std::size_t j = i; j < std::min(all.size(), i + per_cell); ++j) {
      if (order.find(all[j]) > order.find(most)) most = all[j];
    }
    cells += most;
  }
  return json{{"cache", cache.cache.value},
              {"blocks_per_cell", per_cell},
              {"cells", cells},
              {"legend",
               {{".", "free"},
                {"d", "DRAM only"},
                {"b", "HBM and DRAM"},
                {"w", "private, in DRAM"},
                {"P", "pinned in HBM"}}}};
}

ipc::Result<json> blocks_of(const Request& request, const residency::CacheStatus& cache,
                            json& out) {
  auto limit = request.number("limit", kDefaultListedBlocks);
  if (!limit) return std::unexpected(limit.error());
  auto cursor = request.number("cursor", 0);
  if (!cursor) return std::unexpected(cursor.error());
  auto session = request.number("session", 0);
  if (!session) return std::unexpected(session.error());
  auto sequence = request.number("sequence", 0);
  if (!sequence) return std::unexpected(sequence.error());
  const auto rows_wanted =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(*limit, residency::kMaxListedRows));
  auto listed = request.coordinator().with_manager([&](auto& m) {
    if (*sequence == 0) return m.blocks(cache.cache, *cursor, rows_wanted);
    // A sequence of the cache that was selected, and so may be seen; any other is not there.
    const auto info = m.sequence_info(ipc::SessionId{*session}, ipc::Handle::from_bits(*sequence));
    if (!info || info->cache != cache.cache) {
      return residency::Result<residency::Listing<residency::BlockStatus>>(
          fail(Errc::not_found, "the cache has no such sequence"));
    }
    return m.sequence_blocks(ipc::SessionId{*session}, ipc::Handle::from_bits(*sequence), *cursor,
                             rows_wanted);
  });
  if (!listed) return std::unexpected(listed.error());
  const auto memory = request.coordinator().cache_memory(cache.cache);
  HbmResidency hbm;
  if (memory != nullptr) {
    auto scanned = memory->scan();
    if (!scanned) return std::unexpected(std::move(scanned.error()));
    hbm = std::move(*scanned);
  }
  json list = json::array();
  for (const auto& block : listed->rows) {
    list.push_back(block_json(block, memory != nullptr ? &hbm : nullptr));
  }
  out["next_cursor"] = listed->next;
  return list;
}

ipc::Result<json> residency_of(const Request& request) {
  json out = document("sluice.residency");
  const auto node = request.coordinator().with_manager([](auto& m) { return m.status(); });
  if (request.everything() && !request.only_tenant()) {
    out["node"] = {{"blocks", blocks_json(node.blocks)}, {"sharing", sharing_json(node.sharing)}};
  }
  auto tenants = tenants_of(request, request.coordinator().resolve_totals());
  if (!tenants) return std::unexpected(tenants.error());
  std::uint64_t shared = 0;
  std::uint64_t saved = 0;
  for (const auto& tenant : *tenants) {
    shared += tenant["blocks"]["shared"].get<std::uint64_t>();
    saved += tenant["sharing"]["saved_bytes"].get<std::uint64_t>();
  }
  out["shared_blocks"] = shared;
  out["saved_bytes"] = saved;
  out["tenants"] = std::move(*tenants);
  auto caches = caches_of(request, true);
  if (!caches) return std::unexpected(caches.error());
  out["caches"] = std::move(*caches);

  auto only = request.number("cache", EvictRequest::kAny);
  auto want_map = request.flag("map");
  if (!want_map) return std::unexpected(want_map.error());
  auto want_blocks = request.flag("blocks");
  if (!want_blocks) return std::unexpected(want_blocks.error());
  if (!*want_map && !*want_blocks) return out;
  const auto rows = request.coordinator().with_manager([](auto& m) { return m.caches(); });
  json maps = json::array();
  for (const auto& row : rows) {
    if (!request.sees(row.tenant)) continue;
    if (*only != EvictRequest::kAny && row.cache.value != *only) continue;
    if (*want_map) {
      auto map = map_of(request, row);
      if (!map) return std::unexpected(map.error());
      maps.push_back(std::move(*map));
    }
    if (*want_blocks) {
      if (*only == EvictRequest::kAny) {
        return fail(Errc::invalid_argument, "blocks are listed of one cache; select it with cache");
      }
      auto blocks = blocks_of(request, row, out);
      if (!blocks) return std::unexpected(blocks.error());
      out["blocks"] = std::move(*blocks);
    }
  }
  if (*want_map) out["maps"] = std::move(maps);
  return out;
}

ipc::Result<json> sequences_of(const Request& request) {
  auto limit = request.number("limit", residency::kMaxListedRows);
  if (!limit) return std::unexpected(limit.error());
  auto cursor = request.number("cursor", 0);
  if (!cursor) return std::unexpected(cursor.error());
  const auto [listed, caches] = request.coordinator().with_manager([&](auto& m) {
    return std::pair(m.sequences(*cursor, static_cast<std::uint32_t>(std::min<std::uint64_t>(
                                              *limit, residency::kMaxListedRows))),
                     m.caches());
  });
  json out = document("sluice.sequences");
  json list = json::array();
  for (const auto& row : listed.rows) {
    const auto cache = std::find_if(caches.begin(), caches.end(),
                                    [&](const auto& c) { return c.cache == row.cache; });
    if (cache == caches.end() || !request.sees(cache->tenant)) continue;
    list.push_back({{"session", row.session.value},
                    {"sequence", row.sequence.bits()},
                    {"cache", row.cache.value},
                    {"tenant", request.tenant_name(cache->tenant)},
                    {"blocks", row.blocks},
                    {"private", row.taken}});
  }
  out["sequences"] = std::move(list);
  out["next_cursor"] = listed.next;
  return out;
}

json sessions_of(const Request& request, const std::vector<Server::SessionRow>& rows) {
  const auto held = request.coordinator().with_manager([](auto& m) { return m.sessions(); });
  json list = json::array();
  for (const auto& row : rows) {
    if (!request.sees(ipc::TenantId{row.tenant})) continue;
    json session = {
        {"session", row.session},   {"tenant", row.tenant_name}, {"client", row.client_name},
        {"pid", row.pid},           {"state", row.state},        {"reason", row.reason},
        {"requests", row.requests}, {"failures", row.failures},  {"caches", row.caches}};
    for (const auto& status : held) {
      if (status.session.value != row.session) continue;
      session["sequences"] = status.sequences;
      session["blocks"] = status.blocks;
    }
    list.push_back(std::move(session));
  }
  return list;
}

json health_json(const Request& request, const std::vector<HealthFinding>& findings) {
  json list = json::array();
  for (const HealthFinding& finding : findings) {
    if (finding.tenant && !request.sees(*finding.tenant)) continue;
    json row = {{"code", std::string(to_string(finding.code))},
                {"level", std::string(to_string(finding.level))},
                {"what", finding.what},
                {"todo", finding.todo}};
    if (finding.tenant) row["tenant"] = request.tenant_name(*finding.tenant);
    list.push_back(std::move(row));
  }
  return list;
}

// What HBM is of: memory of the node, or GPUs.
std::string backend_of(const Request& request) {
  return request.coordinator().on_gpus() ? "cuda" : "host";
}

ipc::Result<json> status_of(const Request& request, const AdminHooks& hooks, double uptime_s) {
  json out = document("sluice.status");
  const auto node = request.coordinator().with_manager([](auto& m) { return m.status(); });
  out["daemon"] = {{"version", kVersion},
                   {"pid", getpid()},
                   {"uptime_seconds", uptime_s},
                   {"draining", hooks.draining()},
                   {"backend", backend_of(request)},
                   {"metrics_address", hooks.metrics_address()}};
  out["tiers"] = json::array({tier_json("hbm", node.hbm), tier_json("dram", node.dram)});
  out["devices"] = devices_json(request.coordinator());
  const auto resolved = request.coordinator().resolve_totals();
  auto tenants = tenants_of(request, resolved);
  if (!tenants) return std::unexpected(tenants.error());
  ResolveTotals totals;
  for (std::uint32_t tenant = 0; tenant < resolved.size(); ++tenant) {
    if (request.sees(ipc::TenantId{tenant})) totals += resolved[tenant];
  }
  out["tenants"] = std::move(*tenants);
  out["resolve"] = resolve_json(totals);
  out["health"] = health_json(request, hooks.health());
  if (request.everything()) {
    out["sessions"] = node.sessions;
    out["caches"] = node.caches;
    out["sequences"] = node.sequences;
    out["blocks"] = blocks_json(node.blocks);
    out["sharing"] = sharing_json(node.sharing);
    out["pending_work"] = node.pending_work;
  }
  return out;
}

ipc::Result<EvictRequest> evict_request(const Request& request) {
  if (!request.everything()) {
    return fail(Errc::permission_denied,
                "evicting needs an operator (see [admin] in the "
                "configuration)");
  }
  EvictRequest wanted;
  if (request.only_tenant()) wanted.tenant = request.only_tenant()->value;
  auto cache = request.number("cache", EvictRequest::kAny);
  if (!cache) return std::unexpected(cache.error());
  wanted.cache = static_cast<std::uint32_t>(std::min<std::uint64_t>(*cache, EvictRequest::kAny));
  auto bytes = request.number("bytes", EvictRequest::kAll);
  if (!bytes) return std::unexpected(bytes.error());
  wanted.bytes = *bytes;
  auto drop = request.flag("drop_idle_caches");
  if (!drop) return std::unexpected(drop.error());
  wanted.drop_idle_caches = *drop;
  return wanted;
}

// What an evict with the same arguments would do.
ipc::Result<json> evict_plan(const Request& request) {
  auto wanted = evict_request(request);
  if (!wanted) return std::unexpected(wanted.error());
  auto plan =
      request.coordinator().with_manager([&](const auto& m) { return m.evict_plan(*wanted); });
  if (!plan) return std::unexpected(plan.error());
  json out = document("sluice.evict_plan");
  std::uint64_t evictable_blocks = 0;
  std::uint64_t evictable_bytes = 0;
  json list = json::array();
  for (const auto& row : plan->caches) {
    evictable_blocks += row.evictable_blocks;
    evictable_bytes += row.evictable_bytes;
    list.push_back({{"cache", row.cache.value},
                    {"tenant", request.tenant_name(row.tenant)},
                    {"evictable_blocks", row.evictable_blocks},
                    {"evictable_bytes", row.evictable_bytes},
                    {"retiring_blocks", row.retiring_blocks},
                    {"blocks", row.blocks},
                    {"bytes", row.bytes},
                    {"would_be_dropped", row.dropped}});
  }
  out["evictable_blocks"] = evictable_blocks;
  out["evictable_bytes"] = evictable_bytes;
  out["wanted_bytes"] = wanted->bytes == EvictRequest::kAll ? json(nullptr) : json(wanted->bytes);
  out["blocks"] = plan->ordered.blocks;
  out["bytes"] = plan->ordered.bytes;
  out["caches_dropped"] = plan->ordered.caches_dropped;
  out["exact"] = plan->exact;
  out["caches"] = std::move(list);
  return out;
}

ipc::Result<json> evict(const Request& request) {
  auto wanted = evict_request(request);
  if (!wanted) return std::unexpected(wanted.error());
  auto ordered = request.coordinator().evict(*wanted);
  if (!ordered) return std::unexpected(ordered.error());
  json out = document("sluice.evict");
  out["blocks"] = ordered->blocks;
  out["bytes"] = ordered->bytes;
  out["caches_dropped"] = ordered->caches_dropped;
  return out;
}

json changes_json(const std::vector<ConfigChange>& changes) {
  json list = json::array();
  for (const auto& change : changes) {
    list.push_back({{"key", change.key}, {"now", change.now}, {"wanted", change.wanted}});
  }
  return list;
}

}  // namespace

Admin::Admin(const Config& config, Coordinator& coordinator, AdminHooks hooks)
    : config_(config), coordinator_(coordinator), hooks_(std::move(hooks)) {}

ipc::Result<std::string> Admin::run(const AdminScope& scope, std::string_view verb,
                                    std::string_view arguments) {
  json parsed = json::object();
  if (!arguments.empty()) {
    parsed = json::parse(arguments, nullptr, false);
    if (!parsed.is_object()) {
      return fail(Errc::invalid_argument, "the arguments of an admin request are a JSON object");
    }
  }
  Request request(config_, coordinator_, scope, std::move(parsed));
  if (auto selected = request.select(); !selected) return std::unexpected(selected.error());
  const double uptime_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  const auto only_operators = [&]() -> ipc::Status {
    if (scope.everything) return {};
    return fail(Errc::permission_denied, "`" + std::string(verb) +
                                             "` needs an operator (see [admin] in the "
                                             "configuration)");
  };
  const auto rendered = [](ipc::Result<json> out) -> ipc::Result<std::string> {
    if (!out) return std::unexpected(std::move(out.error()));
    return dump(*out);
  };

  if (verb == "ping") return rendered(document("sluice.ping"));
  if (verb == "status") return rendered(status_of(request, hooks_, uptime_s));
  if (verb == "tenants") {
    json out = document("sluice.tenants");
    auto list = tenants_of(request, coordinator_.resolve_totals());
    if (!list) return std::unexpected(list.error());
    out["tenants"] = std::move(*list);
    return dump(out);
  }
  if (verb == "devices") {
    json out = document("sluice.devices");
    out["devices"] = devices_json(coordinator_);
    return dump(out);
  }
  if (verb == "sessions") {
    json out = document("sluice.sessions");
    out["sessions"] = sessions_of(request, hooks_.sessions());
    return dump(out);
  }
  if (verb == "caches") {
    json out = document("sluice.caches");
    auto list = caches_of(request, true);
    if (!list) return std::unexpected(list.error());
    out["caches"] = std::move(*list);
    return dump(out);
  }
  if (verb == "sequences") return rendered(sequences_of(request));
  if (verb == "residency") return rendered(residency_of(request));
  if (verb == "evict_plan") return rendered(evict_plan(request));
  if (verb == "evict") return rendered(evict(request));
  if (verb == "drain") {
    if (auto ok = only_operators(); !ok) return std::unexpected(ok.error());
    auto off = request.flag("off");
    if (!off) return std::unexpected(off.error());
    hooks_.drain(!*off);
    json out = document("sluice.drain");
    out["draining"] = !*off;
    out["sessions"] = hooks_.sessions().size();
    return dump(out);
  }
  if (verb == "kill") {
    if (auto ok = only_operators(); !ok) return std::unexpected(ok.error());
    auto session = request.number("session", 0);
    if (!session) return std::unexpected(session.error());
    const SessionEnd why{{Errc::permission_denied, "an operator ended this session"}, std::nullopt};
    auto ended = hooks_.end_session(ipc::SessionId{*session}, why);
    if (!ended) return std::unexpected(ended.error());
    return dump(document("sluice.kill"));
  }
  if (verb == "config") {
    if (auto ok = only_operators(); !ok) return std::unexpected(ok.error());
    json out = document("sluice.config");
    json values = json::object();
    for (const auto& value : list_config(config_)) values[value.key] = value.value;
    out["values"] = std::move(values);
    return dump(out);
  }
  if (verb == "reload") {
    if (auto ok = only_operators(); !ok) return std::unexpected(ok.error());
    auto reload = hooks_.reload();
    if (!reload) return std::unexpected(reload.error());
    json out = document("sluice.reload");
    out["applied"] = changes_json(reload->applied);
    out["deferred"] = changes_json(reload->deferred);
    return dump(out);
  }
  return fail(
      Errc::not_supported,
      "no admin request is named \"" + std::string(verb.substr(0, 64)) +
          "\"; known: ping, status, devices, tenants, sessions, caches, sequences, residency, "
          "evict_plan, evict, drain, kill, config, reload");
}

}  // namespace sluice::daemon
