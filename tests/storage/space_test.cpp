// Quotas, full devices, cleaning, and the bounds of what is written.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "storage/catalog.h"
#include "storage/job.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

constexpr std::uint64_t kBlock = 60 * kKiB;
constexpr std::uint64_t kRecord = kBlock + 4 * kKiB;
constexpr int kPerSegment = 15;  // of 1 MiB, with its page

class SpaceTest : public StoreTest {
 public:
  ~SpaceTest() override { store.reset(); }  // whose engine looks at `held`

 protected:
  static std::string name(int number) { return "key" + std::to_string(number); }
  static Payload payload(int number) {
    return Payload(kBlock, static_cast<std::uint64_t>(number) + 1);
  }
  void write_blocks(int from, int to) {
    for (int i = from; i < to; ++i) ASSERT_OK(write(name(i), payload(i)));
  }
  int count(int from, int to) {
    int found = 0;
    for (int i = from; i < to; ++i) found += find(name(i)).has_value() ? 1 : 0;
    return found;
  }
  // Requests of this kind get no answer while `held`. Before open().
  void may_hold(IoOp op) {
    break_device([this, op](const IoRequest& request, const Perform& perform) {
      return held && request.op == op ? kNoAnswer : perform(request);
    });
  }
  std::atomic<bool> held = false;

  std::uint64_t bytes_on_disk() const {
    std::uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory())) {
      struct stat status{};
      if (entry.is_regular_file() && stat(entry.path().c_str(), &status) == 0) {
        bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
      }
    }
    return bytes;
  }
};

TEST_F(SpaceTest, AFullQuotaDropsTheColdestOfTheTenant) {
  config.tenants = {{"t", 10 * kRecord, 1}};
  open();
  const NamespaceId other = intern("other");
  ASSERT_OK(write(other, "others", payload(0)));
  write_blocks(0, 10);
  EXPECT_EQ(count(0, 3), 3);  // a use
  write_blocks(10, 15);
  EXPECT_EQ(tenant().blocks, 10U);
  EXPECT_EQ(tenant().dropped_blocks, 5U);
  EXPECT_EQ(count(0, 3), 3);
  EXPECT_EQ(count(3, 8), 0);
  EXPECT_EQ(count(8, 15), 7);
  EXPECT_TRUE(find(other, "others"));
}

TEST_F(SpaceTest, AQuotaHoldsInTheNextRun) {
  config.tenants = {{"t", 10 * kRecord, 1}};
  open();
  write_blocks(0, 10);
  open();
  write_blocks(10, 12);
  EXPECT_EQ(tenant().blocks, 10U);
}

TEST_F(SpaceTest, ABlockThatNeverFitsItsQuotaIsRefused) {
  config.tenants = {{"t", kRecord - 1, 1}};
  open();
  EXPECT_ERROR(write("key", payload(0)), Errc::quota_exceeded);
  EXPECT_EQ(tenant().refused_writes, 1U);
}

TEST_F(SpaceTest, ALowerQuotaDropsTheColdestOfTheTenantAtOnce) {
  open();
  const NamespaceId other = intern("other");
  ASSERT_OK(write(other, "others", payload(0)));
  write_blocks(0, 20);
  EXPECT_EQ(tenant().limit_bytes, 16 * kMiB);
  EXPECT_EQ(count(0, 3), 3);  // a use
  ASSERT_OK(store->set_tenant({"t", 10 * kRecord, 1}));
  EXPECT_EQ(tenant().limit_bytes, 10 * kRecord);
  EXPECT_EQ(tenant().live_bytes, 10 * kRecord);
  EXPECT_EQ(tenant().dropped_blocks, 10U);
  EXPECT_EQ(count(0, 3), 3);
  EXPECT_EQ(count(3, 13), 0);
  EXPECT_EQ(count(13, 20), 7);
  EXPECT_TRUE(find(other, "others"));
  open();
  EXPECT_EQ(tenant().blocks, 10U);
}

TEST_F(SpaceTest, AQuotaThatIsRaisedHoldsForWhatComes) {
  config.tenants = {{"t", 5 * kRecord, 1}};
  open();
  write_blocks(0, 8);
  ASSERT_OK(store->set_tenant({"t", 8 * kRecord, 1}));
  write_blocks(8, 18);
  EXPECT_EQ(tenant().blocks, 8U);
  ASSERT_OK(store->set_tenant({"t", 0, 1}));
  write_blocks(18, 40);
  EXPECT_EQ(tenant().blocks, 30U);
}

