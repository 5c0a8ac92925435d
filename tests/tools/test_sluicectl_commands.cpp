#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tools/sluicectl_world.h"

namespace sluice::tools {
namespace {

using ipc::Errc;
using testing::HasSubstr;
using testing::StartsWith;

std::string drained(bool draining, int sessions) {
  Json status = Json::parse(kSampleStatus);
  status["daemon"]["draining"] = draining;
  if (draining) {
    status["health"] = {{{"code", "DRAINING"},
                         {"level", "warn"},
                         {"what", "the daemon takes no new sessions"},
                         {"todo", "`sluicectl drain --off`"}}};
  }
  status["sessions"] = sessions;
  return status.dump();
}
const std::string kDrain =
    R"({"schema": "sluice.drain", "version": 1, "draining": true, "sessions": 2})";
const std::string kNoSessions = R"({"schema": "sluice.sessions", "version": 1, "sessions": []})";
const std::string kEvict =
    R"({"schema": "sluice.evict", "version": 1, "blocks": 40, "bytes": 83886080, "caches_dropped": 0})";

std::string plan_with(int retiring) {
  Json plan = Json::parse(kSamplePlan);
  plan["caches"][0]["retiring_blocks"] = retiring;
  return plan.dump();
}

TEST(SluicectlCommands, JsonIsTheDaemonsDocumentInItsOrder) {
  const std::vector<std::pair<std::string, const char*>> documents = {
      {"status", kSampleStatus},
      {"sessions", kSampleSessions},
      {"caches", kSampleCaches},
      {"residency", kSampleResidency}};
  for (const auto& [verb, document] : documents) {
    World world;
    world.answer(verb, document);
    EXPECT_EQ(world.sluicectl({verb, "--json"}), kExitDone);
    EXPECT_EQ(world.out, Json::parse(document).dump(2) + "\n");
    EXPECT_EQ(world.err, "");
  }
}

TEST(SluicectlCommands, ErrorsGoToBothStreamsAndHaveTheirExitCode) {
  const std::vector<std::pair<Errc, int>> errors = {{Errc::daemon_away, 3},
                                                    {Errc::permission_denied, 4},
                                                    {Errc::not_found, 5},
                                                    {Errc::timed_out, 7},
                                                    {Errc::not_supported, 1}};
  for (const auto& [code, exit_code] : errors) {
    World world;
    world.refuse("caches", code);
    EXPECT_EQ(world.sluicectl({"caches"}), exit_code);
    EXPECT_EQ(world.out, "");
    EXPECT_THAT(world.err, StartsWith("sluicectl: because"));
    EXPECT_EQ(world.sluicectl({"caches", "--json"}), exit_code);
    EXPECT_EQ(world.document()["schema"], "sluice.error");
    EXPECT_EQ(world.document()["code"], std::string(ipc::to_string(code)));
    EXPECT_THAT(world.err, HasSubstr("because"));
  }
}

TEST(SluicectlCommands, AnAnswerThatIsNoDocumentIsAnError) {
  const std::string deep = "{\"a\": " + std::string(200'000, '[') + std::string(200'000, ']') + "}";
  for (const std::string& answer : {std::string(), std::string("[]"), std::string("{\"cut\": "),
                                    std::string("null"), std::string("\xff\xfe"), deep}) {
    World world;
    world.answer("tenants", answer);
    EXPECT_EQ(world.sluicectl({"tenants"}), kExitFailed);
    EXPECT_THAT(world.err, HasSubstr("no JSON object"));
  }
}

TEST(SluicectlCommands, SelectorsAndTheTimeoutReachTheDaemon) {
  World world;
  world.answer("residency", kSampleResidency);
  EXPECT_EQ(world.sluicectl(
                {"residency", "--tenant", "prod", "--cache", "0", "--map", "--timeout", "2s"}),
            0);
  ASSERT_EQ(world.asked.size(), 1u);
  EXPECT_EQ(world.asked[0].arguments, Json({{"tenant", "prod"}, {"cache", 0}, {"map", true}}));
  EXPECT_EQ(world.asked[0].timeout, std::chrono::seconds(2));
}

TEST(SluicectlCommands, PingTellsAbsentFromSick) {
  World world;
  EXPECT_EQ(world.sluicectl({"ping"}), kExitNotReachable);
  World sick;
  sick.refuse("ping", Errc::timed_out);
  EXPECT_EQ(sick.sluicectl({"ping"}), kExitUnhealthy);
  World well;
  well.answer("ping", R"({"schema": "sluice.ping", "version": 1})");
  EXPECT_EQ(well.sluicectl({"ping"}), kExitDone);
  EXPECT_THAT(well.out, HasSubstr("answered in 0.00 ms"));
}

TEST(SluicectlCommands, VersionTellsBothSidesAndItsOwnWithoutADaemon) {
  World world;
  world.answer("status", kSampleStatus);
  EXPECT_EQ(world.sluicectl({"version"}), kExitDone);
  EXPECT_EQ(world.out, "sluicectl 0.1.0\nsluiced 0.1.0 at /run/sluice/sluice.sock\n");
  EXPECT_EQ(world.sluicectl({"version", "--json"}), kExitDone);
  EXPECT_EQ(world.document()["daemon_version"], "0.1.0");
  World alone;
  EXPECT_EQ(alone.sluicectl({"version"}), kExitNotReachable);
  EXPECT_EQ(alone.out, "sluicectl 0.1.0\n");
}

TEST(SluicectlCommands, OnlyStatusCheckIsUnhealthy) {
  World world;
  world.answer("status", drained(true, 0));
  EXPECT_EQ(world.sluicectl({"status"}), kExitDone);
  EXPECT_EQ(world.sluicectl({"status", "--check"}), kExitUnhealthy);
  EXPECT_THAT(world.out, HasSubstr("DRAINING"));
  EXPECT_EQ(world.err, "");
  EXPECT_EQ(world.sluicectl({"status", "--check", "--json"}), kExitUnhealthy);
  EXPECT_THAT(world.err, HasSubstr("DRAINING"));
  EXPECT_EQ(world.document()["schema"], "sluice.status");
  World healthy;
  healthy.answer("status", kSampleStatus);
  EXPECT_EQ(healthy.sluicectl({"status", "--check"}), kExitDone);
  Json silent = Json::parse(kSampleStatus);
  silent.erase("health");
  World unknown;
  unknown.answer("status", silent.dump());
  EXPECT_EQ(unknown.sluicectl({"status"}), kExitDone);
  EXPECT_EQ(unknown.sluicectl({"status", "--check"}), kExitUnhealthy);
  EXPECT_THAT(unknown.err, HasSubstr("tells no health"));
}

TEST(SluicectlCommands, SelectorsHoldForRowsThatTheDaemonSentAnyway) {
  World world;
  world.answer("sessions", kSampleSessions);
  EXPECT_EQ(world.sluicectl({"sessions", "--session", "4", "--json"}), kExitDone);
  ASSERT_EQ(world.document()["sessions"].size(), 1u);
  EXPECT_EQ(world.document()["sessions"][0]["session"], 4);
  EXPECT_EQ(world.sluicectl({"sessions", "--session", "99"}), kExitNoSuchObject);
}

TEST(SluicectlCommands, SessionsAreFilteredByTenantAndState) {
  World world;
  world.answer("sessions", kSampleSessions);
  EXPECT_EQ(world.sluicectl({"sessions", "--tenant", "prod", "--state", "quarantined", "--json"}),
            kExitDone);
  EXPECT_EQ(world.asked[0].arguments, Json({{"tenant", "prod"}}));
  ASSERT_EQ(world.document()["sessions"].size(), 1u);
  EXPECT_EQ(world.document()["sessions"][0]["session"], 4);
  EXPECT_EQ(world.sluicectl({"sessions", "--state", "open"}), kExitDone);
  EXPECT_THAT(world.out, HasSubstr("engine-a"));
  EXPECT_THAT(world.out, testing::Not(HasSubstr("engine-b")));
}

TEST(SluicectlCommands, ListingsSayHowToGoOn) {
  World world;
  world.answer("sequences", R"({"sequences": [{"session": 3, "sequence": 4294967296, "cache": 0,
                                "tenant": "prod", "blocks": 12, "private": 1}], "next_cursor": 40})");
  EXPECT_EQ(world.sluicectl({"sequences", "--limit", "1", "--after", "39"}), kExitDone);
  EXPECT_EQ(world.asked[0].arguments["limit"], 1);
  EXPECT_EQ(world.asked[0].arguments["cursor"], 39);
  EXPECT_THAT(world.out, HasSubstr("4294967296"));
  EXPECT_THAT(world.out, HasSubstr("--after 40"));
}

