// The coordinator with a GPU's HBM, on a fake device: who may open what, how large extents are, and
// that nothing is used again before the device has let go of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "daemon/coordinator.h"
#include "ipc/mapping.h"
#include "kernels/pins.h"
#include "kernels/steps.h"
#include "tests/daemon/fake_device.h"
#include "tests/daemon/fake_sysfs.h"
#include "tests/daemon/split_parts.h"
#include "tests/daemon/test_session.h"
#include "tests/eventually.h"

namespace sluice::daemon {
namespace {

using ipc::CacheId;
using ipc::Errc;
using ipc::Tier;
using ipc::wire::Executor;
using test::eventually;
using test::FakeDevice;
using test::kFakeGranularity;
using test::Request;
using test::TestSession;
using ::testing::HasSubstr;

constexpr std::uint64_t kDramExtent = 64 << 10;
constexpr std::uint32_t kBlocks = 16;  // frames of the one DRAM extent that there is

// What the node's and the device's part of a cache's table look like to an engine.
class Engine : public test::SplitParts {
 public:
  using SplitParts::SplitParts;

  // Puts a page of each block into a slot, as in a step that is over.
  void cache(const std::vector<residency::BlockRef>& blocks) const {
    const kernels::Step step = kernels::enter_step(table, 0);
    for (const residency::BlockRef& block : blocks) {
      const kernels::Page page = kernels::page_number(table, block.id.value, 0);
      const kernels::Slot slot = kernels::claim_pinned(table, table.sizes.slots, page, step);
      EXPECT_TRUE(kernels::seal_pin(table, slot, page, step));
    }
    kernels::leave_step(table, 0);
  }
  std::uint32_t pages_of(ipc::BlockId block) const {
    std::uint32_t pages = 0;
    for (std::uint32_t i = 0; i < table.sizes.slots; ++i) {
      const kernels::Page page = kernels::page_of(kernels::load_acquire(&table.words[i]));
      pages += page < table.pages && kernels::block_of(table, page) == block.value ? 1 : 0;
    }
    return pages;
  }
  std::uint32_t cached_pages() const {
    std::uint32_t pages = 0;
    for (std::uint32_t i = 0; i < table.sizes.slots; ++i) {
      pages += kernels::is_free(kernels::load_acquire(&table.words[i])) ? 0 : 1;
    }
    return pages;
  }
};

struct ACudaCoordinator : ::testing::Test {
  explicit ACudaCoordinator(std::vector<std::string> devices = {"0"}) {
    config.backend.kind = BackendKind::cuda;
    config.backend.devices = std::move(devices);
    config.backend.device_worker = FakeDevice::program();
    config.hbm = {.capacity_bytes = 64 << 20, .extent_bytes = 1 << 20};
    config.dram = {.capacity_bytes = kDramExtent, .extent_bytes = kDramExtent};
    config.dram.huge_pages = HugePages::never;
    TenantConfig tenant;
    tenant.name = "a";
    tenant.hbm.limit_bytes = config.hbm.capacity_bytes;
    tenant.dram.limit_bytes = config.dram.capacity_bytes;
    config.tenants.push_back(tenant);
    config.limits.actors_per_cache = 4;
    coordinator = std::move(*Coordinator::create(config, std::move(*make_devices(config))));
  }
  ~ACudaCoordinator() override { device->of(device->held, Request::Work) = 0; }

  // On a device of a GPU.
  static std::shared_ptr<CacheOpening> opening(std::uint32_t gpu = 0, std::uint32_t index = 0) {
    const device_worker::Uuid uuid = test::fake_uuid(gpu);
    auto wanted = std::make_shared<CacheOpening>();
    wanted->request.model = "m";
    wanted->request.layout = {2, 1, 16, 4, 2, 2, ipc::PageKind::layer};
    wanted->request.hbm_bytes = 4 << 20;
    wanted->request.executor = Executor::direct;
    wanted->request.device_type = 2;
    wanted->request.device_uuid.assign(reinterpret_cast<const char*>(uuid.data()), uuid.size());
    wanted->request.device_index = index;
    return wanted;
  }

