#include "daemon/config_machine.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string_view>

#include "daemon/quantity.h"
#include "ipc/memfd.h"

namespace sluice::daemon {
namespace {

constexpr std::uint64_t kDefaultHbmBytes = 1 * kGiB;
constexpr std::uint64_t kDefaultDramBytes = 4 * kGiB;

std::uint64_t shm_free_bytes() {
  struct statvfs shm{};
  if (::statvfs("/dev/shm", &shm) != 0) return std::numeric_limits<std::uint64_t>::max();
  return std::uint64_t{shm.f_bavail} * shm.f_frsize;
}

std::string default_socket(uid_t uid) {
  if (uid == 0) return "/run/sluice/sluice.sock";
  if (const char* dir = std::getenv("RUNTIME_DIRECTORY"); dir != nullptr && *dir == '/') {
    const std::string_view dirs = dir;  // systemd separates several by a colon
    return std::string(dirs.substr(0, dirs.find(':'))) + "/sluice.sock";
  }
  if (const char* dir = std::getenv("XDG_RUNTIME_DIR"); dir != nullptr && *dir == '/') {
    return std::string(dir) + "/sluice/sluice.sock";
  }
  return "/tmp/sluice-" + std::to_string(uid) + "/sluice.sock";
}

struct TierSizes {
  std::uint64_t hbm_bytes;
  std::uint64_t dram_bytes;
};

TierSizes default_sizes(const Environment& environment) {
  constexpr std::uint64_t kBoth = kDefaultHbmBytes + kDefaultDramBytes;
  const std::uint64_t half = environment.memory_available_bytes / 2;
  if (half >= kBoth) {
    return {kDefaultHbmBytes, kDefaultDramBytes};
  }
  const auto share = [&](std::uint64_t wanted) {
    // half < 2^33, so that no digit is lost
    const std::uint64_t extent = TierConfig{}.extent_bytes;
    return std::max(half / kMiB * wanted / kBoth * kMiB / extent * extent, extent);
  };
  return {share(kDefaultHbmBytes), share(kDefaultDramBytes)};
}

std::string sizes_note(const Environment& environment) {
  const TierSizes sizes = default_sizes(environment);
  std::string note = "default tiers: hbm " + format_bytes(sizes.hbm_bytes) + ", dram " +
                     format_bytes(sizes.dram_bytes);
  const std::string offer = std::to_string(environment.memory_available_bytes / kMiB) + " MiB";
  return sizes.hbm_bytes == kDefaultHbmBytes
             ? note + ", less than half of the " + offer + " on offer"
             : note + ", cut to half of the " + offer + " on offer";
}

// What the tiers take of the node; the arenas of a GPU are its own.
std::uint64_t node_bytes(const Config& config) {
  const bool on_node = config.backend.kind == BackendKind::host;
  return (on_node ? config.hbm.capacity_bytes : 0) + config.dram.capacity_bytes;
}

std::string oversize_note(const Config& config, const Environment& environment) {
  return "the tiers ask for " + format_bytes(node_bytes(config)) + " together, but only " +
         std::to_string(environment.memory_available_bytes / kMiB) +
         " MiB are on offer: allocations may fail before the tiers are full";
}

}  // namespace

Environment this_environment() {
  Environment environment;
  environment.uid = ::geteuid();
  environment.socket = default_socket(environment.uid);
  environment.memory_available_bytes = std::min(ipc::available_memory_bytes(), shm_free_bytes());
  return environment;
}

Config defaults_for(const Environment& environment) {
  Config config;
  config.daemon.socket = environment.socket;
  const TierSizes sizes = default_sizes(environment);
  config.hbm.capacity_bytes = sizes.hbm_bytes;
  config.dram.capacity_bytes = sizes.dram_bytes;
  return config;
}

TenantConfig default_tenant(const Config& config, uid_t uid) {
  TenantConfig tenant;
  tenant.name = "default";
  tenant.uids = {uid};
  tenant.hbm.limit_bytes = config.hbm.capacity_bytes;
  tenant.dram.limit_bytes = config.dram.capacity_bytes;
  tenant.nvme.limit_bytes = config.nvme.capacity_bytes();
  return tenant;
}

std::vector<std::string> notes_on(const Config& config, const Environment& environment,
                                  const Findings& findings) {
  std::vector<std::string> notes;
  if (!findings.has("daemon.socket")) {
    notes.push_back("default socket: " + config.daemon.socket);
  }
  if (!findings.has("tiers.hbm.capacity") || !findings.has("tiers.dram.capacity")) {
    notes.push_back(sizes_note(environment));
  }
  if (node_bytes(config) > environment.memory_available_bytes) {
    notes.push_back(oversize_note(config, environment));
  }
  if (!findings.has("tenant")) {
    notes.push_back("no tenant is configured: uid " + std::to_string(environment.uid) +
                    " is tenant \"default\"");
  }
  return notes;
}

}  // namespace sluice::daemon
