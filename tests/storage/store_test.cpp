// Blocks that are written are found and read, in this run and in the next.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <thread>

#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

TEST_F(StoreTest, AWrittenBlockIsFoundAndRead) {
  open();
  const Payload payload(100 * kKiB, 1);
  EXPECT_FALSE(find("key"));
  ASSERT_OK(write("key", payload));
  EXPECT_TRUE(holds("key", payload));
  EXPECT_EQ(store->stats().blocks, 1U);
  EXPECT_EQ(tenant().live_bytes, 104 * kKiB);
  EXPECT_GT(device().syncs, 0U);
}

TEST_F(StoreTest, ABlockBelongsToItsNamespace) {
  open();
  const Payload payload(8 * kKiB, 1);
  ASSERT_OK(write("key", payload));
  EXPECT_FALSE(find(intern("other"), "key"));
}

TEST_F(StoreTest, ARangeIsReadWithoutTheRest) {
  open();
  const Payload payload(100 * kKiB, 1);
  ASSERT_OK(write("key", payload));
  const auto block = find("key");
  ASSERT_TRUE(block);
  // Whole parts, pieces of parts, the short last part.
  for (const auto& [offset, bytes] :
       {std::pair{16 * kKiB, 32 * kKiB}, std::pair{4 * kKiB, 4 * kKiB},
        std::pair{12 * kKiB, 40 * kKiB}, std::pair{96 * kKiB, 4 * kKiB},
        std::pair{92 * kKiB, 8 * kKiB}}) {
    Payload got(bytes, 999);
    ASSERT_OK(read(own_scope, "key", *block, offset, got.memory()));
    EXPECT_TRUE(std::ranges::equal(got.bytes(), payload.bytes().subspan(offset, bytes)));
  }
}

TEST_F(StoreTest, ReadsOutsideOfTheBlockAreRefused) {
  open();
  ASSERT_OK(write("key", Payload(8 * kKiB, 1)));
  const auto block = find("key");
  ASSERT_TRUE(block);
  Payload got(16 * kKiB, 999);
  EXPECT_ERROR(read(own_scope, "key", *block, 0, got.memory()), Errc::invalid_argument);
  EXPECT_ERROR(read(own_scope, "key", *block, 8 * kKiB, got.memory().first(4 * kKiB)),
               Errc::invalid_argument);
  EXPECT_ERROR(read(own_scope, "key", *block, 0, got.memory().first(100)), Errc::invalid_argument);
}

TEST_F(StoreTest, ABlockOfManyPiecesIsWritten) {
  config.segment_bytes = 8 * kMiB;
  config.devices[0].capacity_bytes = 64 * kMiB;
  open();
  const Payload payload(5 * kMiB + 12 * kKiB, 1);
  ASSERT_OK(write("key", payload));
  EXPECT_TRUE(holds("key", payload));
}

TEST_F(StoreTest, ASecondWriteOfTheSameBlockWritesNothing) {
  open();
  const Payload payload(8 * kKiB, 1);
  ASSERT_OK(write("key", payload));
  const std::uint64_t written = device().written_bytes;
  ASSERT_OK(write("key", payload));
  EXPECT_EQ(device().written_bytes, written);
}

TEST_F(StoreTest, AnotherLengthReplacesTheBlock) {
  open();
  ASSERT_OK(write("key", Payload(8 * kKiB, 1)));
  const auto before = find("key");
  const Payload longer(16 * kKiB, 2);
  ASSERT_OK(write("key", longer));
  EXPECT_TRUE(holds("key", longer));
  EXPECT_EQ(store->stats().blocks, 1U);
  EXPECT_EQ(tenant().live_bytes, 20 * kKiB);
  Payload got(8 * kKiB, 999);
  EXPECT_ERROR(read(own_scope, "key", *before, 0, got.memory()), Errc::not_found);
}

TEST_F(StoreTest, AForgottenBlockIsGoneInTheNextRunToo) {
  open();
  ASSERT_OK(write("key", Payload(8 * kKiB, 1)));
  ASSERT_OK(store->forget(own_scope, key_of("key")));
  EXPECT_FALSE(find("key"));
  open();
  EXPECT_FALSE(find("key"));
}

TEST_F(StoreTest, EverythingIsThereInTheNextRun) {
  open();
  const Payload payload(100 * kKiB, 1);
  for (int i = 0; i < 20; ++i) ASSERT_OK(write("key" + std::to_string(i), payload));
  open();
  EXPECT_EQ(store->stats().blocks, 20U);
  EXPECT_EQ(store->stats().recovered_blocks, 0U);
  EXPECT_EQ(tenant().live_bytes, 20 * 104 * kKiB);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(holds("key" + std::to_string(i), payload));
  ASSERT_OK(write("more", payload));
  EXPECT_TRUE(holds("more", payload));
}

TEST_F(StoreTest, OneProcessAtATime) {
  open();
  const auto second = BlockStore::open(config);
  EXPECT_ERROR(second, Errc::address_in_use);
}

TEST_F(StoreTest, BadArgumentsAreAnswered) {
  open();
  const Payload payload(8 * kKiB, 1);
  EXPECT_ERROR(write("", payload), Errc::invalid_argument);
  EXPECT_ERROR(write(std::string(65, 'k'), payload), Errc::invalid_argument);
  EXPECT_ERROR(write(NamespaceId{99}, "key", payload), Errc::invalid_argument);
  EXPECT_ERROR(write("key", Payload(1 * kMiB, 1)), Errc::invalid_argument);
}

// Who asks in a completion wakes no thread, and must not wait for its longest sleep either.
TEST_F(StoreTest, ACompletionMayAskForTheNext) {
  open();
  ASSERT_OK(write("key", Payload(8 * kKiB, 1)));
  const auto block = find("key");
  ASSERT_TRUE(block);
  constexpr int kChain = 200;  // 20 s of longest sleeps
  std::promise<void> end;
  std::function<void(int)> ask = [&](int left) {
    // Refused: the thread answers without a turn of the disk.
    store->read(own_scope, key_of("key"), *block, 0, {}, IoClass::must_have, [&, left](Status) {
      if (left == 0) return end.set_value();
      ask(left - 1);
    });
  };
  ask(kChain);
  EXPECT_EQ(end.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_OK(store->drain(std::chrono::seconds(30)));
}

TEST_F(StoreTest, DrainWaitsForWhatWasAskedBefore) {
  open();
  const Payload payload(64 * kKiB, 1);
  std::atomic<int> answered = 0;
  for (int i = 0; i < 32; ++i) {
    store->write(own_scope, key_of("key" + std::to_string(i)), payload.bytes(), 64 * kKiB,
                 IoClass::write_back, [&](Status status) { answered += status ? 1 : 100; });
  }
  ASSERT_OK(store->drain(kPatience));
  EXPECT_EQ(answered, 32);
}

TEST_F(StoreTest, ManyThreadsWriteFindAndRead) {
  config.devices.push_back({directory(1), 16 * kMiB});
  open();
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this, thread] {
      for (int i = 0; i < 40; ++i) {
        // Half of the keys are written by all of them.
        const int number = i % 2 == 0 ? i : 1000 * thread + i;
        const Payload payload(24 * kKiB, static_cast<std::uint64_t>(number));
        const std::string key = "key" + std::to_string(number);
        EXPECT_OK(write(key, payload));
        EXPECT_TRUE(holds(key, payload));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store->stats().blocks, 100U);
}

}  // namespace
}  // namespace sluice::storage
