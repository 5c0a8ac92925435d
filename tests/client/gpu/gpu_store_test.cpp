// Stores, seals and pins on a GPU: what waits for an engine's stream, and what does not.
#include <chrono>
#include <future>
#include <latch>
#include <string>
#include <vector>

#include "tests/client/gpu/gpu_engine.h"

namespace sluice::test {
namespace {

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
  client::Result<bool> seal() {
    return sequence.seal(2, std::as_bytes(std::span(name)), &engine.actor);
  }
  std::future<client::Result<bool>> begin_to_seal() {
    return std::async(std::launch::async, [this] { return seal(); });
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
  auto sealing = begin_to_seal();
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
  auto sealing = begin_to_seal();
  EXPECT_FALSE(returns(sealing, kForWhatWaits));
  held.release();
  must(sealing.get());
}

TEST_F(InAHeldStream, ACapturedStreamStoresAndSealsNothing) {
  const auto while_captured = [&](const auto& call) {
    EXPECT_EQ(cudaStreamBeginCapture(held.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
    const sluice_status status = status_of(call());
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(held.get(), &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    return status;
  };
  write(pin(engine, sequence, 2), 9);
  const auto store = [&] { return sequence.store(2, engine.actor); };
  EXPECT_EQ(while_captured(store), SLUICE_WRONG_STATE);
  EXPECT_EQ(while_captured([&] { return seal(); }), SLUICE_WRONG_STATE) << "not stored";
  must(store());
  EXPECT_EQ(while_captured([&] { return seal(); }), SLUICE_WRONG_STATE) << "stored";
  must(seal());
}

TEST_F(InAHeldStream, ASealWithoutAStoreWaitsForTheStream) {
  const auto slots = pin(engine, sequence, 2);
  write(slots, 9);
  held.hold();
  auto sealing = begin_to_seal();
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

}  // namespace
}  // namespace sluice::test
