// What an operator should act on: named findings, each with its cause and what to do about it.
//
// Codes are a closed set and stable, for alerts. Pure: the input is what the daemon counted, and
// time is given.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/cache_memory.h"
#include "daemon/device.h"
#include "daemon/residency/status.h"

namespace sluice::daemon {

enum class HealthLevel : std::uint8_t {
  info,   // as it may well be meant
  warn,   // something is refused, or slower than it need be
  error,  // the configuration promises what the node does not have
};
std::string_view to_string(HealthLevel level);

enum class HealthCode : std::uint8_t {
  draining,
  tier_nearly_full,
  tenant_over_limit,
  tenant_wanting,
  extents_failed,
  no_slot_rate,
  forecast_waste,
  device_lost,
  device_silent,
  restart_not_kept,
  sessions_away,
  mps_shared,
};
inline constexpr std::size_t kHealthCodes = 12;
std::string_view to_string(HealthCode code);  // "TIER_NEARLY_FULL"

struct HealthFinding {
  HealthCode code = HealthCode::draining;
  HealthLevel level = HealthLevel::warn;
  std::optional<ipc::TenantId> tenant;  // none: the whole node
  std::string what;
  std::string todo;
};

// What a tenant counted; of one that is running, since the daemon's start.
struct HealthCounts {
  ResolveTotals resolved;
  std::uint64_t hbm_failed = 0;   // arenas that the node could not make
  std::uint64_t dram_failed = 0;  // extents that the node could not make
};

// Counts of some moments, to tell what came lately.
class RecentCounts {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kWindow{60};
  static constexpr std::chrono::seconds kSampleInterval{10};

  // `start`: when everything was 0.
  RecentCounts(Clock::time_point start, std::size_t tenants);

  // To be called every kSampleInterval.
  void sample(Clock::time_point now, std::vector<HealthCounts> counts);
  // What came within kWindow before `now`, by tenant; a sample interval more or less.
  std::vector<HealthCounts> since(Clock::time_point now, std::vector<HealthCounts> counts) const;

 private:
  struct Sample {
    Clock::time_point at;
    std::vector<HealthCounts> counts;
  };
  std::deque<Sample> samples_;  // the first is the newest that is kWindow old, if one is
};

struct HealthInput {
  struct Tier {
    residency::TierStatus status;
    std::uint64_t reclaimable_bytes = 0;  // of what is used: given up as soon as it is needed
  };
  Tier hbm, dram;
  bool draining = false;
  std::vector<DeviceHealth> devices;  // by number
  std::string not_kept;               // why a restart will not find everything; empty: it will
  std::uint32_t away_sessions = 0;    // for longer than a reconnect takes
  std::vector<std::string> mps_pipe_directories;  // by tenant; empty where there is none
  std::vector<residency::TenantStatus> tenants;
  std::vector<HealthCounts> recent;  // by tenant, within RecentCounts::kWindow
};

std::vector<HealthFinding> findings_in(const HealthInput& input);

}  // namespace sluice::daemon
