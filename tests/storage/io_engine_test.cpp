// What every io engine promises, and how one is chosen.
#include "storage/io_engine.h"

#include <gmock/gmock.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <thread>

#include "storage/testing/faulty_engine.h"
#include "tests/storage/io_support.h"

namespace sluice::storage {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::uint32_t kDepth = 8;
constexpr std::size_t kBlock = 16 * kIoAlign;
constexpr microseconds kForever = microseconds::max();

struct Kind {
  const char* name;
  Result<std::unique_ptr<IoEngine>> (*make)(std::uint32_t depth);
};

std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

class IoEngineTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    auto made = GetParam().make(kDepth);
    if (!made && made.error().code == Errc::not_supported) GTEST_SKIP() << made.error().text;
    ASSERT_OK(made);
    engine = std::move(*made);
    auto registered = engine->register_file(disk.fd());
    ASSERT_OK(registered);
    file = *registered;
  }

  // Writes of one page each, side by side; tags from 0 on.
  std::vector<IoRequest> page_writes(std::size_t count) const {
    std::vector<IoRequest> requests(count);
    for (std::size_t i = 0; i < count; ++i) {
      requests[i] = write_request(file, i * kIoAlign, memory.piece(i * kIoAlign, kIoAlign), i);
    }
    return requests;
  }

  DiskFolder folder;
  DiskFile disk{folder.path() / "file"};
  IoMemory memory{kDepth * 2 * kBlock};
  std::unique_ptr<IoEngine> engine;
  IoFile file;
};

TEST_P(IoEngineTest, ReadsBackWhatItWrote) {
  const auto from = memory.piece(0, kBlock);
  const auto to = memory.piece(kBlock, kBlock);
  fill(from, 1);
  EXPECT_EQ(run(*engine, write_request(file, 2 * kBlock, from)), std::int64_t{kBlock});
  EXPECT_EQ(run(*engine, read_request(file, 2 * kBlock, to)), std::int64_t{kBlock});
  EXPECT_EQ(copy_of(to), copy_of(from));
  EXPECT_EQ(run(*engine, read_request(file, 0, to)), std::int64_t{kBlock});
  EXPECT_EQ(copy_of(to), std::vector<std::byte>(kBlock)) << "the hole before it";
}

TEST_P(IoEngineTest, AnswersEachOfManyRequestsOnceWithItsOwnTag) {
  constexpr std::uint64_t kRounds = 20;
  std::uint64_t tag = std::numeric_limits<std::uint64_t>::max();  // any number may be a tag
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    std::vector<IoRequest> requests;
    for (std::uint64_t i = 0; i < kDepth; ++i) {
      fill(memory.piece(i * kBlock, kBlock), round * kDepth + i);
      // Each of another length, so that an answer with another's tag shows.
      const std::size_t bytes = (i + 1) * kIoAlign;
      requests.push_back(write_request(file, i * kBlock, memory.piece(i * kBlock, bytes), tag - i));
    }
    ASSERT_EQ(engine->submit(requests), kDepth);
    const auto results = reap_all(*engine, kDepth);
    for (std::uint64_t i = 0; i < kDepth; ++i) {
      ASSERT_EQ(results.at(tag - i), static_cast<std::int64_t>((i + 1) * kIoAlign));
    }
    tag -= kDepth;
  }
}

TEST_P(IoEngineTest, TakesNoMoreThanItsDepthUntilAnswersAreReaped) {
  EXPECT_EQ(engine->depth(), kDepth);
  const auto requests = page_writes(2 * kDepth);
  EXPECT_EQ(engine->submit(requests), kDepth);
  EXPECT_EQ(engine->submit(requests), 0u);
  EXPECT_EQ(reap_all(*engine, 3).size(), 3u);
  EXPECT_EQ(engine->submit(std::span(requests).subspan(kDepth)), 3u);
  EXPECT_EQ(engine->submit(std::span(requests).subspan(kDepth + 3)), 0u);
  EXPECT_EQ(reap_all(*engine, kDepth).size(), kDepth);
}

