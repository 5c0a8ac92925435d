// Faults as a test orders them, and what a power loss may take.
#include "storage/testing/faulty_engine.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>
#include <set>

#include "tests/storage/io_support.h"

namespace sluice::storage {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::uint32_t kInFlight = 8;
constexpr std::size_t kPiece = 4 * kIoAlign;
constexpr std::int64_t kWhole = kPiece;

std::size_t differing_bits(std::span<const std::byte> left, std::span<const std::byte> right) {
  EXPECT_EQ(left.size(), right.size());
  std::size_t bits = 0;
  for (std::size_t i = 0; i < left.size(); ++i) {
    bits += static_cast<std::size_t>(std::popcount(std::to_integer<unsigned>(left[i] ^ right[i])));
  }
  return bits;
}

// How many first bytes of the two are the same.
std::size_t common_prefix(std::span<const std::byte> left, std::span<const std::byte> right) {
  return static_cast<std::size_t>(std::ranges::mismatch(left, right).in1 - left.begin());
}

// A block that holds pattern 1, durably, and more room behind it.
class FaultyEngineTest : public testing::Test {
 protected:
  void SetUp() override {
    start();
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
  }

  void start() {
    auto real = make_io_engine(IoKind::automatic, kInFlight);
    ASSERT_OK(real);
    engine = make_faulty_engine(std::move(*real), faults);
    const auto registered = engine->register_file(disk.fd());
    ASSERT_OK(registered);
    file = *registered;
  }

  // Ends the engine, loses power, and starts another one.
  PowerLoss lose_power(std::uint64_t seed) {
    engine.reset();
    const PowerLoss loss = faults->lose_power(seed);
    start();
    return loss;
  }

  std::int64_t write(std::uint64_t offset, std::uint64_t seed) {
    fill(memory.piece(0, kPiece), seed);
    const auto result = run(*engine, write_request(file, offset, memory.piece(0, kPiece)));
    // The caller's memory is only read.
    EXPECT_EQ(copy_of(memory.piece(0, kPiece)), pattern(kPiece, seed));
    return result;
  }

  std::int64_t read(std::uint64_t offset = 0) {
    fill(memory.piece(kPiece, kPiece), 99);
    return run(*engine, read_request(file, offset, memory.piece(kPiece, kPiece)));
  }

  std::span<const std::byte> was_read() const { return memory.piece(kPiece, kPiece); }

