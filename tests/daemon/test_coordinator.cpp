// The coordinator and its memory: what is made without its lock, what fails, and when memory is
// back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "daemon/coordinator.h"
#include "daemon/health_watch.h"
#include "daemon/lane_session.h"
#include "daemon/metrics_source.h"
#include "ipc/memfd.h"

namespace sluice::daemon {
namespace {

using ipc::CacheId;
using ipc::Errc;
using ipc::Tier;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kPatience{20};
constexpr std::uint64_t kExtent = 64 << 10;
constexpr std::uint32_t kFramesPerExtent = 16;

bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

// Memory that is made when the test lets it, and that can be missing.
class TestDevice final : public Device {
 public:
  ipc::Result<ipc::Fd> allocate_extent(Tier tier, std::uint64_t bytes) override {
    std::unique_lock lock(mutex_);
    const int number = ++asked_[static_cast<int>(tier)];
    changed_.notify_all();
    changed_.wait_for(lock, kPatience, [&] { return !closed_ || permits_ > 0; });
    if (permits_ > 0) --permits_;
    if (missing_ && missing_(tier, number)) return ipc::fail(Errc::no_memory, "the test took it");
    return ipc::create_memfd("sluice-test", bytes, ipc::Populate::yes);
  }
  ipc::Status refill_extent(Tier, const ipc::Fd& extent, std::uint64_t bytes) override {
    return ipc::populate_memfd(extent.get(), "sluice-test", 0, bytes);
  }
  ipc::Status map_extent(Tier, ipc::ReservedRange& range, std::uint64_t offset,
                         const ipc::Fd& extent, std::uint64_t bytes) override {
    return range.map_at(offset, extent.get(), 0, bytes, ipc::Access::read_write, "an extent");
  }

  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  void let(int extents) {
    const std::lock_guard lock(mutex_);
    permits_ += extents;
    changed_.notify_all();
  }
  void open() {
    const std::lock_guard lock(mutex_);
    closed_ = false;
    changed_.notify_all();
  }
  // Whether extent `number` of this tier, counted from 1, is asked for now or soon.
  bool is_asked_for(Tier tier, int number) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience,
                             [&] { return asked_[static_cast<int>(tier)] >= number; });
  }
  int asked(Tier tier) {
    const std::lock_guard lock(mutex_);
    return asked_[static_cast<int>(tier)];
  }
  void fails_when(std::function<bool(Tier tier, int number)> missing) {
    const std::lock_guard lock(mutex_);
    missing_ = std::move(missing);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  int permits_ = 0;
  int asked_[ipc::kTiers] = {};
  std::function<bool(Tier, int)> missing_;
};

struct TestSession : Session {
  TestSession(Coordinator& owner, std::uint32_t tenant_number) {
    tenant = ipc::TenantId{tenant_number};
    id = *owner.open_session(tenant);
    memory = std::move(*ipc::SessionMemory::create(64, 64 << 10));
    auto bells = ipc::make_doorbell();
    bell = std::move(bells->daemon_end);
  }
};

class ACoordinator : public ::testing::Test {
 protected:
  ACoordinator() {
    config_.hbm = {.capacity_bytes = 64 * kExtent, .extent_bytes = kExtent};
    config_.dram = {.capacity_bytes = 64 * kExtent, .extent_bytes = kExtent};
    for (const char* name : {"a", "b"}) {
      TenantConfig tenant;
      tenant.name = name;
      tenant.hbm.limit_bytes = config_.hbm.capacity_bytes;
      tenant.dram.limit_bytes = config_.dram.capacity_bytes;
      config_.tenants.push_back(tenant);
    }
    config_.limits.actors_per_cache = 4;
    auto device = std::make_unique<TestDevice>();
    device_ = device.get();
    coordinator_ = std::move(*Coordinator::create(config_, std::move(device)));
  }
  ~ACoordinator() override {
    if (coordinator_ != nullptr) device_->open();
  }

