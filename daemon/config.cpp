#include "daemon/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "daemon/config_checks.h"
#include "daemon/config_findings.h"
#include "daemon/config_machine.h"
#include "daemon/config_reader.h"
#include "daemon/config_text.h"
#include "daemon/config_values.h"
#include "daemon/quantity.h"

namespace sluice::daemon {
namespace {

using ipc::Errc;

constexpr std::uint64_t kPage = 4 * kKiB;
constexpr std::uint64_t kMinSegment = 1024 * kKiB;
constexpr std::uint64_t kMaxSegment = 64 * kGiB;
constexpr std::uint64_t kAnySize = std::numeric_limits<std::uint64_t>::max();

// ---- the keys

void read_tier(Reader& reader, TierConfig& tier) {
  reader.read("capacity", tier.capacity_bytes, bytes(kPage, std::uint64_t{1} << 50, kPage));
  reader.read("extent", tier.extent_bytes, bytes(64 * kKiB, 16 * kGiB, kPage));
  reader.read("huge_pages", tier.huge_pages, one_of(kHugePages));
}

void read_nvme(Reader& reader, NvmeConfig& nvme) {
  reader.read("directories", nvme.directories, nvme_directories);
  reader.read("io", nvme.io, one_of(kIoKinds));
  reader.read("segment", nvme.segment_bytes, bytes(kMinSegment, kMaxSegment, kPage));
  reader.read("part", nvme.part_bytes, bytes(kPage, 1 * kGiB, kPage));
  reader.read("depth", nvme.depth, integer<std::uint32_t>(1, 4096));
  reader.read("write_per_day", nvme.write_per_day_bytes, bytes(0, kAnySize, 1));
}

void read_tiers(Reader& root, Config& config) {
  auto tiers = root.table("tiers");
  if (!tiers) return;
  if (auto hbm = tiers->table("hbm")) read_tier(*hbm, config.hbm);
  if (auto dram = tiers->table("dram")) {
    read_tier(*dram, config.dram);
    dram->read("numa", config.dram.numa, one_of(kNumaPlacements));
  }
  if (auto nvme = tiers->table("nvme")) read_nvme(*nvme, config.nvme);
}

void read_daemon(Reader& reader, DaemonConfig& daemon) {
  reader.read("socket", daemon.socket, socket_path);
  reader.read("socket_mode", daemon.socket_mode, socket_mode);
  reader.read("log_level", daemon.log_level, one_of(kLogLevels));
  reader.read("log_format", daemon.log_format, one_of(kLogFormats));
  reader.read("lanes", daemon.lanes, integer<std::uint32_t>(1, 16));
  reader.read("max_sessions", daemon.max_sessions, integer<std::uint32_t>(1, 65536));
  reader.read("reserved_sessions", daemon.reserved_sessions, integer<std::uint32_t>(0, 65536));
}

void read_backend(Reader& reader, BackendConfig& backend) {
  reader.read("kind", backend.kind, one_of(kBackendKinds));
  reader.read("devices", backend.devices, gpus);
  if (reader.has("devices") && reader.has("device")) {
    reader.refuse("device", "one of backend.devices and backend.device");
  }
  reader.read("device", backend.devices, one_gpu);
  reader.read("device_worker", backend.device_worker, program_path);
  reader.read("worker_idle", backend.worker_idle,
              duration(std::chrono::milliseconds(100), std::chrono::milliseconds(3'600'000)));
}

void read_restart(Reader& reader, RestartConfig& restart) {
  using std::chrono::milliseconds;
  reader.read("warm", restart.warm, truth);
  reader.read("keeper", restart.keeper, program_path);
  reader.read("keeper_idle", restart.keeper_idle,
              duration(milliseconds(0), milliseconds(604'800'000)));
  reader.read("outage", restart.outage, duration(milliseconds(0), milliseconds(3'600'000)));
}

void read_rings(Reader& reader, RingsConfig& rings) {
  reader.read("capacity", rings.capacity, ring_capacity);
  reader.read("request_memory", rings.request_memory_bytes, bytes(64 * kKiB, 1 * kGiB, kPage));
  reader.read("spin_us", rings.spin_us, integer<std::uint32_t>(0, 10'000));
}

void read_limits(Reader& reader, LimitsConfig& limits) {
  using std::chrono::milliseconds;
  reader.read("caches", limits.caches, integer<std::uint32_t>(1, 65536));
  reader.read("sequences_per_session", limits.sequences_per_session,
              integer<std::uint32_t>(1, 1 << 20));
  reader.read("actors_per_cache", limits.actors_per_cache, integer<std::uint32_t>(1, 4096));
  reader.read("step_deadline", limits.step_deadline,
              duration(milliseconds(100), milliseconds(3'600'000)));
  reader.read("open_deadline", limits.open_deadline,
              duration(milliseconds(100), milliseconds(3'600'000)));
  reader.read("connections_per_user", limits.connections_per_user, integer<std::uint32_t>(1, 4096));
  reader.read("admin_idle", limits.admin_idle,
              duration(milliseconds(100), milliseconds(3'600'000)));
}

void read_quota(Reader& reader, QuotaConfig& quota) {
  reader.read("guaranteed", quota.guaranteed_bytes, bytes(0, kAnySize, 1));
  reader.read("limit", quota.limit_bytes, bytes(1, kAnySize, 1));
  reader.read("weight", quota.weight, weight);
}

void read_nvme_quota(Reader& tenant, const NvmeConfig& store, NvmeQuotaConfig& quota) {
  quota.limit_bytes = store.capacity_bytes();
  if (!store.has_store()) {
    return tenant.refuse("nvme", "tiers.nvme.directories beside it: there is no block store");
  }
  auto nvme = tenant.table("nvme");
  if (!nvme) return;
  nvme->read("limit", quota.limit_bytes, bytes(1, kAnySize, 1));
  nvme->read("weight", quota.weight, weight);
}

TenantConfig read_tenant(const toml::table& table, std::size_t number, const Config& config,
                         Findings& findings) {
  TenantConfig tenant;
  tenant.name = "#" + std::to_string(number);
  if (const toml::node* name = table.get("name"))
    tenant.name = tenant_name(*name).value_or(tenant.name);
  findings.place(tenant_path(tenant), position_of(table.source()));
  tenant.hbm.limit_bytes = config.hbm.capacity_bytes;
  tenant.dram.limit_bytes = config.dram.capacity_bytes;

  Reader reader(table, tenant_path(tenant), findings);
  reader.read("name", tenant.name, tenant_name);
  reader.read_ids("uids", tenant.uids);
  reader.read_ids("gids", tenant.gids);
  reader.read("socket", tenant.socket, socket_path);
  reader.read("socket_mode", tenant.socket_mode, socket_mode);
  reader.read("mps_pipe_directory", tenant.mps_pipe_directory, mps_directory);
  if (auto hbm = reader.table("hbm")) read_quota(*hbm, tenant.hbm);
  if (auto dram = reader.table("dram")) read_quota(*dram, tenant.dram);
  read_nvme_quota(reader, config.nvme, tenant.nvme);

  if (!table.contains("name")) {
    findings.add_at(tenant_path(tenant), "a [[tenant]] without a name: expected name = \"...\"");
  }
  const bool identified =
      table.contains("uids") || table.contains("gids") || table.contains("socket");
  if (!identified || (tenant.uids.empty() && tenant.gids.empty() && !table.contains("socket"))) {
    findings.add_at(
        tenant_path(tenant),
        "tenant " + quoted(tenant.name) + ": nobody could be it; expected uids, gids or a socket");
  }
  return tenant;
}

void read_tenants(Reader& root, Config& config, Findings& findings) {
  const toml::array* array = root.array_of_tables("tenant");
  if (array == nullptr) return;
  if (array->size() > kMaxTenants) {
    findings.add_at("tenant", std::to_string(array->size()) + " tenants: expected at most " +
                                  std::to_string(kMaxTenants));
    return;
  }
  config.tenants.clear();
  for (std::size_t i = 0; i < array->size(); ++i) {
    config.tenants.push_back(read_tenant(*array->get(i)->as_table(), i + 1, config, findings));
  }
}

void read_config(const toml::table& table, Config& config, Findings& findings) {
  Reader root(table, "", findings);
  if (auto daemon = root.table("daemon")) read_daemon(*daemon, config.daemon);
  if (auto metrics = root.table("metrics")) {
    metrics->read("address", config.metrics.address, metrics_address);
  }
  if (auto backend = root.table("backend")) read_backend(*backend, config.backend);
  read_tiers(root, config);
  if (auto restart = root.table("restart")) read_restart(*restart, config.restart);
  if (auto rings = root.table("rings")) read_rings(*rings, config.rings);
  if (auto limits = root.table("limits")) read_limits(*limits, config.limits);
  if (auto admin = root.table("admin")) {
    admin->read_ids("uids", config.admin.uids);
    admin->read_ids("gids", config.admin.gids);
  }
  read_tenants(root, config, findings);
}

// Their keys are placed by name, so that the second of a name hides the first: told apart here, by
// number.
void check_names(const toml::table& table, const Config& config, Findings& findings) {
  const toml::array* array = table.get_as<toml::array>("tenant");
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < config.tenants.size(); ++i) {
    const std::string& name = config.tenants[i].name;
    if (names.insert(name).second || array == nullptr) continue;
    findings.add(position_of(array->get(i)->as_table()->get("name")->source()),
                 "tenant.name: " + quoted(name) + " is a tenant already; expected each name once");
  }
}

// ---- loading

ConfigReport unreadable(const std::string& path, const std::string& why) {
  ConfigReport report;
  report.file = path;
  report.errors.push_back({0, 0, why});
  return report;
}

}  // namespace

std::uint64_t NvmeConfig::capacity_bytes() const {
  std::uint64_t sum = 0;
  for (const NvmeDirectory& directory : directories) sum += directory.capacity_bytes;
  return sum;
}

Defaults default_config(const Environment& environment) {
  ConfigReport report = check_config_text("", "", environment);
  return {std::move(report.config), std::move(report.notes)};
}

std::string ConfigReport::text() const {
  std::string out;
  for (const ConfigError& error : errors) {
    if (!out.empty()) out += '\n';
    out += file;
    if (error.line != 0) {
      out += ':' + std::to_string(error.line) + ':' + std::to_string(error.column);
    }
    out += ": " + error.text;
  }
  if (errors_left_out != 0) {
    out += '\n' + file + ": and " + std::to_string(errors_left_out) + " more errors";
  }
  return out;
}

ConfigReport check_config_text(std::string_view toml, std::string file,
                               const Environment& environment) {
  ConfigReport report;
  report.file = std::move(file);
  report.config = defaults_for(environment);
  Findings findings;
  try {
    const toml::table table = toml::parse(toml, report.file);
    read_config(table, report.config, findings);
    if (!table.contains("tenant")) {
      report.config.tenants = {default_tenant(report.config, environment.uid)};
    }
    check_names(table, report.config, findings);
    const Report at_key = [&](std::string key, std::string text) {
      findings.add_at(std::move(key), std::move(text));
    };
    check_sizes(report.config, at_key);
    check_owners(report.config, at_key);
  } catch (const toml::parse_error& error) {
    findings.add(position_of(error.source()), "not TOML: " + std::string(error.description()));
  }
  report.notes = notes_on(report.config, environment, findings);
  report.errors = findings.take();
  if (report.errors.size() > kMaxConfigErrors) {
    report.errors_left_out = report.errors.size() - kMaxConfigErrors;
    report.errors.resize(kMaxConfigErrors);
  }
  return report;
}

ConfigReport check_config(const std::string& path, const Environment& environment) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return unreadable(path, std::string("cannot be opened: ") + std::strerror(errno));
  std::string text(kMaxConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return unreadable(path, std::string("cannot be read: ") + std::strerror(errno));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMaxConfigBytes) {
    return unreadable(path, "expected at most " + format_bytes(kMaxConfigBytes) + " of text");
  }
  return check_config_text(text, path, environment);
}

ipc::Result<Config> load_config(const std::string& path) {
  ConfigReport report = check_config(path);
  if (!report.ok()) return ipc::fail(Errc::bad_config, report.text());
  return std::move(report.config);
}

ipc::Result<std::size_t> tenant_of_peer(const Config& config, uid_t uid, gid_t gid) {
  const auto index_of = [&](auto list, auto id) -> std::optional<std::size_t> {
    for (std::size_t i = 0; i < config.tenants.size(); ++i) {
      const auto& ids = config.tenants[i].*list;
      if (std::ranges::find(ids, id) != ids.end()) return i;
    }
    return std::nullopt;
  };
  if (const auto index = index_of(&TenantConfig::uids, uid)) return *index;
  if (const auto index = index_of(&TenantConfig::gids, gid)) return *index;
  return ipc::fail(Errc::unknown_tenant,
                   "uid " + std::to_string(uid) + ", gid " + std::to_string(gid) +
                       " is no tenant here: add one of them to a [[tenant]] "
                       "of the configuration, or connect to a tenant's socket");
}

}  // namespace sluice::daemon
