// libsluice and the daemon on a GPU: bytes, pins, forks, streams, plans and graphs.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <latch>
#include <optional>
#include <string>
#include <vector>

#include "tests/integration/daemon_process.h"

namespace sluice::test {
namespace {

using client::Actor;
using client::Cache;
using client::Client;
using client::PageList;
using client::Plan;
using client::Sequence;

constexpr std::uint64_t kPinTimeoutUs = 20'000'000;
constexpr std::uint32_t kLayers = 4;

DaemonProcess::Options on_gpu() {
  DaemonProcess::Options options;
  options.extra = "[backend]\nkind = \"cuda\"";
  return options;
}

sluice_cache_desc gpu_cache(const char* model, sluice_executor executor = SLUICE_EXECUTOR_DIRECT) {
  sluice_cache_desc desc = small_cache(model, executor, kLayers);
  desc.device_type = 2;
  return desc;
}

// A token of 64 B is a row; 16 of them, in two layers, make a block.
sluice_cache_desc rows_cache() {
  sluice_cache_desc desc = gpu_cache("rows");
  desc.layers = 2;
  desc.kv_heads = 1;
  desc.planes = 1;
  desc.head_dim = 32;
  desc.page_kind = SLUICE_PAGE_ROW;
  return desc;
}

// Memory of the device that the test writes and reads as a vector.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::vector<T> values) : size_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, size_ * sizeof(T)), cudaSuccess);
    set(values);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { (void)cudaFree(data_); }

  T* data() const { return static_cast<T*>(data_); }
  void set(const std::vector<T>& values) {
    EXPECT_EQ(values.size(), size_);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  std::vector<T> get() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  void* data_ = nullptr;
  std::size_t size_;
};

struct Engine {
  explicit Engine(const DaemonProcess& daemon, const sluice_cache_desc& desc = gpu_cache("model"))
      : client(daemon.connect('a', 20'000'000)),
        cache(must(client.open_cache(desc))),
        actor(must(cache.open_actor())),
        info(must(cache.info())),
        arena(must(cache.arena())) {
    must(cache.wait_pinned(kPinTimeoutUs));
  }

