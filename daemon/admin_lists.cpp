// Tenants, caches, sessions and sequences, a row each.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <utility>

#include "daemon/admin_counts.h"
#include "daemon/admin_documents.h"
#include "daemon/arenas.h"
#include "daemon/device_report.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using nlohmann::json;
using residency::EvictRequest;

namespace {

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

// Null if there is no block store.
json stored_json(const storage::StoreStats& store, const std::string& tenant) {
  const auto found = std::ranges::find(store.tenants, tenant, &storage::TenantStats::name);
  if (found == store.tenants.end()) return nullptr;
  return {{"used_bytes", found->live_bytes},
          {"limit_bytes", found->limit_bytes},
          {"weight", found->weight},
          {"blocks", found->blocks},
          {"held_bytes", found->held_bytes},
          {"dropped_blocks", found->dropped_blocks},
          {"refused_writes", found->refused_writes},
          {"lost_blocks", found->lost_blocks}};
}

json violations_json(const ViolationCounts& counts) {
  json by_reason = json::object();
  for (std::size_t i = 0; i < kViolations; ++i) {
    by_reason[std::string(to_string(static_cast<Violation>(i)))] = counts[i];
  }
  return by_reason;
}

// A cache's row; `detail` adds what takes a scan of its table.
ipc::Result<json> cache_json(const AdminRequest& request, const residency::CacheStatus& row,
                             bool detail) {
  json cache = {{"cache", row.cache.value},
                {"tenant", request.tenant_name(row.tenant)},
                {"model", row.spec.model},
                {"salt", row.spec.salt},
                {"shard_index", row.spec.shard_index},
                {"shard_count", row.spec.shard_count},
                {"arenas", arenas_json(row)},
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
  const Arenas arenas = request.coordinator().arenas(row.cache);
  if (arenas.empty()) return cache;
  cache["table_bytes"] = table_bytes(arenas).node;
  cache["device_table_bytes"] = table_bytes(arenas).device_extent;
  cache["resolve"] = resolve_json(totals(arenas));
  if (detail) {
    const auto hbm = scan(arenas);
    if (!hbm) return std::unexpected(hbm.error());
    cache["hbm_pages"] = {
        {"cached", hbm->cached_pages}, {"pinned", hbm->pinned_pages}, {"free", hbm->free_slots}};
    cache["hbm_used_bytes"] =
        (hbm->cached_pages + hbm->pinned_pages) * row.shape.geometry.page_bytes;
  }
  return cache;
}

// Has the words of all these caches fetched that a device has, at the same time.
void fetch_words(const AdminRequest& request, const std::vector<residency::CacheStatus>& rows) {
  if (!request.coordinator().on_gpus()) return;
  for (const auto& row : rows) {
    if (request.sees(row.tenant)) (void)scan(request.coordinator().arenas(row.cache));
  }
}

}  // namespace

ipc::Result<json> tenants_of(const AdminRequest& request,
                             const std::vector<ResolveTotals>& resolved) {
  const auto rows = request.coordinator().with_manager([](auto& m) { return m.tenants(); });
  const auto counters = request.coordinator().tenant_counters();
  const NvmeTier* const nvme = request.coordinator().nvme();
  const storage::StoreStats store = nvme != nullptr ? nvme->store().stats() : storage::StoreStats{};
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
                    {"nvme", stored_json(store, row.name)},
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

ipc::Result<json> caches_of(const AdminRequest& request, bool detail) {
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

ipc::Result<json> sequences_of(const AdminRequest& request) {
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
                    {"device", row.device.value},
                    {"tenant", request.tenant_name(cache->tenant)},
                    {"blocks", row.blocks},
                    {"private", row.taken}});
  }
  out["sequences"] = std::move(list);
  out["next_cursor"] = listed.next;
  return out;
}

json sessions_of(const AdminRequest& request, const std::vector<Server::SessionRow>& rows) {
  const auto held = request.coordinator().with_manager([](auto& m) { return m.sessions(); });
  json list = json::array();
  for (const auto& row : rows) {
    if (!request.sees(ipc::TenantId{row.tenant})) continue;
    json session = {{"session", row.session},
                    {"tenant", row.tenant_name},
                    {"client", row.client_name},
                    {"pid", row.pid},
                    {"state", row.state},
                    {"reason", row.reason},
                    {"requests", row.requests},
                    {"failures", row.failures},
                    {"caches", row.caches},
                    {"pinned_bytes", row.pinned_bytes},
                    {"to_pin_bytes", row.to_pin_bytes},
                    {"pin_hbm_bytes", row.pinned_bytes / ipc::kPinnedPerHbmByte}};
    for (const auto& status : held) {
      if (status.session.value != row.session) continue;
      session["sequences"] = status.sequences;
      session["blocks"] = status.blocks;
    }
    list.push_back(std::move(session));
  }
  return list;
}

}  // namespace sluice::daemon