TEST(SluicectlCommands, BlocksOfASequenceAreFoundThroughItsCache) {
  World world;
  world.answer("sequences", R"({"sequences": [], "next_cursor": 9})");
  world.answer("sequences",
               R"({"sequences": [{"session": 3, "sequence": 8, "cache": 2}], "next_cursor": 0})");
  world.answer("residency", R"({"blocks": [], "next_cursor": 0})");
  EXPECT_EQ(world.sluicectl({"residency", "--session", "3", "--sequence", "8"}), kExitDone);
  EXPECT_EQ(world.asked[1].arguments["cursor"], 9);
  EXPECT_EQ(world.asked[2].arguments["cache"], 2);
  EXPECT_EQ(world.asked[2].arguments["sequence"], 8);
  EXPECT_EQ(world.sluicectl({"residency", "--session", "3", "--sequence", "7"}), kExitNoSuchObject);
  EXPECT_EQ(world.sluicectl({"residency", "--session", "3", "--sequence", "8", "--cache", "1"}),
            kExitNoSuchObject);
}

TEST(SluicectlWatch, RatesAreBetweenRowsAndTheFirstRowIsSinceStart) {
  World world;
  Json later = Json::parse(kSampleStatus);
  later["daemon"]["uptime_seconds"] = 102.0;
  later["resolve"]["hits"] = 9900;
  later["resolve"]["misses"] = 1100;
  world.answer("status", kSampleStatus);
  world.answer("status", later.dump());
  EXPECT_EQ(world.sluicectl({"watch", "--count", "2", "--every", "2s"}), kExitDone);
  EXPECT_EQ(world.out,
            "TIME      SESSIONS  SEQUENCES         HBM        DRAM     HIT        HITS/s    "
            "MISSES/s    FILLED/s  NO SLOT/s  ABSENT/s\n"
            "14:03:07         2          3   256.0 MiB     2.0 GiB   90.0%            90          "
            "10   640.0 KiB          0         0\n"
            "14:03:07         2          3   256.0 MiB     2.0 GiB   90.0%           450          "
            "50         0 B          0         0\n");
  EXPECT_EQ(world.clock.time_since_epoch(), std::chrono::seconds(2));
}