TEST_F(SpaceTest, AQuotaOfATenantThatNobodyKnowsYetHoldsWhenItComes) {
  open();
  ASSERT_OK(store->set_tenant({"later", 2 * kRecord, 1}));
  EXPECT_EQ(tenant("later").limit_bytes, 2 * kRecord);
  const NamespaceId later = intern("later");
  for (int i = 0; i < 5; ++i) ASSERT_OK(write(later, name(i), payload(i)));
  EXPECT_EQ(tenant("later").blocks, 2U);
}

TEST_F(SpaceTest, AQuotaThatWasLoweredBetweenRunsHoldsFromTheStart) {
  open();
  write_blocks(0, 10);
  config.tenants = {{"t", 4 * kRecord, 1}};
  open();
  EXPECT_EQ(tenant().blocks, 4U);
  EXPECT_EQ(count(6, 10), 4);
  config.tenants.clear();
  open();
  EXPECT_EQ(tenant().blocks, 4U);
}

TEST_F(SpaceTest, ALowerQuotaHoldsAgainstWhatIsBeingWritten) {
  may_hold(IoOp::sync);
  open();
  held = true;
  const Payload one = payload(1);
  std::atomic<int> written = 0;
  for (int i = 0; i < 8; ++i) {
    store->write(own_scope, key_of(name(i)), one.bytes(), kBlock, IoClass::write_back,
                 [&](const Status& status) { written += status ? 1 : 0; });
  }
  ASSERT_OK(store->set_tenant({"t", 3 * kRecord, 1}));
  EXPECT_ERROR(write(name(8), one), Errc::quota_exceeded);
  held = false;
  ASSERT_OK(store->drain(kPatience));
  EXPECT_EQ(written, 8);
  EXPECT_EQ(tenant().blocks, 3U);
  EXPECT_EQ(tenant().dropped_blocks, 5U);
  EXPECT_OK(write(name(8), one));
}

TEST_F(SpaceTest, AQuotaOfTheWholeStoreDoesNotCountWhatWaitsToBeWritten) {
  config.tenants = {{"t", 16 * kMiB, 1}};
  may_hold(IoOp::sync);
  open();
  held = true;
  const Payload one = payload(1);
  std::atomic<int> over_quota = 0;
  for (int i = 0; i < 300; ++i) {  // of 256 that would fit
    store->write(own_scope, key_of(name(i)), one.bytes(), kBlock, IoClass::write_back,
                 [&](const Status& status) {
                   over_quota += !status && status.error().code == Errc::quota_exceeded ? 1 : 0;
                 });
  }
  held = false;
  ASSERT_OK(store->drain(kPatience));
  EXPECT_EQ(over_quota, 0);
}

TEST_F(SpaceTest, AQuotaMayBeLoweredByMoreThanATurn) {
  open();
  constexpr std::uint64_t kSmall = 4 * kKiB;
  constexpr std::size_t kMany = kDropsPerTurn * 5 / 4;
  const Payload one(kSmall, 1);
  for (std::size_t i = 0; i < kMany; ++i) {
    store->write(own_scope, key_of(name(static_cast<int>(i))), one.bytes(), kSmall,
                 IoClass::write_back, [](const Status&) {});
  }
  ASSERT_OK(store->drain(kPatience));
  ASSERT_EQ(tenant().blocks, kMany);
  ASSERT_OK(store->set_tenant({"t", 10 * 2 * kSmall, 1}));
  EXPECT_EQ(tenant().blocks, 10U);
}

// Reads that all wait in the device's queue, as many of one kind as of another.
class QueueTest : public SpaceTest {
 protected:
  static constexpr int kEach = 100;

  QueueTest() { may_hold(IoOp::read); }

  // A request of the first kind, or of the second.
  using Read = std::function<void(bool is_first, Payload& to, Done done)>;

  // How many of the first kind are among the first half of those that are served.
  int first_served(const Read& read, const std::function<void()>& once_queued = [] {}) {
    held = true;
    std::deque<Payload> memory;
    std::atomic<int> first = 0;
    std::atomic<int> all = 0;
    for (int i = 0; i < kEach; ++i) {
      for (const bool is_first : {true, false}) {
        read(is_first, memory.emplace_back(kBlock, 99), [&, is_first](const Status& status) {
          EXPECT_OK(status);
          if (++all <= kEach && is_first) ++first;
        });
      }
    }
    // But those that the engine has taken.
    wait_until([&] { return device().queued >= 2 * kEach - config.depth; });
    once_queued();
    held = false;
    EXPECT_OK(store->drain(kPatience));
    return first;
  }
};

