// The daemon's side of the cuda backend on a GPU: the real device worker makes memory and tables,
// this process uses them as an engine does, and the daemon's bookkeeping waits for both.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/cache_memory.h"
#include "daemon/device_worker/cuda_memory.h"
#include "kernels/cuda/launch.h"
#include "kernels/table.h"
#include "tests/daemon/split_parts.h"

namespace sluice::daemon {
namespace {

using device_worker::DeviceMapping;
using device_worker::PinnedMapping;
using ipc::BlockId;
using ipc::Errc;
using ipc::SessionId;
using ipc::Tier;
using ipc::wire::Executor;
using ::testing::Each;

constexpr std::chrono::seconds kPatience{30};
constexpr std::uint64_t kGranularity = std::uint64_t{2} << 20;
constexpr std::uint32_t kActors = 4;
constexpr SessionId kSession{1};
constexpr SessionId kOther{2};

bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

// Beside this test in a build; in a bundle tests lie in a folder of their own.
std::string worker_program() {
  const auto here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  for (const auto& folder : {here, here.parent_path() / "bin"}) {
    if (exists(folder / "sluice-device-worker")) return folder / "sluice-device-worker";
  }
  return "sluice-device-worker is neither beside the test nor in ../bin";
}

// Processes that this one started, dead ones included that nobody has taken note of.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "children");
    pid_t pid = 0;
    while (file >> pid) found.push_back(pid);
  }
  return found;
}

std::string first_gpu() {
  cudaDeviceProp properties{};
  EXPECT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  device_worker::Uuid uuid{};
  std::memcpy(uuid.data(), properties.uuid.bytes, uuid.size());
  return device_worker::to_string(uuid);
}

Config config_of() {
  Config config;
  config.backend.kind = BackendKind::cuda;
  // The worker may count devices in another order than this process does.
  config.backend.devices = {first_gpu()};
  config.backend.device_worker = worker_program();
  config.backend.worker_idle = std::chrono::minutes(10);
  config.hbm.capacity_bytes = 64 << 20;
  config.dram.huge_pages = HugePages::never;
  return config;
}

residency::CacheShape shape_of() { return test::split_shape(kGranularity); }

