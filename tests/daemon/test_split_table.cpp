// The memory of a cache whose HBM and words are a GPU's, with a fake device: what is done to words,
// when, and what waits for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "daemon/cache_memory.h"
#include "daemon/split_table.h"
#include "ipc/mapping.h"
#include "kernels/pins.h"
#include "kernels/steps.h"
#include "tests/daemon/fake_device.h"
#include "tests/daemon/split_parts.h"

namespace sluice::daemon {
namespace {

using ipc::BlockId;
using ipc::Errc;
using ipc::FrameId;
using ipc::SessionId;
using ipc::wire::Executor;
using test::FakeDevice;
using test::kFakeGranularity;
using test::Request;
using ::testing::HasSubstr;

constexpr SessionId kSession{1};
constexpr SessionId kOther{2};

residency::CacheShape shape_of() { return test::split_shape(kFakeGranularity); }

// A process that uses a cache: the parts of its table, mapped, as an engine's GPU would see them.
class Engine : public test::SplitParts {
 public:
  using SplitParts::SplitParts;

  kernels::Step enter(std::uint32_t actor) const {
    const kernels::Step step = kernels::enter_step(table, actor);
    mirror(actor);
    return step;
  }
  void leave(std::uint32_t actor) const {
    kernels::leave_step(table, actor);
    mirror(actor);
  }
  // All pages of a block in slots, pinned.
  std::vector<kernels::Slot> pin(BlockId block, kernels::Step step) const {
    std::vector<kernels::Slot> slots(table.sizes.pages_per_block);
    EXPECT_TRUE(kernels::claim_pins(table, table.sizes.slots, block.value, step, slots.data()));
    return slots;
  }
  // And then as ordinary pages.
  std::vector<kernels::Slot> cache(BlockId block, kernels::Step step) const {
    std::vector<kernels::Slot> slots = pin(block, step);
    kernels::seal_pins(table, block.value, step, slots.data());
    return slots;
  }
  // Whether the slot holds a page of the block.
  bool holds(kernels::Slot slot, BlockId block) const {
    const kernels::Page page = kernels::page_of(word(slot));
    return page < table.pages && kernels::block_of(table, page) == block.value;
  }
  kernels::Word word(kernels::Slot slot) const { return kernels::load_acquire(&table.words[slot]); }

 private:
  // What the GPU does at the end of an entry, and when it leaves.
  void mirror(std::uint32_t actor) const {
    const kernels::ActorLine* line = kernels::actor_line(table, actor);
    auto* to = reinterpret_cast<kernels::ActorLine*>(table.mirrors + actor * kernels::kActorBytes);
    kernels::store_relaxed(&to->log_position, line->log_position);
    kernels::store_relaxed(&to->entries, line->entries);
    kernels::store_relaxed(&to->counters.hits, line->counters.hits);
    kernels::store_release(&to->active, line->active);
  }
};

Config config_of() {
  Config config;
  config.backend.kind = BackendKind::cuda;
  config.backend.device_worker = FakeDevice::program();
  config.hbm.capacity_bytes = 64 << 20;
  config.dram.huge_pages = HugePages::never;
  return config;
}

struct ASplitCache : ::testing::Test {
  ASplitCache() : gpu(std::move((*make_cuda_devices(config_of()))[0])) {
    memory = std::move(
        *CacheMemory::create(shape_of(), 4, *gpu, std::move(*FrameMemory::create(shape_of()))));
    while (!memory->whole()) EXPECT_TRUE(memory->make_piece(*gpu));
    memory->on_table_orders([this](std::shared_ptr<CacheTable> table) { waiting = table; });
    engine.emplace(*memory);
  }

  // What the memory worker does when it gets to it.
  void run_worker() {
    while (waiting != nullptr) {
      const auto table = std::exchange(waiting, nullptr);
      while (table->work()) {
      }
    }
  }
  // Beside the test, as the memory worker is.
  std::jthread worker_thread() {
    return std::jthread([table = std::exchange(waiting, nullptr)] {
      while (table != nullptr && table->work()) {
      }
    });
  }
  bool worker_has_asked(Request request, std::uint32_t times) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (device->of(device->asked, request) < times) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }

