// The coordinator and its memory: what is made without its lock, what fails, and when memory is
// back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/coordinator.h"
#include "daemon/health_watch.h"
#include "daemon/lane_session.h"
#include "daemon/metrics_source.h"
#include "tests/daemon/memfd_device.h"
#include "tests/daemon/test_session.h"
#include "tests/eventually.h"

namespace sluice::daemon {
namespace {

using ipc::CacheId;
using ipc::Errc;
using ipc::Tier;
using test::eventually;
using test::kDeadline;
using test::TestSession;
using ::testing::HasSubstr;

constexpr std::uint64_t kExtent = 64 << 10;
constexpr std::uint32_t kFramesPerExtent = 16;

// Memory that is made when the test lets it, and that can be missing.
class TestDevice final : public test::MemfdDevice {
 public:
  ipc::Result<ipc::Fd> allocate_extent(Tier tier, std::uint64_t bytes) override {
    std::unique_lock lock(mutex_);
    const int number = ++asked_[static_cast<int>(tier)];
    changed_.notify_all();
    changed_.wait_for(lock, kDeadline, [&] { return !closed_ || permits_ > 0; });
    if (permits_ > 0) --permits_;
    if (missing_ && missing_(tier, number)) return ipc::fail(Errc::no_memory, "the test took it");
    return MemfdDevice::allocate_extent(tier, bytes);
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
    return changed_.wait_for(lock, kDeadline,
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

struct ACoordinator : ::testing::Test {
  ACoordinator() {
    config.hbm = {.capacity_bytes = 64 * kExtent, .extent_bytes = kExtent};
    config.dram = {.capacity_bytes = 64 * kExtent, .extent_bytes = kExtent};
    for (const char* name : {"a", "b"}) {
      TenantConfig tenant;
      tenant.name = name;
      tenant.hbm.limit_bytes = config.hbm.capacity_bytes;
      tenant.dram.limit_bytes = config.dram.capacity_bytes;
      config.tenants.push_back(tenant);
    }
    config.limits.actors_per_cache = 4;
    auto made = std::make_unique<TestDevice>();
    device = made.get();
    coordinator = std::move(*Coordinator::create(config, one_device(std::move(made))));
  }
  ~ACoordinator() override {
    if (coordinator != nullptr) device->open();
  }

  std::shared_ptr<TestSession> session(std::uint32_t tenant = 0) {
    return std::make_shared<TestSession>(*coordinator, tenant);
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
    return coordinator->open_cache(session, wanted);
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
      (void)coordinator->close_cache(session, ipc::Handle{i, 1});
    }
  }
  void drop_idle_caches() {
    residency::EvictRequest all;
    all.drop_idle_caches = true;
    EXPECT_TRUE(coordinator->evict(all));
  }

  ipc::Handle sequence(TestSession& session, CacheId cache) {
    return coordinator->open_sequence(session.id, cache, {}, blocks)->sequence;
  }
  // As the client does.
  ipc::Result<std::uint32_t> extend(TestSession& session, CacheId cache, ipc::Handle sequence,
                                    std::uint32_t count) {
    ipc::Result<std::uint32_t> extended;
    eventually([&] {
      extended = coordinator->extend(session.id, cache, sequence, count, blocks);
      return extended || extended.error().code != Errc::busy;
    });
    return extended;
  }

  std::uint64_t used(Tier tier, std::uint32_t tenant = 0) {
    return coordinator->with_manager([&](auto& m) {
      const auto row = m.tenants()[tenant];
      return tier == Tier::hbm ? row.hbm.used_bytes : row.dram.used_bytes;
    });
  }
  std::uint64_t extents_failed() {
    return coordinator->with_manager([](auto& m) { return m.tenants()[0].dram.failed; });
  }
  static int extents_with_memory(const CacheMemory& memory) {
    std::uint32_t total = 0;
    int count = 0;
    for (const int fd : memory.extent_fds(Tier::dram, 0, 100, total)) {
      struct stat status{};
      EXPECT_EQ(fstat(fd, &status), 0);
      count += status.st_blocks != 0 ? 1 : 0;
    }
    return count;
  }
  std::size_t caches() {
    return coordinator->with_manager([](auto& m) { return m.caches().size(); });
  }

  Config config;
  TestDevice* device = nullptr;
  std::unique_ptr<Coordinator> coordinator;
  std::vector<residency::BlockRef> blocks;
};

// ---- opening

TEST_F(ACoordinator, MakesAnArenaWithoutItsLock) {
  const auto one = session();
  device->close();
  const auto wanted = opening(8, "m");
  ASSERT_EQ(try_open(*one, wanted)->has_value(), false);
  ASSERT_TRUE(device->is_asked_for(Tier::hbm, 1));
  // Answered while the device stands still; else this waits until the test is out of patience.
  auto asked = std::async(std::launch::async, [&] { return used(Tier::hbm); });
  ASSERT_EQ(asked.wait_for(kDeadline / 4), std::future_status::ready);
  EXPECT_EQ(asked.get(), 8 * kExtent) << "charged from the beginning";
  EXPECT_EQ(try_open(*one, wanted)->has_value(), false);
  EXPECT_EQ(coordinator->cache_memory(CacheId{0}), nullptr) << "nobody sees half a cache";
  device->open();
  const auto opened = finish(*one, wanted);
  ASSERT_TRUE(opened);
  EXPECT_TRUE(opened->created);
  EXPECT_EQ(device->asked(Tier::hbm), 8);
}

TEST_F(ACoordinator, TellsOfEachCacheThatWasMadeOrFreed) {
  std::atomic<int> told{0};
  coordinator->on_cache_change([&] { ++told; });
  const auto one = session();
  open(*one);
  EXPECT_EQ(told, 1);
  close_all(*one);
  drop_idle_caches();
  EXPECT_TRUE(eventually([&] { return told == 3; })) << "of its arena, and of its frames";
  device->fails_when([](Tier, int) { return true; });
  EXPECT_FALSE(finish(*one, opening(1, "another")));
  EXPECT_EQ(told, 4);
}

TEST_F(ACoordinator, FreesAnArenaThatCouldNotBeMadeAndSaysWhy) {
  const auto one = session();
  device->fails_when([](Tier, int number) { return number == 5; });
  const auto failed = finish(*one, opening(8, "m"));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Errc::no_memory);
  EXPECT_THAT(failed.error().text, HasSubstr("the test took it"));
  EXPECT_EQ(used(Tier::hbm), 0U);
  EXPECT_EQ(caches(), 0U);
  device->fails_when(nullptr);
  EXPECT_TRUE(finish(*one, opening(8, "m")));
}

TEST_F(ACoordinator, FreesAnArenaThatNobodyWaitsFor) {
  const auto one = session();
  device->close();
  const auto wanted = opening(8, "m");
  (void)try_open(*one, wanted);
  device->let(2);
  ASSERT_TRUE(device->is_asked_for(Tier::hbm, 3));
  coordinator->abandon_open(*one, *wanted);
  EXPECT_EQ(used(Tier::hbm), 8 * kExtent) << "until its memory is back";
  device->let(1);
  EXPECT_TRUE(eventually([&] { return caches() == 0; }));
  EXPECT_EQ(used(Tier::hbm), 0U);
  EXPECT_EQ(device->asked(Tier::hbm), 3) << "the rest was not begun";
}

TEST_F(ACoordinator, FreesACacheThatWasReadyBeforeNobodyWaited) {
  const auto one = session();
  const auto wanted = opening(2, "m");
  (void)try_open(*one, wanted);
  ASSERT_TRUE(eventually([&] { return coordinator->cache_memory(CacheId{0}) != nullptr; }));
  coordinator->abandon_open(*one, *wanted);
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
  coordinator->abandon_open(*one, *wanted);
  EXPECT_EQ(caches(), 1U);
  EXPECT_NE(coordinator->cache_memory(CacheId{0}), nullptr);
}

// ---- extents

TEST_F(ACoordinator, IsBusyWhileExtentsAreMade) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle grows = sequence(*one, cache);
  device->close();
  const auto first = coordinator->extend(one->id, cache, grows, kFramesPerExtent, blocks);
  ASSERT_FALSE(first);
  EXPECT_EQ(first.error().code, Errc::busy);
  ASSERT_TRUE(device->is_asked_for(Tier::dram, 1));
  auto again = std::async(std::launch::async, [&] {
    return coordinator->extend(one->id, cache, grows, 1, blocks).error().code;
  });
  ASSERT_EQ(again.wait_for(kDeadline / 4), std::future_status::ready) << "nobody waits for a lock";
  EXPECT_EQ(again.get(), Errc::busy);
  EXPECT_EQ(used(Tier::dram), kExtent) << "asked for once";
  device->open();
  EXPECT_TRUE(extend(*one, cache, grows, kFramesPerExtent));
}

TEST_F(ACoordinator, SaysOnceThatTheNodeHasNoExtent) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle grows = sequence(*one, cache);
  ASSERT_TRUE(extend(*one, cache, grows, 1));
  device->fails_when([](Tier tier, int number) { return tier == Tier::dram && number == 3; });
  // Four more: the first is made, the second is not, and the others are not tried.
  const auto failed = extend(*one, cache, grows, 4 * kFramesPerExtent);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Errc::no_memory);
  EXPECT_THAT(failed.error().text, HasSubstr("the test took it"));
  EXPECT_EQ(device->asked(Tier::dram), 3);
  EXPECT_EQ(used(Tier::dram), 2 * kExtent);
  EXPECT_EQ(extents_failed(), 3U) << "of the four";
  HealthWatch health(*coordinator, std::vector<std::string>(config.tenants.size()));
  const MetricsSnapshot metrics = collect_metrics(config, *coordinator, health);
  EXPECT_EQ(metrics.tenants[0].dram.allocation_failures.memory, 3U);