  std::byte* slot(std::int32_t at) const {
    return static_cast<std::byte*>(arena.base) + static_cast<std::size_t>(at) * arena.page_bytes;
  }
  // The bytes of a slot; all work before is waited for.
  std::vector<std::byte> bytes(std::int32_t at) const {
    std::vector<std::byte> found(arena.page_bytes);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(found.data(), slot(at), found.size(), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return found;
  }
  bool filled(std::int32_t at, int value) const {
    return at >= 0 &&
           bytes(at) == std::vector<std::byte>(arena.page_bytes, static_cast<std::byte>(value));
  }
  void fill(std::int32_t at, int value) const {
    EXPECT_EQ(cudaMemset(slot(at), value, arena.page_bytes), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  std::vector<std::int32_t> resolve(const Sequence& sequence, std::uint32_t page,
                                    const std::vector<std::uint32_t>& blocks,
                                    client::ResolveCounts* counts = nullptr) {
    std::vector<std::int32_t> slots(blocks.size());
    const PageList list{sequence.get(), page,         static_cast<std::uint32_t>(blocks.size()),
                        blocks.data(),  slots.data(), nullptr};
    const auto found = must(actor.resolve({&list, 1}));
    if (counts != nullptr) *counts = found;
    return slots;
  }

  Client client;
  Cache cache;
  Actor actor;
  sluice_cache_info info;
  sluice_arena_view arena;
};

std::string key(int i) { return "block-key-" + std::to_string(100 + i); }

Cache::Opened open(Engine& engine, int blocks) {
  std::string all;
  for (int i = 0; i < blocks; ++i) all += key(i);
  return must(engine.cache.open_sequence({all.data(), static_cast<std::uint32_t>(key(0).size()), 0,
                                          static_cast<std::size_t>(blocks)}));
}

// Appends sealed blocks up to `blocks`; block i is filled with i + 1.
void prefill(Engine& engine, Sequence& sequence, int blocks) {
  const auto have = static_cast<int>(must(sequence.info()).blocks);
  must(sequence.extend(static_cast<std::uint32_t>(blocks - have)));
  must(engine.cache.wait_pinned(kPinTimeoutUs));
  for (int i = have; i < blocks; ++i) {
    const auto frame = must(sequence.map(static_cast<std::uint32_t>(i)));
    std::memset(frame.data(), i + 1, frame.size());
    const std::string name = key(i);
    must(sequence.seal(static_cast<std::uint32_t>(i), std::as_bytes(std::span(name))));
  }
}

Sequence prefilled(Engine& engine, int blocks) {
  Sequence sequence = open(engine, 0).sequence;
  prefill(engine, sequence, blocks);
  return sequence;
}

std::vector<std::int32_t> pin(Engine& engine, Sequence& sequence, std::uint32_t block) {
  std::vector<std::int32_t> slots(engine.info.pages_per_block);
  must(sequence.pin(block, engine.actor, slots));
  return slots;
}

template <class R>
sluice_status status_of(const R& result) {
  return result ? SLUICE_OK : result.error().code;
}

// What does not depend on who resolves. Without an MPS server the daemon's executor has the GPU by
// turns with this process.
class EachExecutor : public testing::TestWithParam<sluice_executor> {
 protected:
  static DaemonProcess::Options options() {
    DaemonProcess::Options wanted = on_gpu();
    const char* const directory = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
    wanted.tenant_a = std::string("mps_pipe_directory = \"") +
                      (directory != nullptr ? directory : "/tmp/nvidia-mps") + "\"";
    return wanted;
  }
  static sluice_cache_desc cache() { return gpu_cache("model", GetParam()); }

  const DaemonProcess daemon{options()};
  Engine engine{daemon, cache()};
};

INSTANTIATE_TEST_SUITE_P(GpuClient, EachExecutor,
                         testing::Values(SLUICE_EXECUTOR_DIRECT, SLUICE_EXECUTOR_DAEMON),
                         [](const auto& param) {
                           return param.param == SLUICE_EXECUTOR_DIRECT ? "Direct" : "Daemon";
                         });

TEST_P(EachExecutor, ResolvesServeTheBytesThatWereSealed) {
  EXPECT_EQ(engine.arena.device_type, 2);
  const Sequence sequence = prefilled(engine, 20);
  must(engine.actor.begin_step());
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    client::ResolveCounts counts{};
    const auto slots = engine.resolve(sequence, layer, {0, 7, 19, 7}, &counts);
    EXPECT_EQ(counts.hits + counts.misses, 4u);
    EXPECT_EQ(counts.bytes_filled, counts.misses * engine.info.page_bytes);
    EXPECT_EQ(slots[1], slots[3]) << "a duplicate has the same slot";
    EXPECT_TRUE(engine.filled(slots[0], 1));
    EXPECT_TRUE(engine.filled(slots[1], 8));
    EXPECT_TRUE(engine.filled(slots[2], 20));
    engine.resolve(sequence, layer, {0, 7, 19}, &counts);
    EXPECT_EQ(counts.hits, 3u) << "they are there now";
  }
  must(engine.actor.end_step());
}

TEST(GpuClient, WhatPinningTookIsTold) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 20);
  const auto info = must(engine.cache.info());
  EXPECT_GT(info.frame_extents, 0u);
  EXPECT_EQ(info.pinned_frame_extents, info.frame_extents);
  EXPECT_EQ(info.pin_status, static_cast<std::uint32_t>(SLUICE_OK));
  EXPECT_GE(info.device_bytes, info.frame_extents * info.frame_extent_bytes / 512);
}

TEST_P(EachExecutor, PinnedSlotsAreWrittenOnTheDeviceAndSealed) {
  Sequence sequence = prefilled(engine, 2);
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  const auto slots = pin(engine, sequence, 2);
  EXPECT_EQ(pin(engine, sequence, 2), slots) << "pinned already";
  for (std::uint32_t page = 0; page < kLayers; ++page) {
    engine.fill(slots[page], 100 + static_cast<int>(page));
    EXPECT_EQ(engine.resolve(sequence, page, {2}), std::vector<std::int32_t>{slots[page]});
  }
  const std::string name = key(2);
  EXPECT_EQ(status_of(sequence.seal(2, std::as_bytes(std::span(name)))), SLUICE_INVALID_ARGUMENT)
      << "without an actor";
  EXPECT_FALSE(must(sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor)));
  EXPECT_EQ(engine.resolve(sequence, 3, {2}), std::vector<std::int32_t>{slots[3]});
  must(engine.actor.end_step());

  Engine other(daemon, cache());
  auto [shared, matched] = open(other, 3);
  ASSERT_EQ(matched, 3u);
  must(other.cache.wait_pinned(kPinTimeoutUs));
  must(other.actor.begin_step());
  for (std::uint32_t page = 0; page < kLayers; ++page) {
    EXPECT_TRUE(other.filled(other.resolve(shared, page, {2})[0], 100 + static_cast<int>(page)));
  }
  must(other.actor.end_step());
}

TEST_P(EachExecutor, APinTakesAlongWhatWasInTheFrame) {
  Sequence sequence = open(engine, 0).sequence;
  must(sequence.extend(1));
  const auto frame = must(sequence.map(0));
  std::memset(frame.data(), 77, frame.size());
  must(engine.actor.begin_step());
  for (const std::int32_t slot : pin(engine, sequence, 0)) EXPECT_TRUE(engine.filled(slot, 77));
  must(engine.actor.end_step());
}

TEST_P(EachExecutor, AForkCopiesPinnedBlocksInAStepOfAnActor) {
  Sequence sequence = open(engine, 0).sequence;
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  const auto slots = pin(engine, sequence, 0);
  for (const std::int32_t slot : slots) engine.fill(slot, 5);
  EXPECT_EQ(status_of(sequence.fork()), SLUICE_INVALID_ARGUMENT);
  Sequence child = must(sequence.fork(&engine.actor));
  for (const std::int32_t slot : slots) engine.fill(slot, 6);
  const auto copy = must(child.map(0));
  EXPECT_EQ(copy.front(), std::byte{5});
  EXPECT_EQ(copy.back(), std::byte{5});
  must(engine.actor.end_step());
}

TEST_P(EachExecutor, WhatWasWrittenAfterASecondPinIsSealed) {
  Sequence sequence = prefilled(engine, 2);
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  const auto slots = pin(engine, sequence, 2);
  for (const std::int32_t slot : slots) engine.fill(slot, 5);
  must(sequence.store(2, engine.actor));
  EXPECT_EQ(pin(engine, sequence, 2), slots);
  EXPECT_FALSE(must(sequence.stored(2)));
  for (const std::int32_t slot : slots) engine.fill(slot, 6);
  must(sequence.store(2, engine.actor));
  EXPECT_TRUE(eventually([&] { return must(sequence.stored(2)); }));
  const std::string name = key(2);
  must(sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor));
  must(engine.actor.end_step());
  EXPECT_EQ(status_of(sequence.store(2, engine.actor)), SLUICE_WRONG_STATE);