  ipc::Result<OpenedCache> open(TestSession& session, const std::shared_ptr<CacheOpening>& wanted) {
    ipc::Result<std::optional<OpenedCache>> opened;
    const bool done = eventually([&] {
      opened = coordinator->open_cache(session, wanted);
      return !opened || opened->has_value();
    });
    if (!done) return ipc::fail(Errc::timed_out, "never opened");
    if (!opened) return std::unexpected(opened.error());
    return std::move(**opened);
  }

  std::string refusal(const std::shared_ptr<CacheOpening>& wanted) {
    TestSession session(*coordinator);
    auto opened = open(session, wanted);
    EXPECT_FALSE(opened);
    if (opened) return "";
    EXPECT_EQ(opened.error().code, Errc::not_supported);
    return opened.error().text;
  }

  // As the client and the daemon's timer do.
  ipc::Result<std::uint32_t> extend(TestSession& session, CacheId cache, ipc::Handle sequence,
                                    std::uint32_t count) {
    ipc::Result<std::uint32_t> extended;
    eventually([&] {
      extended = coordinator->extend(session.id, cache, sequence, count, blocks);
      (void)coordinator->tick();
      return extended || extended.error().code != Errc::busy;
    });
    return extended;
  }

  mutable FakeDevice device;
  Config config;
  std::unique_ptr<Coordinator> coordinator;
  std::vector<residency::BlockRef> blocks;
};

TEST_F(ACudaCoordinator, OpensCachesOfItsGpuForDirectExecutors) {
  TestSession session(*coordinator);
  const auto opened = open(session, opening());
  ASSERT_TRUE(opened) << opened.error().text;
  const CacheShape& shape = opened->memory->shape();
  EXPECT_EQ(shape.sizes.slot_extent_bytes, kFakeGranularity) << "1 MiB was configured";
  EXPECT_EQ(shape.sizes.slot_extents, 2U);
  EXPECT_GT(shape.device_table_bytes, 0U);
  ASSERT_NE(coordinator->gpu(ipc::DeviceId{0}), nullptr);
  EXPECT_EQ(coordinator->gpu(ipc::DeviceId{0})->name, "Fake GPU");
}

TEST_F(ACudaCoordinator, RefusesWhatItHasNot) {
  auto wanted = opening();
  wanted->request.device_type = 0;
  wanted->request.device_uuid.clear();
  EXPECT_THAT(refusal(wanted), HasSubstr("open the cache with device_type 2"));

  wanted = opening();
  wanted->request.device_uuid[0] = 'x';
  EXPECT_THAT(refusal(wanted), HasSubstr("arenas are on Fake GPU (GPU-fa4e0102-"));

  wanted = opening();
  wanted->request.device_uuid.clear();
  EXPECT_THAT(refusal(wanted), HasSubstr("another GPU"));

  wanted = opening();
  wanted->request.executor = Executor::daemon;
  EXPECT_THAT(refusal(wanted), HasSubstr("open the cache with executor direct"));
}

TEST(AHostCoordinator, RefusesCachesOfAGpu) {
  Config config;
  config.hbm = config.dram = {.capacity_bytes = 1 << 20, .extent_bytes = 64 << 10};
  TenantConfig tenant;
  tenant.name = "a";
  tenant.hbm.limit_bytes = tenant.dram.limit_bytes = 1 << 20;
  config.tenants.push_back(tenant);
  const auto coordinator =
      std::move(*Coordinator::create(config, std::move(*make_devices(config))));
  TestSession session(*coordinator);
  const auto opened = coordinator->open_cache(session, ACudaCoordinator::opening());
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Errc::not_supported);
  EXPECT_THAT(opened.error().text, HasSubstr("this daemon runs the host backend"));
}

TEST_F(ACudaCoordinator, RefusesPagesThatFitIntoNoExtent) {
  auto wanted = opening();
  // 2 x 16 x 4,097 x 16 bytes: of the factors of 2 MiB it has few, so that a whole number of both
  // takes 8 GiB.
  wanted->request.layout = {1, 1, 4097, 16, 16, 2, ipc::PageKind::layer};
  TestSession session(*coordinator);
  const auto opened = open(session, wanted);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Errc::invalid_layout);
  EXPECT_THAT(opened.error().text, HasSubstr("a page size with a larger power of two in it"));
}