// This process as an engine: both parts of a table in its own context, and launches on them.
class Engine {
 public:
  explicit Engine(const CacheMemory& memory) {
    const CacheShape& shape = memory.shape();
    std::vector<int> fds = memory.table_fds();
    node_ = must(PinnedMapping::map(must(ipc::duplicate(fds[0])), shape.table_bytes, "a table"));
    device_ =
        must(DeviceMapping::map(0, must(ipc::duplicate(fds[1])), shape.device_table_extent_bytes));
    table = kernels::view_split_table(device_.data(), node_.on_device(), shape.table);
    EXPECT_EQ(cudaMallocManaged(reinterpret_cast<void**>(&blocks_), sizeof(kernels::Block)),
              cudaSuccess);
    EXPECT_EQ(cudaMallocManaged(reinterpret_cast<void**>(&slots_),
                                shape.table.pages_per_block * sizeof(kernels::Slot)),
              cudaSuccess);
  }
  ~Engine() {
    (void)cudaFree(blocks_);
    (void)cudaFree(slots_);
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void enter(std::uint32_t actor) { finish(kernels::cuda::enter_step(table, actor, nullptr)); }
  void leave(std::uint32_t actor) { finish(kernels::cuda::leave_step(table, actor, nullptr)); }
  // All pages of a block in slots, pinned; the actor is in a step.
  std::vector<kernels::Slot> pin(std::uint32_t actor, BlockId block) {
    *blocks_ = block.value;
    finish(kernels::cuda::claim_pins(table, table.sizes.slots, actor, blocks_, 1, slots_, nullptr));
    return {slots_, slots_ + table.sizes.pages_per_block};
  }
  // And then as ordinary pages.
  std::vector<kernels::Slot> cache(std::uint32_t actor, BlockId block) {
    std::vector<kernels::Slot> slots = pin(actor, block);
    finish(kernels::cuda::seal_pins(table, actor, blocks_, 1, slots_, nullptr));
    return slots;
  }
  kernels::Word word(kernels::Slot slot) const { return fetch<kernels::Word>(table.words + slot); }
  bool holds(kernels::Slot slot, BlockId block) const {
    const kernels::Page page = kernels::page_of(word(slot));
    return page < table.pages && kernels::block_of(table, page) == block.value;
  }
  template <class T>
  static T fetch(const T* on_device) {
    T value;
    EXPECT_EQ(cudaMemcpy(&value, on_device, sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return value;
  }

  kernels::HotTable table{};

 private:
  template <class T>
  static T must(ipc::Result<T> result) {
    if (!result) throw std::runtime_error(result.error().text);
    return std::move(*result);
  }
  static void finish(kernels::cuda::Status status) {
    EXPECT_EQ(status, 0) << kernels::cuda::describe(status);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  PinnedMapping node_;
  DeviceMapping device_;
  kernels::Block* blocks_ = nullptr;
  kernels::Slot* slots_ = nullptr;
};

struct OnAGpu : ::testing::Test {
  void SetUp() override {
    auto made = make_cuda_devices(config_of());
    ASSERT_TRUE(made) << made.error().text;
    gpu = std::move((*made)[0]);
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  }
  void make_cache() {
    memory = std::move(*CacheMemory::create(shape_of(), kActors, *gpu,
                                            std::move(*FrameMemory::create(shape_of()))));
    while (!memory->whole()) {
      const auto made = memory->make_piece(*gpu);
      ASSERT_TRUE(made) << made.error().text;
    }
    memory->on_table_orders([this](std::shared_ptr<CacheTable> table) { waiting = table; });
    engine.emplace(*memory);
  }
  void run_worker() {
    while (waiting != nullptr) {
      const auto table = std::exchange(waiting, nullptr);
      while (table->work()) {
      }
    }
  }

  std::unique_ptr<Device> gpu;
  std::unique_ptr<CacheMemory> memory;
  std::shared_ptr<CacheTable> waiting;
  std::optional<Engine> engine;
};

TEST_F(OnAGpu, TheWorkerNamesTheGpuAsThisProcessDoes) {
  cudaDeviceProp properties{};
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  ASSERT_NE(gpu->gpu(), nullptr);
  EXPECT_EQ(std::memcmp(gpu->gpu()->uuid.data(), properties.uuid.bytes, 16), 0);
  EXPECT_EQ(gpu->gpu()->name, properties.name);
  EXPECT_EQ(gpu->hbm_granularity(), kGranularity);
}

TEST_F(OnAGpu, AnExtentIsZeroedSharedAndWiped) {
  constexpr std::uint64_t kBytes = std::uint64_t{64} << 20;
  std::optional<ipc::Fd> extent = std::move(*gpu->allocate_extent(Tier::hbm, kBytes));
  auto mapping = DeviceMapping::map(0, *extent, kBytes);
  ASSERT_TRUE(mapping) << mapping.error().text;
  std::vector<std::uint8_t> bytes(kBytes, 1);
  const auto read = [&] {
    EXPECT_EQ(cudaMemcpy(bytes.data(), mapping->data(), kBytes, cudaMemcpyDeviceToHost),
              cudaSuccess);
  };
  read();
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0), static_cast<std::ptrdiff_t>(kBytes));
  ASSERT_EQ(cudaMemset(mapping->data(), 0xAB, kBytes), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  read();
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0xAB), static_cast<std::ptrdiff_t>(kBytes));
  gpu->free_extent(Tier::hbm, *extent, kBytes);
  read();
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0), static_cast<std::ptrdiff_t>(kBytes));
}

