#include "daemon/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <exception>
#include <iterator>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string_view>
#include <thread>
#include <utility>

#include "daemon/utf8.h"

namespace sluice::daemon {
namespace {

using ipc::Errc;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr double kNsPerSecond = 1e9;
constexpr std::uint64_t kCenturyNs = 3'155'760'000'000'000'000;
constexpr std::string_view kOther = "other";
constexpr std::chrono::milliseconds kKnockInterval{5};

// ---- families

using Label = std::pair<const char*, std::string_view>;
using Labels = std::vector<Label>;

// Prometheus refuses a whole scrape for one label that is not UTF-8.
std::string label_value(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const std::string_view character = length == 0 ? kReplacementCharacter : text.substr(0, length);
    if (out.size() + character.size() > kMaxLabelBytes) break;
    out += character;
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out;
}

// One family in the making.
class Family {
 public:
  Family(std::vector<MetricFamily>& families, const char* name, const char* help, MetricType type)
      : families_(families), family_{name, help, type, {}} {}
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;
  ~Family() {
    if (!family_.metric.empty()) families_.push_back(std::move(family_));
  }

  void add(const Labels& labels, std::uint64_t value) {
    ClientMetric& metric = series(labels);
    metric.gauge.value = static_cast<double>(value);
    metric.counter.value = static_cast<double>(value);
  }

  void add(const Labels& labels, const HistogramCounts& counts) {
    ClientMetric::Histogram& histogram = series(labels).histogram;
    for (std::size_t i = 0; i < counts.buckets.size(); ++i) {
      histogram.sample_count += counts.buckets[i];
      const double bound = i < kBucketBoundsNs.size()
                               ? static_cast<double>(kBucketBoundsNs[i]) / kNsPerSecond
                               : std::numeric_limits<double>::infinity();
      histogram.bucket.push_back({histogram.sample_count, bound});
    }
    histogram.sample_sum = counts.sum_seconds;
  }

 private:
  ClientMetric& series(const Labels& labels) {
    ClientMetric& metric = family_.metric.emplace_back();
    for (const auto& [name, value] : labels) metric.label.push_back({name, label_value(value)});
    return metric;
  }

