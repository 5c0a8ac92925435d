#include <concepts>
#include <cstdint>
#include <ios>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "daemon/config.h"
#include "daemon/config_text.h"
#include "daemon/quantity.h"

namespace sluice::daemon {
namespace {

class Listing {
 public:
  void add(const std::string& key, std::string value) {
    values_.push_back({key, std::move(value)});
  }
  void add(const std::string& key, std::unsigned_integral auto value) {
    add(key, std::to_string(value));
  }
  void add_bytes(const std::string& key, std::uint64_t value) {
    add(key, quoted(format_bytes(value)));
  }
  void add_text(const std::string& key, const std::string& value) { add(key, "\"" + value + "\""); }
  void add_ids(const std::string& key, const std::vector<std::uint32_t>& ids) {
    std::vector<std::string> parts;
    parts.reserve(ids.size());
    for (const std::uint32_t id : ids) parts.push_back(std::to_string(id));
    add(key, "[" + join(parts, ", ") + "]");
  }
  void add_devices(const std::string& key, const std::vector<std::string>& devices) {
    if (devices == std::vector{std::string(kAllDevices)}) return add_text(key, devices[0]);
    std::vector<std::string> parts;
    parts.reserve(devices.size());
    for (const std::string& device : devices) {
      parts.push_back(is_gpu_uuid(device) ? quoted(device) : device);
    }
    add(key, "[" + join(parts, ", ") + "]");
  }
  void add_directories(const std::string& key, const std::vector<NvmeDirectory>& list) {
    std::vector<std::string> parts;
    parts.reserve(list.size());
    for (const NvmeDirectory& one : list) {
      parts.push_back(quoted(one.path + ":" + format_bytes(one.capacity_bytes)));
    }
    add(key, "[" + join(parts, ", ") + "]");
  }
  void add_tier(const std::string& key, const TierConfig& tier) {
    add_bytes(key + ".capacity", tier.capacity_bytes);
    add_bytes(key + ".extent", tier.extent_bytes);
    add(key + ".huge_pages", word_for(kHugePages, tier.huge_pages));
  }
  void add_quota(const std::string& key, const QuotaConfig& quota) {
    add_bytes(key + ".guaranteed", quota.guaranteed_bytes);
    add_bytes(key + ".limit", quota.limit_bytes);
    add_weight(key + ".weight", quota.weight);
  }
  void add_quota(const std::string& key, const NvmeQuotaConfig& quota) {
    add_bytes(key + ".limit", quota.limit_bytes);
    add_weight(key + ".weight", quota.weight);
  }
  void add_weight(const std::string& key, double weight) {
    std::ostringstream text;
    text << std::showpoint << weight;
    add(key, text.str());
  }
  std::vector<ConfigValue> take() { return std::move(values_); }

 private:
  std::vector<ConfigValue> values_;
};

}  // namespace

std::vector<ConfigValue> list_config(const Config& config) {
  Listing list;
  list.add_text("daemon.socket", config.daemon.socket);
  list.add("daemon.socket_mode", format_mode(config.daemon.socket_mode));
  list.add("daemon.log_level", word_for(kLogLevels, config.daemon.log_level));
  list.add("daemon.log_format", word_for(kLogFormats, config.daemon.log_format));
  list.add("daemon.lanes", config.daemon.lanes);
  list.add("daemon.max_sessions", config.daemon.max_sessions);
  list.add("daemon.reserved_sessions", config.daemon.reserved_sessions);
  list.add_text("metrics.address", config.metrics.address);
  list.add("backend.kind", word_for(kBackendKinds, config.backend.kind));
  list.add_devices("backend.devices", config.backend.devices);
  list.add_text("backend.device_worker", config.backend.device_worker);
  list.add("backend.worker_idle", quoted(format_duration(config.backend.worker_idle)));
  list.add_tier("tiers.hbm", config.hbm);
  list.add_tier("tiers.dram", config.dram);
  list.add("tiers.dram.numa", word_for(kNumaPlacements, config.dram.numa));
  list.add_directories("tiers.nvme.directories", config.nvme.directories);
  list.add("tiers.nvme.io", word_for(kIoKinds, config.nvme.io));
  list.add_bytes("tiers.nvme.segment", config.nvme.segment_bytes);
  list.add_bytes("tiers.nvme.part", config.nvme.part_bytes);
  list.add("tiers.nvme.depth", config.nvme.depth);
  list.add_bytes("tiers.nvme.write_per_day", config.nvme.write_per_day_bytes);
  list.add("restart.warm", config.restart.warm ? "true" : "false");
  list.add_text("restart.keeper", config.restart.keeper);
  list.add("restart.keeper_idle", quoted(format_duration(config.restart.keeper_idle)));
  list.add("restart.outage", quoted(format_duration(config.restart.outage)));
  list.add("rings.capacity", config.rings.capacity);
  list.add_bytes("rings.request_memory", config.rings.request_memory_bytes);
  list.add("rings.spin_us", config.rings.spin_us);
  list.add("limits.caches", config.limits.caches);
  list.add("limits.sequences_per_session", config.limits.sequences_per_session);
  list.add("limits.actors_per_cache", config.limits.actors_per_cache);
  list.add("limits.step_deadline", quoted(format_duration(config.limits.step_deadline)));
  list.add("limits.open_deadline", quoted(format_duration(config.limits.open_deadline)));
  list.add("limits.connections_per_user", config.limits.connections_per_user);
  list.add("limits.admin_idle", quoted(format_duration(config.limits.admin_idle)));
  list.add_ids("admin.uids", config.admin.uids);
  list.add_ids("admin.gids", config.admin.gids);
  for (const TenantConfig& tenant : config.tenants) {
    const std::string key = tenant_path(tenant);
    list.add_ids(key + ".uids", tenant.uids);
    list.add_ids(key + ".gids", tenant.gids);
    list.add_text(key + ".socket", tenant.socket);
    list.add(key + ".socket_mode", format_mode(tenant.socket_mode));
    list.add_text(key + ".mps_pipe_directory", tenant.mps_pipe_directory);
    list.add_quota(key + ".hbm", tenant.hbm);
    list.add_quota(key + ".dram", tenant.dram);
    if (config.nvme.has_store()) list.add_quota(key + ".nvme", tenant.nvme);
  }
  return list.take();
}

}  // namespace sluice::daemon