TEST(SluicectlWatch, IsOneShotInAPipeAndEndsWithTheDaemon) {
  World pipe;
  pipe.answer("status", kSampleStatus);
  EXPECT_EQ(pipe.sluicectl({"watch"}), kExitDone);
  EXPECT_EQ(pipe.asked.size(), 1u);
  World terminal;
  terminal.around.out_is_terminal = true;
  terminal.answer("status", kSampleStatus);
  terminal.refuse("status", Errc::daemon_away);
  EXPECT_EQ(terminal.sluicectl({"watch"}), kExitNotReachable);
}

TEST(SluicectlCommands, NothingThatAnErrorQuotesReachesTheTerminalRaw) {
  World world;
  world.refuse_with("caches", {Errc::not_found, "no tenant is named \033]0;owned\007\nline two"});
  EXPECT_EQ(world.sluicectl({"caches"}), kExitNoSuchObject);
  EXPECT_EQ(world.err, "sluicectl: no tenant is named ?]0;owned?\nline two (not_found)\n");
}

TEST(SluicectlWatch, EndsWhenNobodyReadsIt) {
  for (const bool json : {false, true}) {
    World world;
    world.reader_is_gone = true;
    world.answer("status", kSampleStatus);
    std::vector<std::string> arguments = {"watch", "--every", "1s"};
    if (json) arguments.emplace_back("--json");
    EXPECT_EQ(world.sluicectl(arguments), kExitFailed);
    EXPECT_THAT(world.err, HasSubstr("could not be written"));
    EXPECT_EQ(world.asked.size(), 1u);
  }
}