  DiskFolder folder;
  DiskFile disk{folder.path() / "segment"};
  IoMemory memory{kInFlight * kPiece};
  std::shared_ptr<FaultyDisk> faults = std::make_shared<FaultyDisk>(7);
  std::unique_ptr<IoEngine> engine;
  IoFile file;
};

TEST_F(FaultyEngineTest, AnIoErrorDoesNothingAndIsOver) {
  faults->add({.fault = Fault::io_error, .op = IoOp::write});
  EXPECT_EQ(write(0, 2), -EIO);
  EXPECT_EQ(disk.content(), pattern(kPiece, 1));
  EXPECT_EQ(write(0, 2), kWhole);
  EXPECT_EQ(disk.content(), pattern(kPiece, 2));
  EXPECT_EQ(faults->injected(Fault::io_error), 1u);
}

TEST_F(FaultyEngineTest, AnyOpCanFail) {
  faults->add({.fault = Fault::io_error, .count = kEveryTime});
  EXPECT_EQ(write(0, 2), -EIO);
  EXPECT_EQ(read(), -EIO);
  EXPECT_EQ(run(*engine, sync_request(file)), -EIO);
  EXPECT_EQ(run(*engine, discard_request(file, 0, kPiece)), -EIO);
  EXPECT_EQ(faults->injected(Fault::io_error), 4u);
  faults->clear();
  EXPECT_EQ(read(), kWhole);
  EXPECT_EQ(copy_of(was_read()), pattern(kPiece, 1));
}

TEST_F(FaultyEngineTest, ARuleCountsTheRequestsThatMatchIt) {
  DiskFile log(folder.path() / "log");
  const auto other = engine->register_file(log.fd());
  ASSERT_OK(other);
  faults->add({.fault = Fault::io_error,
               .op = IoOp::write,
               .path_part = "segment",
               .from_offset = kPiece,
               .to_offset = 2 * kPiece,
               .first = 2,
               .count = 2});
  const auto beyond = [&](IoFile to, std::uint64_t offset) {
    return run(*engine, write_request(to, offset, memory.piece(0, kPiece)));
  };
  EXPECT_EQ(beyond(file, kPiece), kWhole);  // the first that matches
  EXPECT_EQ(beyond(file, 0), kWhole);       // before the range
  EXPECT_EQ(beyond(file, 2 * kPiece), kWhole);
  EXPECT_EQ(beyond(*other, kPiece), kWhole);
  EXPECT_EQ(read(kPiece), kWhole);
  EXPECT_EQ(beyond(file, kPiece + kIoAlign), -EIO);
  EXPECT_EQ(beyond(file, 2 * kPiece - kIoAlign), -EIO);
  EXPECT_EQ(beyond(file, kPiece), kWhole);
  EXPECT_EQ(faults->injected(Fault::io_error), 2u);
}

TEST_F(FaultyEngineTest, ARuleMayGoOnForEver) {
  faults->add({.fault = Fault::io_error, .op = IoOp::sync, .first = 3, .count = kEveryTime});
  for (const std::int64_t expected : {0, 0, -EIO, -EIO, -EIO}) {
    EXPECT_EQ(run(*engine, sync_request(file)), expected);
  }
}

TEST_F(FaultyEngineTest, TheSameSeedDrawsTheSameFaults) {
  const auto draws = [](std::uint64_t seed) {
    FaultPlan plan(seed);
    plan.add({.fault = Fault::io_error, .count = kEveryTime, .probability = 0.25});
    IoRequest request;
    request.length = kPiece;
    std::vector<bool> fired(1000);
    std::generate(fired.begin(), fired.end(),
                  [&] { return plan.decide(request, "").fault.has_value(); });
    return fired;
  };
  EXPECT_EQ(draws(1), draws(1));
  EXPECT_NE(draws(1), draws(2));
  const auto count = std::ranges::count(draws(1), true);
  EXPECT_GT(count, 150);
  EXPECT_LT(count, 350);
}

TEST_F(FaultyEngineTest, AFullDiskRefusesWritesOnly) {
  faults->add({.fault = Fault::no_space, .count = kEveryTime});
  EXPECT_EQ(write(0, 2), -ENOSPC);
  EXPECT_EQ(disk.content(), pattern(kPiece, 1));
  EXPECT_EQ(read(), kWhole);
  EXPECT_EQ(run(*engine, sync_request(file)), 0);
}

TEST_F(FaultyEngineTest, AShortReadGivesWholeSectorsAndGarbageBehind) {
  faults->add({.fault = Fault::short_transfer, .op = IoOp::read});
  const std::int64_t result = read();
  EXPECT_GT(result, 0);
  EXPECT_LT(result, kWhole);
  EXPECT_EQ(result % std::int64_t{kSectorBytes}, 0);
  EXPECT_EQ(common_prefix(was_read(), pattern(kPiece, 1)), static_cast<std::size_t>(result));
}

TEST_F(FaultyEngineTest, AShortWriteSaysHowFarItCame) {
  faults->add({.fault = Fault::short_transfer, .op = IoOp::write});
  const std::int64_t result = write(0, 2);
  EXPECT_GT(result, 0);
  EXPECT_LT(result, kWhole);
  const auto content = disk.content();
  EXPECT_EQ(common_prefix(content, pattern(kPiece, 2)), static_cast<std::size_t>(result));
  const auto old = pattern(kPiece, 1);
  EXPECT_TRUE(std::equal(content.begin() + result, content.end(), old.begin() + result));
}

TEST_F(FaultyEngineTest, ATornWriteIsAcknowledgedWhole) {
  faults->add({.fault = Fault::torn_write});
  EXPECT_EQ(write(0, 2), kWhole);
  const auto content = disk.content();
  const auto kept = static_cast<std::ptrdiff_t>(common_prefix(content, pattern(kPiece, 2)));
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, kWhole);
  EXPECT_EQ(kept % std::ptrdiff_t{kSectorBytes}, 0);
  const auto old = pattern(kPiece, 1);
  EXPECT_TRUE(std::equal(content.begin() + kept, content.end(), old.begin() + kept));
}

TEST_F(FaultyEngineTest, ALostWriteIsAcknowledgedAndNotThere) {
  faults->add({.fault = Fault::lost, .op = IoOp::write});
  EXPECT_EQ(write(0, 2), kWhole);
  EXPECT_EQ(disk.content(), pattern(kPiece, 1));
}