TEST_P(IoEngineTest, SyncAndDiscardAnswerZero) {
  fill(memory.piece(0, kBlock), 1);
  EXPECT_EQ(run(*engine, write_request(file, 0, memory.piece(0, kBlock))), std::int64_t{kBlock});
  EXPECT_EQ(run(*engine, sync_request(file, 9)), 0);
  EXPECT_EQ(run(*engine, discard_request(file, 0, kIoAlign)), 0);
}

TEST_P(IoEngineTest, WhatIsDiscardedReadsAsZeroGivesItsBlocksBackAndLeavesTheRest) {
  fill(memory.piece(0, kBlock), 1);
  ASSERT_EQ(run(*engine, write_request(file, 0, memory.piece(0, kBlock))), std::int64_t{kBlock});
  ASSERT_EQ(run(*engine, sync_request(file)), 0);
  const std::uint64_t before = disk.allocated_bytes();
  ASSERT_EQ(run(*engine, discard_request(file, kIoAlign, kBlock - 2 * kIoAlign)), 0);
  EXPECT_LE(disk.allocated_bytes(), before - (kBlock - 2 * kIoAlign));
  auto expected = pattern(kBlock, 1);
  std::fill(expected.begin() + kIoAlign, expected.end() - kIoAlign, std::byte{0});
  EXPECT_EQ(disk.content(), expected);
}

TEST_P(IoEngineTest, AReadAcrossTheEndIsShortAndOneBehindItIsEmpty) {
  ASSERT_EQ(run(*engine, write_request(file, 0, memory.piece(0, kIoAlign))),
            std::int64_t{kIoAlign});
  EXPECT_EQ(run(*engine, read_request(file, 0, memory.piece(0, kBlock))), std::int64_t{kIoAlign});
  EXPECT_EQ(run(*engine, read_request(file, kBlock, memory.piece(0, kBlock))), 0);
}

TEST_P(IoEngineTest, AnErrorIsTheNegativeNumberOfTheSystemCall) {
  const int read_only = open((folder.path() / "file").c_str(), O_RDONLY | O_CLOEXEC);
  const auto registered = engine->register_file(read_only);
  ASSERT_OK(registered);
  EXPECT_EQ(run(*engine, write_request(*registered, 0, memory.piece(0, kBlock))), -EBADF);
  EXPECT_EQ(run(*engine, discard_request(*registered, 0, kBlock)), -EBADF);
  engine->unregister_file(*registered);
  close(read_only);
  if (!disk.direct()) return;
  EXPECT_EQ(run(*engine, write_request(file, 1, memory.piece(0, kBlock))), -EINVAL);
}

TEST_P(IoEngineTest, RegisteredMemoryServesRequestsInAndAcrossItAndAfterItIsUnregistered) {
  ASSERT_OK(engine->register_memory(memory.piece(0, kBlock)));
  ASSERT_OK(engine->register_memory(memory.piece(kBlock, kBlock)));
  ASSERT_OK(engine->register_memory(memory.piece(3 * kBlock, kBlock)));
  engine->unregister_memory(memory.data() + 2 * kBlock);  // that is none
  // Inside one, from one into the next, from the last one out.
  const std::size_t places[] = {kIoAlign, kBlock / 2, 3 * kBlock + kBlock / 2};
  for (int registered = 1; registered >= 0; --registered) {
    std::uint64_t seed = 10;
    for (const std::size_t place : places) {
      const auto piece = memory.piece(place, kBlock);
      fill(piece, ++seed);
      ASSERT_EQ(run(*engine, write_request(file, 0, piece)), std::int64_t{kBlock});
      fill(piece, 0);
      ASSERT_EQ(run(*engine, read_request(file, 0, piece)), std::int64_t{kBlock});
      EXPECT_EQ(copy_of(piece), pattern(kBlock, seed));
    }
    if (registered == 0) break;
    for (const std::size_t block : {0, 1, 3})
      engine->unregister_memory(memory.data() + block * kBlock);
  }
}

