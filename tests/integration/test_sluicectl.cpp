// sluicectl as an operator runs it: a program, its output and its exit code, against a daemon with
// engines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "tests/integration/daemon_process.h"
#include "tests/integration/program.h"

namespace sluice::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
  json document() const { return json::parse(out, nullptr, false); }
};

// Two engines of tenant a that share a prefix of three sealed blocks; one more block is private.
class Sluicectl : public testing::Test {
 protected:
  static constexpr std::uint32_t kBlocks = 3;
  static constexpr std::uint32_t kKeyBytes = 8;

  Sluicectl() {
    first_sequence->extend(kBlocks + 1).value();
    for (std::uint32_t block = 0; block < kBlocks; ++block) {
      first_sequence->map(block).value();
      first_sequence->seal(block, std::as_bytes(std::span(block_keys).subspan(block, 1))).value();
    }
    second_sequence.emplace(must(second_cache->open_sequence(keys())));
  }

  sluice_keys keys() const { return {block_keys.data(), kKeyBytes, 0, block_keys.size()}; }

  Outcome run(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--socket", daemon.admin_socket()});
    return run_as_is(std::move(arguments));
  }
  Outcome run_as_is(std::vector<std::string> arguments) {
    Program program(daemon.folder(), std::move(arguments));
    const int exit_code = program.wait();
    return {exit_code, program.out(), program.err()};
  }
  // The document of a command that must succeed.
  json ask(std::vector<std::string> arguments) {
    arguments.emplace_back("--json");
    const Outcome outcome = run(std::move(arguments));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.document();
  }
  void let_engines_go() {
    second_sequence.reset();
    first_sequence.reset();
    second_cache.reset();
    first_cache.reset();
    second_engine.reset();
    first_engine.reset();
  }
  std::uint64_t session_of(const client::Client& client) { return must(client.info()).session; }

  DaemonProcess daemon;
  std::array<std::uint64_t, kBlocks> block_keys = {101, 102, 103};
  std::optional<client::Client> first_engine{daemon.connect('a')};
  std::optional<client::Client> second_engine{daemon.connect('a')};
  sluice_cache_desc geometry = small_cache("model", SLUICE_EXECUTOR_DIRECT);
  std::optional<client::Cache> first_cache{must(first_engine->open_cache(geometry))};
  std::optional<client::Cache> second_cache{must(second_engine->open_cache(geometry))};
  std::optional<client::Sequence> first_sequence{must(first_cache->open_sequence({})).sequence};
  std::optional<client::Cache::Opened> second_sequence;
};

TEST_F(Sluicectl, EveryLookEndsWithZeroInBothForms) {
  for (const char* command : {"ping", "version", "status", "watch", "tenants", "sessions", "caches",
                              "sequences", "residency"}) {
    const Outcome text = run({command});
    EXPECT_EQ(text.exit_code, 0) << command << ": " << text.err;
    EXPECT_NE(text.out, "") << command;
    EXPECT_EQ(text.err, "") << command;
    EXPECT_EQ(text.out.find('\033'), std::string::npos) << command << ": colours in a file";
    const json document = ask({command});
    EXPECT_EQ(document.value("version", 0), 1) << command;
    EXPECT_THAT(document.value("schema", ""), StartsWith("sluice.")) << command;
  }
}

TEST_F(Sluicectl, StatusTellsWhoHoldsWhat) {
  const json status = ask({"status"});
  EXPECT_EQ(status["sessions"], 2);
  EXPECT_EQ(status["sequences"], 2);
  EXPECT_EQ(status["tiers"][1]["capacity_bytes"], 128 << 20);
  EXPECT_EQ(status["daemon"]["pid"], daemon.pid());
  EXPECT_EQ(run({"status", "--check"}).exit_code, 0);
  EXPECT_EQ(ask({"status", "--tenant", "b"})["tenants"].size(), 1u);
}