  std::shared_ptr<TestSession> session(std::uint32_t tenant = 0) {
    return std::make_shared<TestSession>(*coordinator_, tenant);
  }

  static std::shared_ptr<CacheOpening> opening(std::uint64_t extents, const std::string& model) {
    auto wanted = std::make_shared<CacheOpening>();
    wanted->request.model = model;
    wanted->request.layout = {2, 1, 16, 4, 2, 2, ipc::PageKind::layer};
    wanted->request.hbm_bytes = extents * kExtent;
    return wanted;
  }

  ipc::Result<std::optional<OpenedCache>> try_open(TestSession& session,
                                                   const std::shared_ptr<CacheOpening>& wanted) {
    return coordinator_->open_cache(session, wanted);
  }
  // As the server does, but for its waits.
  ipc::Result<OpenedCache> finish(TestSession& session,
                                  const std::shared_ptr<CacheOpening>& wanted) {
    ipc::Result<std::optional<OpenedCache>> opened;
    const bool done = eventually([&] {
      opened = try_open(session, wanted);
      return !opened || opened->has_value();
    });
    if (!done) return ipc::fail(Errc::timed_out, "never opened");
    if (!opened) return std::unexpected(opened.error());
    return std::move(**opened);
  }
  CacheId open(TestSession& session, std::uint64_t extents = 1, const std::string& model = "m") {
    auto opened = finish(session, opening(extents, model));
    EXPECT_TRUE(opened.has_value());
    return session.cache(opened->handle)->id;
  }
  void close_all(TestSession& session) {
    for (std::uint32_t i = 0; i < kMaxCachesPerSession; ++i) {
      (void)coordinator_->close_cache(session, ipc::Handle{i, 1});
    }
  }
  void drop_idle_caches() {
    residency::EvictRequest all;
    all.drop_idle_caches = true;
    EXPECT_TRUE(coordinator_->evict(all));
  }

  ipc::Handle sequence(TestSession& session, CacheId cache) {
    return coordinator_->open_sequence(session.id, cache, {}, blocks_)->sequence;
  }
  // As the client does.
  ipc::Result<std::uint32_t> extend(TestSession& session, CacheId cache, ipc::Handle sequence,
                                    std::uint32_t count) {
    ipc::Result<std::uint32_t> extended;
    eventually([&] {
      extended = coordinator_->extend(session.id, cache, sequence, count, blocks_);
      return extended || extended.error().code != Errc::busy;
    });
    return extended;
  }

  std::uint64_t used(Tier tier, std::uint32_t tenant = 0) {
    return coordinator_->with_manager([&](auto& m) {
      const auto row = m.tenants()[tenant];
      return tier == Tier::hbm ? row.hbm.used_bytes : row.dram.used_bytes;
    });
  }
  std::uint64_t extents_failed() {
    return coordinator_->with_manager([](auto& m) { return m.tenants()[0].dram.failed; });
  }
  std::size_t caches() {
    return coordinator_->with_manager([](auto& m) { return m.caches().size(); });
  }

