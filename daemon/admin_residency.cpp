// The document of what is where: maps and lists of blocks.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "daemon/admin_counts.h"
#include "daemon/admin_documents.h"
#include "daemon/arenas.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using nlohmann::json;
using residency::EvictRequest;

namespace {

constexpr std::uint32_t kDefaultListedBlocks = 100;
// Characters of a residency map; each stands for as many blocks as it takes.
constexpr std::size_t kMapCells = 1024;

std::string key_hex(const std::vector<std::byte>& key) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : key) {
    text += digits[std::to_integer<unsigned>(byte) >> 4];
    text += digits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
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

ipc::Result<json> map_of(const AdminRequest& request, const residency::CacheStatus& cache) {
  const Arenas arenas = request.coordinator().arenas(cache.cache);
  if (arenas.empty()) return fail(Errc::not_found, "the cache is gone");
  const auto hbm = scan(arenas);
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

ipc::Result<json> blocks_of(const AdminRequest& request, const residency::CacheStatus& cache,
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
  const Arenas arenas = request.coordinator().arenas(cache.cache);
  HbmResidency hbm;
  if (!arenas.empty()) {
    auto scanned = scan(arenas);
    if (!scanned) return std::unexpected(std::move(scanned.error()));
    hbm = std::move(*scanned);
  }
  json list = json::array();
  for (const auto& block : listed->rows) {
    list.push_back(block_json(block, arenas.empty() ? nullptr : &hbm));
  }
  out["next_cursor"] = listed->next;
  return list;
}

}  // namespace

ipc::Result<json> residency_of(const AdminRequest& request) {
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

}  // namespace sluice::daemon