TEST_F(Sluicectl, TenantsHaveTheirResolvesAlsoOfCachesThatAreGone) {
  const auto resolve_all = [&] {
    client::Actor actor = must(first_cache->open_actor());
    must(actor.begin_step());
    std::array<std::uint32_t, kBlocks> blocks = {0, 1, 2};
    std::array<std::int32_t, kBlocks> slots{};
    const client::PageList list{first_sequence->get(), 0,      kBlocks, blocks.data(),
                                slots.data(),          nullptr};
    for (int i = 0; i < 4; ++i) must(actor.resolve({&list, 1}));
    must(actor.end_step());
  };
  resolve_all();
  const json tenants = ask({"tenants"})["tenants"];
  EXPECT_EQ(tenants[0]["resolve"]["hits"], 9);
  EXPECT_EQ(tenants[0]["resolve"]["misses"], 3);
  EXPECT_EQ(tenants[0]["resolve"]["hit_ratio"], 0.75);
  EXPECT_EQ(tenants[0]["resolve"]["bytes_filled"], kBlocks * 2048);
  EXPECT_EQ(tenants[1]["resolve"]["hits"], 0);
  EXPECT_THAT(run({"tenants"}).out, HasSubstr("75.0%"));
  EXPECT_EQ(ask({"status", "--tenant", "b"})["resolve"]["hits"], 0);

  let_engines_go();
  ask({"evict", "--all", "--drop-idle-caches", "--yes"});
  ASSERT_TRUE(eventually([&] { return ask({"caches"})["caches"].empty(); }));
  EXPECT_EQ(ask({"tenants"})["tenants"][0]["resolve"]["hits"], 9);
  EXPECT_EQ(ask({"status"})["resolve"]["misses"], 3);
}

TEST_F(Sluicectl, HealthNamesWhatFailedLatelyAndForWhom) {
  EXPECT_THAT(run({"status"}).out, HasSubstr("health OK"));
  // The daemon may not make files larger than this, which stands for a full /dev/shm.
  const rlimit small{512 << 10, 512 << 10};
  ASSERT_EQ(prlimit(daemon.pid(), RLIMIT_FSIZE, &small, nullptr), 0);
  EXPECT_FALSE(first_sequence->extend(1000));
  const Outcome status = run({"status", "--check"});
  EXPECT_EQ(status.exit_code, 6);
  EXPECT_THAT(status.out, HasSubstr("health ERROR\n  EXTENTS_FAILED the node had no memory"));
  const json health = ask({"status"})["health"];
  ASSERT_EQ(health.size(), 1u) << health;
  EXPECT_EQ(health[0]["code"], "EXTENTS_FAILED");
  EXPECT_EQ(health[0]["level"], "error");
  EXPECT_EQ(health[0]["tenant"], "a");
  EXPECT_TRUE(ask({"status", "--tenant", "b"})["health"].empty()) << "it is not b's affair";
}

TEST_F(Sluicectl, SessionsAreFilteredByState) {
  EXPECT_EQ(ask({"sessions", "--state", "open"})["sessions"].size(), 2u);
  EXPECT_EQ(ask({"sessions", "--state", "quarantined"})["sessions"].size(), 0u);
  EXPECT_EQ(ask({"sessions", "--tenant", "b", "--state", "open"})["sessions"].size(), 0u);
  // An ended session whose process lives is quarantined.
  const std::uint64_t ended = session_of(*second_engine);
  ASSERT_EQ(run({"sessions", "kill", std::to_string(ended), "--yes"}).exit_code, 0);
  const json quarantined = ask({"sessions", "--tenant", "a", "--state", "quarantined"});
  ASSERT_EQ(quarantined["sessions"].size(), 1u);
  EXPECT_EQ(quarantined["sessions"][0]["session"], ended);
}

TEST_F(Sluicectl, ResidencySaysWhatIsSharedAndWhatItSaves) {
  const json residency = ask({"residency"});
  EXPECT_EQ(residency["shared_blocks"], kBlocks);
  EXPECT_EQ(residency["saved_bytes"],
            kBlocks * residency["caches"][0]["frame_stride_bytes"].get<int>());
  EXPECT_EQ(residency["caches"][0]["blocks"]["private"], 1);

  const Outcome map = run({"residency", "--map"});
  EXPECT_EQ(map.exit_code, 0);
  EXPECT_THAT(map.out, HasSubstr("DRAM only"));
  EXPECT_THAT(map.out, HasSubstr("dddw"));

  const std::string cache = std::to_string(residency["caches"][0]["cache"].get<int>());
  const json part = ask({"residency", "--blocks", "--cache", cache, "--limit", "2"});
  ASSERT_EQ(part["blocks"].size(), 2u);
  EXPECT_EQ(part["blocks"][0]["references"], 2);
  EXPECT_EQ(part["blocks"][0]["key"], "6500000000000000");
  const std::string cursor = std::to_string(part["next_cursor"].get<std::uint64_t>());
  EXPECT_EQ(ask({"residency", "--blocks", "--cache", cache, "--after", cursor})["blocks"].size(),
            2u);
}

TEST_F(Sluicectl, ASequenceIsFoundByItsNumber) {
  const std::string session = std::to_string(session_of(*second_engine));
  const json sequences = ask({"sequences", "--session", session});
  ASSERT_EQ(sequences["sequences"].size(), 1u);
  const std::string sequence =
      std::to_string(sequences["sequences"][0]["sequence"].get<std::uint64_t>());
  const json blocks = ask({"residency", "--session", session, "--sequence", sequence});
  EXPECT_EQ(blocks["blocks"].size(), kBlocks);
}