// Grace, then the scan of the device, then another life for the id.
TEST_F(ACudaCoordinator, UsesAnIdAgainWhenTheDeviceHasDroppedItsPages) {
  TestSession session(*coordinator);
  const auto opened = open(session, opening());
  ASSERT_TRUE(opened);
  const CacheId cache = session.cache(opened->handle)->id;
  const Engine engine(*opened->memory);
  const ipc::Handle sequence = coordinator->open_sequence(session.id, cache, {}, blocks)->sequence;
  ASSERT_TRUE(extend(session, cache, sequence, kBlocks));
  engine.cache(blocks);
  ASSERT_EQ(engine.cached_pages(), kBlocks);

  device->of(device->held, Request::Work) = 1;
  ASSERT_TRUE(coordinator->truncate(session.id, sequence, 0));
  ASSERT_TRUE(eventually([&] {
    (void)coordinator->tick();
    return device->of(device->asked, Request::Work) == 1;
  }));
  for (int i = 0; i < 3; ++i) {
    (void)coordinator->tick();
    const auto early = coordinator->extend(session.id, cache, sequence, kBlocks, blocks);
    ASSERT_FALSE(early) << "the device still has pages of these ids";
    EXPECT_EQ(early.error().code, Errc::busy);
  }
  EXPECT_EQ(engine.cached_pages(), kBlocks);
  device->of(device->held, Request::Work) = 0;
  ASSERT_TRUE(extend(session, cache, sequence, kBlocks));
  EXPECT_EQ(engine.cached_pages(), 0U);
}

// Whatever happens to workers, an id that is handed out has no pages in HBM.
TEST_F(ACudaCoordinator, HandsOutIdsWithoutPagesWhileWorkersDie) {
  constexpr int kRounds = 240;
  constexpr std::uint32_t kBlocksAtOnce = 5;
  TestSession session(*coordinator);
  const auto opened = open(session, opening());
  ASSERT_TRUE(opened);
  const CacheId cache = session.cache(opened->handle)->id;
  const Engine engine(*opened->memory);
  const ipc::Handle sequence = coordinator->open_sequence(session.id, cache, {}, blocks)->sequence;
  for (int round = 0; round < kRounds; ++round) {
    // Seldom enough that each is over before the next one: after two in a row the device is left
    // alone for a while.
    if (round % 24 == 7) device->of(device->deaths, Request::Work) = 1;
    if (round % 24 == 15) device->of(device->late_deaths, Request::Work) = 1;
    if (round % 24 == 23) device->of(device->errors, Request::Work) = 1;
    ASSERT_TRUE(extend(session, cache, sequence, kBlocksAtOnce)) << "round " << round;
    for (const residency::BlockRef& block : blocks) {
      EXPECT_EQ(engine.pages_of(block.id), 0U) << "round " << round;
    }
    engine.cache(blocks);
    ASSERT_TRUE(coordinator->truncate(session.id, sequence, 0));
  }
  EXPECT_GT(device->started, static_cast<std::uint32_t>(kRounds / 10));
}

TEST_F(ACudaCoordinator, SurvivesTheDeathOfAWorkerInEachRequest) {
  device->of(device->deaths, Request::Allocate) = 1;
  device->of(device->late_deaths, Request::MakeTable) = 1;
  TestSession session(*coordinator);
  const auto opened = open(session, opening());
  EXPECT_TRUE(opened) << opened.error().text;
  EXPECT_GE(device->started, 3U);
}

TEST_F(ACudaCoordinator, FailsACacheThatTwoWorkersDiedOfAndMakesTheNext) {
  device->of(device->deaths, Request::Allocate) = 2;
  TestSession session(*coordinator);
  const auto failed = open(session, opening());
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().text, HasSubstr("before it answered"));
  const auto opened = open(session, opening());
  EXPECT_TRUE(opened) << opened.error().text;
}

