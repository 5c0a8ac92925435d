#include "tests/crash/audit.h"

#include <cstdint>

#include "tests/eventually.h"

namespace sluice::crash {

using nlohmann::json;

namespace {

std::string text_of(const char* what, const json& is) {
  return std::string(what) + ": " + is.dump();
}

// What is not as it is when nobody is there.
std::optional<std::string> still_used(const Victim& victim) {
  const auto sessions = victim.ask("sessions", json::object());
  const auto residency = victim.ask("residency", json::object());
  if (!sessions || !residency) return "the daemon does not answer";
  if (!(*sessions)["sessions"].empty()) return text_of("sessions", (*sessions)["sessions"]);
  for (const json& cache : (*residency)["caches"]) {
    const json& blocks = cache["blocks"];
    if (blocks["private"] != 0 || blocks["retiring"] != 0) return text_of("blocks in use", cache);
    if (cache.contains("hbm_pages") && cache["hbm_pages"]["pinned"] != 0) {
      return text_of("pinned pages", cache);
    }
    if (cache["sequences"] != 0 || cache["sessions"] != 0) return text_of("users", cache);
    if (blocks["sealed"] != blocks["unreferenced"]) return text_of("referenced blocks", cache);
  }
  for (const json& tenant : (*residency)["tenants"]) {
    if (tenant["sessions"] != 0) return text_of("sessions of a tenant", tenant);
  }
  return std::nullopt;
}

// Frames and bytes add up.
std::optional<std::string> unequal_books(const Victim& victim, bool has_store) {
  const auto residency = victim.ask("residency", json::object());
  if (!residency) return "the daemon does not answer";
  for (const json& tenant : (*residency)["tenants"]) {
    std::uint64_t dram = 0;
    std::uint64_t hbm = 0;
    for (const json& cache : (*residency)["caches"]) {
      if (cache["tenant"] != tenant["tenant"]) continue;
      dram += cache["dram_bytes"].get<std::uint64_t>();
      hbm += cache["hbm_bytes"].get<std::uint64_t>();
      const std::uint64_t stride = cache["frame_stride_bytes"];
      const std::uint64_t frames = cache["dram_bytes"].get<std::uint64_t>() / stride;
      const std::uint64_t free = cache["free_frames"];
      const std::uint64_t sealed = cache["blocks"]["sealed"];
      if (free > frames || (!has_store && free + sealed != frames)) {
        return text_of("frames that nobody has", cache);
      }
    }
    if (tenant["dram"]["used_bytes"] != dram) return text_of("DRAM of a tenant", tenant);
    if (tenant["hbm"]["used_bytes"] != hbm) return text_of("HBM of a tenant", tenant);
  }
  return std::nullopt;
}

// The last answer of `look` that is none at the deadline.
template <class Look>
std::optional<std::string> wait_for_none(Look&& look) {
  std::optional<std::string> last;
  if (test::eventually([&] { return !(last = look()); })) return std::nullopt;
  return last;
}

}  // namespace

Level level_of(const Victim& victim) {
  const auto keeper = victim.keeper();
  return {descriptors_of(victim.pid(), victim.store()), keeper ? descriptors_of(*keeper) : 0};
}

std::optional<std::string> audit_idle(const Victim& victim, bool has_store) {
  if (auto used = wait_for_none([&] { return still_used(victim); })) return used;
  // An extent may be on its way.
  return wait_for_none([&] { return unequal_books(victim, has_store); });
}

std::optional<std::string> audit_empty(const Victim& victim, const Level& level) {
  return wait_for_none([&]() -> std::optional<std::string> {
    if (!victim.ask("evict", {{"drop_idle_caches", true}})) return "the daemon does not answer";
    const auto residency = victim.ask("residency", json::object());
    if (!residency) return "the daemon does not answer";
    if (!(*residency)["caches"].empty()) return text_of("caches", (*residency)["caches"]);
    for (const json& tenant : (*residency)["tenants"]) {
      if (tenant["dram"]["used_bytes"] != 0 || tenant["hbm"]["used_bytes"] != 0) {
        return text_of("memory in use without a cache", tenant);
      }
    }
    const Level now = level_of(victim);
    if (now.daemon <= level.daemon && now.keeper <= level.keeper) return std::nullopt;
    return "descriptors: the daemon has " + std::to_string(now.daemon) + ", before " +
           std::to_string(level.daemon) + "; the keeper " + std::to_string(now.keeper) +
           ", before " + std::to_string(level.keeper);
  });
}

}  // namespace sluice::crash