TEST_F(OnAGpu, HbmIsBackWhenDescriptorsAndMappingsAreGone) {
  constexpr std::uint64_t kBytes = std::uint64_t{1} << 30;
  const auto free_bytes = [] {
    std::size_t left = 0;
    std::size_t total = 0;
    EXPECT_EQ(cudaMemGetInfo(&left, &total), cudaSuccess);
    return left;
  };
  // What the first allocation of a context takes along stays.
  {
    const auto first = gpu->allocate_extent(Tier::hbm, kBytes);
  }
  const std::size_t before = free_bytes();
  {
    const auto extent = gpu->allocate_extent(Tier::hbm, kBytes);
    ASSERT_TRUE(extent) << extent.error().text;
    EXPECT_LE(free_bytes() + kBytes, before + kBytes / 8);
  }
  EXPECT_TRUE(eventually([&] { return free_bytes() + kBytes / 8 >= before; }));
}

TEST_F(OnAGpu, MoreHbmThanThereIsIsNoMemoryAndNoHarm) {
  const auto extent = gpu->allocate_extent(Tier::hbm, std::uint64_t{1} << 44);
  ASSERT_FALSE(extent);
  EXPECT_EQ(extent.error().code, Errc::no_memory) << extent.error().text;
  EXPECT_TRUE(gpu->allocate_extent(Tier::hbm, kGranularity));
}

TEST_F(OnAGpu, ATableIsFormattedAndSeenByBoth) {
  make_cache();
  EXPECT_EQ(Engine::fetch(&engine->table.header->limit), memory->shape().table.slots);
  memory->set_frame(BlockId{3}, ipc::FrameId{7});
  engine->enter(0);
  EXPECT_EQ(kernels::frame_in(Engine::fetch(engine->table.frame_of + 3)), 7U);
  const kernels::ActorLine* mirror = kernels::actor_line(memory->table(), 0);
  EXPECT_TRUE(kernels::is_active(kernels::load_acquire(&mirror->active)));
  EXPECT_EQ(kernels::load_relaxed(&mirror->entries), 1U);
  engine->leave(0);
  EXPECT_FALSE(kernels::is_active(kernels::load_acquire(&mirror->active)));
}

TEST_F(OnAGpu, AnIdIsGivenBackWhenItsPagesAreDropped) {
  make_cache();
  memory->set_frame(BlockId{3}, ipc::FrameId{7});
  engine->enter(0);
  const std::vector<kernels::Slot> slots = engine->cache(0, BlockId{3});
  const std::vector<kernels::Slot> others = engine->cache(0, BlockId{4});
  ASSERT_THAT(slots, Each(::testing::Ge(0)));
  Retirement retirement = memory->retire({BlockId{3}});
  EXPECT_FALSE(memory->try_finish(retirement)) << "a step may use it";
  EXPECT_EQ(waiting, nullptr);
  engine->leave(0);
  EXPECT_FALSE(memory->try_finish(retirement)) << "the words still have its pages";
  EXPECT_TRUE(engine->holds(slots[0], BlockId{3}));
  run_worker();
  EXPECT_TRUE(memory->try_finish(retirement));
  for (const kernels::Slot slot : slots) EXPECT_TRUE(kernels::is_free(engine->word(slot)));
  for (const kernels::Slot slot : others) EXPECT_TRUE(engine->holds(slot, BlockId{4}));
}

TEST_F(OnAGpu, BlocksWithoutFramesWaitForRunningSteps) {
  make_cache();
  engine->enter(0);
  Retirement retirement = memory->retire({BlockId{5}});
  EXPECT_FALSE(memory->try_finish(retirement));
  engine->leave(0);
  engine->enter(0);
  EXPECT_FALSE(memory->try_finish(retirement)) << "now only the scan is missing";
  run_worker();
  EXPECT_TRUE(memory->try_finish(retirement));
}