TEST_F(ACudaCoordinator, SaysThatTheGpuIsLostUntilItIsBack) {
  device->of(device->errors, Request::Allocate) = 1;
  device->lost = 1;
  TestSession session(*coordinator);
  const auto failed = open(session, opening());
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Errc::device_lost);
  EXPECT_EQ(coordinator->device_health(ipc::DeviceId{0}).state, DeviceHealth::State::lost);
  EXPECT_TRUE(eventually([&] { return open(session, opening()).has_value(); }));
  EXPECT_EQ(coordinator->device_health(ipc::DeviceId{0}).state, DeviceHealth::State::well);
}

TEST_F(ACudaCoordinator, GivesASeatOfTheDeadToOthersAfterItsReset) {
  auto dead = std::make_shared<TestSession>(*coordinator);
  const auto opened = open(*dead, opening());
  ASSERT_TRUE(opened);
  TestSession other(*coordinator);
  const auto joined = open(other, opening());
  ASSERT_TRUE(joined);
  EXPECT_FALSE(joined->created);
  const Engine engine(*opened->memory);
  for (std::uint32_t i = 0; i < 4; ++i) {
    ASSERT_EQ(*coordinator->open_actor(*dead, opened->handle), i);
  }
  kernels::enter_step(engine.table, 3);
  device->of(device->held, Request::Work) = 1;
  coordinator->end_session(dead, true, std::chrono::steady_clock::now());
  ASSERT_TRUE(eventually([&] { return device->of(device->asked, Request::Work) == 1; }));
  EXPECT_EQ(coordinator->open_actor(other, joined->handle).error().code, Errc::limit_reached);
  device->of(device->held, Request::Work) = 0;
  EXPECT_TRUE(
      eventually([&] { return coordinator->open_actor(other, joined->handle).has_value(); }));
  EXPECT_FALSE(kernels::is_active(kernels::actor_line(engine.table, 3)->active));
}

TEST_F(ACudaCoordinator, WipesTheHbmOfACacheThatGoes) {
  auto session = std::make_shared<TestSession>(*coordinator);
  const auto handle = [&] {
    auto opened = open(*session, opening());
    EXPECT_TRUE(opened);
    return opened->handle;
  }();
  ASSERT_TRUE(coordinator->close_cache(*session, handle));
  residency::EvictRequest all;
  all.drop_idle_caches = true;
  ASSERT_TRUE(coordinator->evict(all));
  EXPECT_TRUE(eventually([&] {
    (void)coordinator->tick();
    return coordinator->with_manager([](auto& m) { return m.caches().empty(); });
  }));
  EXPECT_EQ(device->of(device->asked, Request::Scrub), 2U);
  const auto used =
      coordinator->with_manager([](auto& m) { return m.tenants()[0].hbm.used_bytes; });
  EXPECT_EQ(used, 0U);
}

// ---- several devices

struct ACoordinatorOfTwoGpus : ACudaCoordinator {
  ACoordinatorOfTwoGpus() : ACudaCoordinator({"0", "1"}) {}
  ~ACoordinatorOfTwoGpus() override { device->held_gpu = ~0U; }
};

// One GPU, which poses as two devices.
struct ACoordinatorOfAPosingGpu : ACudaCoordinator {
  ACoordinatorOfAPosingGpu() : ACudaCoordinator({"0", "0"}) {}
};

