#include "daemon/quantity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace sluice::daemon {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

TEST(Sizes, AreReadInBinaryUnits) {
  EXPECT_EQ(parse_bytes("0"), 0u);
  EXPECT_EQ(parse_bytes("656B"), 656u);
  EXPECT_EQ(parse_bytes("4096"), 4096u);
  EXPECT_EQ(parse_bytes("64KiB"), 65536u);
  EXPECT_EQ(parse_bytes("64MiB"), 67108864u);
  EXPECT_EQ(parse_bytes("2TiB"), 2199023255552u);
}

TEST(Sizes, MayHaveAFractionThatIsAWholeNumberOfBytes) {
  EXPECT_EQ(parse_bytes("1.5GiB"), 1610612736u);
  EXPECT_EQ(parse_bytes("0.25KiB"), 256u);
  EXPECT_EQ(parse_bytes("1.500000000KiB"), 1536u);
  EXPECT_THAT(parse_bytes("0.1KiB").error().text, HasSubstr("whole number"));
  EXPECT_THAT(parse_bytes("1.5B").error().text, HasSubstr("whole number"));
  EXPECT_FALSE(parse_bytes("0.00000000000000000000000001TiB"));
}

TEST(Sizes, ThatAreNoSizesAreRefusedWithWhatIsExpected) {
  for (const char* text :
       {"", "MiB", "-1", "+1", "1 MiB", " 1MiB", "1MiB ", "1.MiB", ".5MiB", "1..5MiB", "1MB",
        "1mib", "1M", "0x10", "1e3", "one", "1MiB\n", "\xff"}) {
    const auto bytes = parse_bytes(text);
    ASSERT_FALSE(bytes) << text;
    EXPECT_EQ(bytes.error().code, ipc::Errc::invalid_argument);
    EXPECT_THAT(bytes.error().text, HasSubstr("expected a number with B, KiB, MiB"));
  }
}

TEST(Sizes, ThatDoNotFitIn64BitsAreTooLarge) {
  EXPECT_EQ(parse_bytes("18446744073709551615"), kMost);
  EXPECT_EQ(parse_bytes("16777215TiB"), 16777215ull << 40);
  for (const char* text : {"18446744073709551616", "16777216TiB", "16777215.9999999999TiB",
                           "99999999999999999999999999B"}) {
    EXPECT_FALSE(parse_bytes(text)) << text;
  }
  EXPECT_THAT(parse_bytes("16777216TiB").error().text, HasSubstr("too large"));
}

TEST(Sizes, AreWrittenInTheLargestUnitThatIsExact) {
  EXPECT_EQ(format_bytes(0), "0B");
  EXPECT_EQ(format_bytes(1025), "1025B");
  EXPECT_EQ(format_bytes(67108864), "64MiB");
  EXPECT_EQ(format_bytes(1610612736), "1.5GiB");
  EXPECT_EQ(format_bytes(1342177280), "1.25GiB");
  EXPECT_EQ(format_bytes(kMost), "18446744073709551615B");
}

TEST(Sizes, AreReadBackAsWritten) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t bytes = (random() >> (random() % 64)) << (random() % 40);
    ASSERT_EQ(parse_bytes(format_bytes(bytes)), bytes) << format_bytes(bytes);
  }
}

TEST(Durations, AreReadWithTheirUnit) {
  EXPECT_EQ(parse_duration("30s"), 30s);
  EXPECT_EQ(parse_duration("5us"), 5us);
  EXPECT_EQ(parse_duration("1.5ms"), 1500us);
  EXPECT_EQ(parse_duration("2min"), 120s);
  EXPECT_EQ(parse_duration("1h"), 3600s);
  EXPECT_EQ(parse_duration("7ns"), 7ns);
  EXPECT_EQ(parse_duration("0"), 0s);
}

TEST(Durations, NeedAUnitAndMustFit) {
  for (const char* text : {"", "30", "0.5", "1S", "1 s", "-1s", "s", "1m", "1.5ns", "9999999h"}) {
    EXPECT_FALSE(parse_duration(text)) << text;
  }
  EXPECT_THAT(parse_duration("30").error().text, HasSubstr("expected a number with ns, us"));
}

TEST(Durations, AreReadBackAsWritten) {
  EXPECT_EQ(format_duration(30s), "30s");
  EXPECT_EQ(format_duration(90s), "1.5min");
  EXPECT_EQ(format_duration(0s), "0s");
  std::mt19937_64 random(11);
  for (int i = 0; i < 100'000; ++i) {
    const std::chrono::nanoseconds duration(
        static_cast<std::int64_t>((random() >> 1) >> (random() % 63)));
    ASSERT_EQ(parse_duration(format_duration(duration)), duration) << format_duration(duration);
  }
}

}  // namespace
}  // namespace sluice::daemon