TEST_F(FaultyEngineTest, OneBitOfAReadIsWrongAndTheDiskIsRight) {
  faults->add({.fault = Fault::flip_read});
  EXPECT_EQ(read(), kWhole);
  EXPECT_EQ(differing_bits(was_read(), pattern(kPiece, 1)), 1u);
  EXPECT_EQ(disk.content(), pattern(kPiece, 1));
  EXPECT_EQ(read(), kWhole);
  EXPECT_EQ(copy_of(was_read()), pattern(kPiece, 1));
}

TEST_F(FaultyEngineTest, OneBitOfAWriteIsWrongOnTheDisk) {
  faults->add({.fault = Fault::flip_write});
  EXPECT_EQ(write(0, 2), kWhole);
  EXPECT_EQ(differing_bits(disk.content(), pattern(kPiece, 2)), 1u);
}

TEST_F(FaultyEngineTest, AStalledAnswerComesLateAndHoldsNobodyUp) {
  constexpr milliseconds kStall{150};
  faults->add({.fault = Fault::stall, .op = IoOp::read, .delay = kStall});
  const auto begin = steady_clock::now();
  const IoRequest requests[] = {read_request(file, 0, memory.piece(0, kPiece), 1),
                                read_request(file, 0, memory.piece(kPiece, kPiece), 2)};
  ASSERT_EQ(engine->submit(requests), 2u);
  EXPECT_TRUE(reap_all(*engine, 1).contains(2)) << "the one that is not stalled comes first";
  EXPECT_TRUE(reap_all(*engine, 1).contains(1));
  EXPECT_GE(steady_clock::now() - begin, kStall);
  EXPECT_EQ(faults->injected(Fault::stall), 1u);
}

TEST_F(FaultyEngineTest, AWakeEndsTheWaitForAStalledAnswer) {
  faults->add({.fault = Fault::stall, .op = IoOp::read, .delay = std::chrono::hours(1)});
  const IoRequest request = read_request(file, 0, memory.piece(0, kPiece));
  ASSERT_EQ(engine->submit({&request, 1}), 1u);
  IoAnswer answer;
  engine->wake();
  EXPECT_EQ(engine->reap({&answer, 1}, std::chrono::minutes(30)), 0u);  // or the test hangs
}

TEST_F(FaultyEngineTest, ADeviceThatVanishedAnswersNothingElseUntilPowerWasLost) {
  faults->add({.fault = Fault::vanish, .op = IoOp::write, .first = 2});
  EXPECT_EQ(write(0, 2), kWhole);
  EXPECT_EQ(write(0, 3), -ENODEV);
  EXPECT_EQ(read(), -ENODEV);
  faults->clear();
  EXPECT_EQ(run(*engine, sync_request(file)), -ENODEV);
  EXPECT_EQ(faults->injected(Fault::vanish), 3u);
  lose_power(1);
  EXPECT_EQ(read(), kWhole);
}

TEST_F(FaultyEngineTest, ADeviceVanishesOnCommand) {
  faults->vanish();
  EXPECT_EQ(read(), -ENODEV);
  EXPECT_EQ(write(0, 2), -ENODEV);
  EXPECT_EQ(disk.content(), pattern(kPiece, 1));
}

// Overlapping writes in flight have no defined outcome: a store that does it has a bug.
TEST_F(FaultyEngineTest, WritesInFlightThatOverlapAreABug) {
  const IoRequest requests[] = {
      write_request(file, 0, memory.piece(0, kPiece), 1),
      write_request(file, kPiece - kIoAlign, memory.piece(kPiece, kPiece), 2)};
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // there are threads of the real engine
  EXPECT_DEATH(engine->submit(requests), "overlaps_change");
}

using PowerLossTest = FaultyEngineTest;

TEST_F(PowerLossTest, TakesNothingThatASyncMadeDurable) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    ASSERT_EQ(write(0, seed), kWhole);
    ASSERT_EQ(write(kPiece, seed + 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    const PowerLoss loss = lose_power(seed);
    EXPECT_EQ(loss.kept + loss.dropped + loss.torn, 0u);
    ASSERT_EQ(read(0), kWhole);
    EXPECT_EQ(copy_of(was_read()), pattern(kPiece, seed));
    ASSERT_EQ(read(kPiece), kWhole);
    EXPECT_EQ(copy_of(was_read()), pattern(kPiece, seed + 1));
  }
}

