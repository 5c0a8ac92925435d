// Memory is made for one while others are served, and comes back from whoever does not wait for it.
//
// The daemon makes an extent when the test lets it: what is served while the gate is closed did not
// wait for memory, however slow the machine.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/daemon_process.h"
#include "tests/integration/gate.h"
#include "tests/status_of.h"

namespace sluice::test {
namespace {

using client::Cache;
using client::Client;
using client::Sequence;
using nlohmann::json;
using std::chrono::steady_clock;

constexpr std::uint32_t kLargeExtents = 48;  // of 1 MiB each
constexpr std::uint32_t kBlocksPerExtent = 128;

DaemonProcess::Options gated(const std::string& extra = "") {
  DaemonProcess::Options options;
  options.program = "gated_sluiced";
  options.extra = extra;
  return options;
}

sluice_cache_desc large_cache(const char* model = "large") {
  sluice_cache_desc desc = small_cache(model, SLUICE_EXECUTOR_DIRECT);
  desc.hbm_bytes = std::uint64_t{kLargeExtents} << 20;
  return desc;
}

json tenant_row(const DaemonProcess& daemon, const std::string& tenant) {
  const json document = json::parse(daemon.admin("tenants"));
  for (const json& row : document["tenants"]) {
    if (row["tenant"] == tenant) return row;
  }
  return {};
}

std::size_t sessions_that(const DaemonProcess& daemon, const std::string& state) {
  const json document = json::parse(daemon.admin("sessions"));
  std::size_t count = 0;
  for (const json& row : document["sessions"]) count += row["state"] == state ? 1 : 0;
  return count;
}

// Arenas' extents that the daemon holds; more for a moment while it hands them out.
std::size_t arena_extents(const DaemonProcess& daemon) {
  std::size_t count = 0;
  const std::string folder = "/proc/" + std::to_string(daemon.pid()) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone);
    count += target.find("memfd:sluice-hbm") != std::string::npos ? 1 : 0;
  }
  return count;
}

bool nothing_is_left(const DaemonProcess& daemon, const std::string& tenant) {
  return eventually([&] {
    return tenant_row(daemon, tenant)["hbm"]["used_bytes"] == 0 &&
           json::parse(daemon.admin("caches"))["caches"].empty() && arena_extents(daemon) == 0;
  });
}

bool no_session_is_left(const DaemonProcess& daemon) {
  return eventually([&] { return json::parse(daemon.admin("sessions"))["sessions"].empty(); });
}

// An open in a thread of its own, with all the patience in the world.
class Opening {
 public:
  Opening(const DaemonProcess& daemon, char tenant, const sluice_cache_desc& desc)
      : client_(daemon.connect(tenant, 60'000'000)),
        opened_(std::async(std::launch::async, [this, desc] { return client_.open_cache(desc); })) {
  }
  client::Result<Cache> get() { return opened_.get(); }

 private:
  Client client_;
  std::future<client::Result<Cache>> opened_;
};

// The same in a process of its own, which the test kills.
pid_t engine_that_opens(const DaemonProcess& daemon) {
  const pid_t engine = fork();
  if (engine == 0) {
    Client client = daemon.connect('a', 60'000'000);
    (void)client.open_cache(large_cache());
    _exit(0);
  }
  return engine;
}

// Everything that a request does without new memory.
void hold_that_all_is_served(const DaemonProcess& daemon, Cache& cache, const std::string& name) {
  const auto begun = steady_clock::now();
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(opened.sequence.extend(4));
  std::memset(must(opened.sequence.map(0)).data(), 3, 16);
  must(opened.sequence.seal(0, std::as_bytes(std::span(name))));
  must(opened.sequence.fork());
  client::Actor actor = must(cache.open_actor());
  must(actor.begin_step());
  const std::uint32_t block = 0;
  std::int32_t slot = -1;
  const client::PageList list{opened.sequence.get(), 0, 1, &block, &slot, nullptr};
  must(actor.resolve({&list, 1}));
  EXPECT_GE(slot, 0);
  must(actor.end_step());
  daemon.admin("status");
  must(daemon.connect('b').ping());
  EXPECT_LT(steady_clock::now() - begun, std::chrono::seconds(5));
}

TEST(Memory, OfALargeArenaIsMadeWhileOthersAreServed) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  Client other = daemon.connect('b');
  Cache cache = must(other.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  must(must(cache.open_sequence({nullptr, 0, 0, 0})).sequence.extend(1));
  gate.close();
  Opening large(daemon, 'a', large_cache());
  ASSERT_TRUE(gate.somebody_waits());
  EXPECT_EQ(json::parse(daemon.admin("caches"))["caches"].size(), 2U);
  for (const char* name : {"at the first extent", "at the second", "at the third"}) {
    hold_that_all_is_served(daemon, cache, name);
    gate.let(1);
  }
  gate.open();
  EXPECT_TRUE(must(large.get()).info()->created != 0);
}