TEST_F(QueueTest, AWeightThatChangesIsThatOfTheNextRequests) {
  open();
  const NamespaceId other = intern("other");
  ASSERT_OK(write(own_scope, "key", payload(0)));
  ASSERT_OK(write(other, "key", payload(0)));
  const auto block = find(own_scope, "key");
  const auto others = find(other, "key");
  ASSERT_TRUE(block && others);
  ASSERT_OK(store->set_tenant({"t", 0, 3}));
  const int heavy = first_served([&](bool is_heavy, Payload& to, Done done) {
    store->read(is_heavy ? own_scope : other, key_of("key"), is_heavy ? *block : *others, 0,
                to.memory(), IoClass::must_have, std::move(done));
  });
  EXPECT_NEAR(heavy, kEach * 0.75, 5);
}

// A step may be waiting for it by now.
TEST_F(QueueTest, AForecastIsServedAlsoWhileOthersAreUrgent) {
  config.depth = 1;
  open();
  ASSERT_OK(write(own_scope, "key", payload(0)));
  const auto block = find(own_scope, "key");
  ASSERT_TRUE(block);
  const int forecasts = first_served([&](bool is_forecast, Payload& to, Done done) {
    store->read(own_scope, key_of("key"), *block, 0, to.memory(),
                is_forecast ? IoClass::forecast : IoClass::must_have, std::move(done));
  });
  EXPECT_NEAR(forecasts, kEach * 0.25, 10);
}

TEST_F(QueueTest, AForecastThatSomebodyWaitsForIsHurried) {
  config.depth = 1;
  open();
  ASSERT_OK(write(own_scope, "key", payload(0)));
  ASSERT_OK(write(own_scope, "late", payload(1)));
  const auto block = find(own_scope, "key");
  const auto late = find(own_scope, "late");
  ASSERT_TRUE(block && late);
  const int hurried = first_served(
      [&](bool is_late, Payload& to, Done done) {
        store->read(own_scope, key_of(is_late ? "late" : "key"), is_late ? *late : *block, 0,
                    to.memory(), IoClass::forecast, std::move(done));
      },
      [&] {
        store->hurry(own_scope, key_of("late"));
        store->hurry(own_scope, key_of("nobody's"));
      });
  // But one of four is a forecast's.
  EXPECT_NEAR(hurried, kEach * 0.75, 10);
}

TEST_F(SpaceTest, AFullDeviceGoesOnWithTheNewest) {
  open();
  const int all = 16 * kPerSegment * 5 / 2;
  for (int i = 0; i < all; ++i) {
    ASSERT_OK(write(name(i), payload(i)));
    ASSERT_TRUE(holds(name(i), payload(i))) << i;
  }
  EXPECT_LE(device().live_bytes, device().capacity_bytes);
  EXPECT_LE(device().segment_count, 16U);
  EXPECT_EQ(count(all - kPerSegment, all), kPerSegment);
  EXPECT_GT(tenant().dropped_blocks, 0U);
  // Most of the device is used.
  EXPECT_GT(store->stats().blocks, 10U * kPerSegment);
}

TEST_F(SpaceTest, WhatIsUsedStaysWhenTheDeviceIsFull) {
  open();
  write_blocks(0, 20);
  for (int i = 20; i < 16 * kPerSegment * 5 / 2; ++i) {
    ASSERT_OK(write(name(i), payload(i)));
    if (i % 10 == 0) {
      ASSERT_EQ(count(0, 20), 20) << i;
    }
  }
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(holds(name(i), payload(i)));
  EXPECT_GT(device().cleaned_bytes, 0U);
}

TEST_F(SpaceTest, DeadSpaceIsCompactedAndNoBlockIsLost) {
  open();
  const int most = 12 * kPerSegment;
  write_blocks(0, most);
  // Every segment is half dead.
  for (int i = 0; i < most; i += 2) ASSERT_OK(store->forget(own_scope, key_of(name(i))));
  write_blocks(most, most + 4 * kPerSegment);
  EXPECT_EQ(tenant().dropped_blocks, 0U);
  for (int i = 1; i < most; i += 2) EXPECT_TRUE(holds(name(i), payload(i)));
  for (int i = most; i < most + 4 * kPerSegment; ++i) EXPECT_TRUE(holds(name(i), payload(i)));
  // And so it is in the next run.
  open();
  EXPECT_EQ(store->stats().blocks, most / 2 + 4U * kPerSegment);
  for (int i = 1; i < most; i += 2) EXPECT_TRUE(holds(name(i), payload(i)));
}