  EXPECT_TRUE(extend(*one, cache, grows, 4 * kFramesPerExtent)) << "and then tries again";
  const auto memory = coordinator->cache_memory(cache);
  std::uint32_t total = 0;
  EXPECT_EQ(memory->extent_fds(Tier::dram, 0, 100, total).size(), 5U) << "without a hole";
  EXPECT_EQ(total, 5U);
}

TEST_F(ACoordinator, ServesFromWhatThereIsAfterTheNodeHadNoExtent) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle grows = sequence(*one, cache);
  ASSERT_TRUE(extend(*one, cache, grows, 1));
  device->fails_when([](Tier tier, int) { return tier == Tier::dram; });
  (void)coordinator->extend(one->id, cache, grows, kFramesPerExtent, blocks);
  ASSERT_TRUE(eventually([&] { return used(Tier::dram) == kExtent; }));
  EXPECT_TRUE(coordinator->extend(one->id, cache, grows, 2, blocks)) << "needs no extent";
  EXPECT_EQ(coordinator->extend(one->id, cache, grows, kFramesPerExtent, blocks).error().code,
            Errc::no_memory)
      << "the first that needs one is told";
  EXPECT_EQ(coordinator->extend(one->id, cache, grows, kFramesPerExtent, blocks).error().code,
            Errc::busy);
}