TEST_F(ACoordinatorOfTwoGpus, MakesEachArenaOnTheGpuOfTheClient) {
  ASSERT_EQ(coordinator->device_count(), 2U);
  TestSession session(*coordinator);
  for (const std::uint32_t gpu : {1U, 0U}) {
    const std::uint32_t other = device->asked_of[1 - gpu];
    const std::uint32_t before = device->asked_of[gpu];
    const auto opened = open(session, opening(gpu));
    ASSERT_TRUE(opened) << opened.error().text;
    EXPECT_TRUE(opened->created);
    EXPECT_GT(device->asked_of[gpu], before);
    EXPECT_EQ(device->asked_of[1 - gpu], other);
    EXPECT_EQ(coordinator->gpu(ipc::DeviceId{gpu})->uuid, test::fake_uuid(gpu));
    coordinator->with_manager(
        [&](auto& m) { EXPECT_EQ(m.status().devices[gpu].used_bytes, 4U << 20); });
  }
  const auto joined = open(session, opening(1));
  ASSERT_TRUE(joined);
  EXPECT_FALSE(joined->created);
}

TEST_F(ACoordinatorOfTwoGpus, DoesNotKeepOneGpuWaitingForTheOther) {
  device->held_gpu = 0;
  TestSession session(*coordinator);
  const auto waiting = opening(0);
  ASSERT_FALSE(coordinator->open_cache(session, waiting)->has_value());
  EXPECT_TRUE(open(session, opening(1)));
  EXPECT_FALSE(coordinator->open_cache(session, waiting)->has_value());
  device->held_gpu = ~0U;
  EXPECT_TRUE(open(session, waiting));
}

TEST_F(ACoordinatorOfTwoGpus, RefusesGpusThatItDoesNotServe) {
  EXPECT_THAT(refusal(opening(2)),
              ::testing::AllOf(HasSubstr("asked for on another GPU"), HasSubstr("0a0b0c0d0e)"),
                               HasSubstr("0a0b0c0d0f)"), HasSubstr("backend.devices")));
  EXPECT_THAT(refusal(opening(1, 1)), HasSubstr("this GPU serves as 1 devices"));
}

TEST_F(ACoordinatorOfAPosingGpu, GivesADeviceForEachTimeThatItIsNamed) {
  TestSession session(*coordinator);
  const auto first = open(session, opening(0, 0));
  const auto second = open(session, opening(0, 1));
  ASSERT_TRUE(first && second);
  EXPECT_TRUE(second->created);
  EXPECT_NE(first->memory->table_fds(), second->memory->table_fds());
  coordinator->with_manager([&](auto& m) {
    EXPECT_EQ(m.status().devices[0].used_bytes, 4U << 20);
    EXPECT_EQ(m.status().devices[1].used_bytes, 4U << 20);
  });
  EXPECT_THAT(refusal(opening(0, 2)), HasSubstr("this GPU serves as 2 devices"));
}

TEST_F(ACoordinatorOfAPosingGpu, LosesNothingOfADeviceWithTheWorkerOfTheOther) {
  TestSession session(*coordinator);
  device->of(device->deaths, Request::Allocate) = 2;
  const auto failed = open(session, opening(0, 0));
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().text, HasSubstr("before it answered"));
  EXPECT_TRUE(open(session, opening(0, 1)));
}

// ---- one namespace on two devices

struct ASharedCache : ACoordinatorOfTwoGpus {
  ASharedCache() {
    cache = session.cache(open(session, opening(0))->handle)->id;
    sequence = coordinator->open_sequence(session.id, cache, {}, blocks)->sequence;
  }
  ~ASharedCache() override { device->held_gpu = ~0U; }

  OpenedCache open_on(std::uint32_t gpu) {
    auto opened = open(session, opening(gpu));
    EXPECT_TRUE(opened) << opened.error().text;
    return std::move(*opened);
  }
  static std::string key(std::uint32_t i) { return "key-" + std::to_string(i); }
  std::vector<residency::BlockRef> seal(std::uint32_t count) {
    EXPECT_TRUE(extend(session, cache, sequence, count));
    const std::vector<residency::BlockRef> made = blocks;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::string name = key(i);
      EXPECT_TRUE(coordinator->seal(session.id, sequence, i, std::as_bytes(std::span(name)), 0));
    }
    return made;
  }
  // What an actor of this table that enters a step now would read.
  static std::uint32_t frame_in(const Engine& engine, ipc::BlockId block) {
    return kernels::frame_in(kernels::load_acquire(&engine.table.frame_original[block.value]));
  }

  TestSession session{*coordinator};
  CacheId cache;
  ipc::Handle sequence;
};

