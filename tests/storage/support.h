// Stores in directories of their own, blocks with known bytes, and answers that are waited for.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "storage/block_store.h"
#include "storage/file.h"

// The text of an unexpected error is in the message.
#define ASSERT_OK(expression)                                                        \
  do {                                                                               \
    const auto& checked = (expression);                                              \
    ASSERT_TRUE(checked.has_value()) << #expression << ": " << checked.error().text; \
  } while (false)

#define EXPECT_OK(expression)                                                        \
  do {                                                                               \
    const auto& checked = (expression);                                              \
    EXPECT_TRUE(checked.has_value()) << #expression << ": " << checked.error().text; \
  } while (false)

#define EXPECT_ERROR(expression, expected)                            \
  do {                                                                \
    const auto& checked = (expression);                               \
    EXPECT_FALSE(checked.has_value()) << #expression << " succeeded"; \
    if (!checked.has_value()) {                                       \
      EXPECT_EQ(::sluice::ipc::to_string(checked.error().code),       \
                ::sluice::ipc::to_string(expected))                   \
          << checked.error().text;                                    \
    }                                                                 \
  } while (false)

namespace sluice::storage {

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::chrono::seconds kPatience{30};

// A new directory, removed at the end. `fast`: in memory, if the machine has a place for that.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(bool fast = false);
  ~TemporaryDirectory();
  TemporaryDirectory(TemporaryDirectory&&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// What a device does with a request; a test may stand in front of it: answer something else, change
// the request, or do things before and after.
using Perform = std::function<std::int64_t(const IoRequest&)>;
using Fault = std::function<std::int64_t(const IoRequest&, const Perform&)>;
// A fault's answer: none. It is asked again until it has one.
inline constexpr std::int64_t kNoAnswer = INT64_MIN;

// Does every request at once, in submit().
class PlainEngine : public IoEngine {
 public:
  explicit PlainEngine(std::uint32_t depth, Fault fault = {});

  std::string_view name() const override { return "plain"; }
  std::uint32_t depth() const override { return depth_; }
  Result<IoFile> register_file(int fd) override;
  void unregister_file(IoFile file) override;
  Status register_memory(std::span<std::byte>) override { return {}; }
  void unregister_memory(const std::byte*) override {}
  std::size_t submit(std::span<const IoRequest> requests) override;
  std::size_t reap(std::span<IoAnswer> answers, std::chrono::microseconds timeout) override;
  void wake() override;

 private:
  std::int64_t perform(const IoRequest& request) const;
  void answer(const IoRequest& request);

  const std::uint32_t depth_;
  const Fault fault_;
  std::vector<int> files_;
  std::vector<IoRequest> held_;
  std::deque<IoAnswer> answers_;
  std::mutex mutex_;
  std::condition_variable woken_;
  bool wake_ = false;
};

// A block's bytes: they follow from `seed`, and differ for every page.
class Payload {
 public:
  Payload(std::uint64_t bytes, std::uint64_t seed);
  std::span<const std::byte> bytes() const { return {memory_.get(), bytes_}; }
  std::span<std::byte> memory() { return {memory_.get(), bytes_}; }

 private:
  std::uint64_t bytes_;
  AlignedMemory memory_;
};

std::span<const std::byte> key_of(std::string_view text);

// An answer that arrives on another thread.
class Answer {
 public:
  Done done();
  // Errors: as answered; timed_out.
  Status wait();

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<Status> status;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

class StoreTest : public testing::Test {
 protected:
  StoreTest();
  // Opens, or opens again.
  void open();
  void close() { store.reset(); }

  Status write(std::string_view key, const Payload& payload);
  Status write(NamespaceId scope, std::string_view key, const Payload& payload,
               Reuse reuse = Reuse::likely);
  std::optional<StoredBlock> find(std::string_view key);
  std::optional<StoredBlock> find(NamespaceId scope, std::string_view key);
  Status read(NamespaceId scope, std::string_view key, const StoredBlock& block,
              std::uint64_t offset, std::span<std::byte> to);
  // Finds, reads and compares all of it.
  testing::AssertionResult holds(std::string_view key, const Payload& payload);
  NamespaceId intern(const std::string& tenant);

  // The next open() has this fault on the device.
  void break_device(Fault fault, std::size_t device = 0);
  // Where the record of a block is: its segment's file.
  std::filesystem::path segment_of(const StoredBlock& block) const;

  std::filesystem::path directory(std::size_t device = 0) const;
  DeviceStats device(std::size_t number = 0) const { return store->stats().devices[number]; }
  // Of the tenant "t".
  TenantStats tenant(const std::string& name = "t") const;

  TemporaryDirectory root;
  StoreConfig config;  // one device of 16 segments of 1 MiB
  std::unique_ptr<BlockStore> store;
  NamespaceId own_scope;
};

// Until it is so; a failure after kPatience.
void wait_until(const std::function<bool()>& condition);

// Flips bits of a byte in a file, past any cache of ours.
void damage(const std::filesystem::path& file, std::uint64_t offset);

}  // namespace sluice::storage