TEST_F(Sluicectl, WhatDoesNotExistIsFive) {
  EXPECT_EQ(run({"tenants", "--tenant", "nobody"}).exit_code, 5);
  EXPECT_EQ(run({"caches", "--cache", "99"}).exit_code, 5);
  EXPECT_EQ(run({"sessions", "--session", "99"}).exit_code, 5);
  EXPECT_EQ(run({"sessions", "kill", "99", "--yes"}).exit_code, 5);
  const Outcome outcome = run({"evict", "--tenant", "nobody", "--yes", "--json"});
  EXPECT_EQ(outcome.exit_code, 5);
  EXPECT_EQ(outcome.document()["schema"], "sluice.error");
  EXPECT_EQ(outcome.document()["code"], "not_found");
  EXPECT_NE(outcome.err, "");
}

TEST_F(Sluicectl, NoDaemonIsThreeAndConfigCheckNeedsNone) {
  const Outcome ping = run_as_is({"ping", "--json", "--socket", daemon.folder() + "/none.sock"});
  EXPECT_EQ(ping.exit_code, 3);
  EXPECT_EQ(ping.document()["code"], "daemon_away");
  const Outcome good = run_as_is({"config", "check", daemon.config_file()});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  const std::string bad = daemon.folder() + "/bad.toml";
  std::ofstream(bad) << "[daemon]\nlanez = 1\n";
  const Outcome wrong = run_as_is({"config", "check", bad});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_THAT(wrong.err, HasSubstr("bad.toml:2:"));
  EXPECT_EQ(wrong.out, "");
}

TEST_F(Sluicectl, DoctorComparesTheMachineWithTheConfigurationOfTheDaemonOrOfAFile) {
  const auto finding = [](const json& document, const std::string& id) {
    for (const json& row : document["findings"]) {
      if (row["id"] == id) return row;
    }
    return json();
  };
  const Outcome running = run({"doctor", "--json", "--nvme", daemon.folder(), "--no-speed"});
  const json document = running.document();
  EXPECT_EQ(document["schema"], "sluice.doctor");
  EXPECT_EQ(running.exit_code, document["summary"]["errors"] == 0 ? 0 : 6) << running.out;
  EXPECT_EQ(finding(document, "daemon")["severity"], "ok");
  EXPECT_EQ(finding(document, "config")["subject"], "the running sluiced");
  EXPECT_THAT(finding(document, "open_files")["found"], HasSubstr("of the running sluiced"));
  EXPECT_EQ(finding(document, "nvme_directory")["severity"], "ok");

  const std::string huge = daemon.folder() + "/huge.toml";
  std::ofstream(huge) << "[tiers.dram]\ncapacity = \"900TiB\"\nextent = \"1GiB\"\n";
  const Outcome before =
      run_as_is({"doctor", "--json", "--config", huge, "--socket", daemon.folder() + "/none.sock"});
  EXPECT_EQ(before.exit_code, 6);
  EXPECT_EQ(finding(before.document(), "daemon")["severity"], "note");
  EXPECT_EQ(finding(before.document(), "config")["severity"], "ok") << before.out;
  EXPECT_EQ(finding(before.document(), "memory")["severity"], "error");

  const std::string bad = daemon.folder() + "/bad.toml";
  std::ofstream(bad) << "[daemon]\nlanez = 1\n";
  const Outcome wrong = run({"doctor", "--json", "--config", bad});
  EXPECT_EQ(wrong.exit_code, 6);
  EXPECT_THAT(finding(wrong.document(), "config")["found"], HasSubstr("bad.toml:2:"));
}

TEST_F(Sluicectl, TheDaemonListsWhatItWouldRunWith) {
  const auto sluiced = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "sluiced";
  const std::string listing = daemon.folder() + "/listing";
  const std::string command =
      sluiced.string() + " --list --config " + daemon.config_file() + " >" + listing + " 2>&1";
  ASSERT_EQ(std::system(command.c_str()), 0);
  const json values = ask({"config", "show"})["values"];
  for (const auto& [key, value] : values.items()) {
    EXPECT_THAT(content_of(listing), HasSubstr(key + " = " + value.get<std::string>() + "\n"));
  }
  EXPECT_FALSE(values.empty());
}

TEST_F(Sluicectl, TheDaemonSaysUsageErrorsWithTwo) {
  const auto sluiced = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "sluiced";
  const std::string quiet = " >" + daemon.folder() + "/usage 2>&1";
  for (const char* arguments : {" --no-such-option", " --config /nonexistent", " --config"}) {
    const int status = std::system((sluiced.string() + arguments + quiet).c_str());
    EXPECT_EQ(WEXITSTATUS(status), 2) << arguments;
  }
  EXPECT_EQ(std::system((sluiced.string() + " --version" + quiet).c_str()), 0);
}