TEST_F(PowerLossTest, HasNothingToTakeFromADiskThatWasToLoseNone) {
  engine.reset();
  faults = std::make_shared<FaultyDisk>(7, Power::stays);
  start();
  ASSERT_EQ(write(0, 2), kWhole);
  const PowerLoss loss = lose_power(1);
  EXPECT_EQ(loss.kept + loss.dropped + loss.torn, 0u);
  EXPECT_EQ(disk.content(), pattern(kPiece, 2));
}

TEST_F(PowerLossTest, KeepsDropsOrTearsWhatNoSyncMadeDurable) {
  const auto old = pattern(kPiece, 1);
  const auto young = pattern(kPiece, 2);
  PowerLoss total;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    ASSERT_EQ(write(0, 2), kWhole);
    const PowerLoss loss = lose_power(seed);
    ASSERT_EQ(loss.kept + loss.dropped + loss.torn, 1u);
    const auto content = disk.content();
    ASSERT_EQ(content.size(), kPiece);
    EXPECT_EQ(loss.kept == 1, content == young);
    if (loss.dropped == 1) {
      EXPECT_EQ(content, old);
    }
    for (std::size_t at = 0; at < kPiece; at += kSectorBytes) {
      const auto sector = std::span(content).subspan(at, kSectorBytes);
      EXPECT_TRUE(std::ranges::equal(sector, std::span(old).subspan(at, kSectorBytes)) ||
                  std::ranges::equal(sector, std::span(young).subspan(at, kSectorBytes)));
    }
    total.kept += loss.kept;
    total.dropped += loss.dropped;
    total.torn += loss.torn;
  }
  EXPECT_GT(total.kept, 0u);
  EXPECT_GT(total.dropped, 0u);
  EXPECT_GT(total.torn, 0u);
}

TEST_F(PowerLossTest, TheSameSeedTakesTheSame) {
  std::set<std::vector<std::byte>> contents;
  for (const std::uint64_t seed : {5, 5, 5}) {
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    ASSERT_EQ(write(0, 2), kWhole);
    lose_power(seed);
    contents.insert(disk.content());
  }
  EXPECT_EQ(contents.size(), 1u);
}

TEST_F(PowerLossTest, AFileThatGrewIsAsShortAsBeforeIfItsWriteIsDropped) {
  std::set<std::uintmax_t> sizes;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    ASSERT_EQ(ftruncate(disk.fd(), kPiece), 0);
    ASSERT_EQ(write(kPiece, 2), kWhole);
    const PowerLoss loss = lose_power(seed);
    const auto size = disk.content().size();
    if (loss.dropped == 1) {
      EXPECT_EQ(size, kPiece);
    }
    if (loss.kept == 1) {
      EXPECT_EQ(size, 2 * kPiece);
    }
    sizes.insert(size);
  }
  EXPECT_GE(sizes.size(), 2u);
}

TEST_F(PowerLossTest, ASyncIsForTheWritesThatWereAnsweredBeforeIt) {
  bool lost = false;
  for (std::uint64_t seed = 1; seed <= 20 && !lost; ++seed) {
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    fill(memory.piece(0, kPiece), 2);
    // The write is answered while the sync runs.
    faults->add({.fault = Fault::stall, .op = IoOp::sync, .delay = milliseconds(20)});
    const IoRequest requests[] = {write_request(file, 0, memory.piece(0, kPiece), 1),
                                  sync_request(file, 2)};
    ASSERT_EQ(engine->submit(requests), 2u);
    // A machine may be so slow that it is not, which shows nothing.
    const bool in_order = reap_all(*engine, 1).contains(1);
    ASSERT_EQ(reap_all(*engine, 1).size(), 1u);
    faults->clear();
    lose_power(seed);
    lost = in_order && disk.content() != pattern(kPiece, 2);
  }
  EXPECT_TRUE(lost);
}

TEST_F(PowerLossTest, AWriteInFlightWhenTheEngineEndsMayBeThereOrNot) {
  bool there = false;
  bool missing = false;
  for (std::uint64_t seed = 1; seed <= 40 && !(there && missing); ++seed) {
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    fill(memory.piece(0, kPiece), 2);
    const IoRequest request = write_request(file, 0, memory.piece(0, kPiece));
    ASSERT_EQ(engine->submit({&request, 1}), 1u);
    lose_power(seed);
    there = there || disk.content() == pattern(kPiece, 2);
    missing = missing || disk.content() == pattern(kPiece, 1);
  }
  EXPECT_TRUE(missing);
  EXPECT_TRUE(there);
}

