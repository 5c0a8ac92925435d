// sluice-bench storage in very short runs, beside a fio that only pretends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/storage/support.h"
#include "tests/tools/parse_bench.h"
#include "tools/bench/storage_fio.h"
#include "tools/bench/storage_load.h"
#include "tools/common/spawn.h"

namespace sluice::tools {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

// 1 GB in half a second, with a tenth of a second of CPU.
constexpr const char* kFioReport = R"(fio: a warning
{"fio version": "fio-3.33", "jobs": [{"jobname": "storage", "usr_cpu": 5.0, "sys_cpu": 15.0,
  "job_runtime": 500,
  "read": {"io_bytes": 1000000000, "runtime": 500}, "write": {"io_bytes": 0, "runtime": 0}}]})";

TEST(BenchFio, AReportIsRead) {
  const auto round = parse_fio(kFioReport, StoragePattern::read_parts);
  ASSERT_OK(round);
  EXPECT_EQ(round->bytes, 1'000'000'000U);
  EXPECT_DOUBLE_EQ(round->bytes_per_s(), 2e9);
  EXPECT_DOUBLE_EQ(round->cpu_s_per_gb(), 0.1);
}

TEST(BenchFio, WhatIsNoReportIsAnError) {
  for (const char* text : {"", "fio: failed", "{}", R"({"jobs": []})", R"({"jobs": [{}]})"}) {
    EXPECT_ERROR(parse_fio(text, StoragePattern::read_blocks), ipc::Errc::internal);
  }
  EXPECT_ERROR(parse_fio(kFioReport, StoragePattern::write_blocks), ipc::Errc::internal);
}

TEST(BenchFio, ItDoesWhatTheStoreDoes) {
  FioJob job{"/d/fio", StoragePattern::write_blocks, 1 << 30, 2 << 20, 32, true, true};
  EXPECT_THAT(fio_arguments(job), Contains("--rw=write"));
  EXPECT_THAT(fio_arguments(job), Contains("--end_fsync=1"));
  EXPECT_THAT(fio_arguments(job), Contains("--ioengine=io_uring"));
  EXPECT_THAT(fio_arguments(job), Contains("--iodepth=32"));
  EXPECT_THAT(fio_arguments(job), Contains("--direct=1"));
  job.pattern = StoragePattern::read_parts;
  job.request_bytes = 64 << 10;
  job.uring = false;
  job.direct = false;
  EXPECT_THAT(fio_arguments(job), Contains("--rw=randread"));
  EXPECT_THAT(fio_arguments(job), Contains("--ioengine=psync"));
  EXPECT_THAT(fio_arguments(job), Contains("--numjobs=16"));
  EXPECT_THAT(fio_arguments(job), Contains("--size=67108864"));
  EXPECT_THAT(fio_arguments(job), Contains("--direct=0"));
  EXPECT_THAT(fio_arguments(job), Not(Contains("--end_fsync=1")));
}

TEST(BenchStorageOptions, SizesMustFitTogether) {
  BenchOptions options;
  EXPECT_EQ(parse({"storage", "--dir", "/d", "--size", "2GiB", "--depth", "8"}, options),
            std::nullopt);
  EXPECT_TRUE(options.storage);
  EXPECT_EQ(options.storage_options.size_bytes, std::uint64_t{2} << 30);
  EXPECT_EQ(options.storage_options.depth, 8U);
  for (const std::vector<std::string>& wrong : {std::vector<std::string>{"storage"},
                                                {"storage", "--dir", "/d", "--part", "5000"},
                                                {"storage", "--dir", "/d", "--block", "96KiB"},
                                                {"storage", "--dir", "/d", "--size", "1MiB"},
                                                {"storage", "--dir", "/d", "--io", "aio"}}) {
    BenchOptions unused;
    EXPECT_EQ(parse(wrong, unused), kBenchUsage);
  }
}

TEST(BenchRequests, AllAreAnsweredAndTheFirstErrorIsTold) {
  std::uint64_t begun = 0;
  std::vector<storage::Done> waiting;
  const auto fails = [&](std::uint64_t operation, std::uint32_t, storage::Done done) {
    ++begun;
    waiting.push_back(std::move(done));
    if (operation != 9) return;
    // The last of them is begun: all end here, and none before.
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      waiting[i](i == 3 ? ipc::Status(ipc::fail(ipc::Errc::io_error, "three")) : ipc::Status());
    }
  };
  const ipc::Status status = run_requests(10, 10, fails);
  EXPECT_EQ(begun, 10U);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().text, "three");
}