  Config config_;
  TestDevice* device_ = nullptr;
  std::unique_ptr<Coordinator> coordinator_;
  std::vector<residency::BlockRef> blocks_;
};

// ---- opening

TEST_F(ACoordinator, MakesAnArenaWithoutItsLock) {
  const auto one = session();
  device_->close();
  const auto wanted = opening(8, "m");
  ASSERT_EQ(try_open(*one, wanted)->has_value(), false);
  ASSERT_TRUE(device_->is_asked_for(Tier::hbm, 1));
  // Answered while the device stands still; else this waits until the test is out of patience.
  auto asked = std::async(std::launch::async, [&] { return used(Tier::hbm); });
  ASSERT_EQ(asked.wait_for(kPatience / 4), std::future_status::ready);
  EXPECT_EQ(asked.get(), 8 * kExtent) << "charged from the beginning";
  EXPECT_EQ(try_open(*one, wanted)->has_value(), false);
  EXPECT_EQ(coordinator_->cache_memory(CacheId{0}), nullptr) << "nobody sees half a cache";
  device_->open();
  const auto opened = finish(*one, wanted);
  ASSERT_TRUE(opened);
  EXPECT_TRUE(opened->created);
  EXPECT_EQ(device_->asked(Tier::hbm), 8);
}

TEST_F(ACoordinator, TellsOfEachCacheThatWasMadeOrFreed) {
  std::atomic<int> told{0};
  coordinator_->on_cache_change([&] { ++told; });
  const auto one = session();
  open(*one);
  EXPECT_EQ(told, 1);
  close_all(*one);
  drop_idle_caches();
  EXPECT_TRUE(eventually([&] { return told == 2; }));
  device_->fails_when([](Tier, int) { return true; });
  EXPECT_FALSE(finish(*one, opening(1, "another")));
  EXPECT_EQ(told, 3);
}

TEST_F(ACoordinator, FreesAnArenaThatCouldNotBeMadeAndSaysWhy) {
  const auto one = session();
  device_->fails_when([](Tier, int number) { return number == 5; });
  const auto failed = finish(*one, opening(8, "m"));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Errc::no_memory);
  EXPECT_THAT(failed.error().text, HasSubstr("the test took it"));
  EXPECT_EQ(used(Tier::hbm), 0U);
  EXPECT_EQ(caches(), 0U);
  device_->fails_when(nullptr);
  EXPECT_TRUE(finish(*one, opening(8, "m")));
}

TEST_F(ACoordinator, FreesAnArenaThatNobodyWaitsFor) {
  const auto one = session();
  device_->close();
  const auto wanted = opening(8, "m");
  (void)try_open(*one, wanted);
  device_->let(2);
  ASSERT_TRUE(device_->is_asked_for(Tier::hbm, 3));
  coordinator_->abandon_open(*one, *wanted);
  EXPECT_EQ(used(Tier::hbm), 8 * kExtent) << "until its memory is back";
  device_->let(1);
  EXPECT_TRUE(eventually([&] { return caches() == 0; }));
  EXPECT_EQ(used(Tier::hbm), 0U);
  EXPECT_EQ(device_->asked(Tier::hbm), 3) << "the rest was not begun";
}

TEST_F(ACoordinator, FreesACacheThatWasReadyBeforeNobodyWaited) {
  const auto one = session();
  const auto wanted = opening(2, "m");
  (void)try_open(*one, wanted);
  ASSERT_TRUE(eventually([&] { return coordinator_->cache_memory(CacheId{0}) != nullptr; }));
  coordinator_->abandon_open(*one, *wanted);
  EXPECT_TRUE(eventually([&] { return caches() == 0; }));
}

TEST_F(ACoordinator, KeepsAnAbandonedCacheThatSomebodyElseHas) {
  const auto one = session();
  const auto two = session();
  const auto wanted = opening(2, "m");
  (void)try_open(*one, wanted);
  const auto shared = finish(*two, opening(2, "m"));
  ASSERT_TRUE(shared);
  EXPECT_FALSE(shared->created);
  coordinator_->abandon_open(*one, *wanted);
  EXPECT_EQ(caches(), 1U);
  EXPECT_NE(coordinator_->cache_memory(CacheId{0}), nullptr);
}

// ---- extents

TEST_F(ACoordinator, IsBusyWhileExtentsAreMade) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle grows = sequence(*one, cache);
  device_->close();
  const auto first = coordinator_->extend(one->id, cache, grows, kFramesPerExtent, blocks_);
  ASSERT_FALSE(first);
  EXPECT_EQ(first.error().code, Errc::busy);
  ASSERT_TRUE(device_->is_asked_for(Tier::dram, 1));
  EXPECT_EQ(coordinator_->extend(one->id, cache, grows, 1, blocks_).error().code, Errc::busy);
  EXPECT_EQ(used(Tier::dram), kExtent) << "asked for once";
  device_->open();
  EXPECT_TRUE(extend(*one, cache, grows, kFramesPerExtent));
}