TEST_F(PowerLossTest, AFailedSyncTakesItsWritesWithIt) {
  bool lost = false;
  for (std::uint64_t seed = 1; seed <= 20 && !lost; ++seed) {
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    ASSERT_EQ(write(0, 2), kWhole);
    faults->add({.fault = Fault::io_error, .op = IoOp::sync});
    ASSERT_EQ(run(*engine, sync_request(file)), -EIO);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);  // too late for that write
    faults->clear();
    lose_power(seed);
    lost = disk.content() != pattern(kPiece, 2);
  }
  EXPECT_TRUE(lost);
}

TEST_F(PowerLossTest, ALostSyncMakesNothingDurable) {
  bool lost = false;
  for (std::uint64_t seed = 1; seed <= 20 && !lost; ++seed) {
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    ASSERT_EQ(write(0, 2), kWhole);
    faults->add({.fault = Fault::lost, .op = IoOp::sync});
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    faults->clear();
    lose_power(seed);
    lost = disk.content() != pattern(kPiece, 2);
  }
  EXPECT_TRUE(lost);
}

// The older write is not durable, for its sync failed; the younger one over it is.
TEST_F(PowerLossTest, WhatIsDroppedDoesNotTakeAYoungerDurableWriteWithIt) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    ASSERT_EQ(write(0, 2), kWhole);
    ASSERT_EQ(write(kPiece, 3), kWhole);
    faults->add({.fault = Fault::io_error, .op = IoOp::sync});
    ASSERT_EQ(run(*engine, sync_request(file)), -EIO);
    ASSERT_EQ(write(kPiece / 2, 4), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    const PowerLoss loss = lose_power(seed);
    ASSERT_EQ(loss.kept + loss.dropped + loss.torn, 2u);
    ASSERT_EQ(read(kPiece / 2), kWhole);
    EXPECT_EQ(copy_of(was_read()), pattern(kPiece, 4));
  }
}

TEST_F(PowerLossTest, OfTwoWritesToOnePlaceEitherMaySurvive) {
  // None of them, the older, the younger.
  std::set<std::vector<std::byte>> missing = {pattern(kPiece, 1), pattern(kPiece, 2),
                                              pattern(kPiece, 3)};
  for (std::uint64_t seed = 1; seed <= 60 && !missing.empty(); ++seed) {
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    ASSERT_EQ(write(0, 2), kWhole);
    ASSERT_EQ(write(0, 3), kWhole);
    lose_power(seed);
    missing.erase(disk.content());
  }
  EXPECT_TRUE(missing.empty());
}

TEST_F(PowerLossTest, WhatWasDiscardedMayBeBack) {
  bool back = false;
  bool gone = false;
  for (std::uint64_t seed = 1; seed <= 40 && !(back && gone); ++seed) {
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    ASSERT_EQ(run(*engine, discard_request(file, 0, kPiece)), 0);
    lose_power(seed);
    back = back || disk.content() == pattern(kPiece, 1);
    gone = gone || disk.content() == std::vector<std::byte>(kPiece);
  }
  EXPECT_TRUE(back);
  EXPECT_TRUE(gone);
}

TEST_F(PowerLossTest, AFileThatWasUnregisteredAndIsRegisteredAgainIsRemembered) {
  bool lost = false;
  for (std::uint64_t seed = 1; seed <= 20 && !lost; ++seed) {
    ASSERT_EQ(write(0, 1), kWhole);
    ASSERT_EQ(run(*engine, sync_request(file)), 0);
    ASSERT_EQ(write(0, 2), kWhole);
    engine->unregister_file(file);
    const auto again = engine->register_file(disk.fd());
    ASSERT_OK(again);
    file = *again;
    if (seed % 2 == 0) {
      ASSERT_EQ(run(*engine, sync_request(file)), 0);
    }
    lose_power(seed);
    const bool whole = disk.content() == pattern(kPiece, 2);
    if (seed % 2 == 0) {
      EXPECT_TRUE(whole);
    }
    lost = lost || !whole;
  }
  EXPECT_TRUE(lost);
}

}  // namespace
}  // namespace sluice::storage