TEST_F(ACoordinator, TellsNobodyOfAFailureThatIsLongPast) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle grows = sequence(*one, cache);
  device->fails_when([](Tier tier, int) { return tier == Tier::dram; });
  (void)coordinator->extend(one->id, cache, grows, 1, blocks);
  ASSERT_TRUE(eventually([&] { return extents_failed() == 1; }));
  const auto past = std::chrono::steady_clock::now() + std::chrono::milliseconds(1100);
  device->fails_when(nullptr);
  eventually([&] { return std::chrono::steady_clock::now() > past; });
  EXPECT_TRUE(extend(*one, cache, grows, 1));
}

TEST_F(ACoordinator, ForksInTurnsThatWaitForExtents) {
  const auto one = session();
  const CacheId cache = open(*one);
  const ipc::Handle parent = sequence(*one, cache);
  ASSERT_TRUE(extend(*one, cache, parent, kFramesPerExtent));
  device->close();
  std::vector<residency::ForkedBlock> copies;
  EXPECT_EQ(coordinator->fork(one->id, cache, parent, copies).error().code, Errc::busy);
  device->open();
  ASSERT_TRUE(
      eventually([&] { return coordinator->fork(one->id, cache, parent, copies).has_value(); }));
  EXPECT_EQ(copies.size(), kFramesPerExtent);
}