TEST_F(ACoordinator, SaysOnceThatTheNodeHasNoExtent) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle grows = sequence(*one, cache);
  ASSERT_TRUE(extend(*one, cache, grows, 1));
  device_->fails_when([](Tier tier, int number) { return tier == Tier::dram && number == 3; });
  // Four more: the first is made, the second is not, and the others are not tried.
  const auto failed = extend(*one, cache, grows, 4 * kFramesPerExtent);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Errc::no_memory);
  EXPECT_THAT(failed.error().text, HasSubstr("the test took it"));
  EXPECT_EQ(device_->asked(Tier::dram), 3);
  EXPECT_EQ(used(Tier::dram), 2 * kExtent);
  EXPECT_EQ(extents_failed(), 3U) << "of the four";
  HealthWatch health(*coordinator_, config_.tenants.size());
  const MetricsSnapshot metrics = collect_metrics(config_, *coordinator_, health);
  EXPECT_EQ(metrics.tenants[0].dram.allocation_failures.memory, 3U);

  EXPECT_TRUE(extend(*one, cache, grows, 4 * kFramesPerExtent)) << "and then tries again";
  const auto memory = coordinator_->cache_memory(cache);
  std::uint32_t total = 0;
  EXPECT_EQ(memory->extent_fds(Tier::dram, 0, 100, total).size(), 5U) << "without a hole";
  EXPECT_EQ(total, 5U);
}

TEST_F(ACoordinator, ServesFromWhatThereIsAfterTheNodeHadNoExtent) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle grows = sequence(*one, cache);
  ASSERT_TRUE(extend(*one, cache, grows, 1));
  device_->fails_when([](Tier tier, int) { return tier == Tier::dram; });
  (void)coordinator_->extend(one->id, cache, grows, kFramesPerExtent, blocks_);
  ASSERT_TRUE(eventually([&] { return used(Tier::dram) == kExtent; }));
  EXPECT_TRUE(coordinator_->extend(one->id, cache, grows, 2, blocks_)) << "needs no extent";
  EXPECT_EQ(coordinator_->extend(one->id, cache, grows, kFramesPerExtent, blocks_).error().code,
            Errc::no_memory)
      << "the first that needs one is told";
  EXPECT_EQ(coordinator_->extend(one->id, cache, grows, kFramesPerExtent, blocks_).error().code,
            Errc::busy);
}

TEST_F(ACoordinator, TellsNobodyOfAFailureThatIsLongPast) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle grows = sequence(*one, cache);
  device_->fails_when([](Tier tier, int) { return tier == Tier::dram; });
  (void)coordinator_->extend(one->id, cache, grows, 1, blocks_);
  ASSERT_TRUE(eventually([&] { return extents_failed() == 1; }));
  const auto past = std::chrono::steady_clock::now() + std::chrono::milliseconds(1100);
  device_->fails_when(nullptr);
  eventually([&] { return std::chrono::steady_clock::now() > past; });
  EXPECT_TRUE(extend(*one, cache, grows, 1));
}

TEST_F(ACoordinator, ForksInTurnsThatWaitForExtents) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle parent = sequence(*one, cache);
  ASSERT_TRUE(extend(*one, cache, parent, kFramesPerExtent));
  device_->close();
  std::vector<residency::ForkedBlock> copies;
  EXPECT_EQ(coordinator_->fork(one->id, cache, parent, copies).error().code, Errc::busy);
  device_->open();
  ASSERT_TRUE(
      eventually([&] { return coordinator_->fork(one->id, cache, parent, copies).has_value(); }));
  EXPECT_EQ(copies.size(), kFramesPerExtent);
}