  std::vector<MetricFamily>& families_;
  MetricFamily family_;
};

void add_info(std::vector<MetricFamily>& out, const MetricsSnapshot& snapshot) {
  Family(out, "sluice_build_info", "The version that runs.", MetricType::Gauge)
      .add({{"version", snapshot.version}, {"commit", snapshot.commit}}, std::uint64_t{1});
  Family capacity(out, "sluice_tier_capacity_bytes", "Memory of a tier.", MetricType::Gauge);
  capacity.add({{"tier", "device"}}, snapshot.hbm_capacity_bytes);
  capacity.add({{"tier", "host"}}, snapshot.dram_capacity_bytes);
  if (!snapshot.disks.empty()) {
    std::uint64_t disk_bytes = 0;
    for (const DiskMetrics& disk : snapshot.disks) disk_bytes += disk.capacity_bytes;
    capacity.add({{"tier", "disk"}}, disk_bytes);
  }
  Family health(out, "sluice_health",
                "What an operator should act on: 0 well, 1 warning, 2 error; `sluicectl status` "
                "says more.",
                MetricType::Gauge);
  for (const HealthMetrics& one : snapshot.health) health.add({{"code", one.code}}, one.level);
}

void add_devices(std::vector<MetricFamily>& out, const std::vector<DeviceMetrics>& devices) {
  Family info(out, "sluice_device_info", "A GPU that arenas lie on.", MetricType::Gauge);
  Family capacity(out, "sluice_device_capacity_bytes", "HBM that tenants may have of a device.",
                  MetricType::Gauge);
  Family used(out, "sluice_device_used_bytes", "HBM that tenants hold of a device.",
              MetricType::Gauge);
  for (const DeviceMetrics& device : devices) {
    info.add({{"device", device.number}, {"model", device.model}, {"uuid", device.uuid}},
             std::uint64_t{1});
    capacity.add({{"device", device.number}}, device.capacity_bytes);
    used.add({{"device", device.number}}, device.used_bytes);
  }
}

void add_tiers(std::vector<MetricFamily>& out, const std::vector<TenantMetrics>& tenants) {
  Family used(out, "sluice_tier_used_bytes", "Memory that a tenant holds.", MetricType::Gauge);
  Family quota(out, "sluice_tier_quota_bytes", "What a tenant is promised and may hold.",
               MetricType::Gauge);
  Family evicted(out, "sluice_evicted_bytes_total", "Bytes that lost their place in a tier.",
                 MetricType::Counter);
  Family failures(out, "sluice_allocation_failures_total",
                  "Requests that a quota refused, and extents that the node could not make.",
                  MetricType::Counter);
  const auto add = [&](std::string_view tenant, std::string_view tier, const TierMetrics& m) {
    const auto with = [&](const char* key, std::string_view value) {
      return Labels{{"tenant", tenant}, {"tier", tier}, {key, value}};
    };
    used.add({{"tenant", tenant}, {"tier", tier}}, m.used_bytes);
    quota.add(with("kind", "guaranteed"), m.guaranteed_bytes);
    quota.add(with("kind", "limit"), m.limit_bytes);
    evicted.add(with("reason", "pressure"), m.evicted_bytes.pressure);
    evicted.add(with("reason", "quota"), m.evicted_bytes.quota);
    evicted.add(with("reason", "admin"), m.evicted_bytes.admin);
    failures.add(with("reason", "quota"), m.allocation_failures.quota);
    failures.add(with("reason", "memory"), m.allocation_failures.memory);
  };
  for (const TenantMetrics& tenant : tenants) {
    add(tenant.name, "device", tenant.hbm);
    add(tenant.name, "host", tenant.dram);
    if (tenant.store) {
      used.add({{"tenant", tenant.name}, {"tier", "disk"}}, tenant.store->used_bytes);
      quota.add({{"tenant", tenant.name}, {"tier", "disk"}, {"kind", "limit"}},
                tenant.store->limit_bytes);
    }
  }
}

void add_disks(std::vector<MetricFamily>& out, const MetricsSnapshot& snapshot) {
  if (snapshot.disks.empty()) return;
  Family errors(out, "sluice_store_errors_total",
                "Failures of a device of the block store: of its system calls, and of checksums.",
                MetricType::Counter);
  Family cleaned(out, "sluice_store_cleaned_bytes_total",
                 "Bytes that were moved to free segments of the block store.", MetricType::Counter);
  Family out_of_service(out, "sluice_store_device_out",
                        "1: the device failed too often and is not used.", MetricType::Gauge);
  for (const DiskMetrics& disk : snapshot.disks) {
    errors.add({{"device", disk.directory}, {"cause", "io"}}, disk.io_errors);
    errors.add({{"device", disk.directory}, {"cause", "checksum"}}, disk.checksum_errors);
    cleaned.add({{"device", disk.directory}}, disk.cleaned_bytes);
    out_of_service.add({{"device", disk.directory}}, std::uint64_t{disk.taken_out ? 1u : 0u});
  }
  Family refused(out, "sluice_store_refused_writes_total",
                 "Blocks that the block store did not take.", MetricType::Counter);
  Family dropped(out, "sluice_store_dropped_blocks_total",
                 "Blocks that the block store gave up for others of the tenant's limit, or where "
                 "devices were full.",
                 MetricType::Counter);
  Family lost(out, "sluice_store_lost_blocks_total",
              "Blocks of the block store that could not be read, or failed their checksum.",
              MetricType::Counter);
  Family held(out, "sluice_store_held_bytes",
              "Of the block store: what is not dropped, since running sequences have it nowhere "
              "else.",
              MetricType::Gauge);
  for (const TenantMetrics& tenant : snapshot.tenants) {
    if (!tenant.store) continue;
    held.add({{"tenant", tenant.name}}, tenant.store->held_bytes);
    refused.add({{"tenant", tenant.name}}, tenant.store->refused_writes);
    dropped.add({{"tenant", tenant.name}}, tenant.store->dropped_blocks);
    lost.add({{"tenant", tenant.name}}, tenant.store->lost_blocks);
  }
}

void add_sessions(std::vector<MetricFamily>& out, const std::vector<TenantMetrics>& tenants) {
  Family sessions(out, "sluice_sessions", "Connected sessions.", MetricType::Gauge);
  Family sequences(out, "sluice_sequences", "Open sequences.", MetricType::Gauge);
  Family deaths(out, "sluice_session_deaths_total", "Sessions that ended without a goodbye.",
                MetricType::Counter);
  Family reclaim(out, "sluice_session_reclaim_seconds",
                 "From the death of a session to the last byte back.", MetricType::Histogram);
  Family violations(out, "sluice_client_violations_total", "Sessions ended for misconduct.",
                    MetricType::Counter);
  for (const TenantMetrics& tenant : tenants) {
    const Labels labels = {{"tenant", tenant.name}};
    sessions.add(labels, tenant.sessions);
    sequences.add(labels, tenant.sequences);
    deaths.add(labels, tenant.session_deaths);
    reclaim.add(labels, tenant.session_reclaim);
    for (std::size_t i = 0; i < kViolations; ++i) {
      violations.add({{"tenant", tenant.name}, {"reason", to_string(static_cast<Violation>(i))}},
                     tenant.client_violations[i]);
    }
  }
}

void add_traffic(std::vector<MetricFamily>& out, const std::vector<TenantMetrics>& tenants) {
  Family moved(out, "sluice_moved_bytes_total",
               "Bytes that resolves (must) and forecasts copied between tiers.",
               MetricType::Counter);
  Family forecast(out, "sluice_forecast_bytes_total", "What became of forecast bytes.",
                  MetricType::Counter);
  Family resolve(out, "sluice_resolve_duration_seconds", "One resolve, whole list.",
                 MetricType::Histogram);
  for (const TenantMetrics& tenant : tenants) {
    const auto add_moved = [&](std::string_view priority, std::uint64_t bytes) {
      moved.add({{"tenant", tenant.name}, {"direction", "host_to_device"}, {"class", priority}},
                bytes);
    };
    add_moved("must", tenant.host_to_device.must);
    add_moved("forecast", tenant.host_to_device.forecast);
    add_moved("bulk", tenant.host_to_device.bulk);
    if (tenant.store) {
      moved.add({{"tenant", tenant.name}, {"direction", "disk_to_host"}, {"class", "must"}},
                tenant.store->read_bytes);
      moved.add({{"tenant", tenant.name}, {"direction", "host_to_disk"}, {"class", "bulk"}},
                tenant.store->written_bytes);
    }
    const auto add_forecast = [&](std::string_view outcome, std::uint64_t bytes) {
      forecast.add({{"tenant", tenant.name}, {"outcome", outcome}}, bytes);
    };
    add_forecast("used", tenant.forecast_bytes.used);
    add_forecast("late", tenant.forecast_bytes.late);
    add_forecast("wasted", tenant.forecast_bytes.wasted);
    add_forecast("dropped", tenant.forecast_bytes.dropped);
    resolve.add({{"tenant", tenant.name}, {"executor", "daemon"}}, tenant.resolve_duration);
  }
}

void add_caches(std::vector<MetricFamily>& out, const std::vector<CacheMetrics>& caches) {
  Family info(out, "sluice_cache_info", "What a cache holds.", MetricType::Gauge);
  Family blocks(out, "sluice_blocks", "Blocks in DRAM or HBM.", MetricType::Gauge);
  Family saved(out, "sluice_shared_saved_bytes",
               "What shared blocks would take more if every user had its own.", MetricType::Gauge);
  Family resolved(out, "sluice_resolve_pages_total",
                  "Pages looked up, by what was found; a session knows its own pinned ones.",
                  MetricType::Counter);
  for (const CacheMetrics& cache : caches) {
    const auto with = [&](std::initializer_list<Label> more) {
      Labels labels = {{"tenant", cache.tenant}, {"cache", cache.name}};
      labels.insert(labels.end(), more);
      return labels;
    };
    if (cache.name != kOther) {
      info.add(with({{"model_name", cache.model_name},
                     {"shard", cache.shard},
                     {"layout", cache.layout},
                     {"kind", cache.kind},
                     {"device", cache.device}}),
               std::uint64_t{1});
    }
    blocks.add(with({{"state", "private"}}), cache.blocks.private_blocks);
    blocks.add(with({{"state", "sealed"}}), cache.blocks.sealed);
    blocks.add(with({{"state", "shared"}}), cache.blocks.shared);
    blocks.add(with({{"state", "leased"}}), cache.blocks.leased);
    blocks.add(with({{"state", "quarantined"}}), cache.blocks.quarantined);
    saved.add(with({{"tier", "host"}}), cache.shared_saved_dram_bytes);
    const auto add_resolved = [&](std::string_view executor, const ResolvePages& pages) {
      const auto result = [&](std::string_view name) {
        return with({{"executor", executor}, {"result", name}});
      };
      resolved.add(result("hit"), pages.hit);
      resolved.add(result("miss"), pages.miss);
      resolved.add(result("no_slot"), pages.no_slot);
      resolved.add(result("absent"), pages.absent);
    };
    add_resolved("daemon", cache.resolved_by_daemon);
    add_resolved("direct", cache.resolved_direct);
  }
}

// ---- cache names

void add_up(ResolvePages& to, const ResolvePages& from) {
  to.hit += from.hit;
  to.miss += from.miss;
  to.no_slot += from.no_slot;
  to.absent += from.absent;
}

// What was added since `before`; a counter that went back has started anew.
ResolvePages since(const ResolvePages& before, const ResolvePages& now) {
  const auto grown = [](std::uint64_t a, std::uint64_t b) { return b >= a ? b - a : b; };
  return {grown(before.hit, now.hit), grown(before.miss, now.miss),
          grown(before.no_slot, now.no_slot), grown(before.absent, now.absent)};
}

void add_up_gauges(CacheMetrics& to, const CacheMetrics& from) {
  to.blocks.private_blocks += from.blocks.private_blocks;
  to.blocks.sealed += from.blocks.sealed;
  to.blocks.shared += from.blocks.shared;
  to.blocks.leased += from.blocks.leased;
  to.blocks.quarantined += from.blocks.quarantined;
  to.shared_saved_dram_bytes += from.shared_saved_dram_bytes;
}

// Two series of the same name would make Prometheus refuse the scrape.
std::vector<CacheMetrics> one_per_name(std::vector<CacheMetrics> caches) {
  std::map<std::pair<std::string, std::string>, CacheMetrics> by_name;
  for (CacheMetrics& cache : caches) {
    cache.tenant = label_value(cache.tenant);
    cache.name = label_value(cache.name);
    const auto key = std::pair(cache.tenant, cache.name);
    const auto known = by_name.find(key);
    if (known == by_name.end()) {
      by_name.emplace(key, std::move(cache));
    } else {
      add_up_gauges(known->second, cache);
      add_up(known->second.resolved_by_daemon, cache.resolved_by_daemon);
      add_up(known->second.resolved_direct, cache.resolved_direct);
    }
  }
  std::vector<CacheMetrics> out;
  out.reserve(by_name.size());
  for (auto& [key, cache] : by_name) out.push_back(std::move(cache));
  return out;
}

// Bounds the names that Prometheus has to remember. Counters under "other" are sums of increments,
// so that they do not fall when one of their caches is closed.
class CacheNames {
 public:
  std::vector<CacheMetrics> bound(std::vector<CacheMetrics> caches) {
    std::vector<CacheMetrics> named;
    std::map<std::string, CacheMetrics> others;  // by tenant
    std::map<Name, Resolved> seen;
    for (CacheMetrics& cache : one_per_name(std::move(caches))) {
      Name name(cache.tenant, cache.name);
      if (is_named(name)) {
        named.push_back(std::move(cache));
        continue;
      }
      add_up_gauges(others[cache.tenant], cache);
      const Resolved now = {cache.resolved_by_daemon, cache.resolved_direct};
      const Resolved before = seen_[name];
      Resolved& total = other_[cache.tenant];
      add_up(total.by_daemon, since(before.by_daemon, now.by_daemon));
      add_up(total.direct, since(before.direct, now.direct));
      seen[std::move(name)] = now;
    }
    seen_ = std::move(seen);
    for (const auto& [tenant, total] : other_) {
      CacheMetrics& other = others[tenant];
      other.tenant = tenant;
      other.name = kOther;
      other.resolved_by_daemon = total.by_daemon;
      other.resolved_direct = total.direct;
      named.push_back(other);
    }
    return named;
  }