TEST(SluicectlWatch, JsonIsALinePerSample) {
  World world;
  world.answer("status", kSampleStatus);
  EXPECT_EQ(world.sluicectl({"watch", "--count", "3", "--json"}), kExitDone);
  EXPECT_EQ(std::count(world.out.begin(), world.out.end(), '\n'), 3);
  EXPECT_THAT(world.out, StartsWith("{\"schema\":\"sluice.status\""));
}

TEST(SluicectlWatch, ACounterThatWentDownHasNoRate) {
  World world;
  Json later = Json::parse(kSampleStatus);
  later["daemon"]["uptime_seconds"] = 101.0;
  later["resolve"]["hits"] = 5;
  world.answer("status", kSampleStatus);
  world.answer("status", later.dump());
  EXPECT_EQ(world.sluicectl({"watch", "--count", "2"}), kExitDone);
  EXPECT_THAT(world.out.substr(world.out.rfind("14:03:07")), HasSubstr("  -  "));
}

TEST(SluicectlEvict, ADryRunAsksForThePlanAndChangesNothing) {
  World world;
  world.answer("evict_plan", kSamplePlan);
  EXPECT_EQ(world.sluicectl({"evict", "--all", "--dry-run"}), kExitDone);
  EXPECT_EQ(world.out,
            "Would give up 40 blocks (80.0 MiB) that no sequence refers to. Nothing was changed.\n"
            "CACHE  TENANT  EVICTABLE     BYTES  WOULD GO     BYTES  DROPPED\n"
            "    0  prod           40  80.0 MiB        40  80.0 MiB  no\n");
  ASSERT_EQ(world.asked.size(), 1u);
  EXPECT_EQ(world.asked[0].arguments, Json::object());
  EXPECT_EQ(world.sluicectl({"evict", "--tenant", "prod", "--dry-run", "--json", "--bytes", "1MiB",
                             "--drop-idle-caches"}),
            kExitDone);
  EXPECT_EQ(world.document(), Json::parse(kSamplePlan));
  ASSERT_EQ(world.asked.size(), 1u);
  EXPECT_EQ(world.asked[0].arguments,
            Json({{"tenant", "prod"}, {"bytes", 1048576}, {"drop_idle_caches", true}}));
}

TEST(SluicectlEvict, ADryRunSaysWhenItIsAnEstimateAndWhatWouldBeDropped) {
  Json plan = Json::parse(kSamplePlan);
  plan["exact"] = false;
  plan["caches_dropped"] = 1;
  plan["caches"][0]["would_be_dropped"] = true;
  World world;
  world.answer("evict_plan", plan.dump());
  EXPECT_EQ(world.sluicectl({"evict", "--dry-run", "--drop-idle-caches"}), kExitDone)
      << "nothing is changed, so nothing need be named";
  EXPECT_THAT(world.out, HasSubstr("and 1 cache that no session has open"));
  EXPECT_THAT(world.out, HasSubstr("an estimate"));
  EXPECT_THAT(world.out, HasSubstr("yes\n"));
}

TEST(SluicectlEvict, NeedsYesWhereNobodyCanBeAsked) {
  World world;
  world.answer("evict_plan", kSamplePlan);
  EXPECT_EQ(world.sluicectl({"evict", "--all"}), kExitUsage);
  EXPECT_THAT(world.err, HasSubstr("--yes"));
  EXPECT_EQ(world.asked.size(), 1u) << "only the plan";
}

