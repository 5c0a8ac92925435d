#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tools/sluicectl_world.h"

namespace sluice::tools {
namespace {

using testing::HasSubstr;

Parsed parse(std::vector<std::string> arguments) {
  return parse_options(std::move(arguments), "0.1.0");
}

struct UsageCase {
  std::vector<std::string> arguments;
  const char* complaint;
};

class SluicectlUsageError : public testing::TestWithParam<UsageCase> {};

TEST_P(SluicectlUsageError, EndsWithTwoAndSaysWhy) {
  World world;
  EXPECT_EQ(world.sluicectl(GetParam().arguments), kExitUsage);
  EXPECT_THAT(world.err, HasSubstr(GetParam().complaint));
  EXPECT_EQ(world.out, "");
  EXPECT_TRUE(world.asked.empty());
}

INSTANTIATE_TEST_SUITE_P(
    CommandLines, SluicectlUsageError,
    testing::Values(UsageCase{{}, "a command is needed"}, UsageCase{{"statsu"}, "statsu"},
                    UsageCase{{"status", "--cache", "1"}, "--cache"},
                    UsageCase{{"config"}, "check, show and reload"},
                    UsageCase{{"config", "check"}, "FILE"},
                    UsageCase{{"sessions", "kill"}, "SESSION"},
                    UsageCase{{"sessions", "--state", "dead"}, "--state"},
                    UsageCase{{"sessions", "kill", "x"}, "'x' is not a number"},
                    UsageCase{{"caches", "--cache", "-1"}, "'-1' is not a number"},
                    UsageCase{{"caches", "--cache", "0x10"}, "is not a number"},
                    UsageCase{{"evict", "--all", "--cache", "1"}, "one of"},
                    UsageCase{{"evict", "--all", "--bytes", "many"}, "is not a size"},
                    UsageCase{{"watch", "--every", "1"}, "is not a duration"},
                    UsageCase{{"watch", "--every", "1ms"}, "less than 100ms"},
                    UsageCase{{"watch", "--count", "0"}, "--count"},
                    UsageCase{{"ping", "--timeout", "0s"}, "duration of 0"},
                    UsageCase{{"residency", "--blocks"}, "add --cache"},
                    UsageCase{{"residency", "--session", "1"}, "belong together"},
                    UsageCase{{"residency", "--map", "--blocks", "--cache", "0"}, "choose one"},
                    UsageCase{{"residency", "--limit", "5"}, "need --blocks"},
                    UsageCase{{"residency", "--blocks", "--cache", "0", "--limit", "2000"},
                              "expected 1 to 1024"},
                    UsageCase{{"sequences", "--limit", "0"}, "expected 1 to 1024"},
                    UsageCase{{"completion", "csh"}, "csh"}));

TEST(SluicectlOptions, UsageErrorsAreDocumentsWithJson) {
  World world;
  EXPECT_EQ(world.sluicectl({"--json", "evict", "--all", "--tenant", "a"}), kExitUsage);
  EXPECT_EQ(world.document()["schema"], "sluice.error");
  EXPECT_EQ(world.document()["version"], 1);
  EXPECT_EQ(world.document()["code"], "invalid_argument");
  EXPECT_THAT(world.document()["text"].get<std::string>(), HasSubstr("evict takes one of"));
  EXPECT_THAT(world.err, HasSubstr("evict takes one of"));
}

TEST(SluicectlOptions, CommonOptionsStandBeforeOrAfterTheCommand) {
  for (const auto& arguments : {std::vector<std::string>{"--json", "--socket", "/s", "caches"},
                                std::vector<std::string>{"caches", "--json", "--socket", "/s"}}) {
    const auto parsed = parse(arguments);
    ASSERT_TRUE(parsed.options) << parsed.err;
    EXPECT_TRUE(parsed.options->json);
    EXPECT_EQ(parsed.options->socket, "/s");
    EXPECT_EQ(parsed.options->command, Command::caches);
  }
}

TEST(SluicectlOptions, SessionsKillIsNotSessions) {
  const auto parsed = parse({"sessions", "kill", "17", "--yes"});
  ASSERT_TRUE(parsed.options) << parsed.err;
  EXPECT_EQ(parsed.options->command, Command::kill_session);
  EXPECT_EQ(parsed.options->session, 17u);
  EXPECT_EQ(parse({"sessions"}).options->command, Command::sessions);
}

TEST(SluicectlOptions, HelpShowsTheExitCodesAndExamples) {
  const auto parsed = parse({"--help"});
  EXPECT_FALSE(parsed.options);
  EXPECT_EQ(parsed.exit_code, kExitDone);
  for (const char* part :
       {"130  interrupted", "7    timed out", "Examples:", "residency", "NO_COLOR"}) {
    EXPECT_THAT(parsed.out, HasSubstr(part));
  }
  EXPECT_EQ(parse({"evict", "--help"}).exit_code, kExitDone);
  EXPECT_THAT(parse({"evict", "--help"}).out, HasSubstr("--dry-run"));
  EXPECT_THAT(parse({"--version"}).out, HasSubstr("sluicectl 0.1.0"));
}

TEST(SluicectlOptions, CompletionNamesCommandsAndTheirOptions) {
  const auto parsed = parse({"completion", "bash"});
  EXPECT_EQ(parsed.exit_code, kExitDone);
  for (const char* word : {"residency", "--drop-idle-caches", "'config check'", "--socket"}) {
    EXPECT_THAT(parsed.out, HasSubstr(word));
  }
}

}  // namespace
}  // namespace sluice::tools