TEST(Memory, ForOneExtentDoesNotWaitForALargeArena) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  Client other = daemon.connect('b', 30'000'000);
  Cache cache = must(other.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  gate.close_to_arenas();
  const std::uint32_t before = gate.asked();
  Opening large(daemon, 'a', large_cache());
  ASSERT_TRUE(gate.somebody_waits());
  must(opened.sequence.extend(1));
  EXPECT_TRUE(gate.asks_now());
  EXPECT_EQ(gate.asked() - before, 2U) << "the first of the arena, and ours";
  gate.open();
  must(large.get());
}

TEST(Memory, OfOneTenantsExtentsIsMadeWhileTheLaneServesOthers) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  Client other = daemon.connect('b');
  Cache cache = must(other.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  must(must(cache.open_sequence({nullptr, 0, 0, 0})).sequence.extend(1));
  Client client = daemon.connect('a', 30'000'000);
  Cache growing = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto opened = must(growing.open_sequence({nullptr, 0, 0, 0}));
  gate.close();
  auto extended =
      std::async(std::launch::async, [&] { return opened.sequence.extend(2 * kBlocksPerExtent); });
  ASSERT_TRUE(gate.somebody_waits());
  hold_that_all_is_served(daemon, cache, "key");
  gate.let(1);
  ASSERT_TRUE(gate.somebody_waits());
  EXPECT_EQ(extended.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  gate.open();
  must(extended.get());
  EXPECT_EQ(must(opened.sequence.info()).blocks, 2 * kBlocksPerExtent);
}

TEST(Memory, IsWaitedForByAFork) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  Client client = daemon.connect('a', 30'000'000);
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(opened.sequence.extend(kBlocksPerExtent));
  std::memset(must(opened.sequence.map(7)).data(), 42, 16);
  gate.close();
  auto forked = std::async(std::launch::async, [&] { return opened.sequence.fork(); });
  ASSERT_TRUE(gate.somebody_waits());
  must(client.ping());
  gate.open();
  Sequence child = must(forked.get());
  EXPECT_EQ(must(child.info()).blocks, kBlocksPerExtent);
  EXPECT_EQ(must(child.map(7))[15], std::byte{42});
}

TEST(Memory, OfAForkOfManyTurnsIsTakenOnce) {
  constexpr std::uint32_t kBlocks = 3000;  // a third of which are copied in a turn
  const DaemonProcess daemon(gated());
  Client client = daemon.connect('a', 30'000'000);
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(opened.sequence.extend(kBlocks));
  const Sequence child = must(opened.sequence.fork());
  EXPECT_EQ(must(child.info()).blocks, kBlocks);
  EXPECT_EQ(tenant_row(daemon, "a")["dram"]["used_bytes"],
            std::uint64_t{(2 * kBlocks + kBlocksPerExtent - 1) / kBlocksPerExtent} << 20);
}

TEST(Memory, OfANewCacheIsSharedByTwoSessionsThatOpenItAtOnce) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  gate.close();
  Opening first(daemon, 'a', large_cache());
  ASSERT_TRUE(gate.somebody_waits());
  Opening second(daemon, 'a', large_cache());
  ASSERT_TRUE(eventually([&] { return sessions_that(daemon, "opening") == 2; }));
  gate.open();
  const Cache one = must(first.get());
  const Cache two = must(second.get());
  EXPECT_EQ(must(one.info()).created + must(two.info()).created, 1U);
  const json caches = json::parse(daemon.admin("caches"))["caches"];
  ASSERT_EQ(caches.size(), 1U);
  EXPECT_EQ(caches[0]["sessions"], 2);
}

TEST(Memory, ComesBackWhenAnEngineDiesInMidOpen) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  gate.close();
  const pid_t engine = engine_that_opens(daemon);
  gate.let(3);
  ASSERT_TRUE(eventually([&] { return gate.asked() == 4; }));
  EXPECT_EQ(arena_extents(daemon), 3U);
  kill(engine, SIGKILL);
  waitpid(engine, nullptr, 0);
  EXPECT_TRUE(eventually([&] { return sessions_that(daemon, "opening") == 0; }));
  gate.let(1);  // the step that was under way; the others are not begun
  EXPECT_TRUE(nothing_is_left(daemon, "a"));
  EXPECT_EQ(gate.asked(), 4U);
  EXPECT_EQ(json::parse(daemon.admin("sessions"))["sessions"].size(), 0U);
}

// The second one has waited for the cache of the first, and makes it anew.
TEST(Memory, IsMadeForTheOneWhoStillWaitsWhenTheOtherDies) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  gate.close();
  const pid_t engine = engine_that_opens(daemon);
  ASSERT_TRUE(gate.somebody_waits());
  Opening second(daemon, 'a', large_cache());
  ASSERT_TRUE(eventually([&] { return sessions_that(daemon, "opening") == 2; }));
  kill(engine, SIGKILL);
  waitpid(engine, nullptr, 0);
  EXPECT_TRUE(eventually([&] { return sessions_that(daemon, "opening") == 1; }));
  gate.open();
  const Cache cache = must(second.get());
  EXPECT_EQ(must(cache.info()).created, 1U);
  EXPECT_TRUE(eventually([&] { return arena_extents(daemon) == kLargeExtents; }));
}

