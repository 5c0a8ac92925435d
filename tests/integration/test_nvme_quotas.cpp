// What tenants have of the block store: their limits hold while they write, one's are no loss of
// another, and a reload changes them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/daemon_process.h"
#include "tests/integration/scrape.h"

namespace sluice::test {
namespace {

using client::Cache;
using client::Client;
using nlohmann::json;

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint32_t kKeyBytes = 16;
constexpr std::uint32_t kPerSequence = 100;
constexpr std::uint32_t kInDram = 512;  // blocks that a tenant's DRAM limit can hold
constexpr std::uint64_t kRecord = 12 << 10;

class NvmeQuotas : public testing::Test {
 public:
  NvmeQuotas() {
    options.dram = "8MiB";
    options.extra = "[tiers.nvme]\ndirectories = [\"" + store.string() +
                    ":64MiB\"]\nsegment = \"1MiB\"\n[metrics]\naddress = \"127.0.0.1:0\"\n";
    options.tenant_a = "dram.limit = \"4MiB\"\nnvme = {limit = \"1.5MiB\", weight = 0.5}\n";
    options.tenant_b = "dram.limit = \"4MiB\"\n";
  }
  ~NvmeQuotas() override {
    std::error_code ignored;
    std::filesystem::remove_all(store, ignored);
  }

 protected:
  std::filesystem::path store =
      std::filesystem::temp_directory_path() / ("sluice-quotas-" + std::to_string(getpid()));
  DaemonProcess::Options options;
};

json stored(const DaemonProcess& daemon, const std::string& tenant) {
  const json document = json::parse(daemon.admin("tenants"));
  for (const json& row : document["tenants"]) {
    if (row["tenant"] == tenant) return row["nvme"];
  }
  return {};
}

std::string key_of(std::uint32_t number) {
  std::string key = "k" + std::to_string(number);
  key.resize(kKeyBytes, '.');
  return key;
}

// A sequence of sealed blocks.
client::Sequence write_sequence(Cache& cache, std::uint32_t from, std::uint32_t count) {
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(opened.sequence.extend(count));
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::string key = key_of(from + i);
    std::memcpy(must(opened.sequence.map(i)).data(), key.data(), key.size());
    must(opened.sequence.seal(i, std::as_bytes(std::span(key))));
  }
  return std::move(opened.sequence);
}

// Sealed blocks that nobody refers to afterwards.
void write_blocks(Cache& cache, std::uint32_t from, std::uint32_t to) {
  for (std::uint32_t begin = from; begin < to; begin += kPerSequence) {
    write_sequence(cache, begin, std::min(kPerSequence, to - begin));
  }
}

// How many of the first `count` blocks are there, from the first on.
std::uint32_t matched(Cache& cache, std::uint32_t count) {
  std::string keys;
  for (std::uint32_t i = 0; i < count; ++i) keys += key_of(i);
  sluice_keys wanted{};
  wanted.data = keys.data();
  wanted.key_bytes = kKeyBytes;
  wanted.count = count;
  return must(cache.open_sequence(wanted)).matched_blocks;
}

// The most that a tenant was seen to have, from now on.
class Watch {
 public:
  Watch(const DaemonProcess& daemon, const std::string& tenant)
      : thread_([this, &daemon, tenant](const std::stop_token& stop) {
          do {
            const auto used = stored(daemon, tenant)["used_bytes"].get<std::uint64_t>();
            most_ = std::max(most_, used);
          } while (!stop.stop_requested());
        }) {}
  std::uint64_t end() {
    thread_.request_stop();
    thread_.join();
    return most_;
  }

