// What an operator evicts, and a look at what that would be.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "daemon/admin_documents.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using nlohmann::json;
using residency::EvictRequest;

namespace {

ipc::Result<EvictRequest> evict_request(const AdminRequest& request) {
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

}  // namespace

ipc::Result<json> evict_plan(const AdminRequest& request) {
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

ipc::Result<json> evict(const AdminRequest& request) {
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

}  // namespace sluice::daemon
