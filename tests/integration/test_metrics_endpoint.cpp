// The metrics of a daemon at work, as Prometheus scrapes them: each number is compared with what
// the clients know.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "ipc/mapping.h"
#include "ipc/message.h"
#include "kernels/table.h"
#include "tests/hostile/raw_peer.h"
#include "tests/integration/daemon_process.h"
#include "tests/integration/scrape.h"

namespace sluice::test {
namespace {

using client::Actor;
using client::Cache;
using client::Client;
using client::PageList;
using client::ResolveCounts;
using client::Sequence;
using nlohmann::json;
namespace wire = ipc::wire;

constexpr double kMiB = 1 << 20;
constexpr std::uint32_t kPageBytes = 2048;  // of small_cache()
constexpr std::uint32_t kLayers = 4;

DaemonProcess::Options with_metrics() {
  DaemonProcess::Options options;
  options.extra = "[metrics]\naddress = \"127.0.0.1:0\"\n";
  return options;
}

Scrape scrape(const DaemonProcess& daemon) {
  return Scrape(json::parse(daemon.admin("status"))["daemon"]["metrics_address"]);
}

std::string with(const char* name, const std::string& labels) {
  return std::string(name) + "{" + labels + "}";
}

// Blocks 0 to `blocks` - 1 of a sequence as lists of pages, one per layer.
class Lists {
 public:
  Lists(const Sequence& sequence, std::uint32_t blocks, std::uint32_t layers = kLayers)
      : blocks_(blocks), slots_(std::size_t{blocks} * layers) {
    std::iota(blocks_.begin(), blocks_.end(), 0);
    for (std::uint32_t layer = 0; layer < layers; ++layer) {
      lists_.push_back({sequence.get(), layer, blocks, blocks_.data(),
                        slots_.data() + std::size_t{layer} * blocks, nullptr});
    }
  }
  // NOLINTNEXTLINE(google-explicit-constructor): lists are given wherever a view of them is taken
  operator std::span<const PageList>() const { return lists_; }