TEST_F(ACoordinator, GivesExtentsBackAndTakesThemAgain) {
  const auto one = session();
  const CacheId cache = open(*one);
  const auto memory = coordinator_->cache_memory(cache);
  for (int round = 0; round < 3; ++round) {
    const ipc::Handle grows = sequence(*one, cache);
    ASSERT_TRUE(extend(*one, cache, grows, 3 * kFramesPerExtent));
    EXPECT_EQ(used(Tier::dram), 3 * kExtent);
    ASSERT_TRUE(coordinator_->release(one->id, grows));
    EXPECT_TRUE(eventually([&] {
      coordinator_->tick();
      return used(Tier::dram) == kExtent;  // one stays, in reserve
    }));
    EXPECT_EQ(memory->frame_extents(), 3U) << "their descriptors stay";
  }
  EXPECT_EQ(device_->asked(Tier::dram), 3);
}

// ---- the end of a cache

TEST_F(ACoordinator, FreesNoCacheUnderAReader) {
  const auto one = session();
  const CacheId cache = open(*one, 4);
  auto reader = coordinator_->cache_memory(cache);
  close_all(*one);
  drop_idle_caches();
  EXPECT_EQ(coordinator_->cache_memory(cache), nullptr) << "for whoever asks from now on";
  const auto two = session(1);
  const auto wants_all = opening(64, "m");
  EXPECT_FALSE(try_open(*two, wants_all).value_or(OpenedCache{}).has_value());
  EXPECT_EQ(reader->scan().free_slots, 4 * kExtent / 256);
  EXPECT_EQ(used(Tier::hbm), 4 * kExtent) << "granted to nobody while somebody reads it";
  reader.reset();
  EXPECT_TRUE(finish(*two, wants_all));
  EXPECT_EQ(used(Tier::hbm), 0U);
}

TEST_F(ACoordinator, CountsWhatACacheDidUntilItsEnd) {
  const auto one = session();
  const CacheId cache = open(*one);
  auto reader = coordinator_->cache_memory(cache);
  close_all(*one);
  drop_idle_caches();
  // By somebody who was still at it.
  kernels::store_relaxed(
      &reader->table().header->forecast_wasted,
      std::remove_reference_t<decltype(reader->table().header->forecast_wasted)>{7});
  reader.reset();
  EXPECT_TRUE(eventually([&] { return caches() == 0; }));
  coordinator_->with_manager([](auto& m) { EXPECT_EQ(m.tenants()[0].forecasts.wasted.pages, 7U); });
}

TEST_F(ACoordinator, FreesTheCachesOfADeadSessionForAnOpenThatWaits) {
  const auto one = session();
  const CacheId cache = open(*one, 60);
  EXPECT_TRUE(extend(*one, cache, sequence(*one, cache), 1));
  coordinator_->end_session(one, true, std::chrono::steady_clock::now());
  const auto two = session();
  EXPECT_TRUE(finish(*two, opening(60, "next"))) << "though who had it is still known to somebody";
  EXPECT_EQ(used(Tier::hbm), 60 * kExtent);
  EXPECT_EQ(used(Tier::dram), 0U);
}

TEST_F(ACoordinator, MakesALaneLetGoOfACacheThatWasClosed) {
  const auto one = session();
  const ipc::Handle handle = finish(*one, opening(1, "m"))->handle;
  LaneSession lane(one, *coordinator_);
  ipc::SubmissionProducer requests(one->memory.submission_ring());
  // A forecast of no lists, and something to do before the lane looks at it.
  for (const auto op : {ipc::wire::Op::forecast, ipc::wire::Op::nop}) {
    ASSERT_TRUE(*requests.push(ipc::wire::Submission(1, handle.bits(), 60'000'000,
                                                     static_cast<std::uint16_t>(op), 0, 0, 0, 0, 0,
                                                     1024, 1024, 0)));
  }
  (void)requests.publish();
  ASSERT_TRUE(*lane.serve(2));
  const auto closed = coordinator_->close_cache(*one, handle);
  ASSERT_TRUE(closed);
  lane.forget_cache(*closed);
  drop_idle_caches();
  EXPECT_TRUE(eventually([&] { return caches() == 0; }));
}

}  // namespace
}  // namespace sluice::daemon
