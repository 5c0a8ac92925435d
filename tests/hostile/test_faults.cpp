// Bad input and faults: each has a typed error that says what and why, and costs nobody else
// anything.
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "ipc/memfd.h"
#include "tests/hostile/raw_peer.h"
#include "tests/integration/daemon_process.h"
#include "tests/status_of.h"

namespace sluice::test {
namespace {

using client::Actor;
using client::Cache;
using client::Client;
using client::PageList;
using client::Sequence;
using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

std::uint64_t dram_used(const DaemonProcess& daemon, const std::string& tenant) {
  const json document = json::parse(daemon.admin("tenants"));
  for (const json& row : document["tenants"]) {
    if (row["tenant"] == tenant) return row["dram"]["used_bytes"];
  }
  return 0;
}

json blocks_of(const DaemonProcess& daemon) {
  return json::parse(daemon.admin("status"))["blocks"];
}

std::size_t sessions_of(const DaemonProcess& daemon) {
  return json::parse(daemon.admin("sessions"))["sessions"].size();
}

TEST(BadInput, LayoutsThatCannotBeAreRefused) {
  const DaemonProcess daemon;
  Client client = daemon.connect('a');
  const auto refused = [&](auto change) {
    sluice_cache_desc desc = small_cache("model", SLUICE_EXECUTOR_DAEMON);
    change(desc);
    const auto opened = client.open_cache(desc);
    EXPECT_FALSE(opened.has_value());
    return status_of(opened);
  };
  EXPECT_EQ(refused([](auto& d) { d.layers = 0; }), SLUICE_INVALID_LAYOUT);
  EXPECT_EQ(refused([](auto& d) { d.head_dim = 0xFFFFFFFF; }), SLUICE_INVALID_LAYOUT);
  EXPECT_EQ(refused([](auto& d) {
              d.layers = d.kv_heads = 4096;
              d.head_dim = 65536;
            }),
            SLUICE_INVALID_LAYOUT);
  EXPECT_EQ(refused([](auto& d) { d.page_kind = SLUICE_PAGE_ROW; }), SLUICE_INVALID_LAYOUT);
  EXPECT_EQ(refused([](auto& d) { d.model = ""; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.reserved[3] = 1; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.struct_size = 8; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.kind = SLUICE_CACHE_STATE; }), SLUICE_NOT_SUPPORTED);
  EXPECT_EQ(refused([](auto& d) { d.hbm_bytes = 1ULL << 60; }), SLUICE_QUOTA_EXCEEDED);
  EXPECT_EQ(refused([](auto& d) { d.shard_count = 0; }), SLUICE_INVALID_ARGUMENT);
  const Cache kept = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  EXPECT_EQ(refused([](auto& d) { d.layers = 5; }), SLUICE_INVALID_LAYOUT)
      << "a cache is joined with its own layout only";
}

TEST(BadInput, AnUnknownUserIsToldHowToBecomeATenant) {
  const DaemonProcess daemon;
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  const std::string path =
      daemon.admin_socket();  // tenants have sockets of their own, nobody has a uid
  where.socket_path = path.c_str();
  const auto connected = Client::connect(where);
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code, SLUICE_UNKNOWN_TENANT);
  EXPECT_NE(connected.error().text.find("[[tenant]]"), std::string::npos) << connected.error().text;
}

TEST(BadInput, AQuotaIsALimitForItsTenantOnly) {
  DaemonProcess::Options options;
  options.tenant_a = "dram.limit = \"2MiB\"";
  const DaemonProcess daemon(options);
  Client a = daemon.connect('a', 300'000);
  Cache cache = must(a.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  const auto extended = opened.sequence.extend(1000);  // 8 KiB each
  ASSERT_FALSE(extended.has_value());
  EXPECT_EQ(extended.error().code, SLUICE_QUOTA_EXCEEDED) << extended.error().text;
  EXPECT_EQ(must(opened.sequence.info()).blocks, 0U) << "all or none";
  must(opened.sequence.extend(100));

  Client b = daemon.connect('b');
  Cache other = must(b.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  must(must(other.open_sequence({nullptr, 0, 0, 0})).sequence.extend(1000));
}

TEST(BadInput, AnArenaLargerThanTheNodeIsRefusedAtOnce) {
  DaemonProcess::Options options;
  options.hbm = "1024TiB";
  const DaemonProcess daemon(options);
  Client client = daemon.connect('a');
  sluice_cache_desc desc = small_cache("model", SLUICE_EXECUTOR_DIRECT);
  desc.hbm_bytes = ipc::available_memory_bytes() * 2;
  const auto opened = client.open_cache(desc);
  EXPECT_EQ(status_of(opened), SLUICE_NO_MEMORY);
  desc.hbm_bytes = 8U << 20;
  must(client.open_cache(desc));
}

TEST(BadInput, AnExtendBeyondTheCacheIsRefusedAsAWhole) {
  const DaemonProcess daemon;
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  const auto extended = opened.sequence.extend(1'000'000);
  ASSERT_EQ(status_of(extended), SLUICE_QUOTA_EXCEEDED);
  EXPECT_NE(extended.error().text.find("1000000 blocks"), std::string::npos)
      << extended.error().text;
  EXPECT_EQ(dram_used(daemon, "a"), 0U) << "nothing was tried";
}

TEST(BadInput, AKeyIsSealedWithOneSizeOnly) {
  const DaemonProcess daemon;
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  auto first = must(cache.open_sequence({nullptr, 0, 0, 0}));
  auto second = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(first.sequence.extend(1));
  must(second.sequence.extend(1));
  const std::string key = "one key";
  const auto bytes = std::as_bytes(std::span(key));
  must(first.sequence.seal(0, bytes, nullptr, 4096));
  EXPECT_EQ(status_of(second.sequence.seal(0, bytes, nullptr, 2048)), SLUICE_SIZE_MISMATCH);
  EXPECT_EQ(must(second.sequence.info()).sealed, 0U) << "the block stays private";
  EXPECT_FALSE(must(first.sequence.seal(0, bytes, nullptr, 4096)))
      << "sealing again changes nothing";
  EXPECT_EQ(status_of(first.sequence.map(0)), SLUICE_WRONG_STATE);
}

TEST(BadInput, AListLongerThanRequestMemoryIsRefusedAndABatchIsCut) {
  DaemonProcess::Options options;
  options.extra = "[rings]\nrequest_memory = \"64KiB\"";
  const DaemonProcess daemon(options);
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  const Sequence sequence = sealed_sequence(cache, 4, "k");
  Actor actor = must(cache.open_actor());
  must(actor.begin_step());
  const std::vector<std::uint32_t> blocks(20'000, 1);
  std::vector<std::int32_t> slots(blocks.size());
  PageList list{sequence.get(), 0, 20'000, blocks.data(), slots.data(), nullptr};
  EXPECT_EQ(status_of(actor.resolve({&list, 1})), SLUICE_LIST_TOO_LONG);
  list.count = 1000;
  const std::vector<PageList> many(20, list);
  const auto counts = must(actor.resolve(many));
  EXPECT_EQ(counts.hits + counts.misses, 20'000U);
  must(actor.end_step());
}

TEST(BadInput, IndicesOutsideOfASequenceAreRefused) {
  const DaemonProcess daemon;
  for (const auto executor : {SLUICE_EXECUTOR_DAEMON, SLUICE_EXECUTOR_DIRECT}) {
    Client client = daemon.connect('a');
    Cache cache = must(client.open_cache(small_cache("model", executor)));
    const Sequence sequence = sealed_sequence(cache, 2, "k");
    Actor actor = must(cache.open_actor());
    const std::uint32_t block = 2;
    std::int32_t slot = 0;
    PageList list{sequence.get(), 0, 1, &block, &slot, nullptr};
    EXPECT_EQ(status_of(actor.resolve({&list, 1})), SLUICE_WRONG_STATE) << "in no step";
    must(actor.begin_step());
    EXPECT_EQ(status_of(actor.resolve({&list, 1})), SLUICE_INVALID_ARGUMENT);
    list.page = 4;
    EXPECT_EQ(status_of(actor.resolve({&list, 1})), SLUICE_INVALID_ARGUMENT);
    EXPECT_EQ(status_of(actor.begin_step()), SLUICE_WRONG_STATE);
    must(actor.end_step());
  }
}

TEST(Faults, AForkedChildMayNotUseTheClient) {
  const DaemonProcess daemon;
  Client client = daemon.connect('a');
  const pid_t child = fork();
  if (child == 0) _exit(status_of(client.ping()) == SLUICE_FORKED ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  must(client.ping());
}

TEST(Faults, TwoDaemonsOnOneSocketAndAStaleSocketFile) {
  DaemonProcess first;
  const std::string program =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "sluiced";
  const std::string log = first.folder() + "/second.log";
  const int status =
      std::system((program + " --config " + first.config_file() + " 2>" + log).c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  std::string text(1 << 12, '\0');
  FILE* file = std::fopen(log.c_str(), "r");
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  EXPECT_NE(text.find("address_in_use"), std::string::npos) << text;
  must(first.connect('a').ping());

  // A killed daemon leaves its socket file; the next one takes it over.
  first.signal(SIGKILL);
  first.wait();
  ASSERT_EQ(access(first.socket('a').c_str(), F_OK), 0);
  const pid_t next = fork();
  if (next == 0) {
    execl(program.c_str(), "sluiced", "--config", first.config_file().c_str(), nullptr);
    _exit(127);
  }
  EXPECT_TRUE(eventually([&] {
    sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
    const std::string path = first.socket('a');
    where.socket_path = path.c_str();
    return Client::connect(where).has_value();
  }));
  kill(next, SIGTERM);
  waitpid(next, nullptr, 0);
}

TEST(Faults, CallsEndWithinASecondWhenTheDaemonIsKilled) {
  for (const auto executor : {SLUICE_EXECUTOR_DAEMON, SLUICE_EXECUTOR_DIRECT}) {
    DaemonProcess daemon;
    Client client = daemon.connect('a');
    Cache cache = must(client.open_cache(small_cache("model", executor)));
    const Sequence sequence = sealed_sequence(cache, 4, "k");
    Actor actor = must(cache.open_actor());
    daemon.signal(SIGKILL);
    const auto killed = steady_clock::now();
    sluice_status status = SLUICE_OK;
    const bool asks = executor == SLUICE_EXECUTOR_DAEMON;
    while (status == SLUICE_OK && steady_clock::now() - killed < std::chrono::seconds(5)) {
      status = asks ? status_of(actor.begin_step()) : status_of(client.ping());
      if (status == SLUICE_OK && asks) status = status_of(actor.end_step());
    }
    EXPECT_EQ(status, SLUICE_DAEMON_AWAY);
    EXPECT_EQ(status_of(client.ping()), SLUICE_DAEMON_AWAY);
    EXPECT_LT(steady_clock::now() - killed, std::chrono::seconds(1));
    EXPECT_EQ(must(client.info()).connected, 0U);
    // Who does its work itself goes on.
    EXPECT_EQ(status_of(actor.begin_step()), asks ? SLUICE_DAEMON_AWAY : SLUICE_OK);
    daemon.wait();
  }
}

TEST(Faults, AGracefulStopIsSaidToClients) {
  DaemonProcess daemon;
  Client client = daemon.connect('a');
  daemon.signal(SIGTERM);
  const int status = daemon.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_EQ(status_of(client.ping()), SLUICE_SHUTTING_DOWN);
}

// An engine that holds private blocks, pins and an open step, and says when it does.
pid_t holding_engine(const DaemonProcess& daemon, sluice_executor executor, bool leave_child,
                     int ready_fd) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", executor)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(opened.sequence.extend(50));
  Actor actor = must(cache.open_actor());
  must(actor.begin_step());
  std::vector<std::int32_t> slots(4);
  for (std::uint32_t block = 0; block < 50; ++block) {
    must(opened.sequence.pin(block, actor, slots));
  }
  if (leave_child) {
    const pid_t child = fork();
    if (child == 0) {
      pause();
      _exit(0);
    }
    (void)!write(ready_fd, &child, sizeof(child));
  } else {
    const pid_t none = 0;
    (void)!write(ready_fd, &none, sizeof(none));
  }
  pause();
  _exit(0);
}

class Deaths : public testing::TestWithParam<sluice_executor> {};
INSTANTIATE_TEST_SUITE_P(Executors, Deaths,
                         testing::Values(SLUICE_EXECUTOR_DAEMON, SLUICE_EXECUTOR_DIRECT),
                         [](const auto& each) {
                           return each.param == SLUICE_EXECUTOR_DAEMON ? "daemon" : "direct";
                         });

TEST_P(Deaths, OfAnEngineGiveEverythingBackWithinASecond) {
  const DaemonProcess daemon;
  Client survivor = daemon.connect('a');
  Cache cache = must(survivor.open_cache(small_cache("model", GetParam())));
  const Sequence sequence = sealed_sequence(cache, 10, "k");
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  for (int round = 0; round < 3; ++round) {
    const pid_t engine = holding_engine(daemon, GetParam(), false, ready[1]);
    pid_t none = 0;
    ASSERT_EQ(read(ready[0], &none, sizeof(none)), static_cast<ssize_t>(sizeof(none)));
    ASSERT_EQ(blocks_of(daemon)["private"], 50);
    kill(engine, SIGKILL);
    const auto killed = steady_clock::now();
    waitpid(engine, nullptr, 0);
    EXPECT_TRUE(eventually([&] {
      const json blocks = blocks_of(daemon);
      return blocks["private"] == 0 && blocks["retiring"] == 0 && sessions_of(daemon) == 1;
    }));
    EXPECT_LT(steady_clock::now() - killed, std::chrono::seconds(1));
    const json caches = json::parse(daemon.admin("caches"));
    EXPECT_EQ(caches["caches"][0]["hbm_pages"]["pinned"], 0) << "its pins are gone";
  }
  Actor actor = must(cache.open_actor());
  must(actor.begin_step());
  const std::uint32_t block = 3;
  std::int32_t slot = 0;
  const PageList list{sequence.get(), 0, 1, &block, &slot, nullptr};
  must(actor.resolve({&list, 1}));
  EXPECT_GE(slot, 0);
  must(actor.end_step());
  close(ready[0]);
  close(ready[1]);
}

TEST_P(Deaths, AForkedChildKeepsWhatItCouldStillUse) {
  const DaemonProcess daemon;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t engine = holding_engine(daemon, GetParam(), true, ready[1]);
  pid_t child = 0;
  ASSERT_EQ(read(ready[0], &child, sizeof(child)), static_cast<ssize_t>(sizeof(child)));
  kill(engine, SIGKILL);
  waitpid(engine, nullptr, 0);
  EXPECT_TRUE(eventually([&] {
    const json sessions = json::parse(daemon.admin("sessions"));
    return sessions["sessions"][0]["state"] == "quarantined";
  }));
  EXPECT_EQ(blocks_of(daemon)["private"], 50) << "a child may still read and write them";
  kill(child, SIGKILL);
  EXPECT_TRUE(eventually([&] {
    return sessions_of(daemon) == 0 && blocks_of(daemon)["private"] == 0 &&
           blocks_of(daemon)["retiring"] == 0;
  }));
  close(ready[0]);
  close(ready[1]);
}

TEST(Faults, GarbageOnTheControlSocketEndsThatConnectionOnly) {
  const DaemonProcess daemon;
  Client honest = daemon.connect('a');
  for (int round = 0; round < 50; ++round) {
    RawPeer peer(daemon.socket('a'));
    std::vector<std::byte> garbage(64 + static_cast<std::size_t>(round) * 7);
    for (std::size_t i = 0; i < garbage.size(); ++i) {
      garbage[i] = static_cast<std::byte>(i * 131 + static_cast<std::size_t>(round) * 17);
    }
    if (round % 2 == 0) {  // a plausible length, then garbage
      const std::uint32_t length = 60;
      std::memcpy(garbage.data(), &length, sizeof(length));
    }
    (void)peer.send_raw(garbage);
    shutdown(peer.fd(), SHUT_WR);
    EXPECT_NE(peer.end().code, ipc::Errc::timed_out);
  }
  must(honest.ping());
  EXPECT_EQ(sessions_of(daemon), 1U);
}

TEST(Faults, RefusedGreetingsCostNobodyAnything) {
  DaemonProcess::Options options;
  options.max_sessions = 2;
  const DaemonProcess daemon(options);
  Client one = daemon.connect('a');
  Client two = daemon.connect('b');
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  const std::string path = daemon.socket('a');
  where.socket_path = path.c_str();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(status_of(Client::connect(where)), SLUICE_LIMIT_REACHED);
  }
  daemon.admin("drain");
  for (int i = 0; i < 20; ++i) EXPECT_EQ(status_of(Client::connect(where)), SLUICE_BUSY);
  daemon.admin("drain", R"({"off": true})");
  must(one.ping());
  must(two.ping());
}

// Neither a session that somebody has, nor one that nobody has, drained or not.
TEST(Faults, AMadeUpResumeGivesNoSession) {
  const DaemonProcess daemon;
  Client honest = daemon.connect('a');
  for (const bool drained : {false, true}) {
    if (drained) daemon.admin("drain");
    for (const std::uint64_t session : {std::uint64_t{1}, std::uint64_t{4711}}) {
      RawPeer peer(daemon.socket('a'));
      ASSERT_TRUE(peer.resume(session));
      EXPECT_EQ(peer.end().code, ipc::Errc::not_found);
    }
  }
  must(honest.ping());
  EXPECT_EQ(sessions_of(daemon), 1U);
}

TEST(Faults, AnUnansweredExtendLeavesASequenceThatCanOnlyBeReleased) {
  const DaemonProcess daemon;
  Client client = daemon.connect('a', 200'000);
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  daemon.signal(SIGSTOP);
  EXPECT_EQ(status_of(opened.sequence.extend(2)), SLUICE_TIMED_OUT);
  daemon.signal(SIGCONT);
  must(client.ping());
  EXPECT_EQ(status_of(opened.sequence.extend(1)), SLUICE_WRONG_STATE)
      << "its blocks at the daemon are not those that we know";
  must(opened.sequence.release());
}

TEST(Faults, AnUnansweredStepIsPutRightByTheNextOne) {
  const DaemonProcess daemon;
  Client client = daemon.connect('a', 200'000);
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  Actor actor = must(cache.open_actor());
  daemon.signal(SIGSTOP);
  EXPECT_EQ(status_of(actor.begin_step()), SLUICE_TIMED_OUT);
  daemon.signal(SIGCONT);
  must(client.ping());
  must(actor.begin_step());
  must(actor.end_step());
}

// One lane serves both. Without slices nobody but the first one or two requests of others is served
// before all 64 of them are done.
TEST(Faults, AHugeResolveOfOneSessionLeavesOthersTheirTurns) {
  DaemonProcess::Options options;
  options.hbm = "512MiB";
  options.dram = "512MiB";
  const DaemonProcess daemon(options);
  Client other = daemon.connect('b');
  Client client = daemon.connect('a');
  sluice_cache_desc desc = small_cache("model", SLUICE_EXECUTOR_DAEMON, 1);
  desc.head_dim = 512;  // 64 KiB a block
  desc.hbm_bytes = 256U << 20;
  Cache cache = must(client.open_cache(desc));
  constexpr std::uint32_t kBlocks = 4000;
  const Sequence sequence = sealed_sequence(cache, kBlocks, "k");
  Actor actor = must(cache.open_actor());
  must(actor.begin_step());
  std::vector<std::uint32_t> blocks(kBlocks);
  std::iota(blocks.begin(), blocks.end(), 0U);
  std::vector<std::int32_t> slots(kBlocks);
  const PageList list{sequence.get(), 0, kBlocks, blocks.data(), slots.data(), nullptr};
  client::Operation operation = must(actor.resolve_async({&list, 1}));
  int served = 0;
  client::Result<client::ResolveCounts> counts;
  do {
    must(other.ping());
    ++served;
    counts = operation.wait(0);
  } while (!counts && counts.error().code == SLUICE_TIMED_OUT);
  EXPECT_EQ(must(counts).misses, kBlocks);
  EXPECT_GT(served, 3);
  must(actor.end_step());
}

TEST(Faults, AnUnansweredOpenOrForkLeavesNoSequenceBehind) {
  const DaemonProcess daemon;
  Client client = daemon.connect('a', 200'000);
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  daemon.signal(SIGSTOP);
  EXPECT_EQ(status_of(cache.open_sequence({nullptr, 0, 0, 0})), SLUICE_TIMED_OUT);
  EXPECT_EQ(status_of(opened.sequence.fork()), SLUICE_TIMED_OUT);
  daemon.signal(SIGCONT);
  must(opened.sequence.release());
  must(client.ping());
  const auto sequences = [&] {
    return json::parse(daemon.admin("status"))["sequences"].get<std::uint64_t>();
  };
  EXPECT_TRUE(eventually([&] { return sequences() == 0; })) << sequences() << " are left";
}

// A time-out would ask the caller to try again, for ever.
TEST(Faults, AStepThatStaysOpenForTooLongEndsTheSessionAndIsNoTimeOut) {
  DaemonProcess::Options options;
  options.extra = "[limits]\nstep_deadline = \"100ms\"";
  const DaemonProcess daemon(options);
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  const Sequence sequence = sealed_sequence(cache, 1, "k");
  Actor actor = must(cache.open_actor());
  must(actor.begin_step());
  EXPECT_TRUE(eventually([&] { return status_of(client.ping()) != SLUICE_OK; }));
  EXPECT_EQ(status_of(client.ping()), SLUICE_LIMIT_REACHED);
  const std::uint32_t block = 0;
  std::int32_t slot = 0;
  const PageList list{sequence.get(), 0, 1, &block, &slot, nullptr};
  EXPECT_EQ(status_of(actor.resolve({&list, 1})), SLUICE_LIMIT_REACHED);
}

TEST(Faults, ConnectionsThatVanishDuringTheGreetingLeaveNoSession) {
  const DaemonProcess daemon;
  for (int round = 0; round < 20; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      RawPeer(daemon.socket('a')).hello(false);
      _exit(0);
    }
    waitpid(child, nullptr, 0);
  }
  EXPECT_TRUE(eventually([&] { return sessions_of(daemon) == 0; }));
  must(daemon.connect('a').ping());
}

TEST(Faults, ABlockIsSealedInAStepOfItsOwnCacheOnly) {
  const DaemonProcess daemon;
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DIRECT)));
  Cache other = must(client.open_cache(small_cache("another", SLUICE_EXECUTOR_DIRECT)));
  Actor actor = must(cache.open_actor());
  Actor stranger = must(other.open_actor());
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(opened.sequence.extend(1));
  must(actor.begin_step());
  std::vector<std::int32_t> slots(4);
  must(opened.sequence.pin(0, actor, slots));
  const std::string key = "key";
  const auto bytes = std::as_bytes(std::span(key));
  must(stranger.begin_step());
  EXPECT_EQ(status_of(opened.sequence.seal(0, bytes, &stranger)), SLUICE_INVALID_ARGUMENT);
  must(actor.end_step());
  EXPECT_EQ(status_of(opened.sequence.seal(0, bytes, &actor)), SLUICE_INVALID_ARGUMENT);
  must(actor.begin_step());
  must(opened.sequence.seal(0, bytes, &actor));
  must(actor.end_step());
  must(stranger.end_step());
}

TEST(Faults, ReloadChangesQuotasAndRefusesABrokenFile) {
  DaemonProcess::Options options;
  DaemonProcess daemon(options);
  options.tenant_a = "dram.limit = \"4MiB\"";
  daemon.write_config(options);
  daemon.signal(SIGHUP);
  const auto limit = [&] {
    return json::parse(daemon.admin("tenants"))["tenants"][0]["dram"]["limit_bytes"]
        .get<std::uint64_t>();
  };
  EXPECT_TRUE(eventually([&] { return limit() == 4U << 20; }));
  options.tenant_a = "dram.limit = nonsense";
  daemon.write_config(options);
  daemon.signal(SIGHUP);
  must(daemon.connect('a').ping());
  EXPECT_EQ(limit(), 4U << 20);
  EXPECT_THROW(daemon.admin("reload"), std::runtime_error);
}

TEST(Faults, ANodeWithoutMemoryRefusesAnExtentAndGoesOn) {
  DaemonProcess::Options options;
  options.dram = "64GiB";  // more than the daemon may take: see below
  DaemonProcess daemon(options);
  // The daemon may not make files larger than this, which stands for a full /dev/shm.
  const rlimit small{512 << 10, 512 << 10};
  Client client = daemon.connect('a');
  Cache cache = must(client.open_cache(small_cache("model", SLUICE_EXECUTOR_DAEMON)));
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(opened.sequence.extend(10));
  ASSERT_EQ(prlimit(daemon.pid(), RLIMIT_FSIZE, &small, nullptr), 0);
  const auto extended = opened.sequence.extend(1000);
  ASSERT_FALSE(extended.has_value());
  EXPECT_EQ(extended.error().code, SLUICE_NO_MEMORY) << extended.error().text;
  EXPECT_NE(extended.error().text.find("sluice-dram"), std::string::npos)
      << "the node's reason: " << extended.error().text;
  must(client.ping());
  EXPECT_EQ(must(opened.sequence.info()).blocks, 10U);
  EXPECT_LT(dram_used(daemon, "a"), 4U << 20);
}

}  // namespace
}  // namespace sluice::test
