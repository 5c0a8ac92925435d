#include "daemon/config_checks.h"

#include <sys/types.h>

#include <cstdint>
#include <map>

#include "daemon/config_text.h"
#include "daemon/quantity.h"

namespace sluice::daemon {
namespace {

// One to write into, one to move what is left of others to, and one to be emptied.
constexpr std::uint64_t kMinNvmeSegments = 3;

void check_tier(const TierConfig& tier, const std::string& key, const Report& report) {
  if (tier.extent_bytes > tier.capacity_bytes) {
    report(key + ".extent", key + ".extent: found " + format_bytes(tier.extent_bytes) +
                                ", expected at most the capacity of the tier, " +
                                format_bytes(tier.capacity_bytes));
  }
}

void check_nvme(const NvmeConfig& nvme, const Report& report) {
  for (const NvmeDirectory& directory : nvme.directories) {
    if (directory.capacity_bytes >= kMinNvmeSegments * nvme.segment_bytes) continue;
    report("tiers.nvme.directories", "tiers.nvme.directories: " + quoted(directory.path) + " has " +
                                         format_bytes(directory.capacity_bytes) +
                                         ", expected at least " + std::to_string(kMinNvmeSegments) +
                                         " segments (tiers.nvme.segment is " +
                                         format_bytes(nvme.segment_bytes) + ")");
  }
}

std::string capacity_text(const std::string& tier, std::uint64_t capacity_bytes) {
  return "the capacity of tiers." + tier + ", " + format_bytes(capacity_bytes);
}

void check_limit(const std::string& prefix, std::uint64_t limit_bytes, std::uint64_t capacity_bytes,
                 const std::string& capacity, const Report& report) {
  if (limit_bytes <= capacity_bytes) return;
  const std::string key = prefix + ".limit";
  report(key, key + ": found " + format_bytes(limit_bytes) + ", expected at most " + capacity);
}

void check_nvme_quotas(const Config& config, const Report& report) {
  const std::uint64_t capacity_bytes = config.nvme.capacity_bytes();
  for (const TenantConfig& tenant : config.tenants) {
    check_limit(tenant_path(tenant) + ".nvme", tenant.nvme.limit_bytes, capacity_bytes,
                capacity_text("nvme", capacity_bytes), report);
  }
}

void check_quotas(const Config& config, const std::string& tier, std::uint64_t capacity_bytes,
                  QuotaConfig TenantConfig::* quota_of, const Report& report) {
  const std::string capacity = capacity_text(tier, capacity_bytes);
  const auto wrong = [&](const std::string& key, std::uint64_t found, const std::string& rest) {
    report(key, key + ": found " + format_bytes(found) + rest);
  };
  std::uint64_t free = capacity_bytes;
  for (const TenantConfig& tenant : config.tenants) {
    const QuotaConfig& quota = tenant.*quota_of;
    const std::string prefix = tenant_path(tenant) + "." + tier;
    const std::string guaranteed_key = prefix + ".guaranteed";
    check_limit(prefix, quota.limit_bytes, capacity_bytes, capacity, report);
    if (quota.guaranteed_bytes > quota.limit_bytes) {
      wrong(guaranteed_key, quota.guaranteed_bytes,
            ", expected at most its limit, " + format_bytes(quota.limit_bytes));
    } else if (quota.guaranteed_bytes > free) {
      wrong(guaranteed_key, quota.guaranteed_bytes,
            ", but only " + format_bytes(free) +
                " is left by the guarantees before it; together they must fit into " + capacity);
    } else {
      free -= quota.guaranteed_bytes;
    }
  }
}

// Every name, id and socket has one owner.
class Owners {
 public:
  explicit Owners(const Report& report) : report_(report) {}

  template <class Value>
  void claim(std::map<Value, std::string>& owners, const Value& value, const std::string& shown,
             const std::string& key, const std::string& owner) {
    const auto [first, claimed] = owners.emplace(value, owner);
    if (!claimed) report_(key, key + ": " + shown + " belongs to " + first->second + " already");
  }

 private:
  const Report& report_;
};

}  // namespace

void check_sizes(const Config& config, const Report& report) {
  check_tier(config.hbm, "tiers.hbm", report);
  check_tier(config.dram, "tiers.dram", report);
  check_nvme(config.nvme, report);
  check_quotas(config, "hbm", config.hbm.capacity_bytes, &TenantConfig::hbm, report);
  check_quotas(config, "dram", config.dram.capacity_bytes, &TenantConfig::dram, report);
  check_nvme_quotas(config, report);
}

void check_owners(const Config& config, const Report& report) {
  Owners owners(report);
  std::map<std::string, std::string> sockets = {{config.daemon.socket, "daemon.socket"}};
  std::map<uid_t, std::string> uids;
  std::map<gid_t, std::string> gids;
  for (const TenantConfig& tenant : config.tenants) {
    const std::string key = tenant_path(tenant);
    const std::string owner = "tenant " + quoted(tenant.name);
    for (const uid_t uid : tenant.uids) {
      owners.claim(uids, uid, std::to_string(uid), key + ".uids", owner);
    }
    for (const gid_t gid : tenant.gids) {
      owners.claim(gids, gid, std::to_string(gid), key + ".gids", owner);
    }
    if (!tenant.socket.empty()) {
      owners.claim(sockets, tenant.socket, quoted(tenant.socket), key + ".socket", owner);
    }
  }
}

}  // namespace sluice::daemon