TEST_F(ASharedCache, IsFoundByItsKeysOnBothDevices) {
  const auto sealed = seal(5);
  const OpenedCache second = open_on(1);
  EXPECT_TRUE(second.created);
  EXPECT_EQ(session.cache(second.handle)->id, cache);
  const std::string keys = key(0) + key(1) + key(2);
  const auto size = static_cast<std::uint32_t>(key(0).size());
  const residency::KeyView view{reinterpret_cast<const std::byte*>(keys.data()), size, size, 3};
  const auto found = coordinator->open_sequence(session.id, cache, view, blocks, ipc::DeviceId{1});
  ASSERT_TRUE(found) << found.error().text;
  EXPECT_EQ(blocks, std::vector(sealed.begin(), sealed.begin() + 3));
  EXPECT_EQ(second.memory->frame_extents(), 1U);
  coordinator->with_manager([](auto& m) {
    EXPECT_EQ(m.status().dram.used_bytes, kDramExtent);
    EXPECT_EQ(m.status().caches, 1U);
  });
}

TEST_F(ASharedCache, TellsATableThatComesLaterWhereTheFramesAre) {
  const auto sealed = seal(5);
  EXPECT_TRUE(extend(session, cache, sequence, 1));
  const residency::BlockRef taken = blocks[0];
  const Engine late(*open_on(1).memory);
  for (const residency::BlockRef& block : sealed) {
    EXPECT_EQ(frame_in(late, block.id), block.frame.value);
  }
  EXPECT_EQ(frame_in(late, taken.id), kernels::kNoFrame);
  // A copy that begins at 0 is more than half a ring behind, and so takes all of the original.
  EXPECT_GT(*late.table.log_end, late.table.sizes.log_capacity / 2);
  EXPECT_EQ(late.table.host_header->log_applied, *late.table.log_end);

  const std::string name = key(5);
  ASSERT_TRUE(coordinator->seal(session.id, sequence, 5, std::as_bytes(std::span(name)), 0));
  EXPECT_EQ(frame_in(late, taken.id), taken.frame.value) << "and what is sealed from then on";
}

TEST_F(ASharedCache, GivesAnIdOutAgainWhenAllDevicesHaveDroppedItsPages) {
  const Engine first(*coordinator->cache_memory(cache));
  const Engine second(*open_on(1).memory);
  ASSERT_TRUE(extend(session, cache, sequence, kBlocks));
  first.cache(blocks);
  second.cache(blocks);
  const std::uint32_t before = device->asked_of[1];
  device->held_gpu = 1;
  ASSERT_TRUE(coordinator->truncate(session.id, sequence, 0));
  ASSERT_TRUE(eventually([&] {
    (void)coordinator->tick();
    return first.cached_pages() == 0 && device->asked_of[1] > before;
  }));
  for (int i = 0; i < 3; ++i) {
    (void)coordinator->tick();
    const auto early = coordinator->extend(session.id, cache, sequence, kBlocks, blocks);
    ASSERT_FALSE(early) << "the second device still has pages of these ids";
    EXPECT_EQ(early.error().code, Errc::busy);
  }
  EXPECT_EQ(second.cached_pages(), kBlocks);
  device->held_gpu = ~0U;
  ASSERT_TRUE(extend(session, cache, sequence, kBlocks));
  EXPECT_EQ(second.cached_pages(), 0U);
}

