// What Prometheus sees: GET /metrics on the configured address.
//
// The numbers live in the daemon's own structs. At each scrape a callback copies them into a
// MetricsSnapshot, plain data, which is turned into series here; nothing is registered or updated
// elsewhere. Names, labels and units stand in metrics.cpp, a line per family. Labels are closed
// sets except tenant (from the configuration) and cache (see CacheMetrics).
//
// Counters must not decrease while the object they belong to exists. Those of direct executors come
// from shared memory that a client can write: the daemon clamps them before they get here.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/session_end.h"
#include "ipc/error.h"

namespace sluice::daemon {

// Upper bounds of the buckets of every duration, in nanoseconds; one more bucket takes what is
// above. Fixed for good, because series with other buckets cannot be added up.
inline constexpr std::array<std::uint64_t, 22> kBucketBoundsNs = {
    1'000,         2'500,         5'000,         10'000,        25'000,      50'000,
    100'000,       250'000,       500'000,       1'000'000,     2'500'000,   5'000'000,
    10'000'000,    25'000'000,    50'000'000,    100'000'000,   250'000'000, 500'000'000,
    1'000'000'000, 2'500'000'000, 5'000'000'000, 10'000'000'000};

struct HistogramCounts {
  std::array<std::uint64_t, kBucketBoundsNs.size() + 1> buckets{};  // not cumulative
  double sum_seconds = 0;

  HistogramCounts& operator+=(const HistogramCounts& other);
};

// Counts durations without a lock. Any number of threads observe and read; a reader sees each
// observation either in its bucket or not at all, and possibly not yet in the sum.
class Histogram {
 public:
  // Negative and NaN count as 0; anything above a century as a century.
  void observe(double seconds);
  HistogramCounts counts() const;

 private:
  std::array<std::atomic<std::uint64_t>, kBucketBoundsNs.size() + 1> buckets_{};
  std::atomic<std::uint64_t> sum_ns_{0};
};

struct ResolvePages {
  std::uint64_t hit = 0;
  std::uint64_t miss = 0;
  std::uint64_t no_slot = 0;
  std::uint64_t absent = 0;
};

struct TierMetrics {
  std::uint64_t used_bytes = 0;
  std::uint64_t guaranteed_bytes = 0;
  std::uint64_t limit_bytes = 0;
  struct {
    std::uint64_t pressure = 0;
    std::uint64_t quota = 0;
    std::uint64_t admin = 0;
  } evicted_bytes;
  struct {
    std::uint64_t quota = 0;   // requests that the tenant's quota refused
    std::uint64_t memory = 0;  // extents, or arenas, that the node could not make
  } allocation_failures;
};

struct MovedBytes {
  std::uint64_t must = 0;
  std::uint64_t forecast = 0;
  std::uint64_t bulk = 0;
};

// What a tenant has in the block store, and moved there and back.
struct StoreMetrics {
  std::uint64_t used_bytes = 0;
  std::uint64_t held_bytes = 0;  // of these: that running sequences count on
  std::uint64_t limit_bytes = 0;
  std::uint64_t dropped_blocks = 0;  // by its limit, or where devices were full
  std::uint64_t written_bytes = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t refused_writes = 0;
  std::uint64_t lost_blocks = 0;
};

// A device of the block store.
struct DiskMetrics {
  std::string directory;
  std::uint64_t capacity_bytes = 0;
  std::uint64_t io_errors = 0;
  std::uint64_t checksum_errors = 0;
  std::uint64_t cleaned_bytes = 0;
  bool taken_out = false;
};

struct TenantMetrics {
  std::string name;
  std::uint64_t sessions = 0;
  std::uint64_t sequences = 0;
  TierMetrics hbm;
  TierMetrics dram;
  MovedBytes host_to_device;
  std::optional<StoreMetrics> store;  // if there is a block store
  struct {
    std::uint64_t used = 0;
    std::uint64_t late = 0;
    std::uint64_t wasted = 0;
    std::uint64_t dropped = 0;
  } forecast_bytes;
  std::uint64_t session_deaths = 0;
  ViolationCounts client_violations{};
  HistogramCounts resolve_duration;  // of the daemon's executor
  HistogramCounts session_reclaim;   // from the death of a session to the last byte back
};

// Two caches of a tenant with the same name are added up. The first kMaxNamedCaches of the process
// keep their names; those beyond are added up under "other".
struct CacheMetrics {
  std::string tenant;
  std::string name;        // short; a client's words here are made valid UTF-8 and cut
  std::string model_name;  // these five only in sluice_cache_info
  std::string shard;
  std::string device;  // those of its arenas: "0", "0,1"
  std::string layout;
  std::string kind;
  struct {
    std::uint64_t private_blocks = 0;
    std::uint64_t sealed = 0;
    std::uint64_t shared = 0;
    std::uint64_t leased = 0;
    std::uint64_t quarantined = 0;
  } blocks;
  std::uint64_t shared_saved_dram_bytes = 0;
  ResolvePages resolved_by_daemon;
  ResolvePages resolved_direct;
};

inline constexpr std::size_t kMaxNamedCaches = 64;
inline constexpr std::size_t kMaxLabelBytes = 128;

struct DeviceMetrics {
  std::string number;
  std::string model;  // "NVIDIA H200"
  std::string uuid;
  std::uint64_t capacity_bytes = 0;
  std::uint64_t used_bytes = 0;
};

struct HealthMetrics {
  std::string_view code;
  std::uint64_t level = 0;  // 0 well, 1 warning, 2 error
};

struct MetricsSnapshot {
  std::vector<DiskMetrics> disks;
  std::string version;
  std::string commit;
  std::uint64_t hbm_capacity_bytes = 0;
  std::uint64_t dram_capacity_bytes = 0;
  std::vector<HealthMetrics> health;
  std::vector<DeviceMetrics> devices;  // GPUs
  std::vector<TenantMetrics> tenants;
  std::vector<CacheMetrics> caches;
};

// Numeric, with a port: "127.0.0.1:9464", "[::1]:9464", "0.0.0.0:0" (port 0: any free one); or
// empty: off. Errors: invalid_argument, with what is expected.
ipc::Status check_metrics_address(const std::string& address);

// The HTTP server, with two threads of its own while it lives.
class Metrics {
 public:
  // Called at each scrape on a thread of the server, one call at a time; must not throw. It is
  // never called again once the destructor returned.
  using Source = std::function<MetricsSnapshot()>;

  // `address` as in check_metrics_address(); empty: no thread and no port. Errors: address_in_use;
  // permission_denied, invalid_argument (not an address of this machine) or io_error; all name the
  // address.
  static ipc::Result<Metrics> start(const std::string& address, Source source);

  Metrics(Metrics&&) noexcept;
  Metrics& operator=(Metrics&&) noexcept;
  ~Metrics();

  // Where it listens, with the port that was found for port 0; empty: off.
  const std::string& address() const;

 private:
  struct Server;
  explicit Metrics(std::unique_ptr<Server> server);
  std::unique_ptr<Server> server_;
};

}  // namespace sluice::daemon