  Sequence copy = must(sequence.fork());
  must(sequence.truncate(0));
  must(engine.actor.begin_step());
  EXPECT_TRUE(engine.filled(engine.resolve(copy, 1, {2})[0], 6));
  must(engine.actor.end_step());
}

// The engine's stream, which stands still while a test holds it.
class HeldStream {
 public:
  HeldStream() { EXPECT_EQ(cudaStreamCreate(&stream_), cudaSuccess); }
  HeldStream(const HeldStream&) = delete;
  HeldStream& operator=(const HeldStream&) = delete;
  ~HeldStream() {
    release();
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
  }

  cudaStream_t get() const { return stream_; }
  sluice_stream as_sluices() const { return {SLUICE_STREAM_CUDA, 0, stream_}; }
  // What is enqueued from now on waits for release().
  void hold() {
    EXPECT_EQ(cudaLaunchHostFunc(
                  stream_, [](void* latch) { static_cast<std::latch*>(latch)->wait(); }, &latch_),
              cudaSuccess);
  }
  void release() {
    if (!latch_.try_wait()) latch_.count_down();
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  }

 private:
  cudaStream_t stream_ = nullptr;
  std::latch latch_{1};
};

constexpr std::chrono::seconds kForWhatDoesNotWait{20};
constexpr std::chrono::milliseconds kForWhatWaits{200};

// An engine whose sequence has a private block 2, in a step in a stream that can be held.
class InAHeldStream : public testing::Test {
 protected:
  void SetUp() override {
    must(sequence.extend(1));
    const sluice_stream stream = held.as_sluices();
    must(engine.actor.set_stream(&stream));
    must(engine.actor.begin_step());
  }
  void TearDown() override {
    held.release();
    must(engine.actor.end_step());
    must(engine.actor.set_stream(nullptr));
  }
  void write(const std::vector<std::int32_t>& slots, int value) {
    for (const std::int32_t slot : slots) {
      EXPECT_EQ(cudaMemsetAsync(engine.slot(slot), value, engine.arena.page_bytes, held.get()),
                cudaSuccess);
    }
  }
  template <class Call>
  static bool returns(const std::future<Call>& call, std::chrono::milliseconds within) {
    return call.wait_for(within) == std::future_status::ready;
  }

  const DaemonProcess daemon{on_gpu()};
  Engine engine{daemon};
  Sequence sequence = prefilled(engine, 2);
  HeldStream held;
  const std::string name = key(2);
};

TEST_F(InAHeldStream, ASealWaitsForItsStoreAlone) {
  Engine other(daemon);
  must(other.actor.begin_step());
  const Sequence before = open(other, 2).sequence;
  other.resolve(before, 1, {0});  // makes what a resolve needs
  const auto slots = pin(engine, sequence, 2);
  write(slots, 9);
  EXPECT_FALSE(must(sequence.stored(2)));
  must(sequence.store(2, engine.actor));
  EXPECT_TRUE(eventually([&] { return must(sequence.stored(2)); }));
  held.hold();
  auto sealing = std::async(std::launch::async, [&] {
    return sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor);
  });
  EXPECT_TRUE(returns(sealing, kForWhatDoesNotWait));
  // It is known now, though its pages are still pinned.
  auto [shared, matched] = open(other, 3);
  EXPECT_EQ(matched, 3u);
  client::ResolveCounts counts;
  const auto found = other.resolve(shared, 1, {2}, &counts);
  EXPECT_EQ(found, std::vector<std::int32_t>{slots[1]});
  EXPECT_EQ(counts.hits, 1u);
  held.release();
  must(sealing.get());
  EXPECT_TRUE(other.filled(found[0], 9));
  must(other.actor.end_step());
}

// What begins later must know what the seal withdraws.
TEST_F(InAHeldStream, ASealWaitsForTheBeginOfItsStep) {
  write(pin(engine, sequence, 2), 9);
  must(sequence.store(2, engine.actor));
  must(engine.actor.end_step());
  EXPECT_TRUE(eventually([&] { return must(sequence.stored(2)); }));
  held.hold();
  must(engine.actor.begin_step());
  auto sealing = std::async(std::launch::async, [&] {
    return sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor);
  });
  EXPECT_FALSE(returns(sealing, kForWhatWaits));
  held.release();
  must(sealing.get());
}