TEST_F(ASharedCache, WaitsForTheStepsOfBothDevicesBeforeItGivesAnIdAway) {
  const Engine first(*coordinator->cache_memory(cache));
  const OpenedCache opened = open_on(1);
  const Engine second(*opened.memory);
  const auto actor = coordinator->open_actor(session, opened.handle);
  ASSERT_TRUE(extend(session, cache, sequence, kBlocks));
  first.cache(blocks);
  // In a step that began before.
  auto* mirror =
      reinterpret_cast<kernels::ActorLine*>(second.table.mirrors + *actor * kernels::kActorBytes);
  kernels::store_release(&mirror->active, kernels::active_in(1));
  ASSERT_TRUE(coordinator->truncate(session.id, sequence, 0));
  ASSERT_TRUE(eventually([&] {
    (void)coordinator->tick();
    return first.cached_pages() == 0;
  })) << "the first device is through";
  for (int i = 0; i < 1000; ++i) {
    (void)coordinator->tick();
    const auto early = coordinator->extend(session.id, cache, sequence, kBlocks, blocks);
    ASSERT_FALSE(early) << "the second device is still in a step that may read them";
    ASSERT_EQ(early.error().code, Errc::busy);
  }
  kernels::store_release(&mirror->active, kernels::kIdle);
  EXPECT_TRUE(extend(session, cache, sequence, kBlocks));
}

TEST_F(ASharedCache, GivesAnIdleArenaForAnotherCacheAndKeepsItsBlocks) {
  seal(3);
  OpenedCache second = open_on(1);
  const std::weak_ptr<CacheMemory> arena = second.memory;
  ASSERT_TRUE(coordinator->close_cache(session, second.handle));
  const std::uint32_t scrubbed = device->of(device->asked, Request::Scrub);
  auto large = opening(1);
  large->request.model = "large";
  large->request.hbm_bytes = config.hbm.capacity_bytes;
  EXPECT_FALSE(coordinator->open_cache(session, large)->has_value()) << "room is being made";
  second.memory.reset();
  EXPECT_TRUE(open(session, large));
  EXPECT_TRUE(arena.expired());
  EXPECT_EQ(device->of(device->asked, Request::Scrub), scrubbed + 2);
  EXPECT_NE(coordinator->cache_memory(cache), nullptr);
  EXPECT_EQ(coordinator->arenas(cache).size(), 1U);
  ASSERT_TRUE(coordinator->truncate(session.id, sequence, 0));
  EXPECT_TRUE(extend(session, cache, sequence, 1)) << "nothing waits for the arena that is gone";
}

TEST_F(ASharedCache, GoesWithItsArenasAndThenItsFrames) {
  seal(3);
  const auto handle = open_on(1).handle;
  ASSERT_TRUE(coordinator->release(session.id, sequence));
  ASSERT_TRUE(coordinator->close_cache(session, handle));
  ASSERT_TRUE(coordinator->close_cache(session, ipc::Handle{0, 1}));
  auto reader = coordinator->cache_memory(cache, ipc::DeviceId{1});
  residency::EvictRequest all;
  all.drop_idle_caches = true;
  ASSERT_TRUE(coordinator->evict(all));
  EXPECT_TRUE(coordinator->arenas(cache).empty());
  EXPECT_TRUE(eventually([&] { return device->of(device->asked, Request::Scrub) == 2; }))
      << "of the arena that nobody looks at";
  EXPECT_EQ(reader->frame_extents(), 1U) << "the frames are there as long as an arena is";
  EXPECT_TRUE(eventually([&] {
    return coordinator->with_manager([](auto& m) { return m.status().hbm.used_bytes; }) == 4 << 20;
  })) << "others may have its HBM";
  reader.reset();
  EXPECT_TRUE(eventually([&] {
    (void)coordinator->tick();
    return coordinator->with_manager([](auto& m) { return m.caches().empty(); });
  }));
  coordinator->with_manager([](auto& m) {
    EXPECT_EQ(m.status().hbm.used_bytes, 0U);
    EXPECT_EQ(m.status().dram.used_bytes, 0U);
  });
  EXPECT_TRUE(open(session, opening(0)));
}

TEST_F(ASharedCache, SurvivesTheFailureOfASecondArena) {
  seal(2);
  device->of(device->deaths, Request::MakeTable) = 2;
  EXPECT_FALSE(open(session, opening(1)));
  EXPECT_EQ(coordinator->arenas(cache).size(), 1U);
  EXPECT_TRUE(extend(session, cache, sequence, 1));
  EXPECT_TRUE(open(session, opening(1)));
  EXPECT_EQ(coordinator->arenas(cache).size(), 2U);
}