TEST_F(SpaceTest, MovedBlocksAreFoundWithoutTheIndex) {
  open();
  const int most = 12 * kPerSegment;
  write_blocks(0, most);
  for (int i = 0; i < most; i += 2) ASSERT_OK(store->forget(own_scope, key_of(name(i))));
  write_blocks(most, most + 4 * kPerSegment);
  ASSERT_GT(device().cleaned_bytes, 0U);
  close();
  std::filesystem::remove_all(directory() / "index");
  open();
  // Forgotten blocks came back, so that the device is full and some of all are dropped.
  int found = 0;
  for (int i = 0; i < most + 4 * kPerSegment; ++i) {
    if (!find(name(i))) continue;
    ++found;
    EXPECT_TRUE(holds(name(i), payload(i)));
  }
  EXPECT_GT(found, 10 * kPerSegment);
}

TEST_F(SpaceTest, AStaleBlockIsReadWhereItIsNow) {
  open();
  const int most = 12 * kPerSegment;
  write_blocks(0, most);
  const auto before = find(name(1));
  for (int i = 0; i < most; i += 2) ASSERT_OK(store->forget(own_scope, key_of(name(i))));
  write_blocks(most, most + 4 * kPerSegment);
  const auto after = find(name(1));
  ASSERT_TRUE(before && after);
  ASSERT_NE(before->sequence, after->sequence);
  Payload got(kBlock, 99);
  ASSERT_OK(read(own_scope, name(1), *before, 0, got.memory()));
  EXPECT_TRUE(std::ranges::equal(got.bytes(), payload(1).bytes()));
}

TEST_F(SpaceTest, FreedSpaceIsGivenBack) {
  open();
  const int most = 13 * kPerSegment;
  write_blocks(0, most);
  const std::uint64_t full = bytes_on_disk();
  for (int i = 0; i < most; ++i) ASSERT_OK(store->forget(own_scope, key_of(name(i))));
  wait_until([&] { return bytes_on_disk() < full; });
}

TEST_F(SpaceTest, TheBoundOfADayHoldsOverRuns) {
  config.write_bytes_per_day = 10 * kRecord;
  open();
  write_blocks(0, 6);
  open();
  write_blocks(6, 10);
  EXPECT_ERROR(write(name(10), payload(10)), Errc::limit_reached);
  EXPECT_EQ(tenant().refused_writes, 1U);
  // What exists costs nothing.
  EXPECT_OK(write(name(3), payload(3)));
}

TEST_F(SpaceTest, BlocksThatNobodyAskedForAgainDoNotTakeTheWholeDay) {
  config.write_bytes_per_day = 10 * kRecord;
  open();
  const auto write_as = [&](int i, Reuse reuse) {
    return write(own_scope, name(i), payload(i), reuse);
  };
  for (int i = 0; i < 5; ++i) ASSERT_OK(write_as(i, Reuse::unlikely));
  EXPECT_ERROR(write_as(5, Reuse::unlikely), Errc::busy);
  for (int i = 5; i < 10; ++i) ASSERT_OK(write_as(i, Reuse::likely));
  EXPECT_ERROR(write_as(10, Reuse::unlikely), Errc::limit_reached);
  EXPECT_ERROR(write_as(10, Reuse::likely), Errc::limit_reached);
}

TEST_F(SpaceTest, WhatWaitsToBeWrittenIsBounded) {
  config.queue_bytes = 4 * kBlock;
  may_hold(IoOp::write);
  open();
  held = true;
  std::atomic<int> written = 0;
  const Payload one = payload(1);
  for (int i = 0; i < 4; ++i) {
    store->write(own_scope, key_of(name(i)), one.bytes(), kBlock, IoClass::write_back,
                 [&](const Status& status) { written += status ? 1 : 0; });
  }
  EXPECT_ERROR(write(name(4), one), Errc::limit_reached);
  held = false;
  ASSERT_OK(store->drain(kPatience));
  EXPECT_EQ(written, 4);
  EXPECT_OK(write(name(4), one));
}

TEST_F(SpaceTest, AWriteOfTheSameKeyWaitsForTheFirst) {
  may_hold(IoOp::sync);
  open();
  held = true;
  const Payload one = payload(1);
  Answer first;
  Answer second;
  store->write(own_scope, key_of("key"), one.bytes(), kBlock, IoClass::write_back, first.done());
  store->write(own_scope, key_of("key"), one.bytes(), kBlock, IoClass::write_back, second.done());
  EXPECT_FALSE(find("key"));
  held = false;
  EXPECT_OK(first.wait());
  EXPECT_OK(second.wait());
  EXPECT_EQ(device().written_bytes, kRecord);
}