  mutable FakeDevice device;
  std::unique_ptr<Device> gpu;
  std::unique_ptr<CacheMemory> memory;
  std::shared_ptr<CacheTable> waiting;
  std::optional<Engine> engine;
};

TEST_F(ASplitCache, HasAPartInTheNodeAndOneOnTheDevice) {
  const kernels::SplitOffsets offsets = kernels::split_offsets_of(memory->shape().table);
  EXPECT_EQ(memory->shape().table_bytes, offsets.host_end);
  EXPECT_EQ(memory->shape().device_table_bytes, offsets.device_end);
  EXPECT_EQ(memory->shape().device_table_extent_bytes % kFakeGranularity, 0U);
  EXPECT_GE(memory->shape().device_table_extent_bytes, offsets.device_end);
  ASSERT_EQ(memory->table_fds().size(), 2U);
  EXPECT_EQ(memory->table().words, nullptr) << "nobody reads words on the CPU";
  EXPECT_EQ(kernels::limit_of(engine->table), memory->shape().table.slots) << "formatted";
}

TEST_F(ASplitCache, WipesHbmBeforeItIsGivenBack) {
  std::uint32_t total = 0;
  const int fd = memory->extent_fds(ipc::Tier::hbm, 1, 1, total)[0];
  EXPECT_EQ(total, 2U);
  const auto arena =
      ipc::Mapping::map(fd, 0, kFakeGranularity, ipc::Access::read_write, "a session's");
  arena->data()[100] = std::byte{5};
  ASSERT_TRUE(memory->free_piece(*gpu));
  EXPECT_EQ(arena->data()[100], std::byte{0});
  EXPECT_EQ(device->of(device->asked, Request::Scrub), 1U);
}

TEST_F(ASplitCache, TellsEnginesAboutFramesByTheLog) {
  memory->set_frame(BlockId{3}, FrameId{7});
  engine->enter(0);
  EXPECT_EQ(kernels::frame_of(engine->table, 3), 7U);
  EXPECT_EQ(kernels::frame_in(engine->table.frame_original[3]), 7U);
}

// The order of rules 6 and 7: grace, then a scan, then reuse.
TEST_F(ASplitCache, GivesAnIdBackWhenItsPagesAreDropped) {
  memory->set_frame(BlockId{3}, FrameId{7});
  const kernels::Step step = engine->enter(0);
  const kernels::Slot slot = engine->cache(BlockId{3}, step)[0];
  Retirement retirement = memory->retire({BlockId{3}});
  EXPECT_FALSE(memory->try_finish(retirement)) << "a step may use it";
  EXPECT_EQ(waiting, nullptr) << "so that nothing may be dropped";
  engine->leave(0);

  EXPECT_FALSE(memory->try_finish(retirement)) << "the words still have its pages";
  EXPECT_TRUE(engine->holds(slot, BlockId{3}));
  ASSERT_NE(waiting, nullptr);
  device->of(device->held, Request::Work) = 1;
  auto worker = worker_thread();
  ASSERT_TRUE(worker_has_asked(Request::Work, 1));
  EXPECT_FALSE(memory->try_finish(retirement)) << "the scan has not ended";
  device->of(device->held, Request::Work) = 0;
  worker.join();
  EXPECT_FALSE(engine->holds(slot, BlockId{3}));
  EXPECT_TRUE(memory->try_finish(retirement));
}

// A scan that began before the grace of an id was over does not count for it.
TEST_F(ASplitCache, ScansAnewForIdsThatCameDuringAScan) {
  Retirement first = memory->retire({BlockId{1}});
  EXPECT_FALSE(memory->try_finish(first));
  device->of(device->held, Request::Work) = 1;
  const auto table = std::exchange(waiting, nullptr);
  std::jthread scan([&] { table->work(); });
  ASSERT_TRUE(worker_has_asked(Request::Work, 1));
  const kernels::Step step = engine->enter(0);
  const kernels::Slot slot = engine->cache(BlockId{2}, step)[0];
  engine->leave(0);
  Retirement second = memory->retire({BlockId{2}});
  EXPECT_FALSE(memory->try_finish(second));
  device->of(device->held, Request::Work) = 0;
  scan.join();
  EXPECT_TRUE(memory->try_finish(first));
  EXPECT_FALSE(memory->try_finish(second));
  EXPECT_TRUE(engine->holds(slot, BlockId{2}));
  while (table->work()) {
  }
  EXPECT_TRUE(memory->try_finish(second));
  EXPECT_EQ(device->of(device->asked, Request::Work), 2U);
  EXPECT_FALSE(engine->holds(slot, BlockId{2}));
}

TEST_F(ASplitCache, WaitsForRunningStepsAlsoIfNoFrameIsWithdrawn) {
  engine->enter(0);
  Retirement retirement = memory->retire({BlockId{5}, BlockId{6}});
  EXPECT_FALSE(memory->try_finish(retirement));
  run_worker();
  EXPECT_FALSE(memory->try_finish(retirement)) << "the step began before";
  engine->leave(0);
  engine->enter(0);
  EXPECT_FALSE(memory->try_finish(retirement)) << "now only the scan is missing";
  run_worker();
  EXPECT_TRUE(memory->try_finish(retirement));
}

TEST_F(ASplitCache, DoesTheWorkOfAWorkerThatDiedAnew) {
  for (auto* deaths : {&device->deaths, &device->late_deaths}) {
    const kernels::Step step = engine->enter(0);
    const kernels::Slot slot = engine->cache(BlockId{4}, step)[0];
    engine->leave(0);
    Retirement retirement = memory->retire({BlockId{4}});
    EXPECT_FALSE(memory->try_finish(retirement));
    device->of(*deaths, Request::Work) = 1;
    run_worker();
    EXPECT_TRUE(memory->try_finish(retirement));
    EXPECT_FALSE(engine->holds(slot, BlockId{4}));
  }
}

TEST_F(ASplitCache, ReusesNothingWhileTheDeviceFails) {
  const kernels::Step step = engine->enter(0);
  const kernels::Slot slot = engine->cache(BlockId{4}, step)[0];
  engine->leave(0);
  Retirement retirement = memory->retire({BlockId{4}});
  device->of(device->errors, Request::Work) = 1000;
  EXPECT_FALSE(memory->try_finish(retirement));
  run_worker();
  EXPECT_FALSE(memory->try_finish(retirement));
  EXPECT_TRUE(engine->holds(slot, BlockId{4}));

  const auto now = std::chrono::steady_clock::now();
  memory->retry_table_orders(now);
  EXPECT_EQ(waiting, nullptr) << "not at once";
  memory->retry_table_orders(now + std::chrono::minutes(1));
  ASSERT_NE(waiting, nullptr);
  run_worker();
  EXPECT_FALSE(memory->try_finish(retirement)) << "it fails still";

  device->of(device->errors, Request::Work) = 0;
  memory->retry_table_orders(now + std::chrono::minutes(2));
  run_worker();
  EXPECT_TRUE(memory->try_finish(retirement));
  EXPECT_FALSE(engine->holds(slot, BlockId{4}));
}

TEST_F(ASplitCache, GivesASeatAwayWhenItsActorIsIdle) {
  for (std::uint32_t i = 0; i < 4; ++i) {
    ASSERT_EQ(*memory->open_actor(kSession, Executor::direct), i);
  }
  engine->enter(2);
  memory->close_actors_of(kSession);
  EXPECT_EQ(memory->actors_of(kSession), 0U);
  EXPECT_FALSE(memory->owns_actor(kSession, 2));
  const auto early = memory->open_actor(kOther, Executor::direct);
  ASSERT_FALSE(early) << "the device's line says that it is in a step";
  EXPECT_EQ(early.error().code, Errc::limit_reached);
  run_worker();
  EXPECT_TRUE(memory->open_actor(kOther, Executor::direct));
  EXPECT_FALSE(kernels::is_active(kernels::actor_line(engine->table, 2)->active));
}

TEST_F(ASplitCache, WaitsForTheDeadNoLongerThanTheDeviceNeeds) {
  ASSERT_EQ(*memory->open_actor(kSession, Executor::direct), 0U);
  engine->enter(0);
  memory->close_actors_of(kSession);
  Retirement retirement = memory->retire({BlockId{9}});
  EXPECT_FALSE(memory->try_finish(retirement));
  run_worker();
  EXPECT_FALSE(memory->try_finish(retirement)) << "its scan is to come";
  run_worker();
  EXPECT_TRUE(memory->try_finish(retirement));
}

TEST_F(ASplitCache, KeepsTheCountsOfActorsThatAreGone) {
  ASSERT_EQ(*memory->open_actor(kSession, Executor::direct), 0U);
  engine->enter(0);
  kernels::actor_line(engine->table, 0)->counters.hits = 12;
  engine->leave(0);
  EXPECT_EQ(memory->totals(Executor::direct).hits, 12U);
  memory->close_actors_of(kSession);
  EXPECT_EQ(memory->totals(Executor::direct).hits, 12U);
  run_worker();
  ASSERT_EQ(*memory->open_actor(kOther, Executor::direct), 0U);
  EXPECT_EQ(memory->totals(Executor::direct).hits, 12U);
}

TEST_F(ASplitCache, DropsThePinsOfADeadOwnerOrMakesPagesOfThem) {
  const kernels::Step step = engine->enter(0);
  const kernels::Slot dropped = engine->pin(BlockId{1}, step)[0];
  const kernels::Slot sealed = engine->pin(BlockId{2}, step)[0];
  const kernels::Slot kept = engine->pin(BlockId{3}, step)[0];
  memory->drop_pins({BlockId{1}}, false);
  memory->drop_pins({BlockId{2}}, true);
  run_worker();
  EXPECT_FALSE(engine->holds(dropped, BlockId{1}));
  EXPECT_TRUE(engine->holds(sealed, BlockId{2}));
  EXPECT_FALSE(kernels::is_pinned(engine->word(sealed)));
  EXPECT_TRUE(kernels::is_ready(engine->word(sealed)));
  EXPECT_TRUE(kernels::is_pinned(engine->word(kept)));
}

TEST_F(ASplitCache, LooksAtItsWordsByWayOfTheDevice) {
  const kernels::Step step = engine->enter(0);
  engine->cache(BlockId{1}, step);
  engine->pin(BlockId{2}, step);
  const auto early = memory->scan();
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code, Errc::busy);
  run_worker();
  const auto found = memory->scan();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->cached_pages, 2U);
  EXPECT_EQ(found->pinned_pages, 2U);
  EXPECT_EQ(found->pages_of_block[1], 2U);
  EXPECT_EQ(found->pinned_of_block[2], 2U);
  EXPECT_EQ(found->free_slots, memory->shape().table.slots - 4);
}

