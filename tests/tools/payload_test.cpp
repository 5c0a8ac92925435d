#include "tools/replay/payload.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace sluice::tools {
namespace {

struct Case {
  std::uint32_t row_bytes;
  std::uint32_t block_tokens;
  std::uint32_t groups;
  std::uint32_t pages;
};

class Payload : public testing::TestWithParam<Case> {
 protected:
  PayloadShape shape() const {
    const Case c = GetParam();
    return {c.row_bytes, c.block_tokens, c.groups, c.pages};
  }
};

TEST_P(Payload, WhatWasWrittenComparesEqual) {
  const PayloadShape shape = this->shape();
  std::vector<std::byte> page(shape.page_bytes());
  for (std::uint32_t p = 0; p < shape.pages_per_block; ++p) {
    write_page(shape, 42, p, 0, shape.block_tokens, page.data());
    EXPECT_FALSE(find_difference(shape, 42, p, shape.block_tokens, page.data()).has_value());
  }
}

// Kernels write and compare by the words alone.
TEST_P(Payload, APageConsistsOfTheWordsOfItsRows) {
  const PayloadShape shape = this->shape();
  std::vector<std::byte> page(shape.page_bytes());
  const std::uint32_t last = shape.pages_per_block - 1;
  write_page(shape, 42, last, 0, shape.block_tokens, page.data());
  for (std::size_t at = 0; at < page.size(); ++at) {
    const std::uint64_t row =
        std::uint64_t{last} * shape.groups_per_page * shape.block_tokens + at / shape.row_bytes;
    const std::size_t in_row = at % shape.row_bytes;
    const std::uint64_t word = payload_word(payload_row(42, row) + in_row / 8 * kPayloadWordStride);
    ASSERT_EQ(page[at], static_cast<std::byte>(word >> (8 * (in_row % 8)))) << at;
  }
}

TEST_P(Payload, EveryFlippedBitIsFoundAtItsOffset) {
  const PayloadShape shape = this->shape();
  std::vector<std::byte> page(shape.page_bytes());
  write_page(shape, 1, 0, 0, shape.block_tokens, page.data());
  const std::size_t stride = page.size() > 4096 ? 37 : 1;
  for (std::size_t at = 0; at < page.size(); at += stride) {
    page[at] ^= std::byte{0x10};
    EXPECT_EQ(find_difference(shape, 1, 0, shape.block_tokens, page.data()), at);
    page[at] ^= std::byte{0x10};
  }
}

TEST_P(Payload, PagesBlocksAndTenantsNeverLookAlike) {
  const PayloadShape shape = this->shape();
  if (shape.page_bytes() < 16) GTEST_SKIP() << "few bytes may be equal by chance";
  std::vector<std::byte> page(shape.page_bytes());
  const std::uint64_t mine = payload_seed("t0", "key-a");
  write_page(shape, mine, 0, 0, shape.block_tokens, page.data());
  for (std::uint32_t p = 1; p < shape.pages_per_block; ++p) {
    EXPECT_TRUE(find_difference(shape, mine, p, shape.block_tokens, page.data()).has_value());
  }
  for (const std::uint64_t other :
       {payload_seed("t1", "key-a"), payload_seed("t0", "key-b"), mine + 1}) {
    EXPECT_TRUE(find_difference(shape, other, 0, shape.block_tokens, page.data()).has_value());
  }
}

TEST_P(Payload, TokensAreWrittenOneByOneAndOnlyTheyAreCompared) {
  const PayloadShape shape = this->shape();
  std::vector<std::byte> page(shape.page_bytes(), std::byte{0xEE});
  for (std::uint32_t token = 0; token < shape.block_tokens; ++token) {
    if (token + 1 < shape.block_tokens) {
      EXPECT_FALSE(find_difference(shape, 5, 0, token, page.data()).has_value());
    }
    write_page(shape, 5, 0, token, token + 1, page.data());
  }
  EXPECT_FALSE(find_difference(shape, 5, 0, shape.block_tokens, page.data()).has_value());
}

INSTANTIATE_TEST_SUITE_P(Shapes, Payload,
                         testing::Values(Case{128, 16, 2, 3},   // one head of bf16 x 64
                                         Case{128, 16, 6, 30},  // three heads
                                         Case{32, 512, 1, 1},   // a whole-block page
                                         Case{1, 4, 2, 2}, Case{7, 3, 2, 5}, Case{33, 5, 1, 2},
                                         Case{656, 1, 1, 64}));

TEST(PayloadRows, RowsOfABlockAreAllDifferent) {
  const PayloadShape shape{8, 16, 4, 8};
  std::set<std::uint64_t> seen;
  std::vector<std::uint64_t> page(shape.page_bytes() / 8);
  for (std::uint32_t p = 0; p < shape.pages_per_block; ++p) {
    write_page(shape, 9, p, 0, shape.block_tokens, reinterpret_cast<std::byte*>(page.data()));
    seen.insert(page.begin(), page.end());
  }
  EXPECT_EQ(seen.size(), page.size() * shape.pages_per_block);
}

}  // namespace
}  // namespace sluice::tools
