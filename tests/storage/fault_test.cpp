// Whatever a device does wrong is a miss or a refused write, is counted, and costs nothing else.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "storage/record.h"
#include "tests/storage/support.h"

namespace sluice::storage {
namespace {

// A payload's request, and not a header's or a segment's page.
bool is_payload(const IoRequest& request) { return request.length > kPageBytes; }

class FaultTest : public StoreTest {
 protected:
  // Answers `error` to requests of `op` while it is armed.
  void open_with_error(IoOp op, int error) {
    break_device([this, op, error](const IoRequest& request, const Perform& perform) {
      return armed && request.op == op ? -error : perform(request);
    });
    open();
  }

  Status read_all(std::string_view key) {
    const auto block = find(key);
    if (!block) return ipc::fail(Errc::not_found, "not found");
    Payload got(block->block_bytes, 99);
    return read(own_scope, key, *block, 0, got.memory());
  }

  const Payload payload_bytes{100 * kKiB, 1};
  std::atomic<bool> armed = false;
};

TEST_F(FaultTest, AFailedReadIsAMissFromThenOn) {
  open_with_error(IoOp::read, EIO);
  ASSERT_OK(write("bad", payload_bytes));
  ASSERT_OK(write("good", payload_bytes));
  armed = true;
  EXPECT_ERROR(read_all("bad"), Errc::io_error);
  armed = false;
  EXPECT_FALSE(find("bad"));
  EXPECT_TRUE(holds("good", payload_bytes));
  EXPECT_GE(device().io_errors, 1U);
  EXPECT_EQ(tenant().lost_blocks, 1U);
}

TEST_F(FaultTest, AFailedWriteIsRefusedAndTheNextOneIsNot) {
  open_with_error(IoOp::write, EIO);
  ASSERT_OK(write("before", payload_bytes));
  armed = true;
  EXPECT_ERROR(write("key", payload_bytes), Errc::io_error);
  armed = false;
  EXPECT_FALSE(find("key"));
  ASSERT_OK(write("key", payload_bytes));
  EXPECT_TRUE(holds("key", payload_bytes));
  open();
  EXPECT_TRUE(holds("before", payload_bytes));
  EXPECT_TRUE(holds("key", payload_bytes));
}

TEST_F(FaultTest, AFailedSegmentPageCostsItsWritesOnly) {
  open_with_error(IoOp::write, EIO);
  armed = true;
  EXPECT_ERROR(write("key", payload_bytes), Errc::io_error);
  armed = false;
  ASSERT_OK(write("key", payload_bytes));
  open();
  EXPECT_TRUE(holds("key", payload_bytes));
}

TEST_F(FaultTest, NothingIsDurableThatWasNotSynced) {
  open_with_error(IoOp::sync, EIO);
  ASSERT_OK(write("before", payload_bytes));
  const auto before = find("before");
  armed = true;
  EXPECT_ERROR(write("key", payload_bytes), Errc::io_error);
  armed = false;
  EXPECT_FALSE(find("key"));
  ASSERT_OK(write("key", payload_bytes));
  // A sync that failed says nothing about later ones of the same file.
  EXPECT_NE(find("key")->segment, before->segment);
  EXPECT_TRUE(holds("before", payload_bytes));
}

TEST_F(FaultTest, AFullDiskRefusesWritesAndServesReads) {
  open_with_error(IoOp::write, ENOSPC);
  ASSERT_OK(write("before", payload_bytes));
  armed = true;
  for (int i = 0; i < 100; ++i) {
    EXPECT_ERROR(write("key" + std::to_string(i), payload_bytes), Errc::no_memory);
  }
  // It is not broken.
  EXPECT_FALSE(device().taken_out);
  EXPECT_EQ(device().io_errors, 0U);
  EXPECT_TRUE(holds("before", payload_bytes));
}

TEST_F(FaultTest, ShortReadsAndWritesAreCarriedOn) {
  break_device([](const IoRequest& request, const Perform& perform) {
    IoRequest shorter = request;
    if (request.length > 0) shorter.length = std::min(request.length, 8 * kKiB);
    return request.op == IoOp::discard ? perform(request) : perform(shorter);
  });
  open();
  ASSERT_OK(write("key", payload_bytes));
  EXPECT_TRUE(holds("key", payload_bytes));
  open();
  EXPECT_TRUE(holds("key", payload_bytes));
}

TEST_F(FaultTest, WritesThatStopAtNothingAreRefused) {
  break_device([](const IoRequest& request, const Perform& perform) {
    return request.op == IoOp::write ? 0 : perform(request);
  });
  open();
  EXPECT_ERROR(write("key", payload_bytes), Errc::io_error);
}

TEST_F(FaultTest, InterruptedRequestsAreTriedAgain) {
  auto left = std::make_shared<int>(5);
  break_device([left](const IoRequest& request, const Perform& perform) {
    return (*left)-- > 0 ? -EINTR : perform(request);
  });
  open();
  ASSERT_OK(write("key", payload_bytes));
  EXPECT_TRUE(holds("key", payload_bytes));
}

TEST_F(FaultTest, ALostWriteIsSeenByItsReader) {
  break_device([this](const IoRequest& request, const Perform& perform) {
    if (armed && request.op == IoOp::write) return static_cast<std::int64_t>(request.length);
    return perform(request);
  });
  open();
  ASSERT_OK(write("before", payload_bytes));
  armed = true;
  ASSERT_OK(write("lost", payload_bytes));
  armed = false;
  ASSERT_OK(write("after", payload_bytes));
  EXPECT_ERROR(read_all("lost"), Errc::data_lost);
  EXPECT_FALSE(find("lost"));
  EXPECT_EQ(device().checksum_errors, 1U);
  EXPECT_EQ(tenant().lost_blocks, 1U);
  EXPECT_TRUE(holds("before", payload_bytes));
  EXPECT_TRUE(holds("after", payload_bytes));
}

TEST_F(FaultTest, AFlippedBitCostsThePartUntilItIsRead) {
  open();
  ASSERT_OK(write("key", payload_bytes));
  const auto block = find("key");
  damage(segment_of(*block), block->offset + kPageBytes + 20 * kKiB);
  Payload got(16 * kKiB, 99);
  ASSERT_OK(read(own_scope, "key", *block, 0, got.memory()));
  EXPECT_TRUE(std::ranges::equal(got.bytes(), payload_bytes.bytes().first(16 * kKiB)));
  EXPECT_ERROR(read(own_scope, "key", *block, 16 * kKiB, got.memory()), Errc::data_lost);
  EXPECT_FALSE(find("key"));
  // A page out of the middle of the bad part is not believed either.
  open();
  EXPECT_FALSE(find("key"));
}

TEST_F(FaultTest, AFlippedBitOfAHeaderIsAMiss) {
  open();
  ASSERT_OK(write("key", payload_bytes));
  const auto block = find("key");
  damage(segment_of(*block), block->offset + 64);
  EXPECT_ERROR(read_all("key"), Errc::data_lost);
  EXPECT_FALSE(find("key"));
}

TEST_F(FaultTest, WhatAClientWritesIntoItsMemoryIsNotTheDisksFault) {
  auto scribble = std::make_shared<bool>(true);
  break_device([scribble](const IoRequest& request, const Perform& perform) {
    const std::int64_t result = perform(request);
    if (request.op == IoOp::read && is_payload(request) && std::exchange(*scribble, false)) {
      request.memory[100] ^= std::byte{1};
    }
    return result;
  });
  open();
  ASSERT_OK(write("key", payload_bytes));
  EXPECT_TRUE(holds("key", payload_bytes));
  EXPECT_EQ(device().checksum_errors, 0U);
}

TEST_F(FaultTest, ChecksumsAreOfThePrivateCopy) {
  config.segment_bytes = 8 * kMiB;
  config.devices[0].capacity_bytes = 64 * kMiB;
  Payload changing(5 * kMiB, 1);
  break_device([&](const IoRequest& request, const Perform& perform) {
    // The client changes what was copied already and what was not, while it is written.
    if (request.op == IoOp::write) {
      changing.memory()[50] ^= std::byte{1};
      changing.memory()[4 * kMiB + 50] ^= std::byte{1};
    }
    return perform(request);
  });
  open();
  ASSERT_OK(write("key", changing));
  ASSERT_OK(read_all("key"));
  store.reset();
}

class DevicesTest : public FaultTest {
 protected:
  DevicesTest() {
    config.devices.push_back({directory(1), 16 * kMiB});
    config.device_error_budget = 4;
  }