TEST_F(ASplitCache, SaysWhyItsWordsCannotBeSeen) {
  device->of(device->errors, Request::ReadWords) = 2;
  EXPECT_FALSE(memory->scan());
  run_worker();
  const auto failed = memory->scan();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Errc::io_error);
  EXPECT_THAT(failed.error().text, HasSubstr("the test broke the GPU"));
  EXPECT_EQ(waiting, nullptr) << "for a while";
}

TEST_F(ASplitCache, ForgetsWhatWaitsWhenItIsFreed) {
  Retirement retirement = memory->retire({BlockId{1}});
  EXPECT_FALSE(memory->try_finish(retirement));
  while (memory->free_piece(*gpu)) {
  }
  run_worker();
  EXPECT_EQ(device->of(device->asked, Request::Work), 0U);
  EXPECT_EQ(device->of(device->asked, Request::Scrub), 2U);
}

TEST(ACudaDevice, RefusesATierThatIsLargerThanTheGpu) {
  const FakeDevice device;
  Config config = config_of();
  config.hbm.capacity_bytes = test::kFakeHbmBytes + 4096;
  const auto made = make_cuda_devices(config);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, Errc::bad_config);
  EXPECT_THAT(made.error().text, HasSubstr("tiers.hbm.capacity"));
}

}  // namespace
}  // namespace sluice::daemon