TEST(SluicectlEvict, OfEverythingIsNamedByScriptsAndConfirmedByPeople) {
  World script;
  script.answer("evict_plan", kSamplePlan);
  script.answer("evict", kEvict);
  script.answer("status", kSampleStatus);
  EXPECT_EQ(script.sluicectl({"evict"}), kExitUsage);
  EXPECT_EQ(script.sluicectl({"evict", "--yes"}), kExitUsage) << "an empty variable, perhaps";
  EXPECT_THAT(script.err, HasSubstr("--all"));
  EXPECT_EQ(script.asked.size(), 1u) << "only the plan";
  EXPECT_EQ(script.sluicectl({"evict", "--all", "--yes"}), kExitDone);

  World person;
  person.around.can_ask = true;
  person.answer("evict_plan", kSamplePlan);
  person.answer("evict", kEvict);
  person.answer("status", kSampleStatus);
  EXPECT_EQ(person.sluicectl({"evict", "--yes"}), kExitUsage);
  EXPECT_EQ(person.sluicectl({"evict"}), kExitRefused);
  EXPECT_THAT(person.err, HasSubstr("of ALL tenants. Go on? [y/N]"));
  person.typed = "yes";
  EXPECT_EQ(person.sluicectl({"evict"}), kExitDone);
}

TEST(SluicectlEvict, APersonIsAskedAndMaySayNo) {
  World world;
  world.around.can_ask = true;
  world.answer("evict_plan", kSamplePlan);
  world.answer("evict", kEvict);
  world.answer("status", kSampleStatus);
  EXPECT_EQ(world.sluicectl({"evict", "--all"}), kExitRefused);  // just Enter
  EXPECT_THAT(world.err, HasSubstr("Giving up 40 blocks (80.0 MiB)"));
  EXPECT_EQ(world.asked.size(), 1u);
  world.typed = "y";
  EXPECT_EQ(world.sluicectl({"evict", "--all"}), kExitDone);
  EXPECT_EQ(world.out, "Evicted 40 blocks (80.0 MiB).\n");
}

TEST(SluicectlEvict, WaitsUntilTheMemoryIsBack) {
  World world;
  world.answer("evict_plan", plan_with(1));
  world.answer("evict_plan", plan_with(41));
  world.answer("evict_plan", plan_with(20));
  world.answer("evict_plan", plan_with(1));  // as before: others' evictions are not waited for
  world.answer("evict", kEvict);
  world.answer("status", kSampleStatus);
  EXPECT_EQ(world.sluicectl({"evict", "--cache", "0", "--bytes", "1MiB", "--yes"}), kExitDone);
  EXPECT_THAT(world.err, HasSubstr("20 blocks wait"));
  EXPECT_EQ(world.asked[1].verb, "evict");
  EXPECT_EQ(world.asked[1].arguments, Json({{"cache", 0}, {"bytes", 1048576}}));
}

TEST(SluicectlEvict, SaysWhenOnlyPartIsDoneInTime) {
  World world;
  world.answer("evict_plan", plan_with(0));
  world.answer("evict_plan", plan_with(40));
  world.answer("evict", kEvict);
  world.answer("status", kSampleStatus);
  EXPECT_EQ(world.sluicectl({"evict", "--all", "--yes", "--timeout", "1s"}), kExitTimedOut);
  EXPECT_THAT(world.err, HasSubstr("after 1s 40 blocks still wait"));
  EXPECT_THAT(world.out, HasSubstr("Evicted 40 blocks"));
}

TEST(SluicectlKill, AsksBeforeItEndsASession) {
  World world;
  world.answer("kill", R"({"schema": "sluice.kill", "version": 1})");
  EXPECT_EQ(world.sluicectl({"sessions", "kill", "3"}), kExitUsage);
  EXPECT_TRUE(world.asked.empty());
  EXPECT_EQ(world.sluicectl({"sessions", "kill", "3", "--yes"}), kExitDone);
  EXPECT_EQ(world.asked[0].arguments, Json({{"session", 3}}));
}