TEST_F(SpaceTest, ABlockForgottenWhileItIsWrittenDoesNotExist) {
  may_hold(IoOp::sync);
  open();
  held = true;
  const Payload one = payload(1);
  Answer answer;
  store->write(own_scope, key_of("key"), one.bytes(), kBlock, IoClass::write_back, answer.done());
  ASSERT_OK(store->forget(own_scope, key_of("key")));
  held = false;
  EXPECT_ERROR(answer.wait(), Errc::not_found);
  EXPECT_FALSE(find("key"));
  open();
  EXPECT_FALSE(find("key"));
}

TEST_F(SpaceTest, ABadConfigurationIsNamed) {
  config.devices[0].capacity_bytes = 3 * kMiB;
  EXPECT_ERROR(BlockStore::open(config), Errc::bad_config);
  config.devices[0].capacity_bytes = 16 * kMiB;
  config.part_bytes = 1000;
  EXPECT_ERROR(BlockStore::open(config), Errc::bad_config);
  config.part_bytes = 4 * kKiB;
  config.tenants = {{"t", 0, 0}};
  EXPECT_ERROR(BlockStore::open(config), Errc::bad_config);
  config.tenants.clear();
  config.devices.clear();
  EXPECT_ERROR(BlockStore::open(config), Errc::bad_config);
}

TEST_F(SpaceTest, ABadWeightChangesNothing) {
  open();
  for (const double weight : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                              std::numeric_limits<double>::infinity()}) {
    EXPECT_ERROR(store->set_tenant({"t", kRecord, weight}), Errc::bad_config);
  }
  EXPECT_EQ(tenant().weight, 1);
  EXPECT_EQ(tenant().limit_bytes, 16 * kMiB);
}

TEST_F(SpaceTest, ACloseAnswersEverything) {
  open();
  std::atomic<int> answered = 0;
  const Payload one = payload(1);
  for (int i = 0; i < 64; ++i) {
    store->write(own_scope, key_of(name(i)), one.bytes(), kBlock, IoClass::write_back,
                 [&](const Status&) { ++answered; });
  }
  close();
  EXPECT_EQ(answered, 64);
}

std::unique_ptr<Job> job(std::uint32_t tenant, double weight, std::span<std::byte> to,
                         IoClass io_class = IoClass::must_have) {
  auto made = std::make_unique<Job>();
  made->kind = Job::Kind::read;
  made->io_class = io_class;
  made->tenant = tenant;
  made->weight = weight;
  made->to = to;
  return made;
}

TEST(JobQueueTest, TenantsAreServedByWeight) {
  Payload memory(8 * kKiB, 1);
  JobQueue queue;
  for (int i = 0; i < 400; ++i) {
    queue.push(job(1, 3, memory.memory()));
    queue.push(job(2, 1, memory.memory()));
  }
  int heavy = 0;
  for (int i = 0; i < 100; ++i) heavy += queue.pop(IoClass::must_have)->tenant == 1 ? 1 : 0;
  EXPECT_NEAR(heavy, 75, 2);
}

TEST(JobQueueTest, WhoComesLateIsNotServedForThePast) {
  Payload memory(8 * kKiB, 1);
  JobQueue queue;
  for (int i = 0; i < 100; ++i) queue.push(job(1, 1, memory.memory()));
  for (int i = 0; i < 50; ++i) queue.pop(IoClass::must_have);
  for (int i = 0; i < 100; ++i) queue.push(job(2, 1, memory.memory()));
  int late = 0;
  for (int i = 0; i < 40; ++i) late += queue.pop(IoClass::must_have)->tenant == 2 ? 1 : 0;
  EXPECT_NEAR(late, 20, 2);
}

TEST(JobQueueTest, LargeBlocksCountAsWhatTheyAre) {
  Payload memory(64 * kKiB, 1);
  JobQueue queue;
  for (int i = 0; i < 400; ++i) {
    queue.push(job(1, 1, memory.memory()));
    queue.push(job(2, 1, memory.memory().first(8 * kKiB)));
  }
  int large = 0;
  for (int i = 0; i < 90; ++i) large += queue.pop(IoClass::must_have)->tenant == 1 ? 1 : 0;
  EXPECT_NEAR(large, 10, 2);
}

}  // namespace
}  // namespace sluice::storage
