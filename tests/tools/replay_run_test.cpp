// Processes: engines that are forked, watched, stopped and killed, and daemons that do not start.
// The engines run on a fake libsluice.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/tools/fake_sluice.h"
#include "tests/tools/temp_file.h"
#include "tools/common/spawn.h"
#include "tools/replay/report.h"

namespace sluice::tools {
namespace {

class ReplayRun : public testing::Test {
 protected:
  void SetUp() override {
    fake::reset();
    options.spawn = true;
    options.engines = 3;
    options.progress = Progress::never;
  }

  nlohmann::ordered_json replay() {
    const Trace trace =
        read_trace("tests/data/smollm2_select_b16_slice.jsonl.zst", {options.list_kind, 0}).value();
    const Plan plan = make_plan(trace, options).value();
    Board board = Board::create(options.engines).value();
    RunEnvironment environment;
    environment.engine_sockets.resize(options.engines, "fake");
    environment.engine_devices.resize(options.engines);
    const RunResult result = run_engines(trace, plan, options, environment, board);
    const ReportInput input{trace, plan, options, result};
    text = text_report(input);
    return json_report(input);
  }

  Options options;
  std::string text;
};

TEST_F(ReplayRun, TheReportHasEveryFieldAndAddsUp) {
  options.lockstep = true;
  const auto report = replay();
  EXPECT_EQ(report["exit_code"], 0) << report.dump();
  EXPECT_EQ(report["steps"], 72);
  EXPECT_EQ(report["requests"], 3);
  EXPECT_EQ(report["mismatches"], 0);
  EXPECT_EQ(report["verified_pages"], report["pages_requested"]);
  for (const char* field : {"trace",
                            "executor",
                            "engines",
                            "tenants",
                            "requests",
                            "steps",
                            "pages_requested",
                            "hits",
                            "misses",
                            "no_slot",
                            "absent",
                            "hit_rate",
                            "bytes_filled",
                            "verified_pages",
                            "mismatches",
                            "shared_blocks",
                            "bytes_saved_by_sharing",
                            "forecasts",
                            "resolve_us",
                            "wall_s"}) {
    EXPECT_TRUE(report.contains(field)) << field;
  }
  for (const char* field : {"issued", "used", "late", "wasted_bytes"}) {
    EXPECT_TRUE(report["forecasts"].contains(field)) << field;
  }
  EXPECT_GT(report["resolve_us"]["p50"], 0.0);
  EXPECT_LE(report["resolve_us"]["p50"], report["resolve_us"]["p99"]);
  EXPECT_LE(report["resolve_us"]["p99"], report["resolve_us"]["max"]);
  EXPECT_NE(text.find("no mismatch"), std::string::npos) << text;
}

TEST_F(ReplayRun, MismatchesOfAllEnginesFailTheRunAndAreNamed) {
  fake::settings().faults.corrupt_fill = 3;  // in each engine
  const auto report = replay();
  EXPECT_EQ(report["exit_code"], 1);
  EXPECT_GE(report["mismatches"], 3);
  const std::string first = report["first_mismatches"][0];
  for (const char* part :
       {"tenant t0", "engine 0", "request 0", "layer", "block", "slot", "byte"}) {
    EXPECT_NE(first.find(part), std::string::npos) << first;
  }
}

TEST_F(ReplayRun, AFailingEngineFailsTheRunAndStopsTheOthers) {
  options.lockstep = true;
  fake::settings().faults.fail_resolve = 5;
  const auto report = replay();
  EXPECT_EQ(report["exit_code"], 1);
  EXPECT_LT(report["steps"], 72);
  const std::string failure = report["failures"][0];
  EXPECT_NE(failure.find("asked to fail"), std::string::npos) << failure;
}

TEST_F(ReplayRun, SurvivorsOfAKilledEngineFinishAlsoInLockstep) {
  options.lockstep = true;
  options.kill_engine_at = 4;
  options.seed = 1;
  const auto report = replay();
  EXPECT_EQ(report["kill"]["engine"], 1);
  EXPECT_GE(report["kill"]["step"], 4);
  // There is no daemon that could account for it.
  EXPECT_EQ(report["kill"]["memory_returned"], false);
  EXPECT_EQ(report["exit_code"], 1);
  EXPECT_EQ(report["requests_done"], 2);
  EXPECT_EQ(report["mismatches"], 0);
  EXPECT_EQ(report["verified_pages"], report["pages_requested"]);
  EXPECT_TRUE(report["failures"].empty()) << report.dump();
}

DaemonSpec spec_of(const std::string& program) {
  DaemonSpec spec;
  spec.program = program;
  spec.hbm_extent_bytes = spec.dram_extent_bytes = 1 << 20;
  spec.tenants = {{"t0", 1 << 20, 1 << 20}};
  return spec;
}

TEST(SpawnedDaemon, AProgramThatIsMissingIsSaid) {
  const auto daemon = SpawnedDaemon::start(spec_of("/nonexistent/sluiced"));
  ASSERT_FALSE(daemon.has_value());
  EXPECT_EQ(daemon.error().code, ipc::Errc::daemon_away);
  EXPECT_NE(daemon.error().text.find("/nonexistent/sluiced cannot be started"), std::string::npos)
      << daemon.error().text;
}

TEST(SpawnedDaemon, AnEarlyExitIsNoticedAndItsLastWordsShown) {
  const TempFile program("#!/bin/sh\necho no memory for the tiers >&2\nexit 5\n");
  ASSERT_EQ(::chmod(program.path().c_str(), 0755), 0);
  const auto daemon = SpawnedDaemon::start(spec_of(program.path()));
  ASSERT_FALSE(daemon.has_value());
  EXPECT_NE(daemon.error().text.find("exited with code 5"), std::string::npos)
      << daemon.error().text;
  EXPECT_NE(daemon.error().text.find("no memory for the tiers"), std::string::npos)
      << daemon.error().text;
}

}  // namespace
}  // namespace sluice::tools
