#include <gtest/gtest.h>

#include "tools/sluicectl/completion.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/duration.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/table.h"

namespace sluice::tools {
namespace {

using std::chrono::milliseconds;

TEST(SluicectlDuration, ReadsNumbersWithUnits) {
  EXPECT_EQ(parse_duration("500ms"), milliseconds(500));
  EXPECT_EQ(parse_duration("30s"), milliseconds(30'000));
  EXPECT_EQ(parse_duration("1.5min"), milliseconds(90'000));
  EXPECT_EQ(parse_duration("2h"), milliseconds(7'200'000));
}

TEST(SluicectlDuration, RefusesWhatCouldMeanSeveralThings) {
  for (const char* text : {"", "5", "s", "-1s", "1d", "nan s", "infs", "25h", "1e300s", "1 s"}) {
    const auto read = parse_duration(text);
    ASSERT_FALSE(read) << text;
    EXPECT_EQ(read.error().code, ipc::Errc::invalid_argument);
  }
}

TEST(SluicectlDuration, UptimeIsShortAndSurvivesNonsense) {
  EXPECT_EQ(uptime_text(3 * 86400 + 4 * 3600 + 12 * 60), "3d 04:12");
  EXPECT_EQ(uptime_text(59.9), "00:00:59");
  EXPECT_EQ(uptime_text(-1), "-");
  EXPECT_EQ(uptime_text(1e300), "-");
}

TEST(SluicectlExitCode, FollowsTheDocumentedTable) {
  using ipc::Errc;
  EXPECT_EQ(exit_code_of(Errc::ok), 0);
  EXPECT_EQ(exit_code_of(Errc::internal), 1);
  EXPECT_EQ(exit_code_of(Errc::io_error), 1);
  EXPECT_EQ(exit_code_of(Errc::bad_config), 1);
  EXPECT_EQ(exit_code_of(Errc::not_supported), 1);
  EXPECT_EQ(exit_code_of(Errc::invalid_argument), 2);
  EXPECT_EQ(exit_code_of(Errc::daemon_away), 3);
  EXPECT_EQ(exit_code_of(Errc::permission_denied), 4);
  EXPECT_EQ(exit_code_of(Errc::unknown_tenant), 4);
  EXPECT_EQ(exit_code_of(Errc::quota_exceeded), 4);
  EXPECT_EQ(exit_code_of(Errc::busy), 4);
  EXPECT_EQ(exit_code_of(Errc::wrong_state), 4);
  EXPECT_EQ(exit_code_of(Errc::not_found), 5);
  EXPECT_EQ(exit_code_of(Errc::stale_handle), 5);
  EXPECT_EQ(exit_code_of(Errc::timed_out), 7);
}

TEST(SluicectlDocument, MissingAndOddFieldsShowAsADash) {
  const Json document = {{"count", 1234567}, {"minus", -1}, {"text", "x"}, {"empty", ""}};
  EXPECT_EQ(count_text(document, {"count"}), "1,234,567");
  EXPECT_EQ(count_text(document, {"minus"}), "-");
  EXPECT_EQ(count_text(document, {"text"}), "-");
  EXPECT_EQ(count_text(document, {"count", "deeper"}), "-");
  EXPECT_EQ(bytes_text(document, {"no", "such"}), "-");
  EXPECT_EQ(text_at(document, {"count"}), "-");
  EXPECT_EQ(text_at(document, {"empty"}), "-");
  EXPECT_FALSE(flag_at(document, {"text"}));
  EXPECT_TRUE(rows_at(document, {"text"}).empty());
  EXPECT_TRUE(rows_at(Json("no object"), {"text"}).empty());
}

TEST(SluicectlDocument, NamesOfTenantsCannotSteerTheTerminal) {
  EXPECT_EQ(printable("llama-8b"), "llama-8b");
  EXPECT_EQ(printable("模型"), "模型");
  EXPECT_EQ(printable("a\033[2Jb\n\x7f"), "a?[2Jb??");
  EXPECT_EQ(printable("a\xC2\x9Bz"), "a??z");       // C1 control sequence introducer
  EXPECT_EQ(printable("a\xE2\x80\xAEz"), "a?z");    // right-to-left override
  EXPECT_EQ(printable("a\xFFz\xE6\xA8"), "a?z??");  // no UTF-8
}

TEST(SluicectlTable, AlignsByCharactersAndCutsNothing) {
  Table table({{"NAME", Align::left}, {"BYTES"}, {"NOTE", Align::left}});
  table.add({"模型", "1", ""});
  table.add({"a-long-name", "1,024", "x"});
  EXPECT_EQ(table.text(false),
            "NAME         BYTES  NOTE\n"
            "模型               1\n"
            "a-long-name  1,024  x\n");
}

TEST(SluicectlTable, ColourIsOnlyThereWhenAskedFor) {
  EXPECT_EQ(painted("x", Colour::red, false), "x");
  EXPECT_EQ(painted("x", Colour::red, true), "\033[31mx\033[0m");
}

TEST(SluicectlCompletion, EveryShellLearnsTheCommands) {
  const std::vector<CompletionWords> words = {{"", {"status", "config"}}, {"config", {"check"}}};
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = completion_script(shell, words);
    EXPECT_NE(script.find("sluicectl"), std::string::npos) << shell;
    EXPECT_NE(script.find("status"), std::string::npos) << shell;
  }
  EXPECT_EQ(completion_script("csh", words), "");
}

}  // namespace
}  // namespace sluice::tools