// A table that keeps the old pages would write into them.
TEST_P(IoEngineTest, MemoryThatIsMappedAnewAtAnAddressOfBeforeIsRegisteredAnew) {
  const auto piece = memory.piece(0, kBlock);
  for (std::uint64_t round = 0; round < 3; ++round) {
    ASSERT_OK(engine->register_memory(piece));
    fill(piece, round);
    ASSERT_EQ(run(*engine, write_request(file, 0, piece)), std::int64_t{kBlock});
    EXPECT_EQ(disk.content(), pattern(kBlock, round));
    engine->unregister_memory(piece.data());
    ASSERT_NE(mmap(piece.data(), kBlock, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
              MAP_FAILED);
  }
}

// A long piece of memory that costs little: the same pages again and again.
class LongMemory {
 public:
  static constexpr std::size_t kChunk = std::size_t{16} << 20;
  static constexpr std::size_t kBytes = (std::size_t{1} << 30) + kChunk;

  LongMemory() {
    const int fd = memfd_create("pages", MFD_CLOEXEC);
    EXPECT_EQ(ftruncate(fd, kChunk), 0);
    for (std::size_t at = 0; at < kBytes; at += kChunk) {
      EXPECT_NE(
          mmap(space_.data() + at, kChunk, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0),
          MAP_FAILED);
    }
    close(fd);
  }
  std::span<std::byte> all() const { return space_.all(); }

 private:
  IoMemory space_{kBytes};
};

TEST_P(IoEngineTest, APieceOfMemoryMayBeLongerThanTheKernelTakesAtOnce) {
  const LongMemory large;
  // The memlock limit may forbid it: its halves, which are not too long, tell.
  const auto halves = {large.all().first(LongMemory::kBytes / 2),
                       large.all().subspan(LongMemory::kBytes / 2)};
  bool allowed = true;
  for (const auto half : halves) {
    if (!engine->register_memory(half)) allowed = false;
  }
  for (const auto half : halves) engine->unregister_memory(half.data());
  const Status registered = engine->register_memory(large.all());
  EXPECT_EQ(registered.has_value(), allowed);
  const auto piece = large.all().subspan((std::size_t{1} << 30) - kIoAlign, kBlock);
  fill(piece, 3);
  EXPECT_EQ(run(*engine, write_request(file, 0, piece)), std::int64_t{kBlock});
  EXPECT_EQ(disk.content(), pattern(kBlock, 3));
  engine->unregister_memory(large.all().data());
}

TEST_P(IoEngineTest, FilesHaveTheirOwnContentAndAPlaceIsUsedAgain) {
  DiskFile other(folder.path() / "other");
  for (std::uint64_t round = 0; round < 3; ++round) {
    const auto registered = engine->register_file(other.fd());
    ASSERT_OK(registered);
    EXPECT_NE(registered->index, file.index);
    fill(memory.piece(0, kBlock), 2 * round);
    fill(memory.piece(kBlock, kBlock), 2 * round + 1);
    ASSERT_EQ(run(*engine, write_request(file, 0, memory.piece(0, kBlock))), std::int64_t{kBlock});
    ASSERT_EQ(run(*engine, write_request(*registered, 0, memory.piece(kBlock, kBlock))),
              std::int64_t{kBlock});
    EXPECT_EQ(disk.content(), pattern(kBlock, 2 * round));
    EXPECT_EQ(other.content(), pattern(kBlock, 2 * round + 1));
    engine->unregister_file(*registered);
  }
}

TEST_P(IoEngineTest, FilesAreBoundedAndTheTextSaysSo) {
  std::vector<IoFile> files;
  while (files.size() + 1 < kMaxIoFiles) {
    const auto registered = engine->register_file(disk.fd());
    ASSERT_OK(registered);
    files.push_back(*registered);
  }
  EXPECT_EQ(run(*engine, sync_request(files.back())), 0);
  const auto refused = engine->register_file(disk.fd());
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Errc::limit_reached);
  EXPECT_THAT(refused.error().text, testing::HasSubstr(std::to_string(kMaxIoFiles)));
  engine->unregister_file(files.back());
  EXPECT_TRUE(engine->register_file(disk.fd()).has_value());
}