  void write_some() {
    for (int i = 0; i < 40; ++i) ASSERT_OK(write(name(i), payload_bytes));
  }
  static std::string name(int i) { return "key" + std::to_string(i); }

  int count(std::size_t on_device) {
    int found = 0;
    for (int i = 0; i < 40; ++i) {
      const auto block = find(name(i));
      if (block && block->device == on_device && holds(name(i), payload_bytes)) ++found;
    }
    return found;
  }
};

TEST_F(DevicesTest, BlocksAreSpread) {
  open();
  write_some();
  EXPECT_GT(count(0), 5);
  EXPECT_GT(count(1), 5);
  EXPECT_EQ(count(0) + count(1), 40);
}

TEST_F(DevicesTest, TheirOrderInTheConfigurationDoesNotMatter) {
  open();
  write_some();
  close();
  config.index_directory = directory(0) / "index";
  std::swap(config.devices[0], config.devices[1]);
  open();
  EXPECT_EQ(store->stats().blocks, 40U);
  EXPECT_EQ(count(0) + count(1), 40);
}

TEST_F(DevicesTest, ADeviceOverItsErrorBudgetCostsItsOwnBlocksOnly) {
  break_device([this](const IoRequest& request,
                      const Perform& perform) { return armed ? -EIO : perform(request); },
               1);
  open();
  write_some();
  const int others = count(0);
  armed = true;
  for (int i = 0; i < 40; ++i) static_cast<void>(read_all(name(i)));
  EXPECT_EQ(count(0), others);
  wait_until([&] { return device(1).taken_out; });
  EXPECT_FALSE(device(0).taken_out);
  EXPECT_NE(device(1).taken_out_why, "");
  EXPECT_EQ(device(1).live_bytes, 0U);
  // All that is written from now on goes to the other one.
  for (int i = 100; i < 120; ++i) ASSERT_OK(write(name(i), payload_bytes));
  armed = false;
  // It comes back with the next run, and has what it had.
  open();
  EXPECT_GT(count(1), 0);
}

TEST_F(DevicesTest, AStalledDeviceIsTakenOut) {
  config.stall_timeout = std::chrono::milliseconds(50);
  break_device(
      [this](const IoRequest& request, const Perform& perform) {
        return armed && request.op == IoOp::read ? kNoAnswer : perform(request);
      },
      1);
  open();
  write_some();
  const int others = count(0);
  std::string on_it;
  for (int i = 0; i < 40; ++i) {
    if (find(name(i))->device == 1) on_it = name(i);
  }
  armed = true;
  Payload got(100 * kKiB, 99);
  Answer answer;
  const StoredBlock block = *find(on_it);
  store->read(own_scope, key_of(on_it), block, 0, got.memory(), IoClass::must_have, answer.done());
  wait_until([&] { return device(1).taken_out; });
  EXPECT_EQ(count(0), others);
  // Its memory is not given back before the device answers.
  EXPECT_ERROR(store->drain(std::chrono::milliseconds(1)), Errc::timed_out);
  armed = false;
  EXPECT_OK(answer.wait());
}

TEST_F(DevicesTest, ADeviceThatCannotBeOpenedIsLeftOut) {
  open();
  write_some();
  const int others = count(0);
  close();
  std::filesystem::rename(directory(1), root.path() / "away");
  // Something that is no directory is in its place.
  std::ofstream(directory(1)) << "x";
  open();
  EXPECT_TRUE(device(1).taken_out);
  EXPECT_EQ(count(0), others);
  close();
  std::filesystem::remove(directory(1));
  std::filesystem::rename(root.path() / "away", directory(1));
  open();
  EXPECT_EQ(count(0) + count(1), 40);
}

// Writes may have reached the disk though they failed.
TEST_F(FaultTest, ThePlaceOfAFailedRecordIsUsedAgainUnlessOthersFailedWithIt) {
  std::atomic<bool> fails = false;
  std::atomic<bool> wait = false;  // with the next sync, until two writes wait behind it
  std::atomic<bool> asked = false;
  break_device([&](const IoRequest& request, const Perform& perform) {
    if (request.op == IoOp::sync && wait.exchange(false)) {
      wait_until([&] { return asked.load(); });
      fails = true;
    }
    const std::int64_t done = perform(request);
    return fails && request.op == IoOp::write ? std::int64_t{-EIO} : done;
  });
  open();
  const Payload payload(60 * kKiB, 1);
  constexpr std::uint64_t kRecord = 64 * kKiB;
  ASSERT_OK(write("first", payload));
  const std::uint64_t first = find("first")->offset;
  fails = true;
  EXPECT_ERROR(write("alone", payload), Errc::io_error);
  fails = false;
  wait = true;
  Answer answers[3];
  const std::string keys[] = {"second", "one of two", "other of two"};
  for (int i = 0; i < 3; ++i) {
    store->write(own_scope, key_of(keys[i]), payload.bytes(), 60 * kKiB, IoClass::write_back,
                 answers[i].done());
    if (i == 0) wait_until([&] { return !wait; });
  }
  asked = true;
  ASSERT_OK(answers[0].wait());
  EXPECT_ERROR(answers[1].wait(), Errc::io_error);
  EXPECT_ERROR(answers[2].wait(), Errc::io_error);
  EXPECT_EQ(find("second")->offset, first + kRecord) << "where the one that failed alone was";
  fails = false;
  ASSERT_OK(write("third", payload));
  EXPECT_EQ(find("third")->offset, first + 4 * kRecord) << "behind both that failed together";
  close();
}

}  // namespace
}  // namespace sluice::storage
