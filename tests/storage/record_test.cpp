// The formats on disk: what is written is read, and nothing else is.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "storage/bytes.h"
#include "storage/record.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

constexpr SegmentIdentity kSegment{{11, 12}, 3, 5, 77};
constexpr std::uint64_t kSegmentBytes = 8 * kMiB;

struct alignas(kIoAlign) AlignedPage {
  std::array<std::byte, kPageBytes> bytes{};
};

class RecordPageTest : public testing::Test {
 protected:
  RecordPageTest() : own_scope(encode_namespace({"tenant", "model", "", "layout", "shard"})) {
    good_fields.segment = kSegment;
    good_fields.offset = 3 * kPageBytes;
    good_fields.sequence = 9;
    good_fields.layout = layout_of(40 * kKiB, 16 * kKiB);
    good_fields.valid_bytes = 39 * kKiB;
    good_fields.encoded_namespace = own_scope;
    good_fields.key = key_of("a key");
    good_fields.part_checksums = good_checksums;
    write_record_page(good_fields, good_page.bytes);
  }

  Result<RecordFields> parse() const {
    return parse_record_page(good_page.bytes, kSegment, good_fields.offset, kSegmentBytes);
  }

  std::string own_scope;
  std::vector<std::uint64_t> good_checksums{1, 2, 3};
  RecordFields good_fields;
  AlignedPage good_page;
};

TEST_F(RecordPageTest, SaysWhatWasWritten) {
  const auto parsed = parse();
  ASSERT_OK(parsed);
  EXPECT_EQ(parsed->sequence, 9U);
  EXPECT_EQ(parsed->valid_bytes, 39 * kKiB);
  EXPECT_EQ(parsed->layout.parts, 3U);
  EXPECT_EQ(parsed->layout.bytes_of(2), 8 * kKiB);
  EXPECT_EQ(parsed->encoded_namespace, own_scope);
  EXPECT_TRUE(std::ranges::equal(parsed->key, key_of("a key")));
  EXPECT_TRUE(std::ranges::equal(parsed->part_checksums, good_checksums));
}

TEST_F(RecordPageTest, EverySingleFlippedBitIsRejected) {
  for (std::size_t bit = 0; bit < kPageBytes * 8; ++bit) {
    good_page.bytes[bit / 8] ^= std::byte(1U << (bit % 8));
    ASSERT_FALSE(parse().has_value()) << "bit " << bit;
    good_page.bytes[bit / 8] ^= std::byte(1U << (bit % 8));
  }
  EXPECT_OK(parse());
}

TEST_F(RecordPageTest, IsOnlyARecordWhereItWasWritten) {
  EXPECT_FALSE(parse_record_page(good_page.bytes, kSegment, 4 * kPageBytes, kSegmentBytes));
  for (const SegmentIdentity& other :
       {SegmentIdentity{{11, 13}, 3, 5, 77}, SegmentIdentity{{11, 12}, 4, 5, 77},
        SegmentIdentity{{11, 12}, 3, 6, 77}, SegmentIdentity{{11, 12}, 3, 5, 78}}) {
    EXPECT_FALSE(parse_record_page(good_page.bytes, other, good_fields.offset, kSegmentBytes));
  }
}

TEST_F(RecordPageTest, DoesNotReachBehindItsSegment) {
  EXPECT_OK(parse_record_page(good_page.bytes, kSegment, good_fields.offset, 14 * kPageBytes));
  EXPECT_FALSE(parse_record_page(good_page.bytes, kSegment, good_fields.offset, 13 * kPageBytes));
}

// Also with a right checksum: lengths that a broken program could write.
TEST_F(RecordPageTest, ImpossibleLengthsAreRejectedWithARightChecksum) {
  RecordFields fields = good_fields;
  fields.valid_bytes = 41 * kKiB;
  write_record_page(fields, good_page.bytes);
  EXPECT_FALSE(parse());
  fields = good_fields;
  fields.layout.part_bytes = 8 * kKiB;
  write_record_page(fields, good_page.bytes);
  EXPECT_FALSE(parse());
  fields = good_fields;
  fields.key = {};
  write_record_page(fields, good_page.bytes);
  EXPECT_FALSE(parse());
}

TEST_F(RecordPageTest, RandomBytesAreNoRecord) {
  std::mt19937_64 random(7);  // NOLINT(bugprone-random-generator-seed): the same in every run
  for (int round = 0; round < 2000; ++round) {
    AlignedPage page = round % 2 == 0 ? AlignedPage{} : good_page;
    const std::size_t changes = 1 + random() % 64;
    for (std::size_t i = 0; i < changes; ++i) {
      page.bytes[random() % kPageBytes] ^= std::byte(1 + random() % 255);
    }
    ASSERT_FALSE(parse_record_page(page.bytes, kSegment, good_fields.offset, kSegmentBytes));
  }
}

TEST(SegmentPage, EverySingleFlippedBitIsRejected) {
  AlignedPage page;
  write_segment_page(kSegment, page.bytes);
  EXPECT_EQ(parse_segment_page(page.bytes).value(), kSegment);
  for (std::size_t bit = 0; bit < kPageBytes * 8; ++bit) {
    page.bytes[bit / 8] ^= std::byte(1U << (bit % 8));
    ASSERT_FALSE(parse_segment_page(page.bytes).has_value()) << "bit " << bit;
    page.bytes[bit / 8] ^= std::byte(1U << (bit % 8));
  }
}

TEST(PartLayoutTest, PartsGrowUntilTheirChecksumsFit) {
  EXPECT_EQ(layout_of(1 * kMiB, 64 * kKiB).parts, 16U);
  for (const std::uint64_t block : {4 * kKiB, 100 * kKiB, 64 * kMiB, 1024 * kMiB}) {
    const PartLayout layout = layout_of(block, 4 * kKiB);
    EXPECT_LE(layout.parts, kMaxPartsPerBlock);
    std::uint64_t bytes = 0;
    for (std::uint32_t part = 0; part < layout.parts; ++part) bytes += layout.bytes_of(part);
    EXPECT_EQ(bytes, block);
  }
}

TEST(EncodedNamespace, IsReadBackAndNothingElseIs) {
  const Namespace scope{"a", "", "bc", std::string("\0x", 2), "shard"};
  const std::string encoded = encode_namespace(scope);
  EXPECT_EQ(decode_namespace(as_bytes(encoded)), scope);
  for (std::size_t bytes = 0; bytes < encoded.size(); ++bytes) {
    EXPECT_FALSE(decode_namespace(as_bytes(std::string_view(encoded).substr(0, bytes))));
  }
  EXPECT_FALSE(decode_namespace(as_bytes(encoded + "x")));
}

TEST(DigestTest, TellsNamesAndStoresApart) {
  const std::string ab = encode_namespace({"a", "b", "", "", ""});
  const std::string a_b = encode_namespace({"ab", "", "", "", ""});
  EXPECT_NE(digest_of({1, 2}, ab, key_of("k")), digest_of({1, 2}, a_b, key_of("k")));
  EXPECT_NE(digest_of({1, 2}, ab, key_of("k")), digest_of({1, 2}, ab, key_of("l")));
  EXPECT_NE(digest_of({1, 2}, ab, key_of("k")), digest_of({1, 3}, ab, key_of("k")));
}

}  // namespace
}  // namespace sluice::storage
