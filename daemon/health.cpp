#include "daemon/health.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
#include <utility>

namespace sluice::daemon {
namespace {

using residency::TenantStatus;
using residency::TenantTierStatus;

// Of a tier, what is in use and cannot be given up.
constexpr double kNearlyFull = 0.95;
// Of the pages that were looked up.
constexpr double kHighNoSlotRate = 0.01;
// Fewer pages say little about a tenant's arenas, or about a forecaster.
constexpr double kJudgedPages = 10'000;
constexpr double kWastefulShare = 0.5;

std::string percent(double part, double whole) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f%%", 100.0 * part / whole);
  return text;
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> units = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < units.size(); ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

void look_at_tier(const HealthInput::Tier& tier, const char* name, HealthLevel level,
                  const char* todo, std::vector<HealthFinding>& findings) {
  const std::uint64_t used = tier.status.used_bytes;
  const auto kept = static_cast<double>(used - std::min(used, tier.reclaimable_bytes));
  const auto capacity = static_cast<double>(tier.status.capacity_bytes);
  if (capacity <= 0 || kept < kNearlyFull * capacity) return;
  findings.push_back({HealthCode::tier_nearly_full, level, std::nullopt,
                      std::string(name) + " is nearly full: " + percent(kept, capacity) + " of " +
                          bytes_text(tier.status.capacity_bytes) +
                          " is in use and cannot be given up",
                      todo});
}

void look_at_quota(const TenantStatus& tenant, const TenantTierStatus& tier, const char* name,
                   std::vector<HealthFinding>& findings) {
  if (tier.over_limit_bytes > 0) {
    findings.push_back(
        {HealthCode::tenant_over_limit, HealthLevel::warn, tenant.tenant,
         tenant.name + " holds " + bytes_text(tier.over_limit_bytes) + " of " + name +
             " above its limit, in blocks or caches that are in use",
         "wait for its sequences to end, or end sessions with `sluicectl sessions kill`"});
  }
  if (tier.wanting) {
    findings.push_back({HealthCode::tenant_wanting, HealthLevel::warn, tenant.tenant,
                        tenant.name + " was refused " + name + " recently (" +
                            bytes_text(tier.used_bytes) + " used, limit " +
                            bytes_text(tier.quota.limit_bytes) + ")",
                        "raise its limit or guarantee and run `sluicectl config reload`, or run "
                        "fewer sequences"});
  }
}

void look_at_failures(const TenantStatus& tenant, std::uint64_t failed, const char* what,
                      std::vector<HealthFinding>& findings) {
  if (failed == 0) return;
  findings.push_back({HealthCode::extents_failed, HealthLevel::error, tenant.tenant,
                      "the node had no memory for " + std::to_string(failed) + " " + what + " of " +
                          tenant.name + " in the last minute",
                      "make the tiers smaller than the memory that the node really has, or free "
                      "memory (see /dev/shm and the daemon's cgroup)"});
}

void look_at_slots(const TenantStatus& tenant, const ResolveTotals& recent,
                   std::vector<HealthFinding>& findings) {
  const auto without = static_cast<double>(recent.no_slot);
  const double pages = static_cast<double>(recent.hits) + static_cast<double>(recent.misses) +
                       static_cast<double>(recent.absent) + without;
  if (pages < kJudgedPages || without < kHighNoSlotRate * pages) return;
  findings.push_back({HealthCode::no_slot_rate, HealthLevel::warn, tenant.tenant,
                      tenant.name + ": " + percent(without, pages) +
                          " of the pages looked up in the last minute found no slot",
                      "give its caches larger arenas (hbm_bytes when they are opened, and its HBM "
                      "limit), run fewer steps at a time, or end steps earlier"});
}

void look_at_forecasts(const TenantStatus& tenant, std::vector<HealthFinding>& findings) {
  const auto issued = static_cast<double>(tenant.forecasts.issued.pages);
  const auto wasted = static_cast<double>(tenant.forecasts.wasted.pages);
  if (issued < kJudgedPages || wasted < kWastefulShare * issued) return;
  findings.push_back(
      {HealthCode::forecast_waste, HealthLevel::warn, tenant.tenant,
       tenant.name + ": " + percent(wasted, issued) + " of the forecast pages were never used",
       "forecast with a shorter horizon or a higher confidence"});
}

void look_at_device(std::size_t number, const DeviceHealth& device,
                    std::vector<HealthFinding>& findings) {
  const std::string name = "device " + std::to_string(number) + ": ";
  switch (device.state) {
    case DeviceHealth::State::well:
      return;
    case DeviceHealth::State::lost:
      findings.push_back({HealthCode::device_lost, HealthLevel::error, std::nullopt,
                          name + device.text,
                          "see nvidia-smi and the kernel's log for what the GPU has; engines on it "
                          "must be started anew, and so must sluiced if it was reset"});
      return;
    case DeviceHealth::State::silent:
      findings.push_back({HealthCode::device_silent, HealthLevel::error, std::nullopt,
                          name + "the GPU or its driver does not answer; its caches are neither "
                                 "made nor freed meanwhile",
                          "see nvidia-smi and the kernel's log; a kernel of an engine that runs "
                          "for seconds delays others, too"});
      return;
  }
}

// A fault of one ends what all clients of the server have on the GPU.
void look_at_mps(const HealthInput& input, std::vector<HealthFinding>& findings) {
  std::map<std::string_view, std::vector<std::string_view>> tenants;  // by server
  for (const TenantStatus& tenant : input.tenants) {
    const std::uint32_t number = tenant.tenant.value;
    if (number >= input.mps_pipe_directories.size()) continue;
    const std::string& directory = input.mps_pipe_directories[number];
    if (!directory.empty()) tenants[directory].push_back(tenant.name);
  }
  for (const auto& [directory, names] : tenants) {
    if (names.size() < 2) continue;
    std::string all;
    for (const std::string_view name : names) {
      if (!all.empty()) all += ", ";
      all += name;
    }
    findings.push_back({HealthCode::mps_shared, HealthLevel::info, std::nullopt,
                        "tenants share the MPS server at " + std::string(directory) + ": " + all +
                            "; an illegal access of one ends what the others have on the GPU",
                        "if they do not trust one another, give each a server of its own"});
  }
}

}  // namespace

std::string_view to_string(HealthLevel level) {
  constexpr std::array<std::string_view, 3> names = {"info", "warn", "error"};
  return names[static_cast<std::size_t>(level)];
}

std::string_view to_string(HealthCode code) {
  constexpr std::array<std::string_view, kHealthCodes> names = {
      "DRAINING",       "TIER_NEARLY_FULL", "TENANT_OVER_LIMIT", "TENANT_WANTING",
      "EXTENTS_FAILED", "NO_SLOT_RATE",     "FORECAST_WASTE",    "DEVICE_LOST",
      "DEVICE_SILENT",  "RESTART_NOT_KEPT", "SESSIONS_AWAY",     "MPS_SHARED"};
  return names[static_cast<std::size_t>(code)];
}

RecentCounts::RecentCounts(Clock::time_point start, std::size_t tenants) {
  samples_.push_back({start, std::vector<HealthCounts>(tenants)});
}

void RecentCounts::sample(Clock::time_point now, std::vector<HealthCounts> counts) {
  samples_.push_back({now, std::move(counts)});
  while (samples_.size() > 1 && samples_[1].at <= now - kWindow) samples_.pop_front();
}

std::vector<HealthCounts> RecentCounts::since(Clock::time_point now,
                                              std::vector<HealthCounts> counts) const {
  auto from = samples_.begin();
  while (std::next(from) != samples_.end() && std::next(from)->at <= now - kWindow) ++from;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const HealthCounts& before = from->counts[i];
    counts[i].resolved = counts[i].resolved.since(before.resolved);
    counts[i].hbm_failed -= before.hbm_failed;
    counts[i].dram_failed -= before.dram_failed;
  }
  return counts;
}