TEST_P(IoEngineTest, WithoutADescriptorThereIsNoFile) {
  const auto refused = engine->register_file(-1);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Errc::invalid_argument);
}

TEST_P(IoEngineTest, AReapWithNothingToComeEndsAtItsTimeout) {
  IoAnswer answer;
  EXPECT_EQ(engine->reap({&answer, 1}, microseconds(0)), 0u);
  EXPECT_EQ(engine->reap({&answer, 1}, microseconds(-1)), 0u);
  const auto begin = steady_clock::now();
  EXPECT_EQ(engine->reap({&answer, 1}, milliseconds(20)), 0u);
  EXPECT_GE(steady_clock::now() - begin, milliseconds(20));
}

TEST_P(IoEngineTest, AWakeBeforeAReapEndsThatOneAndOnlyThat) {
  IoAnswer answer;
  engine->wake();
  engine->wake();
  EXPECT_EQ(engine->reap({&answer, 1}, kForever), 0u);  // or the test hangs
  const auto begin = steady_clock::now();
  EXPECT_EQ(engine->reap({&answer, 1}, milliseconds(20)), 0u);
  EXPECT_GE(steady_clock::now() - begin, milliseconds(20));
}

TEST_P(IoEngineTest, EachWakeFromAnotherThreadEndsAReap) {
  constexpr int kRounds = 200;
  std::atomic<int> woken = 0;
  std::thread waker([&] {
    for (int round = 0; round < kRounds; ++round) {
      if (!test::eventually([&] { return woken == round; })) return;
      engine->wake();
    }
  });
  IoAnswer answer;
  for (int round = 0; round < kRounds; ++round) {
    EXPECT_EQ(engine->reap({&answer, 1}, kForever), 0u);
    ++woken;
  }
  waker.join();
}

TEST_P(IoEngineTest, WakesDoNotDisturbRequests) {
  std::atomic<bool> stop = false;
  std::thread waker([&] {
    while (!stop) engine->wake();
  });
  for (std::uint64_t round = 0; round < 100; ++round) {
    ASSERT_EQ(engine->submit(page_writes(kDepth)), kDepth);
    ASSERT_EQ(reap_all(*engine, kDepth).size(), kDepth);
  }
  stop = true;
  waker.join();
}

// The store opens on one thread and serves on another.
TEST_P(IoEngineTest, AnotherThreadMayTakeItOver) {
  fill(memory.piece(0, kBlock), 1);
  std::thread([&] {
    IoAnswer answer;
    EXPECT_EQ(engine->reap({&answer, 1}, milliseconds(1)), 0u);
    EXPECT_EQ(run(*engine, write_request(file, 0, memory.piece(0, kBlock))), std::int64_t{kBlock});
  }).join();
  EXPECT_EQ(run(*engine, read_request(file, 0, memory.piece(kBlock, kBlock))),
            std::int64_t{kBlock});
  EXPECT_EQ(copy_of(memory.piece(kBlock, kBlock)), pattern(kBlock, 1));
  const auto begin = steady_clock::now();
  IoAnswer answer;
  while (steady_clock::now() - begin < milliseconds(20)) {
    EXPECT_EQ(engine->reap({&answer, 1}, milliseconds(20)), 0u);
  }
  engine->wake();
  EXPECT_EQ(engine->reap({&answer, 1}, kForever), 0u);
}

TEST_P(IoEngineTest, WhenItIsGoneNothingTouchesMemoryAnyMore) {
  ASSERT_EQ(run(*engine, write_request(file, 0, memory.all())),
            static_cast<std::int64_t>(memory.all().size()));
  for (int round = 0; round < 20; ++round) {
    auto made = GetParam().make(kDepth);
    ASSERT_OK(made);
    const auto registered = (*made)->register_file(disk.fd());
    ASSERT_OK(registered);
    std::vector<IoRequest> requests(kDepth);
    for (std::uint64_t i = 0; i < kDepth; ++i) {
      requests[i] = read_request(*registered, i * kBlock, memory.piece(i * kBlock, kBlock), i);
    }
    ASSERT_EQ((*made)->submit(requests), kDepth);
    made->reset();
    // The file has zeros.
    fill(memory.all(), 7);
    EXPECT_EQ(copy_of(memory.all()), pattern(memory.all().size(), 7));
  }
}

