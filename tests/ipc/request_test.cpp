// Request memory: how the client gives it out, and how the daemon reads it.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

#include "ipc/request_memory.h"
#include "ipc/validated.h"
#include "tests/ipc/support.h"

namespace sluice::ipc {
namespace {

using U32 = Untrusted<std::uint32_t>;

struct alignas(64) Line {
  std::byte bytes[64];
};

struct Shared {
  explicit Shared(std::size_t bytes) : lines(bytes / sizeof(Line)) {}
  std::span<std::byte> bytes() { return std::as_writable_bytes(std::span(lines)); }
  std::vector<Line> lines;
};

TEST(RequestMemory, GivesAlignedPiecesThatDoNotOverlap) {
  Shared shared(4096);
  RequestMemory memory(shared.bytes());
  std::mt19937 random(1);
  std::vector<RequestPiece> held;
  for (int round = 0; round < 5'000; ++round) {
    auto piece = memory.allocate(1 + random() % 700);
    if (piece) {
      EXPECT_EQ(piece->offset() % kRequestAlignment, 0u);
      EXPECT_EQ(piece->bytes().data(), shared.bytes().data() + piece->offset());
      for (const RequestPiece& other : held) {
        EXPECT_TRUE(piece->offset() + piece->size() <= other.offset() ||
                    other.offset() + other.size() <= piece->offset());
      }
      held.push_back(std::move(*piece));
    } else {
      EXPECT_EQ(piece.error().code, Errc::busy);
    }
    if (!piece || random() % 3 == 0) {
      std::swap(held[random() % held.size()], held.back());
      held.pop_back();
    }
  }
  held.clear();
  EXPECT_EQ(memory.free_bytes(), memory.capacity());
  EXPECT_TRUE(memory.allocate(4096).has_value()) << "the holes were not joined";
}

TEST(RequestMemory, TellsNotNowFromNever) {
  Shared shared(4096);
  RequestMemory memory(shared.bytes());
  EXPECT_ERROR(memory.allocate(4097), Errc::list_too_long);
  EXPECT_ERROR(memory.allocate(0), Errc::invalid_argument);
  {
    const auto most = memory.allocate(4000);
    ASSERT_OK(most);
    EXPECT_ERROR(memory.allocate(65), Errc::busy);
    EXPECT_ERROR(memory.allocate(4096), Errc::busy);
  }
  EXPECT_TRUE(memory.allocate(4096).has_value());
}

TEST(RequestMemory, ServesManyThreads) {
  Shared shared(64 << 10);
  RequestMemory memory(shared.bytes());
  const auto work = [&](std::byte mark) {
    for (int i = 0; i < 5'000; ++i) {
      auto piece = memory.allocate(1 + static_cast<std::size_t>(i) % 300);
      if (!piece) continue;
      std::ranges::fill(piece->bytes(), mark);
      EXPECT_TRUE(std::ranges::all_of(piece->bytes(), [&](std::byte b) { return b == mark; }));
    }
  };
  std::thread one(work, std::byte{1}), two(work, std::byte{2}), three(work, std::byte{3});
  one.join();
  two.join();
  three.join();
  EXPECT_EQ(memory.free_bytes(), memory.capacity());
}

TEST(RequestCopier, CopiesOnceSoThatLaterChangesDoNotMatter) {
  Shared shared(4096);
  std::ranges::fill(shared.bytes(), std::byte{5});
  RequestCopier copier(shared.bytes());
  const auto copy = copier.copy(U32(64), U32(100), 4096);
  ASSERT_OK(copy);
  std::ranges::fill(shared.bytes(), std::byte{6});
  EXPECT_EQ(copy->size(), 100u);
  EXPECT_TRUE(std::ranges::all_of(*copy, [](std::byte b) { return b == std::byte{5}; }));
}

TEST(RequestCopier, ReusesItsBuffer) {
  Shared shared(4096);
  RequestCopier copier(shared.bytes());
  const auto* first = copier.copy(U32(0), U32(4096), 4096)->data();
  EXPECT_EQ(copier.copy(U32(8), U32(100), 4096)->data(), first);
  EXPECT_EQ(copier.copy(U32(0), U32(4096), 4096)->data(), first);
}

TEST(RequestCopier, TakesEverythingUpToTheLastByteAndNothingBeyond) {
  Shared shared(4096);
  RequestCopier copier(shared.bytes());
  EXPECT_TRUE(copier.copy(U32(0), U32(4096), 4096).has_value());
  EXPECT_TRUE(copier.copy(U32(4088), U32(8), 4096).has_value());
  EXPECT_TRUE(copier.copy(U32(4096), U32(0), 4096).has_value());
  EXPECT_TRUE(copier.reply_area(U32(4088), U32(8)).has_value());
  const struct {
    std::uint32_t offset, length;
  } wrong[] = {{0, 4097},
               {4088, 9},
               {4096, 1},
               {4104, 0},
               {0xFFFFFFF8, 8},
               {8, 0xFFFFFFF8},
               {0xFFFFFFF8, 0xFFFFFFF8},
               {0, 0xFFFFFFFF},
               {4, 8},
               {1, 0}};
  for (const auto& place : wrong) {
    EXPECT_ERROR(copier.copy(U32(place.offset), U32(place.length), ~std::size_t{0}),
                 Errc::peer_violation);
    EXPECT_ERROR(copier.reply_area(U32(place.offset), U32(place.length)), Errc::peer_violation);
  }
}

TEST(RequestCopier, RefusesMoreThanTheCallerTakes) {
  Shared shared(4096);
  RequestCopier copier(shared.bytes());
  EXPECT_TRUE(copier.copy(U32(0), U32(100), 100).has_value());
  EXPECT_ERROR(copier.copy(U32(0), U32(101), 100), Errc::list_too_long);
}

TEST(ByteCursor, TakesStructsAndArraysFromFrontToBack) {
  std::vector<std::uint32_t> words = {7, 0, 1, 2, 3, 4};
  ByteCursor cursor(std::as_bytes(std::span(words)));
  EXPECT_EQ(cursor.take<std::uint64_t>("head").value(), 7u);
  const auto array = cursor.take_array<std::uint32_t>(3, "list");
  ASSERT_OK(array);
  EXPECT_TRUE(std::ranges::equal(*array, std::vector<std::uint32_t>{1, 2, 3}));
  EXPECT_ERROR(cursor.take<std::uint64_t>("tail"), Errc::peer_violation);
  EXPECT_EQ(cursor.take<std::uint32_t>("tail").value(), 4u);
  EXPECT_TRUE(cursor.rest().empty());
}

TEST(ByteCursor, ACountThatOverflowsIsTooShort) {
  std::vector<std::uint64_t> words(4);
  for (const std::uint64_t count : {std::uint64_t{5}, std::uint64_t{1} << 61, ~std::uint64_t{0}}) {
    ByteCursor cursor(std::as_bytes(std::span(words)));
    EXPECT_ERROR(cursor.take_array<std::uint64_t>(count, "list"), Errc::peer_violation);
    EXPECT_EQ(cursor.rest().size(), 32u);
  }
}

TEST(ByteCursor, AlignsBeforeAnArrayAndRefusesOneThatIsNot) {
  std::vector<std::uint64_t> words(4);
  ByteCursor cursor(std::as_bytes(std::span(words)));
  ASSERT_OK(cursor.take_bytes(3, "key"));
  EXPECT_ERROR(cursor.take_array<std::uint64_t>(1, "list"), Errc::peer_violation);
  ASSERT_OK(cursor.align_to(8, "padding"));
  EXPECT_EQ(cursor.rest().size(), 24u);
  EXPECT_TRUE(cursor.take_array<std::uint64_t>(3, "list").has_value());
  EXPECT_TRUE(cursor.align_to(8, "padding").has_value());
  ByteCursor at_end(std::as_bytes(std::span(words)).subspan(25));
  EXPECT_TRUE(at_end.align_to(8, "padding").has_value());
  EXPECT_ERROR(ByteCursor(std::as_bytes(std::span(words)).subspan(25, 3)).align_to(8, "padding"),
               Errc::peer_violation);
}

}  // namespace
}  // namespace sluice::ipc