TEST_F(Sluicectl, ConfigShowsWhatRunsAndReloadsWhatChanged) {
  EXPECT_EQ(ask({"config", "show"})["values"]["daemon.log_level"], "\"warn\"");
  EXPECT_THAT(run({"config", "reload"}).out, HasSubstr("Nothing changed"));
  DaemonProcess::Options changed;
  changed.tenant_a = "dram.limit = \"64MiB\"";
  daemon.write_config(changed);
  const json reload = ask({"config", "reload"});
  ASSERT_EQ(reload["applied"].size(), 1u) << reload;
  EXPECT_EQ(reload["applied"][0]["key"], "tenant.a.dram.limit");
  std::ofstream(daemon.config_file()) << "nonsense";
  EXPECT_EQ(run({"config", "reload"}).exit_code, 1);
}

TEST_F(Sluicectl, EvictGivesUpWhatNobodyRefersTo) {
  EXPECT_EQ(run({"evict", "--all"}).exit_code, 2);
  EXPECT_EQ(run({"evict", "--yes"}).exit_code, 2) << "everything of everybody must be named";
  EXPECT_THAT(run({"evict", "--all", "--yes"}).out, HasSubstr("Nothing to evict"));
  second_sequence.reset();
  first_sequence.reset();
  ASSERT_TRUE(eventually(
      [&] { return ask({"residency"})["caches"][0]["blocks"]["unreferenced"] == kBlocks; }));
  const json plan = ask({"evict", "--dry-run"});
  EXPECT_EQ(plan["evictable_blocks"], kBlocks);
  EXPECT_EQ(plan["blocks"], kBlocks);
  EXPECT_EQ(plan["caches"][0]["blocks"], kBlocks);
  const json part = ask({"evict", "--all", "--dry-run", "--bytes", "10KiB"});
  EXPECT_EQ(part["blocks"], 2) << "blocks of 8 KiB go whole";
  EXPECT_EQ(part["bytes"], 16 << 10);
  EXPECT_EQ(part["wanted_bytes"], 10 << 10);
  EXPECT_EQ(ask({"residency"})["caches"][0]["blocks"]["unreferenced"], kBlocks) << "a dry run";
  EXPECT_EQ(ask({"evict", "--tenant", "a", "--yes"})["blocks"], kBlocks);
  const json blocks = ask({"residency"})["caches"][0]["blocks"];
  EXPECT_EQ(blocks["sealed"], 0);
  EXPECT_EQ(blocks["retiring"], 0);
}

TEST_F(Sluicectl, KillEndsOneSession) {
  EXPECT_EQ(
      run({"sessions", "kill", std::to_string(session_of(*second_engine)), "--yes"}).exit_code, 0);
  EXPECT_TRUE(eventually([&] { return !second_engine->ping(); }));
  EXPECT_TRUE(first_engine->ping());
}

TEST_F(Sluicectl, DrainWaitsForTheLastSession) {
  Program drain(daemon.folder(), {"drain", "--socket", daemon.admin_socket()});
  ASSERT_TRUE(
      eventually([&] { return drain.err().find("waiting for 2 sessions") != std::string::npos; }));
  EXPECT_FALSE(client::Client::connect(
      {sizeof(sluice_connect_desc), daemon.socket('b').c_str(), nullptr, 0, 0, 0, {}}));
  let_engines_go();
  EXPECT_EQ(drain.wait(), 0) << drain.err();
  EXPECT_THAT(drain.out(), StartsWith("Drained"));
  EXPECT_EQ(run({"status", "--check"}).exit_code, 6);
  EXPECT_EQ(ask({"drain", "--off"})["draining"], false);
  EXPECT_EQ(run({"status", "--check"}).exit_code, 0);
}

TEST_F(Sluicectl, DrainThatTimesOutIsSeven) {
  const Outcome outcome = run({"drain", "--timeout", "200ms", "--json"});
  EXPECT_EQ(outcome.exit_code, 7);
  EXPECT_EQ(outcome.document()["sessions"], 2);
  EXPECT_THAT(outcome.err, HasSubstr("2 sessions are left"));
}

TEST_F(Sluicectl, AnInterruptIsOneHundredThirty) {
  Program watch(daemon.folder(), {"watch", "--every", "1h", "--socket", daemon.admin_socket()});
  ASSERT_TRUE(eventually([&] {
    const std::string rows = watch.out();
    return std::count(rows.begin(), rows.end(), '\n') == 2;
  }));
  watch.interrupt();
  EXPECT_EQ(watch.wait(), 130);
}

}  // namespace
}  // namespace sluice::test