TEST_F(InAHeldStream, ACapturedStreamStoresAndSealsNothing) {
  write(pin(engine, sequence, 2), 9);
  ASSERT_EQ(cudaStreamBeginCapture(held.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(status_of(sequence.store(2, engine.actor)), SLUICE_WRONG_STATE);
  EXPECT_EQ(status_of(sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor)),
            SLUICE_WRONG_STATE);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(held.get(), &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  must(sequence.store(2, engine.actor));
  ASSERT_EQ(cudaStreamBeginCapture(held.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(status_of(sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor)),
            SLUICE_WRONG_STATE);
  ASSERT_EQ(cudaStreamEndCapture(held.get(), &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  must(sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor));
}

TEST_F(InAHeldStream, ASealWithoutAStoreWaitsForTheStream) {
  const auto slots = pin(engine, sequence, 2);
  write(slots, 9);
  held.hold();
  auto sealing = std::async(std::launch::async, [&] {
    return sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor);
  });
  EXPECT_FALSE(returns(sealing, kForWhatWaits));
  held.release();
  must(sealing.get());
}

TEST_F(InAHeldStream, APinWaitsForTheBeginOfItsStepAlone) {
  held.hold();
  auto pinning = std::async(std::launch::async, [&] { return pin(engine, sequence, 2); });
  EXPECT_TRUE(returns(pinning, kForWhatDoesNotWait));
  held.release();
  const auto slots = pinning.get();
  engine.fill(slots[1], 7);
  EXPECT_EQ(engine.resolve(sequence, 1, {2}), std::vector<std::int32_t>{slots[1]});
}

TEST_F(InAHeldStream, WhatTheStreamStillUsesIsNotGivenUp) {
  must(sequence.extend(1));
  const auto slots = pin(engine, sequence, 2);
  pin(engine, sequence, 3);
  write(slots, 9);
  must(sequence.store(2, engine.actor));
  EXPECT_TRUE(eventually([&] { return must(sequence.stored(2)); }));
  held.hold();
  must(sequence.store(3, engine.actor));
  EXPECT_FALSE(must(sequence.stored(3)));
  auto cutting = std::async(std::launch::async, [&] { return sequence.truncate(3); });
  EXPECT_FALSE(returns(cutting, kForWhatWaits)) << "a store";
  held.release();
  must(cutting.get());
}

TEST(GpuClient, AnActorChangesItsStreamBetweenSteps) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 3);
  cudaStream_t mine = nullptr;
  ASSERT_EQ(cudaStreamCreate(&mine), cudaSuccess);
  for (const sluice_stream stream :
       {sluice_stream{SLUICE_STREAM_CUDA, 0, mine}, sluice_stream{SLUICE_STREAM_CUDA, 0, nullptr},
        sluice_stream{SLUICE_STREAM_NONE, 0, nullptr}}) {
    must(engine.actor.set_stream(&stream));
    must(engine.actor.begin_step());
    EXPECT_EQ(status_of(engine.actor.set_stream(nullptr)), SLUICE_WRONG_STATE);
    EXPECT_TRUE(engine.filled(engine.resolve(sequence, 1, {2})[0], 3));
    must(engine.actor.end_step());
  }
  EXPECT_EQ(cudaStreamDestroy(mine), cudaSuccess);
}

// Room for lists of a plan, and what the tests put there.
struct PlanLists {
  static constexpr std::uint32_t kLists = 4;
  static constexpr std::uint32_t kCapacity = 8;
  static constexpr std::int32_t kUntouched = -7;

  OnDevice<std::int32_t> items{std::vector<std::int32_t>(kLists * kCapacity, -1)};
  OnDevice<std::uint32_t> counts{std::vector<std::uint32_t>(kLists, 0)};
  OnDevice<std::uint32_t> list_count{{0}};
  OnDevice<std::uint32_t> sequences{std::vector<std::uint32_t>(kLists, 0)};
  OnDevice<std::int32_t> slots{std::vector<std::int32_t>(kLists * kCapacity, kUntouched)};
  OnDevice<std::uint8_t> outcomes{std::vector<std::uint8_t>(kLists * kCapacity, 0xFF)};
  OnDevice<std::uint32_t> without_slot{{0}};

  sluice_plan_desc desc(sluice_item_kind kind, std::uint32_t first_page) const {
    sluice_plan_desc made = SLUICE_PLAN_DESC_INIT;
    made.kind = kind;
    made.max_lists = kLists;
    made.list_capacity = kCapacity;
    made.first_page = first_page;
    made.items = items.data();
    made.counts = counts.data();
    made.list_count = list_count.data();
    made.sequences = sequences.data();
    made.slots = slots.data();
    made.outcomes = outcomes.data();
    made.without_slot = without_slot.data();
    return made;
  }

  void put(const std::vector<std::vector<std::int32_t>>& lists,
           const std::vector<std::uint32_t>& rows) {
    std::vector<std::int32_t> all(kLists * kCapacity, -1);
    std::vector<std::uint32_t> lengths(kLists, 0);
    for (std::size_t l = 0; l < lists.size(); ++l) {
      std::copy(lists[l].begin(), lists[l].end(), all.begin() + static_cast<long>(l * kCapacity));
      lengths[l] = static_cast<std::uint32_t>(lists[l].size());
    }
    std::vector<std::uint32_t> of(kLists, 0);
    std::copy(rows.begin(), rows.end(), of.begin());
    items.set(all);
    counts.set(lengths);
    sequences.set(of);
    list_count.set({static_cast<std::uint32_t>(lists.size())});
    slots.set(std::vector<std::int32_t>(kLists * kCapacity, kUntouched));
    without_slot.set({0});
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  std::int32_t slot(std::uint32_t list, std::uint32_t item) const {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return slots.get()[list * kCapacity + item];
  }
};

TEST(GpuClient, APlanResolvesListsOfSequencesInDeviceMemory) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence first = prefilled(engine, 12);
  auto [second, matched] = open(engine, 6);
  ASSERT_EQ(matched, 6u);
  PlanLists lists;
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 2);
  desc.lists_per_sequence = 2;  // pages 2 and 3
  Plan plan = must(Plan::create(engine.actor, desc));
  EXPECT_EQ(status_of(plan.launch()), SLUICE_WRONG_STATE) << "the actor is in no step";
  const std::uint32_t row = must(first.row());
  EXPECT_EQ(must(first.row()), row);
  lists.put({{11, 0, -1, 11}, {4}, {5}}, {row, must(second.row())});
  must(engine.actor.begin_step());
  must(plan.launch());
  EXPECT_TRUE(engine.filled(lists.slot(0, 0), 12));
  EXPECT_TRUE(engine.filled(lists.slot(0, 1), 1));
  EXPECT_EQ(lists.slot(0, 2), -1) << "padding";
  EXPECT_EQ(lists.slot(0, 3), lists.slot(0, 0));
  EXPECT_EQ(lists.slot(0, 4), PlanLists::kUntouched) << "beyond the count";
  EXPECT_EQ(lists.slot(1, 0), engine.resolve(first, 3, {4})[0]);
  EXPECT_EQ(lists.slot(2, 0), engine.resolve(first, 2, {5})[0]) << "the block is the same";
  EXPECT_EQ(lists.slot(3, 0), PlanLists::kUntouched) << "no real list";
  EXPECT_EQ(lists.without_slot.get()[0], 0u);
  must(engine.actor.end_step());
}

