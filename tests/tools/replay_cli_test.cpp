// The program as people call it, with a real daemon: exit codes, what is written where, and that
// nothing is left behind.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/tools/temp_file.h"

namespace sluice::tools {
namespace {

constexpr const char* kSlice = "tests/data/smollm2_select_b16_slice.jsonl.zst";
constexpr const char* kMooncake = "tests/data/mooncake_conversation_200.jsonl";

std::string program() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "sluice-replay").string();
}

struct Outcome {
  int exit_code = -1;
  std::string out;
};

// stdout, and stderr where the test asks for it with 2>&1.
Outcome call(const std::string& arguments) {
  Outcome outcome;
  std::FILE* const pipe = ::popen((program() + " " + arguments).c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> buffer{};
  while (const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    outcome.out.append(buffer.data(), got);
  }
  const int status = ::pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

nlohmann::json replay(const std::string& arguments) {
  const Outcome outcome = call("--spawn --json --progress never " + arguments);
  const auto report = nlohmann::json::parse(outcome.out, nullptr, false);
  EXPECT_TRUE(report.is_object()) << outcome.out;
  EXPECT_EQ(outcome.exit_code, report.value("exit_code", -2)) << outcome.out;
  return report;
}

void expect_verified(const nlohmann::json& report) {
  EXPECT_EQ(report["exit_code"], 0) << report.dump(2);
  EXPECT_EQ(report["mismatches"], 0);
  EXPECT_GT(report["verified_pages"], 0);
  EXPECT_EQ(report["verified_pages"].get<std::uint64_t>(),
            report["pages_requested"].get<std::uint64_t>() -
                report["no_slot"].get<std::uint64_t>() - report["absent"].get<std::uint64_t>());
}

class ReplayWithDaemon : public testing::TestWithParam<const char*> {
 protected:
  std::string executor() const { return std::string(" --executor ") + GetParam() + " "; }
};

TEST_P(ReplayWithDaemon, EnginesOfTwoTenantsVerifyEveryByte) {
  for (const char* page : {"layer", "head"}) {
    const auto report =
        replay(executor() + "--engines 4 --tenants 2 --page " + page + " " + kSlice);
    expect_verified(report);
    EXPECT_EQ(report["backend"], "host");
    EXPECT_EQ(report["steps"], 72);
    EXPECT_EQ(report["no_slot"], 0);
    EXPECT_EQ(report["absent"], 0);
  }
}

TEST_P(ReplayWithDaemon, TheHitRateIsThatOfAnOfflineLru) {
  const auto report =
      replay(executor() + "--engines 1 --page head --lockstep --hbm 1.5x " + kSlice);
  expect_verified(report);
  EXPECT_GE(report["hit_rate"], 0.9192 - 0.01);
}

TEST_P(ReplayWithDaemon, RequestsWaitWhenMemoryIsShort) {
  const auto report = replay(executor() + "--engines 2 --dram 70% --hbm 1x " + kSlice);
  expect_verified(report);
  EXPECT_EQ(report["requests_done"], 3);
}

TEST_P(ReplayWithDaemon, ForecastsChangeNoByte) {
  for (const char* mode : {"recorded", "previous-step"}) {
    expect_verified(
        replay(executor() + "--engines 3 --hbm 1.2x --forecast " + mode + " " + kSlice));
  }
}

TEST_P(ReplayWithDaemon, AKilledEngineCostsNobodyElse) {
  for (int seed = 0; seed < 3; ++seed) {
    const auto report =
        replay(executor() + "--engines 3 --kill-engine-at " + std::to_string(3 + 5 * seed) +
               " --seed " + std::to_string(seed) + " " + kSlice);
    expect_verified(report);
    EXPECT_EQ(report["kill"]["memory_returned"], true);
    EXPECT_LE(report["kill"]["accounted_ms"], 1000.0);
  }
}

TEST_P(ReplayWithDaemon, PromptsOfAPrefixTraceAreReusedAndVerified) {
  const auto report = replay(executor() + "--engines 2 " + kMooncake);
  expect_verified(report);
  EXPECT_EQ(report["requests_done"], 200);
}

// A folder for the block store of a run, removed with the object.
class StoreFolder {
 public:
  StoreFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sluice-store-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~StoreFolder() { std::filesystem::remove_all(path_); }
  StoreFolder(const StoreFolder&) = delete;
  StoreFolder& operator=(const StoreFolder&) = delete;
  std::string option() const { return " --nvme " + path_.string() + " "; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

TEST_P(ReplayWithDaemon, WhatDramDoesNotHoldComesFromTheBlockStore) {
  const StoreFolder store;
  const auto report =
      replay(executor() + store.option() + "--engines 2 --tenants 2 --dram 30% " + kSlice);
  expect_verified(report);
  EXPECT_EQ(report["absent"], 0);
  EXPECT_EQ(report["nvme"]["lost"], 0);
  EXPECT_GT(report["nvme"]["promoted_blocks"], 0) << report.dump(2);
  EXPECT_GT(report["nvme"]["written_bytes"], report["nvme"]["dram_bytes"]) << report.dump(2);
}

TEST_P(ReplayWithDaemon, PromptsOfARunBeforeAreFoundInTheBlockStore) {
  const StoreFolder store;
  const std::string arguments = executor() + store.option() + "--engines 2 --dram 20% " + kMooncake;
  const auto before = replay(arguments);
  expect_verified(before);
  const auto after = replay(arguments);
  expect_verified(after);
  EXPECT_GT(after["blocks_matched"], before["blocks_matched"]) << after.dump(2);
  EXPECT_EQ(after["nvme"]["lost"], 0);
}

// Every 50th page of every segment: headers and payloads.
void spoil(const std::filesystem::path& folder) {
  constexpr std::size_t kPage = 4096;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file() || entry.file_size() < 64 * kPage) continue;
    if (entry.path().parent_path().filename() == "index") continue;
    std::FILE* const file = std::fopen(entry.path().c_str(), "r+b");
    ASSERT_NE(file, nullptr);
    for (std::size_t at = 50 * kPage + 100; at < entry.file_size(); at += 50 * kPage) {
      std::fseek(file, static_cast<long>(at), SEEK_SET);
      const int byte = std::fgetc(file);
      std::fseek(file, static_cast<long>(at), SEEK_SET);
      std::fputc(byte ^ 0x10, file);
    }
    std::fclose(file);
  }
}

TEST_P(ReplayWithDaemon, ASpoiledBlockStoreCostsBlocksAndNoByteIsWrong) {
  const StoreFolder store;
  const std::string arguments = executor() + store.option() + "--engines 2 --dram 20% " + kMooncake;
  expect_verified(replay(arguments));
  spoil(store.path());
  const auto after = replay(arguments);
  EXPECT_EQ(after["exit_code"], 0) << after.dump(2);
  EXPECT_EQ(after["mismatches"], 0);
  EXPECT_GT(after["nvme"]["lost"], 0) << after.dump(2);
}

INSTANTIATE_TEST_SUITE_P(Executors, ReplayWithDaemon, testing::Values("daemon", "direct"));

TEST(ReplayCli, UsageErrorsAndBadTracesExitWith2) {
  const TempFile bad("{\"format\":\"other\"}\n");
  for (const std::string& arguments :
       {std::string(), std::string(kSlice), "--spawn --socket /tmp/x " + std::string(kSlice),
        "--spawn --hbm nonsense " + std::string(kSlice),
        "--spawn --executor other " + std::string(kSlice),
        "--spawn --engines 0 " + std::string(kSlice), "--spawn --tenants 2 " + std::string(kSlice),
        "--spawn --dram 1% " + std::string(kSlice),
        "--spawn --no-such-option " + std::string(kSlice),
        "--spawn --engines 2 --kill-engine-at 1000000 " + std::string(kSlice),
        "--spawn --backend cuda --graphs " + std::string(kSlice),
        "--spawn --graphs " + std::string(kSlice), "--spawn --device 1 " + std::string(kSlice),
        "--spawn --backend cuda --executor direct --graphs " + std::string(kMooncake),
        "--spawn " + bad.path(), std::string("--spawn /nonexistent/trace")}) {
    const Outcome outcome = call(arguments + " 2>&1");
    EXPECT_EQ(outcome.exit_code, 2) << arguments << "\n" << outcome.out;
    EXPECT_FALSE(outcome.out.empty()) << arguments;
  }
}

TEST(ReplayCli, UsageErrorsNameTheOptionAndWhatItTakes) {
  for (const auto& [arguments, text] : std::vector<std::pair<std::string, std::string>>{
           {"--executor other", "--executor: 'other' is not one of daemon|direct"},
           {"--backend other", "--backend: 'other' is not one of host|cuda"},
           {"--backend cuda --graphs", "--backend cuda"},
           {"--graphs", "--graphs needs --backend cuda"},
           {"--devices 2", "--devices needs --backend cuda"},
           {"--devices 0", "--devices: Value 0 not in range 1 to 64"},
           {"--forecast other", "--forecast: 'other' is not one of none|recorded|previous-step"},
           {"--hbm 0x", "--hbm: '0x' must be more than zero"},
           {"--hbm 1e30x", "--hbm: '1e30x' is more than 1,000,000 times"},
           {"--requests 0", "--requests: Value 0 not in range 1 to"}}) {
    const Outcome outcome = call("--spawn " + arguments + " " + kSlice + " 2>&1");
    EXPECT_EQ(outcome.exit_code, 2) << arguments;
    EXPECT_NE(outcome.out.find(text), std::string::npos) << outcome.out;
  }
}

TEST(ReplayCli, ADaemonThatIsNotThereExitsWith3) {
  const Outcome outcome =
      call("--socket /nonexistent/sluice.sock " + std::string(kSlice) + " 2>&1");
  EXPECT_EQ(outcome.exit_code, 3) << outcome.out;
  EXPECT_NE(outcome.out.find("/nonexistent/sluice.sock"), std::string::npos) << outcome.out;
}

TEST(ReplayCli, HelpSaysWhatOptionsTake) {
  const Outcome outcome = call("--help");
  EXPECT_NE(outcome.out.find("--executor daemon|direct"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("--hbm SIZE|Nx"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find('\0'), std::string::npos) << outcome.out;
}

TEST(ReplayCli, HelpSaysTheExitCodes) {
  const Outcome outcome = call("--help");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_NE(outcome.out.find("130 interrupted"), std::string::npos) << outcome.out;
}

// The temporary folders of --spawn in the given one.
std::size_t entries_in(const std::string& folder) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}

TEST(ReplayCli, AnInterruptEndsEverythingAndLeavesNothing) {
  char folder[] = "/tmp/sluice-test-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string binary = program();
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setenv("TMPDIR", folder, 1);
    if (std::freopen("/dev/null", "w", stdout) == nullptr) ::_exit(9);
    ::execl(binary.c_str(), "sluice-replay", "--spawn", "--engines", "2", kSlice,
            static_cast<char*>(nullptr));
    ::_exit(9);
  }
  // As soon as the daemon's folder is there and some of the work is done.
  for (int i = 0; i < 500 && entries_in(folder) == 0; ++i) ::usleep(10'000);
  ::usleep(300'000);
  ASSERT_EQ(::kill(pid, SIGINT), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  // A fast machine may have finished before.
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_TRUE(WEXITSTATUS(status) == 130 || WEXITSTATUS(status) == 0) << WEXITSTATUS(status);
  EXPECT_EQ(entries_in(folder), 0u);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace sluice::tools