 private:
  std::uint64_t most_ = 0;  // the thread's until its end
  std::jthread thread_;
};

TEST_F(NvmeQuotas, HoldAlwaysAndAreNoLossOfOthers) {
  const DaemonProcess daemon(options);
  Client first = daemon.connect('a', 20'000'000);
  Client second = daemon.connect('b', 20'000'000);
  Cache limited = must(first.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  Cache other = must(second.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  constexpr std::uint32_t kOthers = 1000;
  write_blocks(other, 0, kOthers);
  const json before = stored(daemon, "b");
  EXPECT_GE(before["blocks"], kOthers - kInDram);

  constexpr std::uint64_t kLimit = 3 * kMiB / 2;
  Watch watch(daemon, "a");
  write_blocks(limited, 0, 2000);
  EXPECT_LE(watch.end(), kLimit);
  const json after = stored(daemon, "a");
  EXPECT_EQ(after["limit_bytes"], kLimit);
  EXPECT_EQ(after["weight"], 0.5);
  EXPECT_LE(after["used_bytes"], kLimit);
  EXPECT_GT(after["used_bytes"], kLimit / 2);
  EXPECT_GT(after["dropped_blocks"], 0);

  EXPECT_EQ(stored(daemon, "b"), before);
  EXPECT_EQ(before["limit_bytes"], 64 * kMiB);
  EXPECT_EQ(matched(other, kOthers), kOthers);
}

// What the store has of a running sequence outlives everything that is written meanwhile.
TEST_F(NvmeQuotas, AreNoLossOfARunningSequence) {
  const DaemonProcess daemon(options);
  Client client = daemon.connect('a', 20'000'000);
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  constexpr std::uint32_t kRunning = 60;
  const client::Sequence running = write_sequence(cache, 0, kRunning);
  {
    std::vector<client::Sequence> others;  // running, too: more than DRAM holds
    others.reserve(5);
    for (std::uint32_t i = 0; i < 5; ++i) {
      others.push_back(write_sequence(cache, 1000 + i * kPerSequence, kPerSequence));
    }
  }
  write_blocks(cache, 2000, 4000);
  const json full = stored(daemon, "a");
  EXPECT_GT(full["dropped_blocks"], 0);
  EXPECT_GT(full["held_bytes"], 0);
  const auto moved = [&](const char* what) {
    return json::parse(daemon.admin("status"))["nvme"][what].get<std::uint64_t>();
  };
  const std::uint64_t promoted = moved("promoted_blocks");
  EXPECT_EQ(matched(cache, kRunning), kRunning);  // which wants them in DRAM
  ASSERT_TRUE(eventually([&] { return stored(daemon, "a")["held_bytes"] == 0; }));
  EXPECT_GT(moved("promoted_blocks"), promoted);
  EXPECT_EQ(moved("lost_blocks"), 0U);
}

TEST_F(NvmeQuotas, LoweredWhileNoDaemonRanAreNoLossOfARunningSequence) {
  options.extra += "[restart]\nwarm = true\n";
  DaemonProcess daemon(options);
  Client client = daemon.connect('a', 20'000'000);
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  constexpr std::uint32_t kRunning = 600;  // more than DRAM holds
  std::vector<client::Sequence> running;
  for (std::uint32_t from = 0; from < kRunning; from += kPerSequence) {
    running.push_back(write_sequence(cache, from, kPerSequence));
  }
  constexpr std::uint64_t kLower = 4 * kRecord;
  ASSERT_GT(stored(daemon, "a")["held_bytes"], 2 * kLower);
  daemon.signal(SIGKILL);
  daemon.wait();
  options.tenant_a = "dram.limit = \"4MiB\"\nnvme.limit = \"" + std::to_string(kLower) + "B\"\n";
  daemon.write_config(options);
  daemon.start();
  const json before = stored(daemon, "a");
  EXPECT_EQ(before["limit_bytes"], kLower);
  EXPECT_GT(before["held_bytes"], 2 * kLower);
  EXPECT_EQ(before["used_bytes"], before["held_bytes"]) << "the rest is beyond the limit";
  EXPECT_EQ(matched(cache, kRunning), kRunning);
  EXPECT_EQ(json::parse(daemon.admin("status"))["nvme"]["lost_blocks"], 0U);
}

TEST_F(NvmeQuotas, OfADayAreFirstForWhatWasAskedForAgain) {
  constexpr std::uint32_t kAgain = 100;  // of a day's 128 records
  options.extra.replace(options.extra.find("segment"), 0, "write_per_day = \"1.5MiB\"\n");
  const DaemonProcess daemon(options);
  Client client = daemon.connect('b', 20'000'000);
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  write_blocks(cache, 0, kAgain);
  ASSERT_EQ(matched(cache, kAgain), kAgain);
  write_blocks(cache, kAgain, 1000);  // more than DRAM holds: the first ones leave
  // The last of them may be on their way still.
  EXPECT_TRUE(eventually([&] { return stored(daemon, "b")["blocks"] == kAgain; }));
  EXPECT_EQ(matched(cache, kAgain), kAgain);
  EXPECT_EQ(stored(daemon, "b")["blocks"], kAgain) << "of the others none";
}

TEST_F(NvmeQuotas, ChangeAtAReload) {
  DaemonProcess daemon(options);
  Client client = daemon.connect('b', 20'000'000);
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  write_blocks(cache, 0, 1000);
  ASSERT_GT(stored(daemon, "b")["used_bytes"], 2 * kMiB);

  options.tenant_b += "nvme.limit = \"2MiB\"\n";
  daemon.write_config(options);
  const json reload = json::parse(daemon.admin("reload"));
  EXPECT_TRUE(reload["deferred"].empty()) << reload;
  ASSERT_EQ(reload["applied"].size(), 1U) << reload;
  EXPECT_EQ(reload["applied"][0]["key"], "tenant.b.nvme.limit");
  EXPECT_EQ(reload["applied"][0]["now"], "\"64MiB\"");
  const json lower = stored(daemon, "b");
  EXPECT_EQ(lower["limit_bytes"], 2 * kMiB);
  EXPECT_LE(lower["used_bytes"], 2 * kMiB);
  EXPECT_GT(lower["used_bytes"], 2 * kMiB - kRecord);
  const json values = json::parse(daemon.admin("config"))["values"];
  EXPECT_EQ(values["tenant.b.nvme.limit"], "\"2MiB\"");

  const json status = json::parse(daemon.admin("status"));
  const Scrape now(status["daemon"]["metrics_address"]);
  const std::string disk = R"(tenant="b",tier="disk")";
  EXPECT_EQ(now["sluice_tier_quota_bytes{" + disk + ",kind=\"limit\"}"], 2 * kMiB);
  EXPECT_EQ(now["sluice_tier_used_bytes{" + disk + "}"], lower["used_bytes"].get<double>());
  EXPECT_EQ(now["sluice_store_dropped_blocks_total{tenant=\"b\"}"],
            lower["dropped_blocks"].get<double>());

  daemon.kill_and_restart();
  EXPECT_EQ(stored(daemon, "b")["limit_bytes"], 2 * kMiB);
  EXPECT_LE(stored(daemon, "b")["used_bytes"], 2 * kMiB);
}

}  // namespace
}  // namespace sluice::test