TEST(GpuClient, ACapturedPlanIsReplayedWithOtherListsCountsAndSequences) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence first = prefilled(engine, 12);
  auto [second, matched] = open(engine, 3);
  ASSERT_EQ(matched, 3u);
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  const sluice_stream ref{SLUICE_STREAM_CUDA, 0, stream};
  must(engine.actor.set_stream(&ref));
  PlanLists lists;
  {
    Plan plan = must(Plan::create(engine.actor, lists.desc(SLUICE_ITEM_BLOCK, 1)));
    must(engine.actor.begin_step());
    must(plan.launch());
    must(engine.actor.end_step());
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);

    cudaGraph_t captured = nullptr;
    cudaGraphExec_t graph = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    must(engine.actor.begin_step());
    must(plan.launch());
    must(engine.actor.end_step());
    // What the library does beside a capture must not spoil it.
    Sequence third = open(engine, 0).sequence;
    must(third.extend(100));
    const std::uint32_t third_row = must(third.row());
    ASSERT_EQ(cudaStreamEndCapture(stream, &captured), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&graph, captured, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(captured), cudaSuccess);

    const auto replay = [&] {
      EXPECT_EQ(cudaGraphLaunch(graph, stream), cudaSuccess);
      EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    };
    lists.put({{11, 3}}, {must(first.row())});
    replay();
    EXPECT_TRUE(engine.filled(lists.slot(0, 0), 12));
    EXPECT_TRUE(engine.filled(lists.slot(0, 1), 4));
    lists.put({{2}, {0, 1, 2}}, {must(second.row()), must(first.row())});
    replay();
    EXPECT_TRUE(engine.filled(lists.slot(0, 0), 3));
    EXPECT_EQ(lists.slot(0, 1), PlanLists::kUntouched);
    for (std::uint32_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(engine.filled(lists.slot(1, i), static_cast<int>(i) + 1));
    }
    lists.put({{0}}, {third_row});
    replay();
    EXPECT_EQ(lists.slot(0, 0), -1) << "a block that nobody has written is absent";
    EXPECT_EQ(cudaGraphExecDestroy(graph), cudaSuccess);
  }
  must(engine.actor.set_stream(nullptr));
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST(GpuClient, TheRowOfASequenceFollowsItsBlocks) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  Sequence sequence = open(engine, 0).sequence;
  const std::uint32_t row = must(sequence.row());
  PlanLists lists;
  Plan plan = must(Plan::create(engine.actor, lists.desc(SLUICE_ITEM_BLOCK, 0)));
  const auto resolved = [&](std::int32_t block) {
    lists.put({{block}}, {row});
    must(engine.actor.begin_step());
    must(plan.launch());
    must(engine.actor.end_step());
    return lists.slot(0, 0);
  };
  EXPECT_EQ(resolved(0), -1) << "it has no block";
  for (const int blocks : {1, 64, 65, 150}) {  // beyond what its array held
    prefill(engine, sequence, blocks);
    EXPECT_TRUE(engine.filled(resolved(blocks - 1), blocks));
    EXPECT_TRUE(engine.filled(resolved(0), 1));
    EXPECT_EQ(resolved(blocks), -1);
  }
  must(sequence.truncate(10));
  EXPECT_TRUE(engine.filled(resolved(9), 10));
  EXPECT_EQ(resolved(10), -1);
  EXPECT_EQ(must(sequence.row()), row);
  // A block that takes another's key becomes that block.
  must(sequence.extend(1));
  EXPECT_EQ(resolved(10), -1);
  const std::string name = key(10);
  EXPECT_TRUE(must(sequence.seal(10, std::as_bytes(std::span(name)))));
  EXPECT_TRUE(engine.filled(resolved(10), 11));
}

