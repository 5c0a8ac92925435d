// The daemon's configuration: what each value means, where it comes from, and what may change while
// running.
//
// packaging/sluiced.toml documents every key; what a file does not say has the value it has there.
// Only the sizes of the tiers and the places of the sockets depend on the machine (Environment).
// Reading is strict: an unknown key is an error that names the nearest known one. All errors of a
// file are reported together, each as FILE:LINE:COLUMN: what was found, what is expected. (TOML
// syntax: the first one only.)
//
// Plain data and pure functions, except this_environment() and the two that open a file.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/logging.h"
#include "ipc/error.h"
#include "ipc/memfd.h"

namespace sluice::daemon {

inline constexpr std::size_t kMaxConfigBytes = 1u << 20;
inline constexpr std::size_t kMaxConfigErrors = 32;  // reported of one file; the rest is counted
inline constexpr std::size_t kMaxTenants = 256;
inline constexpr std::size_t kMaxIdsPerList = 1024;  // uids or gids
inline constexpr std::size_t kMaxSocketPath = 107;   // bytes, of sockaddr_un
inline constexpr std::size_t kMaxDevices = 64;
inline constexpr std::size_t kMaxNvmeDirectories = 64;
inline constexpr std::string_view kAllDevices = "all";

using ipc::HugePages;  // attempt is written "try"
enum class BackendKind : std::uint8_t { host, cuda };
// Which NUMA node DRAM comes from, while that has any left: the device's, all of them in turn,
// extent by extent, or wherever the kernel likes. What a machine does not tell is left to the
// kernel.
enum class NumaPlacement : std::uint8_t { device, interleave, any };

struct DaemonConfig {
  std::string socket;  // whoever connects here is identified by uid, then gid
  mode_t socket_mode = 0660;
  LogLevel log_level = LogLevel::info;
  LogFormat log_format = LogFormat::text;
  std::uint32_t lanes = 1;
  std::uint32_t max_sessions = 1024;
  std::uint32_t reserved_sessions = 2;  // of these, for each tenant, as far as they go round
  bool operator==(const DaemonConfig&) const = default;
};

struct MetricsConfig {
  std::string address;  // "127.0.0.1:9464", "[::1]:9464"; port 0: any free one; empty: off
  bool operator==(const MetricsConfig&) const = default;
};

// What the fast tier is made of. All but `kind` is for cuda.
struct BackendConfig {
  BackendKind kind = BackendKind::host;
  // Each an ordinal by PCI bus order, or "GPU-..." as nvidia-smi -L lists it; or kAllDevices alone.
  // A GPU that is named more than once serves as so many devices.
  std::vector<std::string> devices = {"0"};
  std::string device_worker;  // its program; empty: sluice-device-worker beside sluiced
  std::chrono::milliseconds worker_idle{10'000};  // without work: then it leaves the GPU
  bool operator==(const BackendConfig&) const = default;
};

struct TierConfig {
  std::uint64_t capacity_bytes = 0;        // of hbm: of each device, as are its quotas
  std::uint64_t extent_bytes = 64u << 20;  // wanted; each cache rounds it to whole pages or frames
  HugePages huge_pages = HugePages::attempt;
  NumaPlacement numa = NumaPlacement::device;  // of dram
  bool operator==(const TierConfig&) const = default;
};

// How files are read and written: io_uring where the kernel lets us (automatic), else by threads.
enum class IoKind : std::uint8_t { automatic, io_uring, threads };

struct NvmeDirectory {
  std::string path;  // absolute
  std::uint64_t capacity_bytes = 0;
  bool operator==(const NvmeDirectory&) const = default;
};

// The block store behind DRAM. Without directories there is none.
struct NvmeConfig {
  std::vector<NvmeDirectory> directories;  // of a device each: "PATH:SIZE" in the file
  IoKind io = IoKind::automatic;
  std::uint64_t segment_bytes = std::uint64_t{256} << 20;
  std::uint64_t part_bytes = 64u << 10;   // read on its own
  std::uint32_t depth = 64;               // requests in flight on a device
  std::uint64_t write_per_day_bytes = 0;  // 0: no bound
  bool operator==(const NvmeConfig&) const = default;
  bool has_store() const { return !directories.empty(); }
  std::uint64_t capacity_bytes() const;
};

// What outlives the daemon.
struct RestartConfig {
  // A daemon that is started anew finds DRAM, HBM and its sessions again.
  bool warm = false;
  std::string keeper;  // the program; empty: sluice-keeper beside sluiced
  // How long the keeper holds what a daemon left, if none comes; 0: for good.
  std::chrono::milliseconds keeper_idle{600'000};
  std::chrono::milliseconds outage{5'000};  // that direct sessions should get through alone
  bool operator==(const RestartConfig&) const = default;
};

struct RingsConfig {
  std::uint32_t capacity = 1024;  // descriptors per ring, a power of two
  std::uint64_t request_memory_bytes = 4u << 20;
  std::uint32_t spin_us = 20;
  bool operator==(const RingsConfig&) const = default;
};

struct LimitsConfig {
  std::uint32_t caches = 256;
  std::uint32_t sequences_per_session = 65536;
  std::uint32_t actors_per_cache = 256;
  std::chrono::milliseconds step_deadline{30'000};
  std::chrono::milliseconds open_deadline{600'000};  // for the memory of a cache to be made
  std::uint32_t connections_per_user = 64;  // without a session: operators, and before the greeting
  std::chrono::milliseconds admin_idle{60'000};  // an operator's connection that asks nothing
  bool operator==(const LimitsConfig&) const = default;
};

// Who may run admin requests besides the daemon's own user; everybody else sees only the tenant
// that they are.
struct AdminConfig {
  std::vector<uid_t> uids = {0};
  std::vector<gid_t> gids;
  bool operator==(const AdminConfig&) const = default;
};

// guaranteed <= limit <= capacity of the tier; the guarantees of all tenants fit into it.
struct QuotaConfig {
  std::uint64_t guaranteed_bytes = 0;
  std::uint64_t limit_bytes =
      0;                // always set after reading: the capacity, unless the file says less
  double weight = 1.0;  // share of what is lent beyond the guarantees
  bool operator==(const QuotaConfig&) const = default;
};

// Of the block store; limit <= its capacity. It has no guarantees: beyond a limit, and where
// devices are full, the store drops what is coldest.
struct NvmeQuotaConfig {
  std::uint64_t limit_bytes = 0;  // as above; without a block store 0
  double weight = 1.0;            // of what a device serves while other tenants want it, too
  bool operator==(const NvmeQuotaConfig&) const = default;
};

// At least one of uids, gids and socket is set; no two tenants share any of them.
struct TenantConfig {
  std::string name;
  std::vector<uid_t> uids;
  std::vector<gid_t> gids;
  std::string socket;  // empty: none of its own. Whoever connects there is this tenant
  mode_t socket_mode = 0660;
  QuotaConfig hbm;
  QuotaConfig dram;
  NvmeQuotaConfig nvme;
  // Of the MPS server under which the tenant's processes share GPUs (CUDA_MPS_PIPE_DIRECTORY); a
  // fault of one ends what all of them have there, so they trust one another. Empty: none, and no
  // executor daemon on GPUs.
  std::string mps_pipe_directory;
  bool operator==(const TenantConfig&) const = default;
};

struct Config {
  DaemonConfig daemon;
  MetricsConfig metrics;
  BackendConfig backend;
  TierConfig hbm;
  TierConfig dram;
  NvmeConfig nvme;
  RestartConfig restart;
  RingsConfig rings;
  LimitsConfig limits;
  AdminConfig admin;
  std::vector<TenantConfig> tenants;  // never empty after reading
  bool operator==(const Config&) const = default;
};

// What defaults depend on.
struct Environment {
  uid_t uid = 0;       // effective
  std::string socket;  // where the common socket goes
  std::uint64_t memory_available_bytes = 0;
};
// socket: /run/sluice/sluice.sock for root; else sluice.sock in $RUNTIME_DIRECTORY (systemd), in
// $XDG_RUNTIME_DIR/sluice, or in /tmp/sluice-UID: the server makes the directory, and must own it.
// Memory: the least of MemAvailable, what our cgroups leave, and what /dev/shm has free.
Environment this_environment();

// A configuration and what the log should say about how it came about: one sentence each.
struct Defaults {
  Config config;
  std::vector<std::string> notes;
};
// Starts on a laptop: one tenant "default", which is the user that runs the daemon. HBM 1 GiB and
// DRAM 4 GiB, together never more than half of the memory on offer.
Defaults default_config(const Environment& environment);

struct ConfigError {
  std::uint32_t line = 0;  // 0: the file as a whole
  std::uint32_t column = 0;
  std::string text;
};

struct ConfigReport {
  std::string file;
  Config config;  // usable only if ok()
  std::vector<std::string> notes;
  std::vector<ConfigError> errors;  // by position
  std::size_t errors_left_out = 0;

  bool ok() const { return errors.empty(); }
  // "FILE:LINE:COLUMN: text", a line per error, and a last one for those left out. Empty if ok().
  std::string text() const;
};
ConfigReport check_config_text(std::string_view toml, std::string file,
                               const Environment& environment);
ConfigReport check_config(const std::string& path,
                          const Environment& environment = this_environment());

// check_config() for who needs no more than the configuration. Errors: bad_config, with the
// report's text.
ipc::Result<Config> load_config(const std::string& path);

// Every value under the key that a file would use ("tenant.prod.hbm.limit", "rings.spin_us"), as it
// would be written there, in a fixed order. Tenants have quotas of a block store only if there is
// one.
struct ConfigValue {
  std::string key;
  std::string value;
  bool operator==(const ConfigValue&) const = default;
};
std::vector<ConfigValue> list_config(const Config& config);

// "now" is what runs, "wanted" what the file asks for; empty where a key does not exist on that
// side.
struct ConfigChange {
  std::string key;
  std::string now;
  std::string wanted;
  bool operator==(const ConfigChange&) const = default;
};

struct Reload {
  Config config;                       // to run from now on: `running` with what may change
  std::vector<ConfigChange> applied;   // in it
  std::vector<ConfigChange> deferred;  // not in it: takes a restart
};
// What SIGHUP may change: quotas (guaranteed, limit, weight) of tenants that exist,
// daemon.log_level and the admin lists. A limit above the running capacity is applied as that
// capacity, and deferred for the rest. Errors: bad_config when what may change cannot run together
// with what may not (guarantees above the capacity that runs); nothing is to be applied then.
ipc::Result<Reload> plan_reload(const Config& running, const Config& wanted);

// The tenant of a peer on the common socket, by its kernel credentials: uid first, then gid. Its
// index in config.tenants. Errors: unknown_tenant, with what the operator can write into the file.
ipc::Result<std::size_t> tenant_of_peer(const Config& config, uid_t uid, gid_t gid);

}  // namespace sluice::daemon
