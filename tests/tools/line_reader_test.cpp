#include "tools/replay/line_reader.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <string>
#include <vector>

#include "tests/tools/temp_file.h"

namespace sluice::tools {
namespace {

std::string compressed(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::vector<std::string> all_lines(const std::string& path) {
  auto reader = LineReader::open(path);
  EXPECT_TRUE(reader.has_value());
  std::vector<std::string> lines;
  for (;;) {
    const auto line = reader->next();
    EXPECT_TRUE(line.has_value()) << line.error().text;
    if (!line || !*line) return lines;
    lines.emplace_back(**line);
    EXPECT_EQ(reader->line_number(), lines.size());
  }
}

TEST(LineReader, ReadsPlainLinesWithAndWithoutALastNewline) {
  const std::vector<std::string> expected{"one", "", "three"};
  EXPECT_EQ(all_lines(TempFile("one\n\nthree\n").path()), expected);
  EXPECT_EQ(all_lines(TempFile("one\n\nthree").path()), expected);
  EXPECT_TRUE(all_lines(TempFile("").path()).empty());
}

TEST(LineReader, ReadsCompressedLinesOfAnyLengthAndManyFrames) {
  std::vector<std::string> expected;
  std::string text;
  for (std::size_t length :
       {std::size_t{0}, std::size_t{5}, std::size_t{3} << 20, std::size_t{1} << 17}) {
    expected.emplace_back(length, static_cast<char>('a' + expected.size()));
    text += expected.back() + "\n";
  }
  EXPECT_EQ(all_lines(TempFile(compressed(text)).path()), expected);
  const std::string two_frames = compressed("first li") + compressed("ne\nsecond\n");
  EXPECT_EQ(all_lines(TempFile(two_frames).path()),
            (std::vector<std::string>{"first line", "second"}));
}

TEST(LineReader, ATruncatedFrameIsAnError) {
  std::string text;
  for (int i = 0; i < 100000; ++i) text += std::to_string(i * 7919) + "\n";
  const std::string whole = compressed(text);
  for (const std::size_t cut : {whole.size() - 1, whole.size() / 2, std::size_t{20}}) {
    const TempFile file(std::string_view(whole).substr(0, cut));
    auto reader = LineReader::open(file.path());
    ASSERT_TRUE(reader.has_value());
    auto line = reader->next();
    while (line && *line) line = reader->next();
    ASSERT_FALSE(line.has_value()) << "cut at " << cut;
    EXPECT_NE(line.error().text.find("truncated"), std::string::npos) << line.error().text;
  }
}

TEST(LineReader, BrokenDataAndMissingFilesAreErrors) {
  std::string broken = compressed(std::string(10000, 'x') + "\n");
  for (std::size_t i = 5; i < broken.size(); ++i) broken[i] = static_cast<char>(broken[i] ^ 0x5A);
  const TempFile file(broken);
  auto reader = LineReader::open(file.path());
  ASSERT_TRUE(reader.has_value());
  EXPECT_FALSE(reader->next().has_value());
  EXPECT_FALSE(LineReader::open(file.path() + ".missing").has_value());
}

}  // namespace
}  // namespace sluice::tools