 private:
  std::vector<std::uint32_t> blocks_;
  std::vector<std::int32_t> slots_;
  std::vector<PageList> lists_;
};

struct Sum {
  std::uint64_t hits = 0, misses = 0, no_slot = 0, absent = 0, bytes_filled = 0;
  void add(const ResolveCounts& counts) {
    hits += counts.hits;
    misses += counts.misses;
    no_slot += counts.no_slot;
    absent += counts.absent;
    bytes_filled += counts.bytes_filled;
  }
};

class Executors : public testing::TestWithParam<sluice_executor> {
 protected:
  static std::string name() { return GetParam() == SLUICE_EXECUTOR_DAEMON ? "daemon" : "direct"; }
  static std::string other() { return GetParam() == SLUICE_EXECUTOR_DAEMON ? "direct" : "daemon"; }
};
INSTANTIATE_TEST_SUITE_P(Both, Executors,
                         testing::Values(SLUICE_EXECUTOR_DAEMON, SLUICE_EXECUTOR_DIRECT),
                         [](const auto& each) {
                           return each.param == SLUICE_EXECUTOR_DAEMON ? "daemon" : "direct";
                         });

TEST_P(Executors, TiersSessionsAndBlocksAreWhatTheClientsHold) {
  const DaemonProcess daemon(with_metrics());
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", GetParam())));
  const Sequence first = sealed_sequence(cache, 20, "k");
  auto again = must(cache.open_sequence({"k0", 2, 0, 1}));
  must(again.sequence.extend(3));
  const Scrape now = scrape(daemon);
  EXPECT_EQ(now["sluice_tier_capacity_bytes{tier=\"device\"}"], 64 * kMiB);
  EXPECT_EQ(now["sluice_tier_capacity_bytes{tier=\"host\"}"], 128 * kMiB);
  EXPECT_EQ(now["sluice_tier_used_bytes{tenant=\"a\",tier=\"device\"}"], 8 * kMiB);
  EXPECT_EQ(now["sluice_tier_used_bytes{tenant=\"a\",tier=\"host\"}"], 1 * kMiB);
  EXPECT_EQ(now["sluice_tier_used_bytes{tenant=\"b\",tier=\"host\"}"], 0);
  EXPECT_EQ(now["sluice_tier_quota_bytes{tenant=\"a\",tier=\"host\",kind=\"limit\"}"], 128 * kMiB);
  EXPECT_EQ(now["sluice_sessions{tenant=\"a\"}"], 1);
  EXPECT_EQ(now["sluice_sessions{tenant=\"b\"}"], 0);
  EXPECT_EQ(now["sluice_sequences{tenant=\"a\"}"], 2);
  const std::string cache_labels = "tenant=\"a\",cache=\"model\"";
  EXPECT_EQ(now[with("sluice_blocks", cache_labels + ",state=\"sealed\"")], 20);
  EXPECT_EQ(now[with("sluice_blocks", cache_labels + ",state=\"private\"")], 3);
  EXPECT_EQ(now[with("sluice_blocks", cache_labels + ",state=\"shared\"")], 1);
  EXPECT_EQ(now[with("sluice_shared_saved_bytes", cache_labels + ",tier=\"host\"")],
            kLayers * kPageBytes);
  EXPECT_EQ(now[with("sluice_cache_info", cache_labels +
                                              ",model_name=\"model\",shard=\"0/1\",layout=\"4x2x"
                                              "16/16\",kind=\"attention\",device=\"0\"")],
            1);
}

TEST_P(Executors, ResolvedPagesAndMovedBytesAreThoseOfTheClientAndStayWhenTheCacheGoes) {
  const DaemonProcess daemon(with_metrics());
  Sum sum;
  {
    Client client = daemon.connect('a');
    sluice_cache_desc small = small_cache("model", GetParam());
    small.hbm_bytes = 1 << 20;  // 512 pages
    Cache cache = must(client.open_cache(small));
    const Sequence sequence = sealed_sequence(cache, 200, "k");
    auto unsealed = must(cache.open_sequence({nullptr, 0, 0, 0}));
    must(unsealed.sequence.extend(2));
    Actor actor = must(cache.open_actor());
    must(actor.begin_step());
    sum.add(must(actor.resolve(Lists(sequence, 50))));
    sum.add(must(actor.resolve(Lists(sequence, 50))));
    sum.add(must(actor.resolve(Lists(unsealed.sequence, 2))));
    sum.add(must(actor.resolve(Lists(sequence, 200))));  // more than there are slots
    must(actor.end_step());
    EXPECT_EQ(sum.misses, 512U);
    EXPECT_EQ(sum.absent, 8U);
    EXPECT_GE(sum.hits, 400U);
    EXPECT_EQ(sum.no_slot, 800U - 512U);

    const Scrape now = scrape(daemon);
    const auto pages = [&](const std::string& executor, const std::string& result) {
      return now[with("sluice_resolve_pages_total", "tenant=\"a\",cache=\"model\",executor=\"" +
                                                        executor + "\",result=\"" + result + "\"")];
    };
    EXPECT_EQ(pages(name(), "hit"), static_cast<double>(sum.hits));
    EXPECT_EQ(pages(name(), "miss"), static_cast<double>(sum.misses));
    EXPECT_EQ(pages(name(), "no_slot"), static_cast<double>(sum.no_slot));
    EXPECT_EQ(pages(name(), "absent"), static_cast<double>(sum.absent));
    for (const char* result : {"hit", "miss", "no_slot", "absent"}) {
      EXPECT_EQ(pages(other(), result), 0) << result;
    }
    EXPECT_EQ(now["sluice_resolve_duration_seconds_count{tenant=\"a\",executor=\"daemon\"}"],
              GetParam() == SLUICE_EXECUTOR_DAEMON ? 4 : 0);

    // Other pages in another step: they push these out.
    const Sequence others = sealed_sequence(cache, 100, "m");
    must(actor.begin_step());
    sum.add(must(actor.resolve(Lists(others, 100))));
    must(actor.end_step());
    EXPECT_EQ(sum.misses, 512U + 400U);
  }
  const std::string moved =
      "sluice_moved_bytes_total{tenant=\"a\",direction=\"host_to_device\",class=\"must\"}";
  const std::string swept =
      "sluice_evicted_bytes_total{tenant=\"a\",tier=\"device\",reason=\"pressure\"}";
  EXPECT_EQ(scrape(daemon)[moved], static_cast<double>(sum.bytes_filled));
  EXPECT_EQ(sum.bytes_filled, sum.misses * kPageBytes);
  const double out = scrape(daemon)[swept];
  EXPECT_GE(out, 400.0 * kPageBytes);

  ASSERT_TRUE(eventually([&] { return scrape(daemon)["sluice_sessions{tenant=\"a\"}"] == 0; }));
  daemon.admin("evict", R"({"drop_idle_caches": true})");
  ASSERT_TRUE(eventually(
      [&] { return scrape(daemon)["sluice_tier_used_bytes{tenant=\"a\",tier=\"device\"}"] == 0; }));
  const Scrape gone = scrape(daemon);
  EXPECT_EQ(gone[moved], static_cast<double>(sum.bytes_filled)) << "a counter never falls";
  EXPECT_EQ(gone[swept], out);
  EXPECT_EQ(gone["sluice_evicted_bytes_total{tenant=\"a\",tier=\"host\",reason=\"admin\"}"],
            300.0 * kLayers * kPageBytes);
  EXPECT_EQ(gone["sluice_evicted_bytes_total{tenant=\"a\",tier=\"host\",reason=\"pressure\"}"], 0);
  EXPECT_FALSE(gone.has("sluice_blocks{tenant=\"a\",cache=\"model\",state=\"sealed\"}"));
}

TEST_P(Executors, ForecastsMoveBytesOfTheirOwnClass) {
  const DaemonProcess daemon(with_metrics());
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", GetParam())));
  const Sequence sequence = sealed_sequence(cache, 10, "k");
  Actor actor = must(cache.open_actor());
  must(actor.begin_step());
  must(actor.forecast(Lists(sequence, 10, 1), 1'000'000, 100));
  const auto moved = [&](const char* priority) {
    return scrape(daemon)[with(
        "sluice_moved_bytes_total",
        std::string("tenant=\"a\",direction=\"host_to_device\",class=\"") + priority + "\"")];
  };
  EXPECT_TRUE(eventually([&] { return moved("forecast") == 10.0 * kPageBytes; }));
  const ResolveCounts counts = must(actor.resolve(Lists(sequence, 10, 1)));
  must(actor.end_step());
  EXPECT_EQ(counts.hits, 10U);
  EXPECT_EQ(moved("must"), 0);
  EXPECT_TRUE(eventually([&] {
    return scrape(daemon)["sluice_forecast_bytes_total{tenant=\"a\",outcome=\"used\"}"] ==
           10.0 * kPageBytes;
  }));
}

TEST_P(Executors, ADeathIsCountedWithTheTimeUntilItsMemoryWasBack) {
  const DaemonProcess daemon(with_metrics());
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t engine = fork();
  if (engine == 0) {
    Client client = daemon.connect('a');
    Cache cache = must(client.open_cache(small_cache("model", GetParam())));
    auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
    must(opened.sequence.extend(50));
    (void)!write(ready[1], "x", 1);
    pause();
    _exit(0);
  }
  char said = 0;
  ASSERT_EQ(read(ready[0], &said, 1), 1);
  const Scrape before = scrape(daemon);
  EXPECT_EQ(before["sluice_session_deaths_total{tenant=\"a\"}"], 0);
  EXPECT_EQ(before["sluice_blocks{tenant=\"a\",cache=\"model\",state=\"private\"}"], 50);
  kill(engine, SIGKILL);
  waitpid(engine, nullptr, 0);
  EXPECT_TRUE(eventually(
      [&] { return scrape(daemon)["sluice_session_reclaim_seconds_count{tenant=\"a\"}"] == 1; }));
  const Scrape now = scrape(daemon);
  EXPECT_EQ(now["sluice_session_deaths_total{tenant=\"a\"}"], 1);
  EXPECT_EQ(now["sluice_session_deaths_total{tenant=\"b\"}"], 0);
  EXPECT_EQ(now["sluice_sessions{tenant=\"a\"}"], 0);
  EXPECT_EQ(now["sluice_blocks{tenant=\"a\",cache=\"model\",state=\"private\"}"], 0);
  close(ready[0]);
  close(ready[1]);
}

double failures(const DaemonProcess& daemon, char tenant, const char* tier, const char* reason) {
  return scrape(daemon)[with(
      "sluice_allocation_failures_total",
      std::string("tenant=\"") + tenant + "\",tier=\"" + tier + "\",reason=\"" + reason + "\"")];
}

TEST(AllocationFailures, OfTheNodeAndOfAQuotaAreToldApart) {
  DaemonProcess::Options options = with_metrics();
  options.dram = "64GiB";  // more than the daemon may take: see below
  options.tenant_b = "dram.limit = \"2MiB\"";
  const DaemonProcess daemon(options);
  Client a = daemon.connect('a');
  Cache cache = must(a.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(opened.sequence.extend(10));
  Client b = daemon.connect('b', 300'000);
  Cache limited = must(b.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto of_b = must(limited.open_sequence({nullptr, 0, 0, 0}));
  EXPECT_EQ(of_b.sequence.extend(300).error().code, SLUICE_QUOTA_EXCEEDED);
  EXPECT_GE(failures(daemon, 'b', "host", "quota"), 1);
  EXPECT_EQ(failures(daemon, 'b', "host", "memory"), 0);
  sluice_cache_desc large = small_cache("large", SLUICE_EXECUTOR_DAEMON);
  large.hbm_bytes = 1ULL << 40;
  EXPECT_EQ(b.open_cache(large).error().code, SLUICE_QUOTA_EXCEEDED);
  EXPECT_EQ(failures(daemon, 'b', "device", "quota"), 1);

  // The daemon may not make files larger than this, which stands for a full /dev/shm.
  const rlimit small{512 << 10, 512 << 10};
  ASSERT_EQ(prlimit(daemon.pid(), RLIMIT_FSIZE, &small, nullptr), 0);
  EXPECT_EQ(opened.sequence.extend(1000).error().code, SLUICE_NO_MEMORY);
  EXPECT_GE(failures(daemon, 'a', "host", "memory"), 1);
  EXPECT_EQ(failures(daemon, 'a', "host", "quota"), 0);
  EXPECT_FALSE(a.open_cache(small_cache("another", SLUICE_EXECUTOR_DAEMON)));
  EXPECT_EQ(failures(daemon, 'a', "device", "memory"), 1);
}

TEST(Violations, HaveTheirReason) {
  const DaemonProcess daemon(with_metrics());
  RawPeer peer(daemon.socket('b'));
  const RawPeer::Session session = peer.open_session();
  session.memory.submission_ring().control->tail.store(0x80000000U);
  session.bell.ring();
  EXPECT_EQ(peer.end().code, ipc::Errc::peer_violation);
  const Scrape now = scrape(daemon);
  for (const char* reason : {"cursor", "descriptor", "message", "flood", "step_deadline"}) {
    for (const char* tenant : {"a", "b"}) {
      const bool it = std::string(reason) == "cursor" && std::string(tenant) == "b";
      EXPECT_EQ(now[with("sluice_client_violations_total",
                         std::string("tenant=\"") + tenant + "\",reason=\"" + reason + "\"")],
                it ? 1 : 0)
          << tenant << " " << reason;
    }
  }
}

// The table of a direct session, which may write there what it likes.
class OwnTable {
 public:
  explicit OwnTable(RawPeer& peer) {
    ipc::Frame opened = ask(
        peer, ipc::make_message(2, [](auto& builder) {
          const auto layout = wire::CreateLayoutSpec(builder, kLayers, 2, 16, 16, 2, 2, 0);
          return wire::CreateOpenCacheDirect(builder, "model", "", 0, 1, wire::CacheKind::attention,
                                             layout, wire::Executor::direct, 1 << 20);
        }));
    const auto* shape = (*ipc::verify_envelope(opened.bytes))->body_as_CacheOpened();
    sizes_.slots = shape->slots();
    sizes_.blocks = shape->max_blocks();
    sizes_.pages_per_block = kLayers;
    sizes_.actors = shape->table_actors();
    sizes_.log_capacity = shape->table_log_capacity();
    sizes_.hint_capacity = shape->table_hint_capacity();
    memory_ = std::move(*ipc::Mapping::map(opened.fds.at(0).get(), 0, shape->table_bytes(),
                                           ipc::Access::read_write, "a table"));
    const ipc::Frame actor = ask(peer, ipc::make_message(3, [&](auto& builder) {
                                   return wire::CreateOpenActor(builder, shape->cache());
                                 }));
    actor_ = (*ipc::verify_envelope(actor.bytes))->body_as_ActorOpened()->actor();
  }
  kernels::ActorCounters& counters() {
    return kernels::actor_line(kernels::view_table(memory_.data(), sizes_), actor_)->counters;
  }

 private:
  static ipc::Frame ask(RawPeer& peer, const std::vector<std::byte>& request) {
    EXPECT_TRUE(peer.send(request));
    auto reply = peer.receive();
    if (!reply) throw std::runtime_error(reply.error().text);
    return std::move(*reply);
  }
  kernels::TableSizes sizes_;
  ipc::Mapping memory_;
  std::uint32_t actor_ = 0;
};

constexpr double kHuge = 1.8e19;  // less than 2^64, by more than a double is off

TEST(CountersOfADirectSession, NeverTakeAMetricBack) {
  const DaemonProcess daemon(with_metrics());
  RawPeer peer(daemon.socket('a'));
  const RawPeer::Session session = peer.open_session();
  OwnTable table(peer);
  const std::string hits =
      "sluice_resolve_pages_total{tenant=\"a\",cache=\"model\",executor=\"direct\",result=\"hit\"}";
  const std::string moved =
      "sluice_moved_bytes_total{tenant=\"a\",direction=\"host_to_device\",class=\"must\"}";
  table.counters().hits = 100;
  table.counters().filled_bytes = 5000;
  EXPECT_EQ(scrape(daemon)[hits], 100);
  EXPECT_EQ(scrape(daemon)[moved], 5000);
  table.counters().hits = 3;
  table.counters().filled_bytes = 0;
  EXPECT_EQ(scrape(daemon)[hits], 100);
  EXPECT_EQ(scrape(daemon)[moved], 5000);
  table.counters().hits = ~std::uint64_t{0};
  table.counters().fills = ~std::uint64_t{0};
  EXPECT_GE(scrape(daemon)[hits], kHuge);
  // Another actor's pages on top of it: the sum does not wrap around.
  Client honest = daemon.connect('a');
  Cache cache = must(honest.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  const Sequence sequence = sealed_sequence(cache, 4, "k");
  Actor actor = must(cache.open_actor());
  must(actor.begin_step());
  must(actor.resolve(Lists(sequence, 4)));
  must(actor.resolve(Lists(sequence, 4)));
  must(actor.end_step());
  EXPECT_GE(scrape(daemon)[hits], kHuge);
  EXPECT_NO_THROW(daemon.admin("tenants"));
}

}  // namespace
}  // namespace sluice::test
