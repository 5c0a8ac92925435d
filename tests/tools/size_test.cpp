#include "tools/common/size.h"

#include <gtest/gtest.h>

namespace sluice::tools {
namespace {

TEST(Size, ReadsBinaryAndDecimalUnits) {
  EXPECT_EQ(parse_bytes("0").value(), 0u);
  EXPECT_EQ(parse_bytes("4096").value(), 4096u);
  EXPECT_EQ(parse_bytes("4096B").value(), 4096u);
  EXPECT_EQ(parse_bytes("64K").value(), 64u << 10);
  EXPECT_EQ(parse_bytes("512MiB").value(), 512u << 20);
  EXPECT_EQ(parse_bytes("1.5GiB").value(), 3u << 29);
  EXPECT_EQ(parse_bytes("2 GB").value(), 2'000'000'000u);
}

TEST(Size, RefusesWhatIsNoSize) {
  for (const char* text :
       {"", "MiB", "-1", "1.5x", "12 apples", "1e30GiB", "nan", "inf", "1MiBB"}) {
    EXPECT_FALSE(parse_bytes(text).has_value()) << text;
  }
}

TEST(Size, RelativeSizesKeepTheirKind) {
  const auto times = parse_relative_size("1.5x").value();
  EXPECT_EQ(times.kind, RelativeSize::Kind::times);
  EXPECT_DOUBLE_EQ(times.factor, 1.5);
  const auto percent = parse_relative_size("60%").value();
  EXPECT_EQ(percent.kind, RelativeSize::Kind::percent);
  EXPECT_DOUBLE_EQ(percent.factor, 0.6);
  const auto bytes = parse_relative_size("1MiB").value();
  EXPECT_EQ(bytes.kind, RelativeSize::Kind::bytes);
  EXPECT_EQ(bytes.bytes, 1u << 20);
  EXPECT_FALSE(parse_relative_size("0x").has_value());
  EXPECT_FALSE(parse_relative_size("0%").has_value());
  EXPECT_FALSE(parse_relative_size("1e30x").has_value());
  EXPECT_FALSE(parse_relative_size("1e30%").has_value());
}

TEST(Size, IsWrittenForPeople) {
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(1.5 * 1024 * 1024), "1.5 MiB");
  EXPECT_EQ(human_count(7), "7");
  EXPECT_EQ(human_count(123456), "123,456");
  EXPECT_EQ(human_count(1234567), "1,234,567");
}

}  // namespace
}  // namespace sluice::tools