 private:
  using Name = std::pair<std::string, std::string>;  // tenant, cache
  struct Resolved {
    ResolvePages by_daemon;
    ResolvePages direct;
  };

  bool is_named(const Name& name) {
    if (named_.contains(name)) return true;
    if (named_.size() == kMaxNamedCaches || name.second == kOther) return false;
    return named_.emplace(name, true).second;
  }

  std::map<Name, bool> named_;
  std::map<Name, Resolved> seen_;          // of the caches under "other", at the last scrape
  std::map<std::string, Resolved> other_;  // by tenant
};

// ---- addresses

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

std::optional<std::uint16_t> to_port(std::string_view text) {
  std::uint16_t port = 0;
  const char* end = std::to_address(text.end());
  const auto [stop, error] = std::from_chars(std::to_address(text.begin()), end, port);
  if (error != std::errc() || stop != end) return std::nullopt;
  return port;
}

template <class Address>
SocketAddress to_storage(const Address& address) {
  SocketAddress out;
  std::memcpy(&out.storage, &address, sizeof address);
  out.length = sizeof address;
  return out;
}

std::optional<SocketAddress> parse_address(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos) return std::nullopt;
  const std::optional<std::uint16_t> port = to_port(std::string_view(address).substr(colon + 1));
  if (!port) return std::nullopt;
  const std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.starts_with('[') && host.ends_with(']')) {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(*port);
    if (::inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6.sin6_addr) != 1) {
      return std::nullopt;
    }
    return to_storage(v6);
  }
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(*port);
  if (::inet_pton(AF_INET, host.c_str(), &v4.sin_addr) != 1) return std::nullopt;
  return to_storage(v4);
}