TEST_F(OnAGpu, TheDeadAreResetBeforeTheirSeatsAreGivenAway) {
  make_cache();
  for (std::uint32_t i = 0; i < kActors; ++i) {
    ASSERT_TRUE(memory->open_actor(kSession, Executor::direct));
  }
  engine->enter(2);
  const kernels::Slot dropped = engine->pin(2, BlockId{1})[0];
  const kernels::Slot sealed = engine->pin(2, BlockId{2})[0];
  const kernels::Slot kept = engine->pin(2, BlockId{3})[0];
  memory->close_actors_of(kSession);
  memory->drop_pins({BlockId{1}}, false);
  memory->drop_pins({BlockId{2}}, true);
  EXPECT_FALSE(memory->open_actor(kOther, Executor::direct));
  run_worker();
  EXPECT_TRUE(memory->open_actor(kOther, Executor::direct));
  EXPECT_FALSE(kernels::is_active(Engine::fetch(&kernels::actor_line(engine->table, 2)->active)));
  EXPECT_FALSE(
      kernels::is_active(kernels::load_acquire(&kernels::actor_line(memory->table(), 2)->active)));
  EXPECT_TRUE(kernels::is_free(engine->word(dropped)));
  EXPECT_TRUE(engine->holds(sealed, BlockId{2}));
  EXPECT_FALSE(kernels::is_pinned(engine->word(sealed)));
  EXPECT_TRUE(kernels::is_pinned(engine->word(kept)));
}

TEST_F(OnAGpu, WordsAreShownToOperators) {
  make_cache();
  engine->enter(0);
  engine->cache(0, BlockId{1});
  engine->pin(0, BlockId{2});
  EXPECT_EQ(memory->scan().error().code, Errc::busy);
  run_worker();
  const auto found = memory->scan();
  ASSERT_TRUE(found) << found.error().text;
  EXPECT_EQ(found->cached_pages, 2U);
  EXPECT_EQ(found->pinned_pages, 2U);
  EXPECT_EQ(found->pages_of_block[1], 2U);
  EXPECT_EQ(found->pinned_of_block[2], 2U);
}

TEST_F(OnAGpu, TheDeathOfTheWorkerLosesNothing) {
  make_cache();
  engine->enter(0);
  const std::vector<kernels::Slot> slots = engine->cache(0, BlockId{3});
  engine->leave(0);
  const std::vector<pid_t> workers = children();
  ASSERT_EQ(workers.size(), 1U);
  ASSERT_EQ(kill(workers[0], SIGKILL), 0);
  EXPECT_TRUE(engine->holds(slots[0], BlockId{3}));
  Retirement retirement = memory->retire({BlockId{3}});
  EXPECT_FALSE(memory->try_finish(retirement));
  run_worker();
  EXPECT_TRUE(memory->try_finish(retirement));
  EXPECT_TRUE(kernels::is_free(engine->word(slots[0])));
  EXPECT_NE(children(), workers);
}

TEST_F(OnAGpu, NothingOfOursIsOnTheGpuWhenThereIsNothingToDo) {
  gpu.reset();
  Config config = config_of();
  config.backend.worker_idle = std::chrono::milliseconds(100);
  gpu = std::move((*make_cuda_devices(config))[0]);
  const auto free_bytes = [] {
    std::size_t left = 0;
    std::size_t total = 0;
    EXPECT_EQ(cudaMemGetInfo(&left, &total), cudaSuccess);
    return left;
  };
  ASSERT_EQ(children().size(), 1U);
  const std::size_t with_worker = free_bytes();
  EXPECT_TRUE(eventually([&] {
    gpu->look_after();
    return children().empty();
  }));
  const std::size_t without = free_bytes();
  RecordProperty("worker_hbm_mib", static_cast<int>((without - with_worker) >> 20));
  EXPECT_GT(without, with_worker);
}

TEST(OnAGpuThatIsNotThere, TheAnswerListsThoseThatAre) {
  Config config = config_of();
  config.backend.devices = {"GPU-00000000-0000-0000-0000-000000000000"};
  const auto made = make_cuda_devices(config);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, Errc::bad_config);
  EXPECT_THAT(made.error().text, ::testing::HasSubstr("there are: 0 GPU-"));
}

}  // namespace
}  // namespace sluice::daemon