std::vector<HealthFinding> findings_in(const HealthInput& input) {
  std::vector<HealthFinding> findings;
  if (input.draining) {
    findings.push_back({HealthCode::draining, HealthLevel::warn, std::nullopt,
                        "the daemon takes no new sessions",
                        "when the maintenance is over: `sluicectl drain --off`"});
  }
  // Arenas that fill HBM are what engines are meant to take.
  look_at_tier(input.hbm, "HBM", HealthLevel::info,
               "before opening more caches, close some or give them smaller arenas", findings);
  look_at_tier(input.dram, "DRAM", HealthLevel::warn,
               "run fewer or shorter sequences, or raise tiers.dram.capacity", findings);
  for (std::size_t i = 0; i < input.devices.size(); ++i) {
    look_at_device(i, input.devices[i], findings);
  }
  if (!input.not_kept.empty()) {
    findings.push_back({HealthCode::restart_not_kept, HealthLevel::warn, std::nullopt,
                        "a restart will not find all that is in memory: " + input.not_kept,
                        "restart sluiced when it suits; what the text names is in the way"});
  }
  if (input.away_sessions > 0) {
    findings.push_back(
        {HealthCode::sessions_away, HealthLevel::warn, std::nullopt,
         std::to_string(input.away_sessions) +
             " sessions have not come back since the daemon was started anew; blocks that they may "
             "still read are not evicted",
         "see `sluicectl sessions`: a process that hangs, or was linked with an older libsluice, "
         "is "
         "best ended"});
  }
  look_at_mps(input, findings);
  for (const TenantStatus& tenant : input.tenants) {
    const HealthCounts& recent = input.recent[tenant.tenant.value];
    look_at_quota(tenant, tenant.hbm, "HBM", findings);
    look_at_quota(tenant, tenant.dram, "DRAM", findings);
    look_at_failures(tenant, recent.hbm_failed, "arenas", findings);
    look_at_failures(tenant, recent.dram_failed, "DRAM extents", findings);
    look_at_slots(tenant, recent.resolved, findings);
    look_at_forecasts(tenant, findings);
  }
  return findings;
}

}  // namespace sluice::daemon
