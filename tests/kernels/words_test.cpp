#include "kernels/words.h"

#include <gtest/gtest.h>

#include "kernels/age_histogram.h"
#include "kernels/table.h"
#include "kernels/table_sizes.h"
#include "tests/kernels/pool.h"

namespace sluice::kernels::test {
namespace {

TEST(Word, GivesBackWhatItWasMadeOf) {
  for (const Page page : {0u, 1u, 0x80000000u, 0xFFFFFFFEu}) {
    for (const Step step : {Step{0}, Step{1}, kHalfRange, kStepMask}) {
      for (int bits = 0; bits < 4; ++bits) {
        const Word word = make_word(page, step, (bits & 1) != 0, (bits & 2) != 0);
        EXPECT_EQ(page_of(word), page);
        EXPECT_EQ(step_of(word), step);
        EXPECT_EQ(is_pinned(word), (bits & 1) != 0);
        EXPECT_EQ(is_ready(word), (bits & 2) != 0);
        EXPECT_FALSE(is_free(word));
        EXPECT_EQ(with_step(word, 77), make_word(page, 77, (bits & 1) != 0, (bits & 2) != 0));
      }
    }
  }
}

TEST(Word, ZeroIsFree) {
  EXPECT_TRUE(is_free(kFreeWord));
  EXPECT_EQ(page_of(kFreeWord), kNoPage);
}

TEST(Step, ComparesAcrossTheWrap) {
  EXPECT_TRUE(step_before(kStepMask, 0));
  EXPECT_TRUE(step_before(kStepMask - 5, 10));
  EXPECT_FALSE(step_before(10, kStepMask - 5));
  EXPECT_FALSE(step_before(7, 7));
  EXPECT_TRUE(step_before(0, kHalfRange - 1));
  EXPECT_FALSE(step_before(kHalfRange - 1, 0));
}

TEST(AgeHistogram, BucketsAreMonotoneExactWhenYoungAndNarrowWhenOld) {
  std::uint32_t last = 0;
  for (Step age = 0; age < 100'000; ++age) {
    const std::uint32_t bucket = age_bucket(age);
    ASSERT_GE(bucket, last);
    ASSERT_LE(bucket, last + 1);
    ASSERT_LE(bucket_age(bucket), age);
    ASSERT_GT(bucket_age(bucket + 1), age);
    ASSERT_LE(age - bucket_age(bucket), age / kAgeOctave);
    last = bucket;
  }
  EXPECT_LT(age_bucket(kStepMask), kAgeBuckets);
}

TEST(TableSizes, RefuseWhatCannotBe) {
  const TableSizes good = sizes_of({});
  EXPECT_EQ(check_sizes(good), SizesError::none);
  const auto with = [&](auto change) {
    TableSizes sizes = good;
    change(sizes);
    return check_sizes(sizes);
  };
  EXPECT_EQ(with([](TableSizes& s) { s.slots = 0; }), SizesError::slots);
  EXPECT_EQ(with([](TableSizes& s) { s.slots = kMaxSlots + 1; }), SizesError::slots);
  EXPECT_EQ(with([](TableSizes& s) { s.blocks = 0; }), SizesError::blocks);
  EXPECT_EQ(with([](TableSizes& s) { s.blocks = kMaxBlocks + 1; }), SizesError::blocks);
  EXPECT_EQ(with([](TableSizes& s) { s.pages_per_block = 0; }), SizesError::pages);
  EXPECT_EQ(with([](TableSizes& s) { s.pages_per_block = 0xFFFFFFFF; }), SizesError::pages);
  EXPECT_EQ(with([](TableSizes& s) { s.actors = kMaxActors + 1; }), SizesError::actors);
  EXPECT_EQ(with([](TableSizes& s) { s.log_capacity = 17; }), SizesError::log_capacity);
  EXPECT_EQ(with([](TableSizes& s) { s.hint_capacity = 65; }), SizesError::hint_capacity);
}

TEST(TableSizes, TheLargestTableHasAddressableOffsets) {
  const TableSizes largest{.slots = kMaxSlots,
                           .blocks = kMaxBlocks,
                           .pages_per_block = 31,
                           .actors = kMaxActors,
                           .log_capacity = kMaxLogCapacity,
                           .hint_capacity = kMaxHintCapacity};
  EXPECT_EQ(check_sizes(largest), SizesError::none);
  EXPECT_LT(table_bytes(largest), std::uint64_t{1} << 38);
}

TEST(HotTable, FindsTheBlockOfAPageWithoutDividing) {
  for (const std::uint32_t blocks :
       {1u, 2u, 3u, 7u, 32u, 641u, 65535u, kMaxBlocks - 1, kMaxBlocks}) {
    HotTable table;
    table.sizes = sizes_of({});
    table.sizes.blocks = blocks;
    table.sizes.pages_per_block = static_cast<std::uint32_t>(kMaxPages / blocks);
    table.blocks_magic = blocks_magic(blocks);
    const auto last = static_cast<Page>(table.sizes.pages() - 1);
    for (const Page page : {Page{0}, Page{1}, blocks - 1, blocks, last / 2, last - 1, last}) {
      EXPECT_EQ(page_in_block(table, page), page / blocks) << page << " / " << blocks;
      EXPECT_EQ(block_of(table, page), page % blocks) << page << " / " << blocks;
      EXPECT_EQ(page_number(table, block_of(table, page), page_in_block(table, page)), page);
    }
  }
}

}  // namespace
}  // namespace sluice::kernels::test
