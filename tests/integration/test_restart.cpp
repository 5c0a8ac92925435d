// A daemon that is killed, or stopped, and started anew: what was in memory is there again, and
// what processes of before could still touch is nobody else's.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/integration/daemon_process.h"

namespace sluice::test {
namespace {

using nlohmann::json;

DaemonProcess::Options warm() {
  DaemonProcess::Options options;
  options.extra = "[restart]\nwarm = true\noutage = \"0s\"\n";  // no blocks in advance
  return options;
}

constexpr std::uint32_t kBlocks = 20;

std::string key_of(const std::string& prefix, std::uint32_t i) {
  std::string key = prefix + std::to_string(i);
  key.resize(16, '.');
  return key;
}

unsigned char byte_of(std::uint32_t block, std::uint32_t at) {
  return static_cast<unsigned char>(block * 31 + at * 7 + 1);
}

// Blocks `prefix`0 ... of bytes that each name their place.
client::Sequence written_sequence(client::Cache& cache, const std::string& prefix,
                                  std::uint32_t blocks = kBlocks) {
  auto opened = must(cache.open_sequence({}));
  must(opened.sequence.extend(blocks));
  for (std::uint32_t i = 0; i < blocks; ++i) {
    const auto frame = must(opened.sequence.map(i));
    for (std::uint32_t at = 0; at < frame.size(); ++at) {
      frame[at] = static_cast<std::byte>(byte_of(i, at));
    }
    const std::string key = key_of(prefix, i);
    must(opened.sequence.seal(i, std::as_bytes(std::span(key))));
  }
  return std::move(opened.sequence);
}

struct Found {
  client::Sequence sequence;
  std::uint32_t matched = 0;
};
Found find(client::Cache& cache, const std::string& prefix, std::uint32_t blocks = kBlocks) {
  std::string keys;
  for (std::uint32_t i = 0; i < blocks; ++i) keys += key_of(prefix, i);
  sluice_keys wanted{};
  wanted.data = keys.data();
  wanted.key_bytes = 16;
  wanted.count = blocks;
  auto opened = must(cache.open_sequence(wanted));
  return {std::move(opened.sequence), opened.matched_blocks};
}

// Resolves all pages of the sequence and compares their bytes. Returns the hits.
std::uint64_t compare(client::Cache& cache, client::Actor& actor, const client::Sequence& sequence,
                      std::uint32_t blocks = kBlocks) {
  const auto info = must(cache.info());
  const auto arena = must(cache.arena());
  std::vector<std::uint32_t> all(blocks);
  for (std::uint32_t i = 0; i < blocks; ++i) all[i] = i;
  std::uint64_t hits = 0;
  must(actor.begin_step());
  for (std::uint32_t page = 0; page < info.pages_per_block; ++page) {
    std::vector<std::int32_t> slots(blocks, -1);
    const client::PageList list{sequence.get(), page, blocks, all.data(), slots.data(), nullptr};
    const auto counts = must(actor.resolve({&list, 1}));
    EXPECT_EQ(counts.hits + counts.misses, blocks);
    hits += counts.hits;
    for (std::uint32_t i = 0; i < blocks; ++i) {
      const auto* const bytes = static_cast<const unsigned char*>(arena.base) +
                                static_cast<std::size_t>(slots[i]) * info.page_bytes;
      for (std::uint32_t at = 0; at < info.page_bytes; ++at) {
        const auto in_block = static_cast<std::uint32_t>(page * info.page_bytes + at);
        EXPECT_EQ(bytes[at], byte_of(i, in_block)) << "block " << i << ", page " << page;
        if (bytes[at] != byte_of(i, in_block)) return hits;
      }
    }
  }
  must(actor.end_step());
  return hits;
}

json only_session(const DaemonProcess& daemon) {
  const json sessions = json::parse(daemon.admin("sessions"))["sessions"];
  return sessions.size() == 1 ? sessions[0] : json();
}

std::uint64_t blocks_of(const DaemonProcess& daemon, const char* state) {
  std::uint64_t blocks = 0;
  const json residency = json::parse(daemon.admin("residency"));
  for (const json& tenant : residency["tenants"]) {
    blocks += tenant["blocks"][state].get<std::uint64_t>();
  }
  return blocks;
}

// 0: it does not run.
pid_t keeper_of(const DaemonProcess& daemon) {
  std::ifstream lock(daemon.admin_socket() + ".keeper.lock");
  pid_t pid = 0;
  if (!(lock >> pid)) return 0;
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  const std::string text(std::istreambuf_iterator<char>(stat), {});
  const auto name_end = text.rfind(')');
  const bool runs = name_end != std::string::npos && name_end + 2 < text.size() &&
                    text[name_end + 2] != 'Z' && text[name_end + 2] != 'X';
  return runs ? pid : 0;
}

class Restart : public testing::TestWithParam<sluice_executor> {
 protected:
  sluice_cache_desc cache_desc() const { return small_cache("model", GetParam()); }
};

void expect_all_there(const DaemonProcess& daemon, const sluice_cache_desc& desc) {
  client::Client client = daemon.connect('a');
  client::Cache cache = must(client.open_cache(desc));
  Found found = find(cache, "k");
  ASSERT_EQ(found.matched, kBlocks);
  client::Actor actor = must(cache.open_actor());
  const std::uint32_t pages = kBlocks * must(cache.info()).pages_per_block;
  EXPECT_EQ(compare(cache, actor, found.sequence), pages) << "HBM is what it was, too";
}

// Seals, resolves and leaves.
void fill(const DaemonProcess& daemon, const sluice_cache_desc& desc) {
  client::Client client = daemon.connect('a');
  client::Cache cache = must(client.open_cache(desc));
  const client::Sequence sequence = written_sequence(cache, "k");
  client::Actor actor = must(cache.open_actor());
  compare(cache, actor, sequence);
}

TEST_P(Restart, AKilledDaemonFindsDramAndHbmAgain) {
  DaemonProcess daemon(warm());
  fill(daemon, cache_desc());
  daemon.kill_and_restart();
  expect_all_there(daemon, cache_desc());
  daemon.kill_and_restart();
  expect_all_there(daemon, cache_desc());
}

TEST_P(Restart, SoDoesOneThatWasStopped) {
  DaemonProcess daemon(warm());
  fill(daemon, cache_desc());
  daemon.signal(SIGTERM);
  EXPECT_EQ(daemon.wait(), 0);
  daemon.start();
  expect_all_there(daemon, cache_desc());
}

TEST_P(Restart, WithoutAKeeperItIsACold) {
  DaemonProcess daemon;
  fill(daemon, cache_desc());
  daemon.kill_and_restart();
  client::Client client = daemon.connect('a');
  client::Cache cache = must(client.open_cache(cache_desc()));
  EXPECT_EQ(find(cache, "k").matched, 0u);
}

TEST_P(Restart, MemoryOfAnotherGeometryIsNotUsed) {
  DaemonProcess daemon(warm());
  fill(daemon, cache_desc());
  daemon.signal(SIGKILL);
  daemon.wait();
  std::string text;
  {
    FILE* const file = fopen(daemon.config_file().c_str(), "r");
    char buffer[4096];
    text.assign(buffer, fread(buffer, 1, sizeof buffer, file));
    fclose(file);
    const auto at = text.rfind("extent = \"1MiB\"");
    text.replace(at, std::strlen("extent = \"1MiB\""), "extent = \"2MiB\"");
    FILE* const out = fopen(daemon.config_file().c_str(), "w");
    fwrite(text.data(), 1, text.size(), out);
    fclose(out);
  }
  daemon.start();
  client::Client client = daemon.connect('a');
  client::Cache cache = must(client.open_cache(cache_desc()));
  EXPECT_EQ(find(cache, "k").matched, 0u);
  fill(daemon, cache_desc());
  daemon.kill_and_restart();
  expect_all_there(daemon, cache_desc());
}

TEST_P(Restart, WhatWasEvictedBeforeIsNotFoundAgain) {
  DaemonProcess daemon(warm());
  fill(daemon, cache_desc());
  daemon.admin("evict", "{}");
  ASSERT_TRUE(eventually([&] { return blocks_of(daemon, "retiring") == 0; }));
  daemon.kill_and_restart();
  client::Client client = daemon.connect('a');
  client::Cache cache = must(client.open_cache(cache_desc()));
  EXPECT_EQ(find(cache, "k").matched, 0u);
}

// A process of before, in a child of the test: it opens, tells that it is there, and then does
// nothing, so that it notices nothing either. Closed over what libsluice would do by itself.
class Silent {
 public:
  explicit Silent(const std::function<void()>& begin) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    pid_ = fork();
    if (pid_ == 0) {
      begin();
      kill(getpid(), SIGSTOP);  // all of its threads
      _exit(0);
    }
    close(ready[0]);
    close(ready[1]);
    siginfo_t stopped{};
    waitid(P_PID, static_cast<id_t>(pid_), &stopped, WSTOPPED);
  }
  Silent(const Silent&) = delete;
  Silent& operator=(const Silent&) = delete;
  ~Silent() { end(); }
  void end() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
};

TEST_P(Restart, WhatASessionOfBeforeMayTouchStaysUntilItIsDead) {
  DaemonProcess daemon(warm());
  Silent engine([&] {
    static client::Client client = daemon.connect('a');
    static client::Cache cache = must(client.open_cache(cache_desc()));
    static client::Sequence sealed = written_sequence(cache, "k");
    static client::Sequence tail = must(cache.open_sequence({})).sequence;
    must(tail.extend(3));
  });
  for (int i = 0; i < 2; ++i) {
    daemon.kill_and_restart();
    const json session = only_session(daemon);
    EXPECT_EQ(session["state"], "away") << session;
    EXPECT_EQ(blocks_of(daemon, "private"), 3u);
    daemon.admin("evict", "{}");
    EXPECT_EQ(blocks_of(daemon, "sealed"), kBlocks) << "it may read any of them";
  }
  // Who comes now finds the blocks, and others get nothing of them.
  {
    client::Client client = daemon.connect('a');
    client::Cache cache = must(client.open_cache(cache_desc()));
    Found found = find(cache, "k");
    EXPECT_EQ(found.matched, kBlocks);
    client::Actor actor = must(cache.open_actor());
    compare(cache, actor, found.sequence);
  }
  engine.end();
  EXPECT_TRUE(eventually([&] { return blocks_of(daemon, "private") == 0; }));
  EXPECT_TRUE(eventually([&] { return only_session(daemon).is_null(); }));
  daemon.admin("evict", "{}");
  EXPECT_TRUE(eventually([&] { return blocks_of(daemon, "sealed") == 0; }));
}

TEST_P(Restart, AColdDaemonFreesWhatAWarmOneLeft) {
  DaemonProcess daemon(warm());
  fill(daemon, cache_desc());
  const pid_t keeper = keeper_of(daemon);
  ASSERT_GT(keeper, 0);
  daemon.signal(SIGKILL);
  daemon.wait();
  daemon.write_config({});
  daemon.start();
  EXPECT_TRUE(eventually([&] { return keeper_of(daemon) == 0; })) << "keeper " << keeper;
  EXPECT_EQ(blocks_of(daemon, "sealed"), 0u);
}

TEST_P(Restart, ADeadKeeperIsNoticedWithoutAnythingToKeep) {
  const DaemonProcess daemon(warm());
  const auto trouble = [&] {
    return json::parse(daemon.admin("status"))["restart"]["trouble"].get<std::string>();
  };
  EXPECT_EQ(trouble(), "");
  kill(keeper_of(daemon), SIGKILL);
  EXPECT_TRUE(eventually([&] { return !trouble().empty(); }));
}

TEST_P(Restart, AClientThatIsClosedMeanwhileIsNotWaitedFor) {
  DaemonProcess daemon(warm());
  {
    client::Client client = daemon.connect('a');
    client::Cache cache = must(client.open_cache(cache_desc()));
    client::Sequence sealed = written_sequence(cache, "k");
    client::Sequence tail = must(cache.open_sequence({})).sequence;
    must(tail.extend(3));
    daemon.signal(SIGKILL);
    daemon.wait();
  }
  daemon.start();
  EXPECT_TRUE(eventually([&] { return only_session(daemon).is_null(); })) << only_session(daemon);
  EXPECT_TRUE(eventually([&] { return blocks_of(daemon, "private") == 0; }));
  EXPECT_EQ(blocks_of(daemon, "sealed"), kBlocks);
  daemon.admin("evict", "{}");
  EXPECT_TRUE(eventually([&] { return blocks_of(daemon, "sealed") == 0; }));
}

// A copy of the client's memory is in a child that was forked before.
TEST_P(Restart, AClientThatIsClosedMeanwhileIsWaitedForWhileAChildHasItsMemory) {
  DaemonProcess daemon(warm());
  pid_t child = -1;
  {
    client::Client client = daemon.connect('a');
    client::Cache cache = must(client.open_cache(cache_desc()));
    client::Sequence sealed = written_sequence(cache, "k");
    child = fork();
    if (child == 0) {
      pause();
      _exit(0);
    }
    daemon.signal(SIGKILL);
    daemon.wait();
  }
  daemon.start();
  EXPECT_EQ(only_session(daemon)["state"], "away");
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(eventually([&] { return only_session(daemon).is_null(); })) << only_session(daemon);
}

TEST_P(Restart, ASessionThatDiedWithTheDaemonLeavesNothing) {
  DaemonProcess daemon(warm());
  {
    Silent engine([&] {
      static client::Client client = daemon.connect('a');
      static client::Cache cache = must(client.open_cache(cache_desc()));
      static client::Sequence tail = must(cache.open_sequence({})).sequence;
      must(tail.extend(3));
      static client::Actor actor = must(cache.open_actor());
      must(actor.begin_step());
    });
    daemon.signal(SIGKILL);
    daemon.wait();
  }
  daemon.start();
  EXPECT_TRUE(eventually([&] { return only_session(daemon).is_null(); }));
  EXPECT_TRUE(eventually([&] {
    return blocks_of(daemon, "private") + blocks_of(daemon, "retiring") == 0;
  })) << "no grace waits for its actor";
}

// What an engine does, before, between and after two deaths of the daemon.
TEST_P(Restart, ARunningEngineGoesOnOverDeathsOfTheDaemon) {
  DaemonProcess daemon(warm());
  client::Client client = daemon.connect('a');
  client::Cache cache = must(client.open_cache(cache_desc()));
  client::Sequence sealed = written_sequence(cache, "k");
  client::Actor actor = must(cache.open_actor());
  compare(cache, actor, sealed);
  const auto info = must(cache.info());
  const auto arena = must(cache.arena());
  client::Sequence tail = must(cache.open_sequence({})).sequence;
  must(tail.extend(2));
  // The first block is written in its frame, the second in pinned slots.
  const auto frame = must(tail.map(0));
  std::memset(frame.data(), 7, frame.size());
  must(actor.begin_step());
  std::vector<std::int32_t> slots(info.pages_per_block);
  must(tail.pin(1, actor, slots));
  const auto page_at = [&](std::int32_t slot) {
    return static_cast<unsigned char*>(arena.base) +
           static_cast<std::size_t>(slot) * info.page_bytes;
  };
  for (const std::int32_t slot : slots) std::memset(page_at(slot), 8, info.page_bytes);
  daemon.kill_and_restart();  // in the middle of a step
  const std::uint32_t block = 1;
  std::int32_t found = -1;
  const client::PageList list{tail.get(), 2, 1, &block, &found, nullptr};
  must(actor.resolve({&list, 1}));
  EXPECT_EQ(found, slots[2]) << "a pin is where it was";
  must(actor.end_step());
  const std::uint64_t pages = std::uint64_t{kBlocks} * info.pages_per_block;
  EXPECT_EQ(compare(cache, actor, sealed), pages) << "nothing was lost from HBM";
  // Steps wait for nobody; it comes back beside them.
  EXPECT_TRUE(eventually([&] { return must(client.info()).resumes == 1; }));
  must(tail.extend(1));
  EXPECT_EQ(must(tail.info()).blocks, 3u);
  daemon.kill_and_restart();
  must(actor.begin_step());
  must(tail.seal(0, std::as_bytes(std::span("t0"))));
  must(tail.seal(1, std::as_bytes(std::span("t1")), &actor));
  must(actor.end_step());
  EXPECT_EQ(compare(cache, actor, sealed), pages);
  EXPECT_TRUE(eventually([&] { return must(client.info()).resumes == 2; }));
  // Seals that were put off are done by the next step that uses the sequence.
  must(actor.begin_step());
  must(actor.resolve({&list, 1}));
  must(actor.end_step());
  EXPECT_EQ(blocks_of(daemon, "private"), 1u);
  EXPECT_EQ(only_session(daemon)["state"], "open");

  // Others find what was sealed across the deaths.
  client::Client other = daemon.connect('a');
  client::Cache joined = must(other.open_cache(cache_desc()));
  client::Actor reader = must(joined.open_actor());
  sluice_keys keys{};
  keys.data = "t0\0t1";
  keys.key_bytes = 3;
  keys.count = 2;
  auto opened = must(joined.open_sequence(keys));
  ASSERT_EQ(opened.matched_blocks, 2u);
  must(reader.begin_step());
  const std::uint32_t both[] = {0, 1};
  std::int32_t read[] = {-1, -1};
  const client::PageList wanted{opened.sequence.get(), 1, 2, both, read, nullptr};
  must(reader.resolve({&wanted, 1}));
  const auto theirs = must(joined.arena());
  for (int i = 0; i < 2; ++i) {
    const auto* const bytes = static_cast<const unsigned char*>(theirs.base) +
                              static_cast<std::size_t>(read[i]) * info.page_bytes;
    EXPECT_EQ(bytes[0], 7 + i);
    EXPECT_EQ(bytes[info.page_bytes - 1], 7 + i);
  }
  must(reader.end_step());
  must(tail.release());
  EXPECT_TRUE(eventually([&] { return blocks_of(daemon, "private") == 0; }));
}

// Without a keeper nothing is left, and the engine is told so.
TEST_P(Restart, AnEngineIsToldOfAColdStart) {
  DaemonProcess daemon;
  client::Client client = daemon.connect('a');
  client::Cache cache = must(client.open_cache(cache_desc()));
  client::Sequence sequence = written_sequence(cache, "k");
  daemon.kill_and_restart();
  const auto extended = sequence.extend(1);
  ASSERT_FALSE(extended);
  EXPECT_EQ(extended.error().code, SLUICE_DAEMON_AWAY);
}

INSTANTIATE_TEST_SUITE_P(Executors, Restart,
                         testing::Values(SLUICE_EXECUTOR_DIRECT, SLUICE_EXECUTOR_DAEMON),
                         [](const auto& executor) {
                           return executor.param == SLUICE_EXECUTOR_DIRECT ? "Direct" : "Daemon";
                         });

}  // namespace
}  // namespace sluice::test