TEST(GpuClient, APlanOfRowsNamesTokens) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon, rows_cache());
  ASSERT_EQ(engine.info.pages_per_block, 2u * 16);
  Sequence sequence = open(engine, 0).sequence;
  must(sequence.extend(2));
  for (std::uint32_t block = 0; block < 2; ++block) {
    const auto frame = must(sequence.map(block));
    for (std::size_t page = 0; page < engine.info.pages_per_block; ++page) {
      std::memset(frame.data() + page * engine.info.page_bytes, static_cast<int>(block * 32 + page),
                  engine.info.page_bytes);
    }
    const std::string name = key(static_cast<int>(block));
    must(sequence.seal(block, std::as_bytes(std::span(name))));
  }
  must(engine.cache.wait_pinned(kPinTimeoutUs));
  PlanLists lists;
  Plan plan = must(Plan::create(engine.actor, lists.desc(SLUICE_ITEM_ROW, 16)));  // layer 1
  lists.put({{0, 15, 16, 31}}, {must(sequence.row())});
  must(engine.actor.begin_step());
  must(plan.launch());
  EXPECT_TRUE(engine.filled(lists.slot(0, 0), 16));
  EXPECT_TRUE(engine.filled(lists.slot(0, 1), 31));
  EXPECT_TRUE(engine.filled(lists.slot(0, 2), 32 + 16));
  EXPECT_TRUE(engine.filled(lists.slot(0, 3), 32 + 31));
  must(engine.actor.end_step());
}

TEST(GpuClient, APlanThatAdvancesKeepsItsActorInAStep) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 12);
  PlanLists lists;
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 0);
  desc.flags = SLUICE_PLAN_ADVANCE;
  Plan plan = must(Plan::create(engine.actor, desc));
  must(engine.actor.begin_step());
  for (int i = 0; i < 100; ++i) {
    lists.put({{i % 12, (i + 5) % 12}}, {must(sequence.row())});
    must(plan.launch());
    EXPECT_TRUE(engine.filled(lists.slot(0, 0), i % 12 + 1));
    EXPECT_TRUE(engine.filled(lists.slot(0, 1), (i + 5) % 12 + 1));
  }
  EXPECT_EQ(lists.without_slot.get()[0], 0u);
  must(engine.actor.end_step());
}

// More than DRAM holds, over a store.
class OverAStore : public testing::Test {
 public:
  OverAStore() {
    DaemonProcess::Options options = on_gpu();
    options.dram = "1MiB";
    options.extra += "\n[tiers.nvme]\ndirectories = [\"" + store + ":1GiB\"]\n";
    daemon.emplace(options);
    engine.emplace(*daemon);
  }
  ~OverAStore() override {
    engine.reset();
    daemon.reset();
    std::filesystem::remove_all(store);
  }

 protected:
  static constexpr int kBlocks = 200;
  static constexpr std::uint64_t kWaitUs = 100'000;
  static constexpr int kMostSteps = 100;

  // Few at a time: what is not sealed needs DRAM.
  Sequence long_sequence() {
    Sequence sequence = prefilled(*engine, 4);
    for (int blocks = 8; blocks <= kBlocks; blocks += 4) prefill(*engine, sequence, blocks);
    return sequence;
  }

  std::string store = testing::TempDir() + "sluice-store-" + std::to_string(getpid());
  std::optional<DaemonProcess> daemon;
  std::optional<Engine> engine;
  PlanLists lists;
};

TEST_F(OverAStore, APlanWaitsForWhatIsOnNvme) {
  const Sequence sequence = long_sequence();
  Plan plan = must(Plan::create(engine->actor, lists.desc(SLUICE_ITEM_BLOCK, 2)));
  const std::uint32_t row = must(sequence.row());
  std::uint64_t absent_at_first = 0;
  for (int first = 0; first < kBlocks; first += 4) {
    lists.put({{first, first + 1, first + 2, first + 3}}, {row});
    must(engine->actor.begin_step());
    absent_at_first += must(plan.launch_wait(0));
    // What a step may still read keeps its place in DRAM until the step has ended.
    for (int steps = 0; must(plan.launch_wait(kWaitUs)) != 0 && steps < kMostSteps; ++steps) {
      must(engine->actor.end_step());
      must(engine->actor.begin_step());
    }
    for (int i = 0; i < 4; ++i) {
      EXPECT_TRUE(engine->filled(lists.slot(0, static_cast<std::uint32_t>(i)), first + i + 1))
          << "block " << first + i;
    }
    must(engine->actor.end_step());
  }
  EXPECT_GT(absent_at_first, 0u) << "DRAM holds all of it";
}

