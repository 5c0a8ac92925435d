#include "daemon/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "daemon/utf8.h"

namespace sluice::daemon {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class Logging : public ::testing::Test {
 public:
  ~Logging() override { start_logging(LogLevel::error, LogFormat::text); }

 protected:
  std::ostringstream out;
};

TEST_F(Logging, WritesASentenceAndItsFieldsInOneLine) {
  start_logging(LogLevel::info, LogFormat::text, out);
  log_info("session opened",
           {{"session", 17u}, {"tenant", "prod"}, {"direct", true}, {"ratio", 0.5}});
  EXPECT_THAT(out.str(), MatchesRegex("[0-9-]+T[0-9:.]+[+-][0-9:]+ info  session opened session=17 "
                                      "tenant=prod direct=true ratio=0.5\n"));
}

TEST_F(Logging, WritesOneJsonDocumentALine) {
  start_logging(LogLevel::info, LogFormat::json, out);
  log_warn("slow \"step\"", {{"pid", -3}, {"model", std::string("a b")}, {"direct", false}});
  const auto line = nlohmann::json::parse(out.str());
  EXPECT_EQ(line["level"], "warn");
  EXPECT_EQ(line["message"], "slow \"step\"");
  EXPECT_EQ(line["pid"], -3);
  EXPECT_EQ(line["model"], "a b");
  EXPECT_EQ(line["direct"], false);
  EXPECT_THAT(std::string(line["time"]), MatchesRegex("[0-9-]+T[0-9:.]+[+-][0-9:]+"));
}

TEST_F(Logging, KeepsAHostileFieldInsideItsLineAndItsQuotes) {
  const std::string hostile = "x\" level=error\n\r\x1b[2J\x7f\xff\xed\xa0\x80\\";
  start_logging(LogLevel::info, LogFormat::text, out);
  log_info("hello", {{"model", hostile}});
  EXPECT_EQ(std::ranges::count(out.str(), '\n'), 1);
  EXPECT_EQ(out.str().find('\x1b'), std::string::npos);
  EXPECT_THAT(out.str(), HasSubstr(R"(model="x\" level=error\n\u000d\u001b[2J\u007f)"));
  EXPECT_THAT(out.str(), EndsWith("\\\\\"\n"));

  out.str("");
  start_logging(LogLevel::info, LogFormat::json, out);
  log_info("hello", {{"model", hostile}});
  EXPECT_EQ(std::ranges::count(out.str(), '\n'), 1);
  const auto line = nlohmann::json::parse(out.str());  // strict about UTF-8 and control characters
  EXPECT_THAT(std::string(line["model"]), HasSubstr("x\" level=error\n\r\x1b[2J\x7f"));
}

TEST_F(Logging, FollowsTheLevel) {
  start_logging(LogLevel::warn, LogFormat::text, out);
  log_info("quiet");
  EXPECT_EQ(out.str(), "");
  set_log_level(LogLevel::debug);
  log_debug("loud");
  EXPECT_THAT(out.str(), HasSubstr("debug loud"));
}

TEST(Utf8, KnowsValidCharactersFromOthers) {
  EXPECT_EQ(utf8_length("a"), 1u);
  EXPECT_EQ(utf8_length("\xC3\xA9"), 2u);
  EXPECT_EQ(utf8_length("\xE2\x82\xAC"), 3u);
  EXPECT_EQ(utf8_length("\xF0\x9F\x98\x80"), 4u);
  for (const char* text :
       {"", "\x80", "\xC3", "\xC3z", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82", "\xFF"}) {
    EXPECT_EQ(utf8_length(text), 0u) << text;
  }
}

}  // namespace
}  // namespace sluice::daemon