TEST(ACudaDaemon, TakesAllGpusOrThoseThatAreNamed) {
  const FakeDevice device;
  Config config;
  config.backend.kind = BackendKind::cuda;
  config.backend.device_worker = FakeDevice::program();
  config.hbm.capacity_bytes = test::kFakeHbmBytes;
  const auto uuids = [&](std::vector<std::string> names) {
    config.backend.devices = std::move(names);
    const auto devices = make_devices(config);
    EXPECT_TRUE(devices) << devices.error().text;
    std::vector<device_worker::Uuid> found;
    for (const auto& one : *devices) found.push_back(one->gpu()->uuid);
    return found;
  };
  using Uuids = std::vector<device_worker::Uuid>;
  EXPECT_EQ(uuids({"all"}), (Uuids{test::fake_uuid(0), test::fake_uuid(1)}));
  EXPECT_EQ(uuids({device_worker::to_string(test::fake_uuid(1)), "0"}),
            (Uuids{test::fake_uuid(1), test::fake_uuid(0)}));

  config.backend.devices = {"0", "2"};
  const auto unknown = make_devices(config);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, Errc::bad_config);
  EXPECT_THAT(unknown.error().text, HasSubstr("names the GPU 2"));
}

TEST(ACudaDaemon, TakesDramFromTheNumaNodesOfItsGpus) {
  const FakeDevice device;
  const test::FakeSysfs sysfs;
  sysfs.set_memory("0-1");
  sysfs.set_node(test::fake_pci_bus_id(0), "1");
  sysfs.set_node(test::fake_pci_bus_id(1), "-1");
  Config config;
  config.backend.kind = BackendKind::cuda;
  config.backend.device_worker = FakeDevice::program();
  config.backend.devices = {"0", "1"};
  const auto nodes = [&](NumaPlacement placement) {
    config.dram.numa = placement;
    const auto devices = make_cuda_devices(config, sysfs.root());
    EXPECT_TRUE(devices) << devices.error().text;
    std::vector<std::vector<std::uint32_t>> all;
    for (const auto& one : *devices) all.push_back(one->dram_nodes());
    return all;
  };
  using Nodes = std::vector<std::vector<std::uint32_t>>;
  EXPECT_EQ(nodes(NumaPlacement::device), (Nodes{{1}, {}})) << "the second one's is not known";
  EXPECT_EQ(nodes(NumaPlacement::interleave), (Nodes{{0, 1}, {0, 1}}));
  EXPECT_EQ(nodes(NumaPlacement::any), (Nodes{{}, {}}));
}

TEST(ACudaDaemon, DividesAGpuAmongTheDevicesThatItServesAs) {
  const FakeDevice device;
  Config config;
  config.backend.kind = BackendKind::cuda;
  config.backend.device_worker = FakeDevice::program();
  config.backend.devices = {"0", "1", device_worker::to_string(test::fake_uuid(0))};
  config.hbm.capacity_bytes = test::kFakeHbmBytes / 2;
  EXPECT_TRUE(make_devices(config));
  config.hbm.capacity_bytes += 1 << 20;
  const auto too_large = make_devices(config);
  ASSERT_FALSE(too_large);
  EXPECT_EQ(too_large.error().code, Errc::bad_config);
  EXPECT_THAT(too_large.error().text, HasSubstr("and it serves as 2 devices"));
}

TEST(ACudaDaemonWithoutAWorker, SaysWhatItNeeds) {
  Config config;
  config.backend.kind = BackendKind::cuda;
  config.backend.device_worker = "/nowhere/worker";
  const auto device = make_devices(config);
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().code, Errc::not_supported);
  EXPECT_THAT(device.error().text, HasSubstr("backend.kind = \"cuda\" cannot work here"));
  EXPECT_THAT(device.error().text, HasSubstr("/nowhere/worker"));
}

}  // namespace
}  // namespace sluice::daemon