TEST_F(OverAStore, APlanWaitsInItsStream) {
  const Sequence sequence = long_sequence();
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 2);
  desc.wait_us = kWaitUs;
  Plan plan = must(Plan::create(engine->actor, desc));
  Plan once = must(Plan::create(engine->actor, lists.desc(SLUICE_ITEM_BLOCK, 2)));
  const std::uint32_t row = must(sequence.row());
  const auto all_there = [&] {
    const auto outcomes = lists.outcomes.get();
    return std::count(outcomes.begin(), outcomes.begin() + 2, SLUICE_ABSENT) == 0;
  };
  int away_at_first = 0;
  int came = 0;  // while the launch waited
  for (int first = 0; first < kBlocks; first += 2) {
    lists.put({{first, first + 1}}, {row});
    // What a step may still read keeps its place in DRAM until the step has ended.
    bool there = false;
    for (int steps = 0; !there && steps < kMostSteps; ++steps) {
      must(engine->actor.begin_step());
      must(once.launch());
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      const bool away = !all_there();
      away_at_first += away && steps == 0 ? 1 : 0;
      must(plan.launch());
      must(engine->actor.end_step());
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      there = all_there();
      came += away && there ? 1 : 0;
    }
    for (int i = 0; i < 2; ++i) {
      EXPECT_TRUE(engine->filled(lists.slot(0, static_cast<std::uint32_t>(i)), first + i + 1))
          << "block " << first + i;
    }
  }
  EXPECT_GT(came, 0);
  EXPECT_GE(came * 2, away_at_first) << "who does not wait meets a block only by chance";
}

// A block that nobody has sealed never comes; the plan's own wait is not that of its host.
TEST_F(OverAStore, TheHostWaitsNoLongerThanItSays) {
  Sequence sequence = prefilled(*engine, 2);
  must(sequence.extend(1));
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 2);
  desc.wait_us = SLUICE_MAX_PLAN_WAIT_US;
  Plan plan = must(Plan::create(engine->actor, desc));
  lists.put({{0, 2}}, {must(sequence.row())});
  must(engine->actor.begin_step());
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(must(plan.launch_wait(1'000)), 1u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  must(engine->actor.end_step());
}

TEST_F(OverAStore, APlanDoesNotWaitForWhatIsLost) {
  const Sequence sequence = long_sequence();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(store)) {
    if (!entry.is_regular_file()) continue;
    const std::string garbage(entry.file_size(), 'Z');
    std::fstream(entry.path(), std::ios::in | std::ios::out | std::ios::binary) << garbage;
  }
  Plan plan = must(Plan::create(engine->actor, lists.desc(SLUICE_ITEM_BLOCK, 2)));
  const std::uint32_t row = must(sequence.row());
  int lost = 0;
  for (int first = 0; lost == 0 && first < kBlocks; first += 4) {
    lists.put({{first, first + 1, first + 2, first + 3}}, {row});
    must(engine->actor.begin_step());
    // A minute: who waits all of it fails by the time that a test may take.
    EXPECT_EQ(must(plan.launch_wait(60'000'000)), 0u);
    const auto outcomes = lists.outcomes.get();
    lost += static_cast<int>(std::count(outcomes.begin(), outcomes.begin() + 4, SLUICE_LOST));
    must(engine->actor.end_step());
  }
  EXPECT_GT(lost, 0) << "DRAM holds all of it";
}

TEST_F(OverAStore, APlanThatTellsNoOutcomesCannotWait) {
  const Sequence sequence = prefilled(*engine, 4);
  sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 2);
  desc.outcomes = nullptr;
  Plan plan = must(Plan::create(engine->actor, desc));
  lists.put({{0}}, {must(sequence.row())});
  must(engine->actor.begin_step());
  EXPECT_EQ(status_of(plan.launch_wait(1000)), SLUICE_INVALID_ARGUMENT);
  must(engine->actor.end_step());
}

TEST(GpuClient, PlansThatDoNotFitTheCacheAreRefused) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  PlanLists lists;
  const auto refused = [&](const sluice_plan_desc& desc) {
    return status_of(Plan::create(engine.actor, desc));
  };
  EXPECT_EQ(refused(lists.desc(SLUICE_ITEM_BLOCK, kLayers)), SLUICE_INVALID_ARGUMENT)
      << "no such page";
  EXPECT_EQ(refused(lists.desc(SLUICE_ITEM_ROW, 0)), SLUICE_INVALID_ARGUMENT)
      << "its pages are no rows";
  int pageable = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, 0), cudaSuccess);
  if (pageable == 0) {
    std::vector<std::int32_t> heap(PlanLists::kLists * PlanLists::kCapacity);
    sluice_plan_desc desc = lists.desc(SLUICE_ITEM_BLOCK, 0);
    desc.slots = heap.data();
    EXPECT_EQ(refused(desc), SLUICE_INVALID_ARGUMENT) << "memory of the CPU";
  }
}

TEST(GpuClient, AForkedChildMayOnlyDisconnect) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 3);
  PlanLists lists;
  Plan plan = must(Plan::create(engine.actor, lists.desc(SLUICE_ITEM_BLOCK, 0)));
  const pid_t child = fork();
  if (child == 0) {
    const bool told = status_of(engine.actor.begin_step()) == SLUICE_FORKED &&
                      status_of(engine.cache.wait_pinned(0)) == SLUICE_FORKED &&
                      status_of(sequence.row()) == SLUICE_FORKED &&
                      status_of(plan.launch()) == SLUICE_FORKED &&
                      status_of(engine.actor.set_stream(nullptr)) == SLUICE_FORKED;
    {
      const Engine copied = std::move(engine);
      const Plan copied_plan = std::move(plan);
    }
    _exit(told ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  must(engine.actor.begin_step());
  EXPECT_TRUE(engine.filled(engine.resolve(sequence, 0, {2})[0], 3));
  must(engine.actor.end_step());
}

// A forecast by an actor of its own, beside which the engine's resolves are hits.
TEST(GpuClient, ForecastsBringPagesInBeforeTheyAreAskedFor) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 20);
  Actor forecaster = must(engine.cache.open_actor());
  const std::vector<std::uint32_t> blocks = {3, 4, 5};
  const PageList list{sequence.get(), 0, 3, blocks.data(), nullptr, nullptr};
  must(forecaster.begin_step());
  must(forecaster.forecast({&list, 1}, 1'000'000, 100));
  must(forecaster.end_step());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  auto stats = must(engine.cache.stats());
  EXPECT_EQ(stats.forecast_issued, 3u);
  EXPECT_EQ(stats.forecast_dropped, 0u);

  must(engine.actor.begin_step());
  client::ResolveCounts counts{};
  const auto slots = engine.resolve(sequence, 0, blocks, &counts);
  EXPECT_EQ(counts.hits, 3u);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_TRUE(engine.filled(slots[i], static_cast<int>(blocks[i]) + 1));
  }
  must(engine.actor.end_step());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  stats = must(engine.cache.stats());
  EXPECT_EQ(stats.forecast_issued, 3u) << "counted once";
  EXPECT_EQ(stats.forecast_used, 3u);
  EXPECT_EQ(stats.forecast_wasted_bytes, 0u);
}

