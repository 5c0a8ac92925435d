// Sealed memory, mappings of it, and the memory of a session.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "ipc/session_memory.h"
#include "tests/ipc/support.h"

namespace sluice::ipc {
namespace {

constexpr std::uint64_t kPage = kMapGranularity;

// Whether the kernel can read a byte there: asks without a signal.
bool readable(const std::byte* place) {
  SocketPair probe = socket_pair();
  const bool written = write(probe.left.get(), place, 1) == 1;
  EXPECT_TRUE(written || errno == EFAULT);
  return written;
}

TEST(Memfd, CannotBeResizedByAnybody) {
  const auto fd = create_memfd("test", 8 * kPage, Populate::yes);
  ASSERT_OK(fd);
  EXPECT_EQ(ftruncate(fd->get(), kPage), -1);
  EXPECT_EQ(ftruncate(fd->get(), 16 * kPage), -1);
  EXPECT_EQ(fcntl(fd->get(), F_ADD_SEALS, F_SEAL_WRITE), -1);
  EXPECT_TRUE(check_memfd(fd->get(), 8 * kPage, "test memory").has_value());
}

TEST(Memfd, PopulateTakesTheMemoryAtOnce) {
  const auto taken = create_memfd("test", 64 * kPage, Populate::yes);
  const auto lazy = create_memfd("test", 64 * kPage, Populate::no);
  ASSERT_OK(taken);
  ASSERT_OK(lazy);
  struct stat status{};
  ASSERT_EQ(fstat(taken->get(), &status), 0);
  EXPECT_EQ(status.st_blocks * 512, static_cast<blkcnt_t>(64 * kPage));
  ASSERT_EQ(fstat(lazy->get(), &status), 0);
  EXPECT_EQ(status.st_blocks, 0);
}

// Bytes of this process's mappings that the kernel maps as huge pages of shared memory.
std::uint64_t mapped_huge() {
  std::ifstream maps("/proc/self/smaps");
  std::uint64_t kib = 0;
  for (std::string word; maps >> word;) {
    std::uint64_t count = 0;
    if (word == "ShmemPmdMapped:" && maps >> count) kib += count;
  }
  return kib * 1024;
}

blkcnt_t blocks_of(int fd) {
  struct stat status{};
  EXPECT_EQ(fstat(fd, &status), 0);
  return status.st_blocks;
}

// Five huge pages, and a rest that is none: more than one piece of populating has none of.
constexpr std::uint64_t kHugeBytes = 5 * kHugePageBytes + 3 * kPage;

TEST(Memfd, HasHugePagesWhereTheKernelGivesThem) {
  const auto fd = create_memfd("test", kHugeBytes, Populate::yes, HugePages::attempt);
  ASSERT_OK(fd);
  EXPECT_EQ(blocks_of(fd->get()) * 512, static_cast<blkcnt_t>(kHugeBytes));
  const auto first = Mapping::map(fd->get(), 0, kHugeBytes, Access::read_write, "test memory");
  ASSERT_OK(first);
  auto second = ReservedRange::reserve(2 * kHugeBytes, "addresses");
  ASSERT_OK(second);
  ASSERT_OK(second->map_at(0, fd->get(), 0, kHugeBytes, Access::read_write, "test memory"));
  for (std::uint64_t at = 0; at < kHugeBytes; ++at) {
    ASSERT_EQ(first->data()[at], std::byte{0}) << at;
  }
  second->data()[kHugeBytes - 1] = std::byte{1};
  EXPECT_EQ(first->data()[kHugeBytes - 1], std::byte{1});
  if (!create_memfd("test", kHugeBytes, Populate::yes, HugePages::require)) {
    GTEST_SKIP() << "this kernel gives no huge pages (MADV_COLLAPSE, Linux 6.1)";
  }
  EXPECT_EQ(mapped_huge(), 5 * kHugePageBytes);
  second->data()[0] = std::byte{1};
  second->data()[4 * kHugePageBytes] = std::byte{1};
  EXPECT_EQ(mapped_huge(), 7 * kHugePageBytes) << "a touch maps a whole huge page";
}

TEST(Memfd, TakesMemoryAnewAfterItWasGivenBack) {
  const auto fd = create_memfd("test", kHugeBytes, Populate::yes, HugePages::attempt);
  ASSERT_OK(fd);
  ASSERT_OK(vacate_memfd(fd->get(), "test", 0, kHugeBytes));
  ASSERT_EQ(blocks_of(fd->get()), 0);
  ASSERT_OK(populate_memfd(fd->get(), "test", 0, kHugeBytes, HugePages::attempt));
  EXPECT_EQ(blocks_of(fd->get()) * 512, static_cast<blkcnt_t>(kHugeBytes));
}

TEST(Memfd, SaysWhenRequiredHugePagesAreNotGivenAndElseDoesWithoutThem) {
  Child child([] {
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0) return 1;
    const auto required = create_memfd("test", kHugeBytes, Populate::yes, HugePages::require);
    if (required || required.error().code != Errc::no_memory) return 2;
    const auto attempted = create_memfd("test", kHugeBytes, Populate::yes, HugePages::attempt);
    return attempted && blocks_of(attempted->get()) * 512 == kHugeBytes ? 0 : 3;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST(Memfd, IsPopulatedAndVacatedPieceByPiece) {
  const auto fd = create_memfd("test", 64 * kPage, Populate::no);
  ASSERT_OK(fd);
  const auto taken_pages = [&] {
    struct stat status{};
    EXPECT_EQ(fstat(fd->get(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512 / kPage;
  };
  ASSERT_OK(populate_memfd(fd->get(), "test", 8 * kPage, 16 * kPage));
  EXPECT_EQ(taken_pages(), 16U);
  const auto view = Mapping::map(fd->get(), 8 * kPage, 16 * kPage, Access::read_write, "test");
  ASSERT_OK(view);
  std::memset(view->data(), 7, view->size());
  ASSERT_OK(vacate_memfd(fd->get(), "test", 8 * kPage, 4 * kPage));
  EXPECT_EQ(taken_pages(), 12U);
  EXPECT_EQ(view->data()[0], std::byte{0}) << "holders of a mapping see zeros";
  EXPECT_EQ(view->data()[4 * kPage], std::byte{7});
  EXPECT_ERROR(populate_memfd(fd->get(), "test", 0, available_memory_bytes() + (64 << 20)),
               Errc::no_memory);
}

TEST(Memfd, SaysNoMemoryBeforeTheNodeRunsOutOfIt) {
  EXPECT_ERROR(create_memfd("test", available_memory_bytes() + (64 << 20), Populate::yes),
               Errc::no_memory);
  EXPECT_ERROR(create_memfd("test", ~std::uint64_t{0}, Populate::no), Errc::no_memory);
  EXPECT_ERROR(create_memfd("test", 0, Populate::no), Errc::invalid_argument);
}

TEST(Memfd, SaysWhenTheProcessHasNoFreeDescriptor) {
  Child child([] {
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_NOFILE, &none) != 0) return 1;
    const auto fd = create_memfd("test", kPage, Populate::no);
    return !fd && fd.error().code == Errc::limit_reached ? 0 : 2;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST(Memfd, ADescriptorOfAnotherSizeIsRefused) {
  const auto fd = create_memfd("test", 8 * kPage, Populate::no);
  ASSERT_OK(fd);
  EXPECT_ERROR(check_memfd(fd->get(), 16 * kPage, "test memory"), Errc::peer_violation);
}

TEST(Memfd, ADescriptorThatCouldShrinkLaterIsRefused) {
  const Fd unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), 8 * kPage), 0);
  EXPECT_ERROR(check_memfd(unsealed.get(), 8 * kPage, "test memory"), Errc::peer_violation);
  const SocketPair sockets = socket_pair();
  EXPECT_ERROR(check_memfd(sockets.left.get(), 8 * kPage, "test memory"), Errc::peer_violation);
}

TEST(Mapping, SharesBytesThroughTheDescriptor) {
  const auto fd = create_memfd("test", 4 * kPage, Populate::yes);
  ASSERT_OK(fd);
  auto writer = Mapping::map(fd->get(), 0, 4 * kPage, Access::read_write, "test");
  auto reader = Mapping::map(fd->get(), kPage, kPage, Access::read, "test");
  ASSERT_OK(writer);
  ASSERT_OK(reader);
  writer->data()[kPage + 5] = std::byte{42};
  EXPECT_EQ(reader->data()[5], std::byte{42});
}

TEST(Mapping, NamesWhatItCouldNotMap) {
  const auto bad = Mapping::map(-1, 0, kPage, Access::read, "extent 3 of cache 1");
  EXPECT_ERROR(bad, Errc::io_error);
  EXPECT_NE(bad.error().text.find("extent 3 of cache 1"), std::string::npos);
  EXPECT_ERROR(Mapping::map(-1, 0, 0, Access::read, "nothing"), Errc::invalid_argument);
  EXPECT_ERROR(Mapping::map(-1, 1, kPage, Access::read, "odd"), Errc::invalid_argument);
}

TEST(ReservedRange, MapsExtentsSideBySideAndGivesThemBack) {
  auto range = ReservedRange::reserve(8 * kPage, "arena");
  ASSERT_OK(range);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(range->data()) % kHugePageBytes, 0u);
  EXPECT_FALSE(readable(range->data()));
  for (std::uint64_t extent = 0; extent < 2; ++extent) {
    const auto fd = create_memfd("extent", 2 * kPage, Populate::yes);
    ASSERT_OK(fd);
    ASSERT_OK(range->map_at(extent * 2 * kPage, fd->get(), 0, 2 * kPage, Access::read_write, "e"));
  }
  std::memset(range->data(), 7, 4 * kPage);
  EXPECT_TRUE(readable(range->data() + 4 * kPage - 1));
  EXPECT_FALSE(readable(range->data() + 4 * kPage));
  ASSERT_OK(range->unmap_at(2 * kPage, 2 * kPage, "e"));
  EXPECT_TRUE(readable(range->data() + 2 * kPage - 1));
  EXPECT_FALSE(readable(range->data() + 2 * kPage));
}

TEST(ReservedRange, RefusesWhatIsNotInsideOrNotWholePages) {
  auto range = ReservedRange::reserve(8 * kPage, "arena");
  ASSERT_OK(range);
  const auto fd = create_memfd("extent", 8 * kPage, Populate::no);
  ASSERT_OK(fd);
  const struct {
    std::uint64_t offset, bytes;
  } wrong[] = {{8 * kPage, kPage},
               {0, 9 * kPage},
               {4 * kPage, 5 * kPage},
               {1, kPage},
               {0, kPage - 1},
               {0, 0},
               {~std::uint64_t{0}, kPage},
               {kPage, ~std::uint64_t{0} - kPage + 1}};
  for (const auto& place : wrong) {
    EXPECT_ERROR(range->map_at(place.offset, fd->get(), 0, place.bytes, Access::read, "e"),
                 Errc::invalid_argument);
    EXPECT_ERROR(range->unmap_at(place.offset, place.bytes, "e"), Errc::invalid_argument);
  }
  EXPECT_ERROR(ReservedRange::reserve(0, "arena"), Errc::invalid_argument);
  EXPECT_ERROR(ReservedRange::reserve(std::uint64_t{1} << 62, "arena"), Errc::no_memory);
}

TEST(SessionMemory, BothEndsSeeTheSamePlaces) {
  const auto daemon = SessionMemory::create(256, 1 << 20);
  ASSERT_OK(daemon);
  const auto client = SessionMemory::attach(Fd(dup(daemon->fd().get())), 256, 1 << 20);
  ASSERT_OK(client);
  EXPECT_EQ(client->layout(), daemon->layout());
  daemon->submission_ring().control->tail = 1;
  daemon->completion_ring().slots[31] = std::byte{2};
  daemon->request_memory().back() = std::byte{3};
  EXPECT_EQ(client->submission_ring().control->tail, 1u);
  EXPECT_EQ(client->completion_ring().slots[31], std::byte{2});
  EXPECT_EQ(client->request_memory().back(), std::byte{3});
}

TEST(SessionMemory, PartsDoNotOverlapAndFillTheMemory) {
  for (std::uint32_t capacity = kMinRingCapacity; capacity <= kMaxRingCapacity; capacity *= 2) {
    const auto layout = session_layout(capacity, kMinRequestBytes);
    ASSERT_OK(layout);
    EXPECT_GE(layout->submissions_offset, kPage);
    EXPECT_GE(layout->completions_offset, layout->submissions_offset + capacity * 64);
    EXPECT_GE(layout->request_offset, layout->completions_offset + capacity * 32);
    EXPECT_EQ(layout->memory_bytes, layout->request_offset + kMinRequestBytes);
  }
}

TEST(SessionMemory, RefusesSizesThatAreAbsurd) {
  for (const std::uint32_t capacity : {0u, 1u, 3u, kMaxRingCapacity * 2, 0xFFFFFFFFu}) {
    EXPECT_ERROR(session_layout(capacity, kMinRequestBytes), Errc::invalid_argument);
  }
  for (const std::uint64_t bytes :
       {std::uint64_t{0}, kMinRequestBytes + 1, kMaxRequestBytes + kPage, ~std::uint64_t{0}}) {
    EXPECT_ERROR(session_layout(64, bytes), Errc::invalid_argument);
  }
}

TEST(SessionMemory, TheClientRefusesAShrunkOrUnsealedDescriptor) {
  const auto layout = session_layout(64, 1 << 20);
  ASSERT_OK(layout);
  Fd unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), static_cast<off_t>(layout->memory_bytes)), 0);
  EXPECT_ERROR(SessionMemory::attach(std::move(unsealed), 64, 1 << 20), Errc::peer_violation);
  auto small = create_memfd("test", layout->memory_bytes - kPage, Populate::no);
  ASSERT_OK(small);
  EXPECT_ERROR(SessionMemory::attach(std::move(*small), 64, 1 << 20), Errc::peer_violation);
}

}  // namespace
}  // namespace sluice::ipc