// The library only says that it failed; the kernel says why.
ipc::Error why_not(const std::string& address) {
  const std::string cannot = "metrics cannot be served at " + address + ": ";
  const std::optional<SocketAddress> parsed = parse_address(address);
  SLUICE_ASSERT(parsed.has_value());
  const int fd = ::socket(parsed->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return {Errc::io_error, cannot + std::strerror(errno)};
  const int yes = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  const auto* name = reinterpret_cast<const sockaddr*>(&parsed->storage);
  const bool bound = ::bind(fd, name, parsed->length) == 0 && ::listen(fd, 1) == 0;
  const int error = bound ? 0 : errno;
  ::close(fd);
  switch (error) {
    case EADDRINUSE:
      return {Errc::address_in_use,
              cannot + "another process listens there; stop it or change metrics.address"};
    case EACCES:
      return {Errc::permission_denied, cannot + "this user may not; take a port above 1023"};
    case EADDRNOTAVAIL:
      return {Errc::invalid_argument, cannot + "not an address of this machine"};
    case 0:
      return {Errc::io_error, cannot + "the HTTP server did not start"};
    default:
      return {Errc::io_error, cannot + std::strerror(error)};
  }
}

// Connects and hangs up, without waiting for anything.
void knock(const SocketAddress& address) {
  const int fd = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  static_cast<void>(
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.length));
  ::close(fd);
}

}  // namespace

