// sluice-bench: how figures are reported, and the program itself in very short runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tools/bench/benchmark.h"
#include "tools/bench/measure.h"
#include "tools/bench/report.h"
#include "tools/common/spawn.h"

namespace sluice::tools {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Series series_of(const std::vector<double>& figures) {
  Series series;
  for (const double figure : figures) series.add(figure);
  return series;
}

constexpr Benchmark kExample = {
    "example", "ns", "something", "something else", {.most_value = 25, .most_ratio = 2}, nullptr};

TEST(BenchSeries, TheMedianOfAnEvenNumberOfRoundsLiesBetweenTheMiddleTwo) {
  EXPECT_DOUBLE_EQ(series_of({3, 1, 2}).median(), 2);
  EXPECT_DOUBLE_EQ(series_of({4, 1, 3, 2}).median(), 2.5);
  EXPECT_DOUBLE_EQ(series_of({4, 1, 3, 2}).min(), 1);
  EXPECT_DOUBLE_EQ(series_of({4, 1, 3, 2}).max(), 4);
}

TEST(BenchTurns, SidesAlternateAndTheirFirstRoundDoesNotCount) {
  std::string order;
  double figure = 0;
  const std::vector<RoundFunction> sides = {
      [&]() -> ipc::Result<double> {
        order += 'v';
        return ++figure;
      },
      [&]() -> ipc::Result<double> {
        order += 'c';
        return 10.0;
      },
  };
  const auto series = take_turns(std::chrono::duration<double>(0), sides);
  ASSERT_TRUE(series.has_value());
  EXPECT_EQ(order, "vcvcvcvc");
  EXPECT_EQ((*series)[0].rounds(), kLeastRounds);
  EXPECT_DOUBLE_EQ((*series)[0].median(), 3);
  EXPECT_DOUBLE_EQ((*series)[1].median(), 10);
}

TEST(BenchTurns, AnErrorOfARoundEndsThem) {
  const std::vector<RoundFunction> sides = {
      []() -> ipc::Result<double> { return ipc::fail(ipc::Errc::no_slot, "full"); }};
  const auto series = take_turns(std::chrono::duration<double>(1), sides);
  ASSERT_FALSE(series.has_value());
  EXPECT_EQ(series.error().text, "full");
}

TEST(BenchReport, AJsonLineSaysMediansRatioTargetAndWhetherItIsMet) {
  const Figures figures{
      series_of({20, 10, 30}), series_of({8, 8, 8}), {{"other", series_of({5})}}, "a note"};
  const json line = json_line(kExample, figures);
  EXPECT_EQ(line["bench"], "example");
  EXPECT_EQ(line["unit"], "ns");
  EXPECT_EQ(line["value"], 20);
  EXPECT_EQ(line["ceiling"], 8);
  EXPECT_EQ(line["ratio"], 2.5);
  EXPECT_EQ(line["repetitions"], 3);
  EXPECT_EQ(line["min"], 10);
  EXPECT_EQ(line["median"], 20);
  EXPECT_EQ(line["max"], 30);
  EXPECT_EQ(line["also"]["other"], 5);
  EXPECT_EQ(line["target"], json({{"value_at_most", 25}, {"ratio_at_most", 2}}));
  EXPECT_EQ(line["met"], false);
  EXPECT_EQ(line["note"], "a note");
  EXPECT_THAT(table_row(kExample, figures), HasSubstr("MISSED"));
}

TEST(BenchReport, EachBoundOfATargetCounts) {
  const Figures figures{series_of({10}), series_of({5}), {}, {}};
  EXPECT_TRUE(meets({}, figures));
  EXPECT_TRUE(
      meets({.most_value = 10, .least_value = 10, .most_ratio = 2, .least_ratio = 2}, figures));
  EXPECT_FALSE(meets({.most_value = 9}, figures));
  EXPECT_FALSE(meets({.least_value = 11}, figures));
  EXPECT_FALSE(meets({.most_ratio = 1.9}, figures));
  EXPECT_FALSE(meets({.least_ratio = 2.1}, figures));
}

struct Ended {
  int exit_code = -1;
  std::string output;  // of stdout
};

Ended run_bench(const std::string& arguments) {
  const std::string command = beside_this_program("sluice-bench") + " " + arguments;
  std::FILE* const pipe = ::popen(command.c_str(), "r");
  Ended ended;
  if (pipe == nullptr) return ended;
  char text[4096];
  while (const std::size_t bytes = std::fread(text, 1, sizeof(text), pipe)) {
    ended.output.append(text, bytes);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) ended.exit_code = WEXITSTATUS(status);
  return ended;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(BenchProgram, ListsItsBenchmarks) {
  const Ended ended = run_bench("--list");
  EXPECT_EQ(ended.exit_code, 0);
  EXPECT_THAT(lines_of(ended.output),
              ElementsAre("ring_round_trip", "resolve_hit", "resolve_scale", "resolve_miss_64k",
                          "open_sequence", "extend_seal", "step", "resolve_daemon"));
}

TEST(BenchProgram, HelpExplainsEachFigureAndItsCeiling) {
  const Ended ended = run_bench("--help");
  EXPECT_EQ(ended.exit_code, 0);
  for (const Benchmark& one : benchmarks()) {
    EXPECT_THAT(ended.output, HasSubstr(one.name));
    EXPECT_THAT(ended.output, HasSubstr(one.ceiling_is));
  }
}

TEST(BenchProgram, WrongUsageIsExitCodeTwo) {
  EXPECT_EQ(run_bench("no_such_benchmark 2>&1").exit_code, 2);
  EXPECT_EQ(run_bench("--seconds soon 2>&1").exit_code, 2);
  EXPECT_EQ(run_bench("--scale 2 2>&1").exit_code, 2);
}

TEST(BenchProgram, NoDaemonIsExitCodeThree) {
  const Ended ended =
      run_bench("ring_round_trip --seconds 0 --socket /nonexistent/sluice.sock 2>&1");
  EXPECT_EQ(ended.exit_code, 3);
  EXPECT_THAT(ended.output, HasSubstr("/nonexistent/sluice.sock"));
}

TEST(BenchProgram, AVeryShortRunOfEveryBenchmarkGivesOneJsonLineEach) {
  const Ended ended = run_bench("--json --seconds 0.01 --scale 0.001");
  EXPECT_EQ(ended.exit_code, 0);
  const auto lines = lines_of(ended.output);
  ASSERT_EQ(lines.size(), benchmarks().size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const json line = json::parse(lines[i]);
    EXPECT_EQ(line["bench"], benchmarks()[i].name);
    EXPECT_EQ(line["unit"], benchmarks()[i].unit);
    EXPECT_GT(line["value"].get<double>(), 0);
    EXPECT_GT(line["ceiling"].get<double>(), 0);
    EXPECT_NEAR(line["ratio"].get<double>(),
                line["value"].get<double>() / line["ceiling"].get<double>(), 1e-9);
    EXPECT_GE(line["repetitions"].get<std::size_t>(), kLeastRounds);
  }
}

}  // namespace
}  // namespace sluice::tools