TEST_F(ACoordinator, GivesExtentsBackAndTakesThemAgain) {
  const auto one = session();
  const CacheId cache = open(*one);
  const auto memory = coordinator->cache_memory(cache);
  for (int round = 0; round < 3; ++round) {
    const ipc::Handle grows = sequence(*one, cache);
    ASSERT_TRUE(extend(*one, cache, grows, 3 * kFramesPerExtent));
    EXPECT_EQ(used(Tier::dram), 3 * kExtent);
    EXPECT_EQ(extents_with_memory(*memory), 3);
    ASSERT_TRUE(coordinator->release(one->id, grows));
    EXPECT_TRUE(eventually([&] {
      coordinator->tick();
      return used(Tier::dram) == kExtent;  // one stays, in reserve
    }));
    EXPECT_EQ(extents_with_memory(*memory), 1);
    EXPECT_EQ(memory->frame_extents(), 3U) << "their descriptors stay";
  }
  EXPECT_EQ(device->asked(Tier::dram), 3);
}

// ---- the end of a cache

TEST_F(ACoordinator, FreesNoCacheUnderAReader) {
  const auto one = session();
  const CacheId cache = open(*one, 4);
  auto reader = coordinator->cache_memory(cache);
  close_all(*one);
  drop_idle_caches();
  EXPECT_EQ(coordinator->cache_memory(cache), nullptr) << "for whoever asks from now on";
  const auto two = session(1);
  const auto wants_all = opening(64, "m");
  EXPECT_FALSE(try_open(*two, wants_all).value_or(OpenedCache{}).has_value());
  EXPECT_EQ(reader->scan()->free_slots, 4 * kExtent / 256);
  EXPECT_EQ(used(Tier::hbm), 4 * kExtent) << "granted to nobody while somebody reads it";
  reader.reset();
  EXPECT_TRUE(finish(*two, wants_all));
  EXPECT_EQ(used(Tier::hbm), 0U);
}

TEST_F(ACoordinator, CountsWhatACacheDidUntilItsEnd) {
  const auto one = session();
  const CacheId cache = open(*one);
  auto reader = coordinator->cache_memory(cache);
  close_all(*one);
  drop_idle_caches();
  // By somebody who was still at it.
  kernels::store_relaxed(
      &reader->table().header->forecast_wasted,
      std::remove_reference_t<decltype(reader->table().header->forecast_wasted)>{7});
  reader.reset();
  EXPECT_TRUE(eventually([&] { return caches() == 0; }));
  coordinator->with_manager([](auto& m) { EXPECT_EQ(m.tenants()[0].forecasts.wasted.pages, 7U); });
}

TEST_F(ACoordinator, FreesTheCachesOfADeadSessionForAnOpenThatWaits) {
  const auto one = session();
  const CacheId cache = open(*one, 60);
  EXPECT_TRUE(extend(*one, cache, sequence(*one, cache), 1));
  coordinator->end_session(one, true, std::chrono::steady_clock::now());
  const auto two = session();
  EXPECT_TRUE(finish(*two, opening(60, "next"))) << "though who had it is still known to somebody";
  EXPECT_EQ(used(Tier::hbm), 60 * kExtent);
  EXPECT_EQ(used(Tier::dram), 0U);
}

TEST_F(ACoordinator, MakesALaneLetGoOfACacheThatWasClosed) {
  const auto one = session();
  const ipc::Handle handle = finish(*one, opening(1, "m"))->handle;
  LaneSession lane(one, *coordinator);
  ipc::SubmissionProducer requests(one->memory.submission_ring());
  // A forecast of no lists, and something to do before the lane looks at it.
  for (const auto op : {ipc::wire::Op::forecast, ipc::wire::Op::nop}) {
    ASSERT_TRUE(*requests.push(ipc::wire::Submission(1, handle.bits(), 60'000'000,
                                                     static_cast<std::uint16_t>(op), 0, 0, 0, 0, 0,
                                                     1024, 1024, 0)));
  }
  (void)requests.publish();
  ASSERT_TRUE(*lane.serve(2));
  const auto closed = coordinator->close_cache(*one, handle);
  ASSERT_TRUE(closed);
  lane.forget_cache(*closed);
  drop_idle_caches();
  EXPECT_TRUE(eventually([&] { return caches() == 0; }));
}

}  // namespace
}  // namespace sluice::daemon
