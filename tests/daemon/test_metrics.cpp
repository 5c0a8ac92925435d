#include "daemon/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/scrape.h"

namespace sluice::daemon {
namespace {

using test::http_get;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* kAnyPort = "127.0.0.1:0";

std::string scrape(const Metrics& metrics) { return http_get(metrics.address(), "/metrics"); }

MetricsSnapshot one_of_each() {
  MetricsSnapshot snapshot;
  snapshot.version = "0.1.0";
  snapshot.commit = "abc";
  snapshot.hbm_capacity_bytes = 1;
  snapshot.dram_capacity_bytes = 2;
  snapshot.health = {{"DRAINING", 1}, {"EXTENTS_FAILED", 2}};
  TenantMetrics& tenant = snapshot.tenants.emplace_back();
  tenant.name = "prod";
  tenant.sessions = 3;
  tenant.sequences = 4;
  tenant.hbm.used_bytes = 5;
  tenant.hbm.guaranteed_bytes = 6;
  tenant.hbm.limit_bytes = 7;
  tenant.hbm.evicted_bytes = {8, 9, 10};
  tenant.dram.used_bytes = 13;
  tenant.dram.allocation_failures = {14, 15};
  tenant.host_to_device = {16, 17, 18};
  tenant.forecast_bytes = {20, 21, 22, 23};
  tenant.session_deaths = 24;
  tenant.client_violations = {25, 26, 27, 28, 29};
  CacheMetrics& cache = snapshot.caches.emplace_back();
  cache.tenant = "prod";
  cache.name = "llama8b/0";
  cache.model_name = "meta/llama";
  cache.shard = "0/2";
  cache.device = "1";
  cache.layout = "32x8x128";
  cache.kind = "attention";
  cache.blocks = {30, 31, 32, 33, 34};
  cache.shared_saved_dram_bytes = 36;
  cache.resolved_by_daemon = {37, 38, 39, 40};
  cache.resolved_direct = {41, 42, 43, 44};
  return snapshot;
}

CacheMetrics cache_named(const std::string& name, std::uint64_t hits) {
  CacheMetrics cache;
  cache.tenant = "t";
  cache.name = name;
  cache.resolved_direct.hit = hits;
  return cache;
}

std::string hits_line(const std::string& cache, int hits) {
  return "sluice_resolve_pages_total{tenant=\"t\",cache=\"" + cache +
         "\",executor=\"direct\",result=\"hit\"} " + std::to_string(hits) + "\n";
}

TEST(AScrape, HasEveryNumberUnderItsNameAndLabels) {
  const auto metrics = Metrics::start(kAnyPort, one_of_each);
  ASSERT_TRUE(metrics) << metrics.error().text;
  const std::string answer = scrape(*metrics);
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/plain"));
  const std::string moved = "sluice_moved_bytes_total{tenant=\"prod\",";
  const std::string cache = "{tenant=\"prod\",cache=\"llama8b/0\",";
  for (const std::string& line : std::vector<std::string>{
           "sluice_build_info{version=\"0.1.0\",commit=\"abc\"} 1",
           "sluice_cache_info" + cache +
               "model_name=\"meta/llama\",shard=\"0/"
               "2\",layout=\"32x8x128\",kind=\"attention\",device=\"1\"} 1",
           "sluice_tier_capacity_bytes{tier=\"device\"} 1",
           "sluice_tier_capacity_bytes{tier=\"host\"} 2",
           "sluice_health{code=\"DRAINING\"} 1",
           "sluice_health{code=\"EXTENTS_FAILED\"} 2",
           "sluice_sessions{tenant=\"prod\"} 3",
           "sluice_sequences{tenant=\"prod\"} 4",
           "sluice_tier_used_bytes{tenant=\"prod\",tier=\"device\"} 5",
           "sluice_tier_quota_bytes{tenant=\"prod\",tier=\"device\",kind=\"guaranteed\"} 6",
           "sluice_tier_quota_bytes{tenant=\"prod\",tier=\"device\",kind=\"limit\"} 7",
           "sluice_evicted_bytes_total{tenant=\"prod\",tier=\"device\",reason=\"pressure\"} 8",
           "sluice_evicted_bytes_total{tenant=\"prod\",tier=\"device\",reason=\"quota\"} 9",
           "sluice_evicted_bytes_total{tenant=\"prod\",tier=\"device\",reason=\"admin\"} 10",
           "sluice_tier_used_bytes{tenant=\"prod\",tier=\"host\"} 13",
           "sluice_allocation_failures_total{tenant=\"prod\",tier=\"host\",reason=\"quota\"} 14",
           "sluice_allocation_failures_total{tenant=\"prod\",tier=\"host\",reason=\"memory\"} 15",
           moved + "direction=\"host_to_device\",class=\"must\"} 16",
           moved + "direction=\"host_to_device\",class=\"forecast\"} 17",
           moved + "direction=\"host_to_device\",class=\"bulk\"} 18",
           "sluice_forecast_bytes_total{tenant=\"prod\",outcome=\"used\"} 20",
           "sluice_forecast_bytes_total{tenant=\"prod\",outcome=\"late\"} 21",
           "sluice_forecast_bytes_total{tenant=\"prod\",outcome=\"wasted\"} 22",
           "sluice_forecast_bytes_total{tenant=\"prod\",outcome=\"dropped\"} 23",
           "sluice_session_deaths_total{tenant=\"prod\"} 24",
           "sluice_client_violations_total{tenant=\"prod\",reason=\"cursor\"} 25",
           "sluice_client_violations_total{tenant=\"prod\",reason=\"descriptor\"} 26",
           "sluice_client_violations_total{tenant=\"prod\",reason=\"message\"} 27",
           "sluice_client_violations_total{tenant=\"prod\",reason=\"flood\"} 28",
           "sluice_client_violations_total{tenant=\"prod\",reason=\"step_deadline\"} 29",
           "sluice_blocks" + cache + "state=\"private\"} 30",
           "sluice_blocks" + cache + "state=\"sealed\"} 31",
           "sluice_blocks" + cache + "state=\"shared\"} 32",
           "sluice_blocks" + cache + "state=\"leased\"} 33",
           "sluice_blocks" + cache + "state=\"quarantined\"} 34",
           "sluice_shared_saved_bytes" + cache + "tier=\"host\"} 36",
           "sluice_resolve_pages_total" + cache + "executor=\"daemon\",result=\"hit\"} 37",
           "sluice_resolve_pages_total" + cache + "executor=\"daemon\",result=\"miss\"} 38",
           "sluice_resolve_pages_total" + cache + "executor=\"daemon\",result=\"no_slot\"} 39",
           "sluice_resolve_pages_total" + cache + "executor=\"daemon\",result=\"absent\"} 40",
           "sluice_resolve_pages_total" + cache + "executor=\"direct\",result=\"hit\"} 41",
           "sluice_resolve_pages_total" + cache + "executor=\"direct\",result=\"miss\"} 42",
           "sluice_resolve_pages_total" + cache + "executor=\"direct\",result=\"no_slot\"} 43",
           "sluice_resolve_pages_total" + cache + "executor=\"direct\",result=\"absent\"} 44"}) {
    EXPECT_THAT(answer, HasSubstr("\n" + line + "\n"));
  }
  EXPECT_THAT(answer, HasSubstr("# TYPE sluice_sessions gauge\n"));
  EXPECT_THAT(answer, HasSubstr("# TYPE sluice_moved_bytes_total counter\n"));
  EXPECT_THAT(answer, HasSubstr("# TYPE sluice_resolve_duration_seconds histogram\n"));
}

TEST(AScrape, HasWhatTenantsHaveOfABlockStoreThatIsThere) {
  EXPECT_THAT(scrape(*Metrics::start(kAnyPort, one_of_each)), Not(HasSubstr("disk")));
  const auto metrics = Metrics::start(kAnyPort, [] {
    MetricsSnapshot snapshot = one_of_each();
    snapshot.disks.resize(1);
    snapshot.tenants[0].store = StoreMetrics{.used_bytes = 50,
                                             .held_bytes = 49,
                                             .limit_bytes = 51,
                                             .dropped_blocks = 52,
                                             .written_bytes = 53,
                                             .read_bytes = 54,
                                             .refused_writes = 55,
                                             .lost_blocks = 56};
    return snapshot;
  });
  ASSERT_TRUE(metrics) << metrics.error().text;
  const std::string answer = scrape(*metrics);
  for (const std::string line :
       {"sluice_tier_used_bytes{tenant=\"prod\",tier=\"disk\"} 50",
        "sluice_tier_quota_bytes{tenant=\"prod\",tier=\"disk\",kind=\"limit\"} 51",
        "sluice_store_held_bytes{tenant=\"prod\"} 49",
        "sluice_store_dropped_blocks_total{tenant=\"prod\"} 52",
        "sluice_store_refused_writes_total{tenant=\"prod\"} 55",
        "sluice_store_lost_blocks_total{tenant=\"prod\"} 56"}) {
    EXPECT_THAT(answer, HasSubstr("\n" + line + "\n"));
  }
}

TEST(AScrape, HasHistogramsWithTheFixedBuckets) {
  Histogram resolves;
  resolves.observe(1e-6);  // a bound belongs to its bucket
  resolves.observe(1.1e-6);
  resolves.observe(0.02);
  resolves.observe(11);
  const auto metrics = Metrics::start(kAnyPort, [&] {
    MetricsSnapshot snapshot = one_of_each();
    snapshot.tenants[0].resolve_duration = resolves.counts();
    return snapshot;
  });
  ASSERT_TRUE(metrics);
  const std::string answer = scrape(*metrics);
  const std::string name = "sluice_resolve_duration_seconds";
  const std::string labels = "{tenant=\"prod\",executor=\"daemon\"";
  const std::string bucket_prefix = "\n" + name + "_bucket" + labels + ",";
  for (const char* bucket : {"le=\"1e-06\"} 1", "le=\"2.5e-06\"} 2", "le=\"0.01\"} 2",
                             "le=\"0.025\"} 3", "le=\"10\"} 3", "le=\"+Inf\"} 4"}) {
    std::string line = bucket_prefix;
    (line += bucket) += '\n';
    EXPECT_THAT(answer, HasSubstr(line));
  }
  EXPECT_THAT(answer, HasSubstr("\n" + name + "_count" + labels + "} 4\n"));
  EXPECT_THAT(answer, ContainsRegex("\n" + name + "_sum[^ ]* 11\\.02000"));
  EXPECT_THAT(answer, HasSubstr("\nsluice_session_reclaim_seconds_count{tenant=\"prod\"} 0\n"));
}

TEST(AScrape, IsTakenAnewEachTime) {
  std::atomic<std::uint64_t> calls = 0;
  const auto metrics = Metrics::start(kAnyPort, [&] {
    MetricsSnapshot snapshot = one_of_each();
    snapshot.tenants[0].sessions = ++calls;
    return snapshot;
  });
  ASSERT_TRUE(metrics);
  EXPECT_THAT(scrape(*metrics), HasSubstr("sluice_sessions{tenant=\"prod\"} 1\n"));
  EXPECT_THAT(scrape(*metrics), HasSubstr("sluice_sessions{tenant=\"prod\"} 2\n"));
}

TEST(AScrape, SurvivesTheWordsOfAHostileClient) {
  const auto metrics = Metrics::start(kAnyPort, [] {
    MetricsSnapshot snapshot;
    snapshot.caches = {cache_named("a\"} 1\nevil_total{x=\"\\", 1), cache_named("\xff\xfe", 2),
                       cache_named(std::string(10'000, 'x'), 3)};
    return snapshot;
  });
  ASSERT_TRUE(metrics);
  const std::string answer = scrape(*metrics);
  EXPECT_THAT(answer, Not(HasSubstr("\nevil_total")));
  EXPECT_THAT(answer, HasSubstr(hits_line("a\\\"} 1\\nevil_total{x=\\\"\\\\", 1)));
  EXPECT_THAT(answer, HasSubstr(hits_line("\xEF\xBF\xBD\xEF\xBF\xBD", 2)));
  EXPECT_THAT(answer, HasSubstr(hits_line(std::string(kMaxLabelBytes, 'x'), 3)));
}

TEST(AScrape, AddsUpCachesOfTheSameName) {
  const auto metrics = Metrics::start(kAnyPort, [] {
    MetricsSnapshot snapshot;
    snapshot.caches = {cache_named("c", 2), cache_named("c", 3)};
    return snapshot;
  });
  ASSERT_TRUE(metrics);
  EXPECT_THAT(scrape(*metrics), HasSubstr(hits_line("c", 5)));
}

TEST(AScrape, KeepsTheFirstCachesByNameAndNeverLetsOtherFall) {
  std::mutex mutex;
  std::vector<CacheMetrics> caches;
  caches.reserve(kMaxNamedCaches + 2);
  for (std::size_t i = 0; i < kMaxNamedCaches; ++i) {
    caches.push_back(cache_named("c" + std::to_string(i + 100), 1));
  }
  const auto metrics = Metrics::start(kAnyPort, [&] {
    const std::lock_guard lock(mutex);
    MetricsSnapshot snapshot;
    snapshot.caches = caches;
    return snapshot;
  });
  ASSERT_TRUE(metrics);
  EXPECT_THAT(scrape(*metrics), Not(HasSubstr("cache=\"other\"")));
  {
    const std::lock_guard lock(mutex);
    caches.push_back(cache_named("a-late-one", 10));
    caches.push_back(cache_named("another", 20));
  }
  EXPECT_THAT(scrape(*metrics), HasSubstr(hits_line("other", 30)));
  {
    const std::lock_guard lock(mutex);
    caches.pop_back();
    caches.back().resolved_direct.hit = 11;
  }
  const std::string answer = scrape(*metrics);
  EXPECT_THAT(answer, HasSubstr(hits_line("other", 31)));
  EXPECT_THAT(answer, HasSubstr(hits_line("c100", 1)));
  EXPECT_THAT(answer, Not(HasSubstr("a-late-one")));
}

TEST(TheServer, KnowsNoOtherPath) {
  const auto metrics = Metrics::start(kAnyPort, one_of_each);
  ASSERT_TRUE(metrics);
  for (const char* path :
       {"/", "/metric", "/etc/passwd", "/../../etc/passwd", "/ARCHITECTURE.md"}) {
    EXPECT_THAT(http_get(metrics->address(), path), StartsWith("HTTP/1.1 404 ")) << path;
  }
}

TEST(TheServer, IsOffWithoutAnAddress) {
  const auto metrics = Metrics::start("", one_of_each);
  ASSERT_TRUE(metrics);
  EXPECT_EQ(metrics->address(), "");
}

TEST(TheServer, NamesAnAddressThatIsTaken) {
  const auto first = Metrics::start(kAnyPort, one_of_each);
  ASSERT_TRUE(first);
  const auto second = Metrics::start(first->address(), one_of_each);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ipc::Errc::address_in_use);
  EXPECT_THAT(second.error().text, HasSubstr(first->address()));
  EXPECT_THAT(scrape(*first), HasSubstr("sluice_build_info"));
}

TEST(TheServer, NamesAnAddressThatIsNotOurs) {
  const auto metrics = Metrics::start("192.0.2.1:9464", one_of_each);  // RFC 5737
  ASSERT_FALSE(metrics);
  EXPECT_EQ(metrics.error().code, ipc::Errc::invalid_argument);
  EXPECT_THAT(metrics.error().text, HasSubstr("192.0.2.1:9464"));
  EXPECT_EQ(Metrics::start("nonsense", one_of_each).error().code, ipc::Errc::invalid_argument);
}

TEST(TheServer, GivesItsPortBackWhenItEnds) {
  std::string address;
  {
    auto metrics = Metrics::start(kAnyPort, one_of_each);
    ASSERT_TRUE(metrics);
    const Metrics moved = std::move(*metrics);
    address = moved.address();
    EXPECT_THAT(http_get(address, "/metrics"), HasSubstr("sluice_build_info"));
  }
  EXPECT_EQ(http_get(address, "/metrics"), "");
  EXPECT_TRUE(Metrics::start(address, one_of_each));
}

TEST(AHistogram, TakesAnyNumber) {
  Histogram histogram;
  for (const double seconds :
       {-1.0, std::nan(""), 0.0, std::numeric_limits<double>::infinity(), 1e300}) {
    histogram.observe(seconds);
  }
  const HistogramCounts counts = histogram.counts();
  EXPECT_EQ(counts.buckets.front(), 3u);
  EXPECT_EQ(counts.buckets.back(), 2u);
}

TEST(AHistogram, CountsEveryObservationOfManyThreads) {
  constexpr int kThreads = 4;
  constexpr int kEach = 20'000;
  Histogram histogram;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) histogram.observe(1e-6 * (i % 100));
    });
  }
  for (std::thread& thread : threads) thread.join();
  HistogramCounts counts = histogram.counts();
  counts += HistogramCounts{};
  std::uint64_t total = 0;
  for (const std::uint64_t bucket : counts.buckets) total += bucket;
  EXPECT_EQ(total, static_cast<std::uint64_t>(kThreads * kEach));
  EXPECT_NEAR(counts.sum_seconds, kThreads * kEach * 49.5e-6, 1e-6);
}

}  // namespace
}  // namespace sluice::daemon