TEST(GpuClient, APlanForecastsWithoutResults) {
  const DaemonProcess daemon(on_gpu());
  Engine engine(daemon);
  const Sequence sequence = prefilled(engine, 20);
  Actor forecaster = must(engine.cache.open_actor());
  OnDevice<std::int32_t> items({3, 4, 5, 6});
  OnDevice<std::uint32_t> sequences({must(sequence.row())});
  sluice_plan_desc desc = SLUICE_PLAN_DESC_INIT;
  desc.flags = SLUICE_PLAN_FORECAST;
  desc.max_lists = 1;
  desc.list_capacity = 4;
  desc.items = items.data();
  desc.sequences = sequences.data();
  desc.budget_bytes = 3 * engine.info.page_bytes;
  desc.confidence = 100;
  Plan plan = must(Plan::create(forecaster, desc));
  must(forecaster.begin_step());
  must(plan.launch());
  must(forecaster.end_step());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const auto stats = must(engine.cache.stats());
  EXPECT_EQ(stats.forecast_issued, 3u) << "its budget";
  EXPECT_EQ(stats.forecast_dropped, 1u);
}

// Processes that work for a daemon.
std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "stat");
    pid_t pid = 0;
    std::string name;
    std::string state;
    pid_t its_parent = 0;
    if (file >> pid >> name >> state >> its_parent && its_parent == parent) children.push_back(pid);
  }
  return children;
}

TEST_P(EachExecutor, GoesOnWithOtherWorkers) {
  Sequence sequence = prefilled(engine, 6);
  must(sequence.extend(1));
  must(engine.actor.begin_step());
  const auto slots = pin(engine, sequence, 6);
  for (const std::int32_t slot : slots) engine.fill(slot, 7);
  for (const std::uint32_t block : {0u, 2u, 4u}) {
    for (const pid_t worker : children_of(daemon.pid())) kill(worker, SIGKILL);
    EXPECT_TRUE(
        engine.filled(engine.resolve(sequence, 1, {block})[0], static_cast<int>(block) + 1));
  }
  const std::string name = key(6);
  for (const pid_t worker : children_of(daemon.pid())) kill(worker, SIGKILL);
  must(sequence.seal(6, std::as_bytes(std::span(name)), &engine.actor));
  EXPECT_EQ(engine.resolve(sequence, 2, {6}), std::vector<std::int32_t>{slots[2]});
  must(engine.actor.end_step());
}

TEST(GpuClient, ACacheOnAGpuHasTheDirectExecutorUnlessATenantTrustsItself) {
  const DaemonProcess daemon(on_gpu());
  Client client = daemon.connect('a');
  sluice_cache_desc desc = gpu_cache("model", SLUICE_EXECUTOR_DAEMON);
  EXPECT_EQ(status_of(client.open_cache(desc)), SLUICE_NOT_SUPPORTED);
  desc.executor = SLUICE_EXECUTOR_DIRECT;
  desc.device_type = 0;
  EXPECT_EQ(status_of(client.open_cache(desc)), SLUICE_NOT_SUPPORTED)
      << "a cache of the host backend, with a daemon that has a GPU";
  desc.device_type = 2;
  desc.device_id = 1000;
  EXPECT_EQ(status_of(client.open_cache(desc)), SLUICE_INVALID_ARGUMENT);
}

// Opening and closing again and again leaves no memory of the device behind.
TEST(GpuClient, WhatACacheTookOfTheDeviceComesBackWhenItIsClosed) {
  const DaemonProcess daemon(on_gpu());
  const auto free_bytes = [] {
    std::size_t free = 0;
    std::size_t total = 0;
    EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    return free;
  };
  const auto use = [&] {
    Engine engine(daemon);
    const Sequence sequence = prefilled(engine, 3);
    must(sequence.row());
    must(engine.actor.begin_step());
    engine.resolve(sequence, 0, {0, 1, 2});
    must(engine.actor.end_step());
  };
  use();
  const std::size_t before = free_bytes();
  for (int i = 0; i < 10; ++i) use();
  constexpr std::size_t kNoise = std::size_t{32} << 20;  // of other processes
  EXPECT_GE(free_bytes() + kNoise, before);
}

}  // namespace
}  // namespace sluice::test