TEST(SluicectlDrain, WaitsWithProgressUntilTheLastSessionIsGone) {
  World world;
  world.answer("drain", kDrain);
  world.answer("status", drained(true, 2));
  world.answer("sessions", kSampleSessions);
  world.answer("sessions", kSampleSessions);
  world.answer("sessions", kNoSessions);
  EXPECT_EQ(world.sluicectl({"drain", "--json"}), kExitDone);
  EXPECT_EQ(
      world.err,
      "sluicectl: waiting for 2 sessions: 3 (prod, engine-a, pid 4411), 4 (prod, engine-b, pid "
      "4412)\n");
  EXPECT_EQ(world.document()["sessions"], 0);
  EXPECT_EQ(world.document()["draining"], true);
}

TEST(SluicectlDrain, TimesOutWithSevenAndGoesOnDraining) {
  World world;
  world.answer("drain", kDrain);
  world.answer("status", drained(true, 2));
  world.answer("sessions", kSampleSessions);
  EXPECT_EQ(world.sluicectl({"drain", "--timeout", "1s"}), kExitTimedOut);
  EXPECT_THAT(world.err, HasSubstr("after 1s 2 sessions are left"));
  EXPECT_EQ(world.clock.time_since_epoch(), std::chrono::seconds(1));
  EXPECT_EQ(world.asked[0].arguments, Json({{"off", false}}));
}

TEST(SluicectlDrain, NoticesThatSomebodyTurnedItOff) {
  World world;
  world.answer("drain", kDrain);
  world.answer("status", drained(false, 2));
  world.answer("sessions", kSampleSessions);
  EXPECT_EQ(world.sluicectl({"drain"}), kExitFailed);
  EXPECT_THAT(world.err, HasSubstr("turned draining off"));
}

TEST(SluicectlDrain, OffDoesNotWait) {
  World world;
  world.answer("drain",
               R"({"schema": "sluice.drain", "version": 1, "draining": false, "sessions": 2})");
  EXPECT_EQ(world.sluicectl({"drain", "--off"}), kExitDone);
  EXPECT_EQ(world.asked.size(), 1u);
  EXPECT_EQ(world.asked[0].arguments, Json({{"off", true}}));
}

TEST(SluicectlConfig, CheckNeedsNoDaemonAndPassesTheVerdictOn) {
  World world;
  world.check_result = ProgramResult{0, "a.toml: ok\n"};
  EXPECT_EQ(world.sluicectl({"config", "check", "a.toml"}), kExitDone);
  EXPECT_EQ(world.checked_file, "a.toml");
  EXPECT_EQ(world.out, "a.toml: ok\n");
  EXPECT_TRUE(world.asked.empty());

  world.check_result = ProgramResult{2, "a.toml:1:2: wrong\n"};
  EXPECT_EQ(world.sluicectl({"config", "check", "a.toml"}), kExitFailed);
  EXPECT_EQ(world.out, "");
  EXPECT_EQ(world.err, "a.toml:1:2: wrong\n");
  EXPECT_EQ(world.sluicectl({"config", "check", "a.toml", "--json"}), kExitFailed);
  EXPECT_EQ(world.document()["code"], "bad_config");
  EXPECT_EQ(world.document()["text"], "a.toml:1:2: wrong");

  world.check_result = ipc::fail(Errc::not_found, "no sluiced");
  EXPECT_EQ(world.sluicectl({"config", "check", "a.toml"}), kExitFailed);
}

TEST(SluicectlConfig, ReloadTellsWhatTakesARestart) {
  World world;
  world.answer("reload", R"({"schema": "sluice.reload", "version": 1,
    "applied": [{"key": "daemon.log_level", "now": "info", "wanted": "debug"}],
    "deferred": [{"key": "daemon.lanes", "now": "1", "wanted": "2"}]})");
  EXPECT_EQ(world.sluicectl({"config", "reload"}), kExitDone);
  EXPECT_EQ(world.out,
            "APPLIED           NOW   IN THE FILE\n"
            "daemon.log_level  info  debug\n"
            "NEEDS A RESTART  NOW  IN THE FILE\n"
            "daemon.lanes     1    2\n");
}

}  // namespace
}  // namespace sluice::tools