class BenchStorage : public testing::Test {
 protected:
  struct Ended {
    int exit_code = -1;
    std::string output;
    std::vector<json> rows() const {
      std::vector<json> rows;
      std::istringstream lines(output);
      for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("{")) rows.push_back(json::parse(line, nullptr, false));
      }
      return rows;
    }
  };
  Ended bench(const std::string& more) const {
    const std::string command =
        beside_this_program("sluice-bench") + " storage --dir " + folder.path().string() +
        " --size 8MiB --block 256KiB --depth 4 --rounds 1 --json " + more + " 2>&1";
    std::FILE* const pipe = ::popen(command.c_str(), "r");
    Ended ended;
    if (pipe == nullptr) return ended;
    char text[4096];
    while (const std::size_t bytes = std::fread(text, 1, sizeof text, pipe)) {
      ended.output.append(text, bytes);
    }
    const int status = ::pclose(pipe);
    if (WIFEXITED(status)) ended.exit_code = WEXITSTATUS(status);
    return ended;
  }
  // A program that prints that report.
  std::string pretender(const std::string& report) const {
    const std::filesystem::path path = folder.path() / "fake-fio";
    std::ofstream(path) << "#!/bin/sh\ncat <<'END'\n" << report << "\nEND\n";
    ::chmod(path.c_str(), 0700);
    return path.string();
  }

  storage::TemporaryDirectory folder;
};

TEST_F(BenchStorage, TheStoreAloneGivesThreeRows) {
  const Ended ended = bench("--no-fio");
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  const std::vector<json> rows = ended.rows();
  ASSERT_EQ(rows.size(), 3U) << ended.output;
  EXPECT_EQ(rows[0]["bench"], "storage");
  EXPECT_EQ(rows[0]["name"], "write_blocks");
  EXPECT_EQ(rows[2]["name"], "read_parts");
  for (const json& row : rows) {
    EXPECT_GT(row["store_mb_per_s"].get<double>(), 0);
    EXPECT_GT(row["store_cpu_s_per_gb"].get<double>(), 0);
    EXPECT_FALSE(row.contains("targets"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST_F(BenchStorage, TheRatioIsOverFio) {
  const std::string both =
      R"({"jobs": [{"usr_cpu": 1, "sys_cpu": 1, "job_runtime": 1000,
          "read": {"io_bytes": 1, "runtime": 1000}, "write": {"io_bytes": 1, "runtime": 1000}}]})";
  const Ended slow = bench("--check --fio " + pretender(both));
  EXPECT_EQ(slow.exit_code, 0) << slow.output;
  ASSERT_EQ(slow.rows().size(), 3U);
  EXPECT_EQ(slow.rows()[0]["targets"]["ratio"]["at_least"], 0.95);
  EXPECT_EQ(slow.rows()[2]["targets"]["ratio"]["at_least"], 0.9);
  const std::string faster = R"({"jobs": [{"usr_cpu": 1, "sys_cpu": 1, "job_runtime": 1,
          "read": {"io_bytes": 900000000000, "runtime": 1},
          "write": {"io_bytes": 900000000000, "runtime": 1}}]})";
  EXPECT_EQ(bench("--check --fio " + pretender(faster)).exit_code, kBenchFailed);
}

TEST_F(BenchStorage, WithoutFioTheErrorSaysHowToGetIt) {
  const Ended ended = bench("--fio no-such-fio");
  EXPECT_EQ(ended.exit_code, kBenchFailed);
  EXPECT_THAT(ended.output, HasSubstr("apt-get install fio"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST_F(BenchStorage, TheIndexIsOpenedLookedUpAndRecovered) {
  const Ended ended = bench("--no-fio --index-blocks 20000");
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  ASSERT_EQ(ended.rows().size(), 4U) << ended.output;
  const json row = ended.rows()[3];
  EXPECT_EQ(row["name"], "index");
  EXPECT_EQ(row["blocks"], 20000);
  EXPECT_GE(row["acknowledged_blocks"].get<int>(), 4096);
  for (const char* figure : {"open_s", "look_up_us_p99", "recovery_s"}) {
    EXPECT_GT(row["targets"][figure]["value"].get<double>(), 0) << figure;
  }
}

}  // namespace
}  // namespace sluice::tools