HistogramCounts& HistogramCounts::operator+=(const HistogramCounts& other) {
  for (std::size_t i = 0; i < buckets.size(); ++i) buckets[i] += other.buckets[i];
  sum_seconds += other.sum_seconds;
  return *this;
}

void Histogram::observe(double seconds) {
  // The comparison is false for NaN.
  const double ns = seconds > 0 ? seconds * kNsPerSecond + 0.5 : 0;
  const std::uint64_t count =
      ns < static_cast<double>(kCenturyNs) ? static_cast<std::uint64_t>(ns) : kCenturyNs;
  const auto* const bucket = std::ranges::lower_bound(kBucketBoundsNs, count);
  const auto index = static_cast<std::size_t>(std::distance(kBucketBoundsNs.begin(), bucket));
  // Relaxed: each count stands alone.
  buckets_[index].fetch_add(1, std::memory_order_relaxed);
  sum_ns_.fetch_add(count, std::memory_order_relaxed);
}

HistogramCounts Histogram::counts() const {
  HistogramCounts counts;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    counts.buckets[i] = buckets_[i].load(std::memory_order_relaxed);
  }
  counts.sum_seconds = static_cast<double>(sum_ns_.load(std::memory_order_relaxed)) / kNsPerSecond;
  return counts;
}