Result<std::unique_ptr<IoEngine>> make_threads(std::uint32_t depth) {
  return make_io_engine(IoKind::threads, depth);
}

Result<std::unique_ptr<IoEngine>> make_uring(std::uint32_t depth) {
  return make_io_engine(IoKind::io_uring, depth);
}

Result<std::unique_ptr<IoEngine>> make_faultless(std::uint32_t depth) {
  auto real = make_io_engine(IoKind::automatic, depth);
  if (!real) return real;
  return make_faulty_engine(std::move(*real), std::make_shared<FaultyDisk>(1));
}

INSTANTIATE_TEST_SUITE_P(Engines, IoEngineTest,
                         testing::Values(Kind{"threads", make_threads},
                                         Kind{"io_uring", make_uring},
                                         Kind{"faulty_without_faults", make_faultless}),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST(MakeIoEngineTest, RefusesADepthThatIsNone) {
  for (const IoKind kind : {IoKind::automatic, IoKind::io_uring, IoKind::threads}) {
    for (const std::uint32_t depth : {0u, kMaxIoDepth + 1}) {
      const auto refused = make_io_engine(kind, depth);
      ASSERT_FALSE(refused.has_value());
      EXPECT_EQ(refused.error().code, Errc::invalid_argument);
      EXPECT_THAT(refused.error().text, testing::HasSubstr(std::to_string(depth)));
    }
  }
}

TEST(MakeIoEngineTest, TheGreatestDepthWorks) {
  for (const IoKind kind : {IoKind::automatic, IoKind::threads}) {
    const auto made = make_io_engine(kind, kMaxIoDepth);
    ASSERT_OK(made);
    DiskFolder folder;
    const DiskFile disk(folder.path() / "file");
    const auto file = (*made)->register_file(disk.fd());
    ASSERT_OK(file);
    const IoMemory memory(kIoAlign);
    std::vector<IoRequest> requests;
    for (std::uint64_t i = 0; i <= kMaxIoDepth; ++i) {
      requests.push_back(read_request(*file, 0, memory.piece(0, kIoAlign), i));
    }
    EXPECT_EQ((*made)->submit(requests), kMaxIoDepth);
    EXPECT_EQ(reap_all(**made, kMaxIoDepth).size(), kMaxIoDepth);
  }
}

TEST(MakeIoEngineTest, SaysTheNameAndWhyItIsNotIoUring) {
  const auto threads = make_io_engine(IoKind::threads, kDepth);
  ASSERT_OK(threads);
  EXPECT_EQ((*threads)->name(), "threads");

  const auto uring = make_io_engine(IoKind::io_uring, kDepth);
  std::string why;
  const auto automatic = make_io_engine(IoKind::automatic, kDepth, &why);
  ASSERT_OK(automatic);
  EXPECT_EQ((*automatic)->name(), uring ? "io_uring" : "threads");
  EXPECT_EQ(why, uring ? "" : uring.error().text);
}

// As many containers do.
void forbid_io_uring() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter = {std::size(program), program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) std::perror("no_new_privs");
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) std::perror("seccomp");
}

[[noreturn]] void tell_engines_without_io_uring() {
  forbid_io_uring();
  std::string why;
  const auto automatic = make_io_engine(IoKind::automatic, kDepth, &why);
  const auto uring = make_io_engine(IoKind::io_uring, kDepth);
  std::cerr << (automatic ? (*automatic)->name() : "none") << ", since " << why
            << "; asked for: " << (uring ? "made" : ipc::to_string(uring.error().code)) << "\n";
  std::_Exit(0);
}

TEST(MakeIoEngineTest, FallsBackToThreadsWhereIoUringIsForbidden) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(tell_engines_without_io_uring(), testing::ExitedWithCode(0),
              "threads, since .*not permitted.*seccomp.*asked for: not_supported");
}

}  // namespace
}  // namespace sluice::storage