TEST(Memory, ComesBackWhenAClientGoesAwayInMidOpen) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  gate.close();
  {
    Client client = daemon.connect('a', 200'000);
    EXPECT_EQ(status_of(client.open_cache(large_cache())), SLUICE_TIMED_OUT);
  }  // says Bye, while this process lives on
  EXPECT_TRUE(no_session_is_left(daemon));
  gate.let(1);
  EXPECT_TRUE(nothing_is_left(daemon, "a"));
  EXPECT_EQ(gate.asked(), 1U);
}

TEST(Memory, ComesBackWhenAClientGoesAwayInItsSecondOpen) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  gate.close();
  {
    Client client = daemon.connect('a', 200'000);
    EXPECT_EQ(status_of(client.open_cache(large_cache())), SLUICE_TIMED_OUT);
    EXPECT_EQ(status_of(client.open_cache(large_cache())), SLUICE_TIMED_OUT);
  }
  EXPECT_TRUE(no_session_is_left(daemon));
  gate.open();
  EXPECT_TRUE(nothing_is_left(daemon, "a"));
}

TEST(Memory, ComesBackWhenASessionIsEndedInMidOpen) {
  const DaemonProcess daemon(gated());
  GateKeeper gate(gate_beside(daemon.config_file()));
  gate.close();
  Opening opening(daemon, 'a', large_cache());
  ASSERT_TRUE(gate.somebody_waits());
  const json sessions = json::parse(daemon.admin("sessions"))["sessions"];
  daemon.admin("kill", json{{"session", sessions[0]["session"]}}.dump());
  EXPECT_EQ(status_of(opening.get()), SLUICE_PERMISSION_DENIED);
  EXPECT_EQ(sessions_that(daemon, "quarantined"), 1U) << "its process lives";
  gate.let(1);
  EXPECT_TRUE(nothing_is_left(daemon, "a"));
  EXPECT_EQ(gate.asked(), 1U);
}

TEST(Memory, IsNotWaitedForBeyondTheDeadline) {
  const DaemonProcess daemon(gated("[limits]\nopen_deadline = \"100ms\""));
  GateKeeper gate(gate_beside(daemon.config_file()));
  gate.close();
  Client client = daemon.connect('a', 30'000'000);
  const auto opened = client.open_cache(large_cache());
  EXPECT_EQ(status_of(opened), SLUICE_BUSY);
  EXPECT_NE(opened.error().text.find("limits.open_deadline"), std::string::npos)
      << opened.error().text;
  gate.let(1);
  EXPECT_TRUE(nothing_is_left(daemon, "a"));
  gate.open();
  must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
}

TEST(Memory, OfIdleCachesIsFreedForAnOpenThatWaits) {
  const DaemonProcess daemon(gated());
  Client client = daemon.connect('a');
  {
    Cache idle = must(client.open_cache(large_cache("one")));
    must(idle.close());
  }
  const Cache cache = must(client.open_cache(large_cache("two")));
  const json caches = json::parse(daemon.admin("caches"))["caches"];
  ASSERT_EQ(caches.size(), 1U);
  EXPECT_EQ(caches[0]["model"], "two");
  EXPECT_TRUE(eventually([&] { return arena_extents(daemon) == kLargeExtents; }));
}

TEST(Memory, OfAnArenaIsLeftUnmadeByAStop) {
  constexpr std::uint32_t kHugeExtents = 4096;
  DaemonProcess::Options options = gated();
  options.hbm = "4GiB";
  DaemonProcess daemon(options);
  GateKeeper gate(gate_beside(daemon.config_file()));
  sluice_cache_desc huge = large_cache();
  huge.hbm_bytes = std::uint64_t{kHugeExtents} << 20;
  gate.close();
  Opening first(daemon, 'a', huge);
  ASSERT_TRUE(gate.somebody_waits());
  Opening second(daemon, 'a', huge);
  ASSERT_TRUE(eventually([&] { return sessions_that(daemon, "opening") == 2; }));
  daemon.signal(SIGTERM);
  EXPECT_EQ(status_of(first.get()), SLUICE_SHUTTING_DOWN);
  EXPECT_EQ(status_of(second.get()), SLUICE_SHUTTING_DOWN);
  // Whatever it still asks for it gets, but it is to stop asking.
  int status = -1;
  EXPECT_TRUE(eventually([&] {
    if (gate.asks_now()) gate.let(1);
    status = daemon.wait(std::chrono::milliseconds(0));
    return status != -1;
  }));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_LT(gate.asked(), kHugeExtents / 4);
}

}  // namespace
}  // namespace sluice::test