ipc::Status check_metrics_address(const std::string& address) {
  if (address.empty() || parse_address(address)) return {};
  return ipc::fail(Errc::invalid_argument,
                   "a numeric address with a port, such as \"127.0.0.1:9464\" or \"[::1]:9464\"");
}

struct Metrics::Server {
  class Collector : public prometheus::Collectable {
   public:
    explicit Collector(Source source) : source_(std::move(source)) {}

    std::vector<MetricFamily> Collect() const override {
      const std::lock_guard lock(mutex_);
      MetricsSnapshot snapshot = source_();
      std::vector<MetricFamily> families;
      add_info(families, snapshot);
      add_devices(families, snapshot.devices);
      add_tiers(families, snapshot.tenants);
      add_disks(families, snapshot);
      add_sessions(families, snapshot.tenants);
      add_traffic(families, snapshot.tenants);
      add_caches(families, names_.bound(std::move(snapshot.caches)));
      return families;
    }

   private:
    // The interface is const, as if a scrape could have no memory.
    mutable std::mutex mutex_;
    mutable CacheNames names_;
    Source source_;
  };

  Server() = default;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  // civetweb sees that it is to stop when its accept loop turns: every 2 s, or at a connection.
  ~Server() {
    if (exposer == nullptr || address.empty()) return;
    const std::jthread visitor([to = *parse_address(address)](const std::stop_token& stopped) {
      while (!stopped.stop_requested()) {
        knock(to);
        std::this_thread::sleep_for(kKnockInterval);
      }
    });
    exposer.reset();
  }

  std::string address;
  std::shared_ptr<Collector> collector;
  // Last, so that its threads end before what they use.
  std::unique_ptr<prometheus::Exposer> exposer;
};

Metrics::Metrics(std::unique_ptr<Server> server) : server_(std::move(server)) {}
Metrics::Metrics(Metrics&&) noexcept = default;
Metrics& Metrics::operator=(Metrics&&) noexcept = default;
Metrics::~Metrics() = default;

ipc::Result<Metrics> Metrics::start(const std::string& address, Source source) {
  auto server = std::make_unique<Server>();
  if (address.empty()) return Metrics(std::move(server));
  if (const ipc::Status status = check_metrics_address(address); !status) {
    return ipc::fail(status.error().code,
                     "metrics address \"" + address + "\": expected " + status.error().text);
  }
  server->collector = std::make_shared<Server::Collector>(std::move(source));
  try {
    // The timeouts bound how long a silent peer can occupy one of the two threads.
    server->exposer = std::make_unique<prometheus::Exposer>(
        std::vector<std::string>{"listening_ports", address, "num_threads", "2",
                                 "request_timeout_ms", "2000", "enable_keep_alive", "no"});
    server->exposer->RegisterCollectable(server->collector);
    const std::vector<int> ports = server->exposer->GetListeningPorts();
    server->address = address.substr(0, address.rfind(':') + 1) + std::to_string(ports.at(0));
  } catch (const std::exception&) {
    server.reset();
    return std::unexpected(why_not(address));
  }
  return Metrics(std::move(server));
}

const std::string& Metrics::address() const { return server_->address; }

}  // namespace sluice::daemon
