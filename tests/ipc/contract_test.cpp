// The plain types: errors, layouts, versions, values from outside.
#include <gtest/gtest.h>

#include <set>

#include "ipc/error.h"
#include "ipc/ids.h"
#include "ipc/layout.h"
#include "ipc/protocol.h"
#include "ipc/untrusted.h"
#include "tests/ipc/support.h"

namespace sluice::ipc {
namespace {

TEST(Error, EveryCodeHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (std::uint16_t code = 0; code <= static_cast<std::uint16_t>(kLastErrc); ++code) {
    names.insert(to_string(static_cast<Errc>(code)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kLastErrc) + 1);
  EXPECT_EQ(to_string(Errc::bad_config), "bad_config");
  EXPECT_EQ(to_string(static_cast<Errc>(999)), "unknown");
}

TEST(Handle, SurvivesItsBits) {
  const Handle handle{7, 0xFFFFFFFF};
  EXPECT_EQ(Handle::from_bits(handle.bits()), handle);
}

TEST(Untrusted, GivesTheValueOnlyIfItIsInRange) {
  const Untrusted<std::uint32_t> value(10);
  EXPECT_EQ(value.in_range(10, 10, "n").value(), 10u);
  EXPECT_ERROR(value.in_range(11, 20, "n"), Errc::peer_violation);
  EXPECT_ERROR(value.in_range(0, 9, "n", Errc::invalid_argument), Errc::invalid_argument);
  EXPECT_EQ(value.below(11, "n").value(), 10u);
  EXPECT_ERROR(value.below(10, "n"), Errc::peer_violation);
}

TEST(Untrusted, NamesTheValueInTheError) {
  const auto refused = Untrusted<std::uint32_t>(77).below(5, "block index");
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().text.find("block index is 77"), std::string::npos);
  const auto odd = Untrusted<int>(3).validate([](int n) { return n % 2 == 0; }, "n", "even");
  ASSERT_FALSE(odd.has_value());
  EXPECT_EQ(odd.error().text, "n is not even");
}

TEST(Protocol, AgreesOnTheLowerMinorVersionAndCommonFeatures) {
  const auto agreed = negotiate({1, 4, 0b1100}, {1, 2, 0b0110});
  ASSERT_OK(agreed);
  EXPECT_EQ(*agreed, (Agreed{2, 0b0100}));
}

TEST(Protocol, RefusesAnotherMajorVersionAndSaysWhoIsOlder) {
  const auto older = negotiate({2, 0, 0}, {1, 9, 0});
  EXPECT_ERROR(older, Errc::version_mismatch);
  EXPECT_NE(older.error().text.find("upgrade the peer"), std::string::npos);
  EXPECT_ERROR(negotiate({1, 0, 0}, {2, 0, 0}), Errc::version_mismatch);
}

constexpr Layout kLlama{.layers = 32,
                        .kv_heads = 8,
                        .head_dim = 128,
                        .block_tokens = 16,
                        .dtype_bytes = 2,
                        .planes = 2,
                        .page_kind = PageKind::layer};

TEST(Layout, GivesTheSizesOfTheDesign) {
  const auto geometry = geometry_of(kLlama);
  ASSERT_OK(geometry);
  EXPECT_EQ(geometry->block_bytes, 2u << 20);
  EXPECT_EQ(geometry->page_bytes, 64u << 10);
  EXPECT_EQ(geometry->pages_per_block, 32u);
  EXPECT_EQ(geometry->frame_stride, 2u << 20);

  Layout rows = kLlama;
  rows.kv_heads = 1;
  rows.planes = 1;
  rows.head_dim = 656;
  rows.dtype_bytes = 1;
  rows.block_tokens = 64;
  rows.page_kind = PageKind::row;
  const auto latent = geometry_of(rows);
  ASSERT_OK(latent);
  EXPECT_EQ(latent->page_bytes, 656u);
  EXPECT_EQ(latent->pages_per_block, 32u * 64);
}

TEST(Layout, PagesTileTheBlockForEveryKind) {
  for (int kind = 0; kind < kPageKinds; ++kind) {
    Layout layout = kLlama;
    layout.page_kind = static_cast<PageKind>(kind);
    if (layout.page_kind == PageKind::row) layout.kv_heads = layout.planes = 1;
    const auto geometry = geometry_of(layout);
    ASSERT_OK(geometry);
    EXPECT_EQ(geometry->page_bytes * geometry->pages_per_block, geometry->block_bytes);
  }
}

TEST(Layout, RefusesZeroAndAbsurdSizes) {
  for (auto field : {&Layout::layers, &Layout::kv_heads, &Layout::head_dim, &Layout::block_tokens,
                     &Layout::dtype_bytes, &Layout::planes}) {
    for (const std::uint32_t value : {0u, 0xFFFFFFFFu}) {
      Layout layout = kLlama;
      layout.*field = value;
      EXPECT_ERROR(geometry_of(layout), Errc::invalid_layout);
    }
  }
  Layout layout = kLlama;
  layout.page_kind = static_cast<PageKind>(200);
  EXPECT_ERROR(geometry_of(layout), Errc::invalid_layout);
  layout = {4096, 4096, 65536, 65536, 16, 2, PageKind::layer};
  EXPECT_ERROR(geometry_of(layout), Errc::invalid_layout);
}

TEST(Layout, ARowOfSeveralHeadsIsNoPage) {
  Layout layout = kLlama;
  layout.page_kind = PageKind::row;
  EXPECT_ERROR(geometry_of(layout), Errc::invalid_layout);
}

TEST(Layout, AnExtentHoldsWholeItemsAndWholePages) {
  for (const std::uint64_t item : {64u, 656u, 4096u, 65536u, 1u << 20}) {
    const std::uint64_t bytes = extent_bytes_for(item, 4096, 64u << 20);
    EXPECT_EQ(bytes % item, 0u);
    EXPECT_EQ(bytes % 4096, 0u);
    EXPECT_LE(bytes, 64u << 20);
  }
  EXPECT_EQ(extent_bytes_for(1u << 20, 4096, 1), 1u << 20);
}

}  // namespace
}  // namespace sluice::ipc
