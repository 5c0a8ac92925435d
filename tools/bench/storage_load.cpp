#include "tools/bench/storage_load.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <random>
#include <system_error>
#include <utility>

#include "tools/bench/measure.h"

namespace sluice::tools {
namespace {

using ipc::Errc;

double process_cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::span<const std::byte> bytes_of(const std::string& key) {
  return std::as_bytes(std::span(key));
}

// What is under way, shared with the completions.
class Requests {
 public:
  Requests(std::uint64_t operations, const StartRequest& start)
      : operations_(operations), start_(start) {}

  ipc::Status run(std::uint32_t depth) {
    for (std::uint32_t slot = 0; slot < depth; ++slot) issue(slot);
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return answered_ == operations_; });
    return first_;
  }

 private:
  // The next one begins where one ended: the store's thread waits for nobody.
  void issue(std::uint32_t slot) {
    const std::uint64_t operation = next_.fetch_add(1);
    if (operation >= operations_) return;
    start_(operation, slot, [this, slot](ipc::Status status) {
      // Before it counts as answered: the last one ends run().
      issue(slot);
      const std::lock_guard lock(mutex_);
      if (!status && first_) first_ = std::move(status);
      if (++answered_ == operations_) ended_.notify_all();
    });
  }

  const std::uint64_t operations_;
  const StartRequest& start_;
  std::atomic<std::uint64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable ended_;
  std::uint64_t answered_ = 0;
  ipc::Status first_;
};

storage::IoKind kind_of(const std::string& io) {
  if (io == "uring") return storage::IoKind::io_uring;
  return io == "threads" ? storage::IoKind::threads : storage::IoKind::automatic;
}

}  // namespace

void remove_at_once(const std::filesystem::path& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
  const storage::File folder(
      ::open(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder) ::syncfs(folder.fd());
}

ipc::Status run_requests(std::uint64_t operations, std::uint32_t depth, const StartRequest& start) {
  return Requests(operations, start).run(depth);
}

StorageLoad::StorageLoad(const StorageOptions& options, std::filesystem::path directory)
    : options_(options),
      directory_(std::move(directory)),
      memory_(storage::allocate_aligned(options.block_bytes * options.depth)) {
  // Bytes that no device and no file system makes smaller.
  std::mt19937_64 random(1);
  const std::uint64_t bytes = memory_ ? options.block_bytes * options.depth : 0;
  for (std::uint64_t at = 0; at < bytes; at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random();
    std::memcpy(memory_.get() + at, &word, sizeof word);
  }
  for (std::uint64_t i = 0; i < options.size_bytes / options.block_bytes; ++i) {
    keys_.push_back("block" + std::to_string(i));
  }
}

ipc::Status StorageLoad::make_store() {
  store_.reset();
  blocks_.clear();
  remove_at_once(directory_);
  storage::StoreConfig config;
  config.part_bytes = options_.part_bytes;
  config.io = kind_of(options_.io);
  config.queue_bytes = std::max(config.queue_bytes, 2 * options_.block_bytes * options_.depth);
  // Room for all of it, so that nothing is cleaned.
  const std::uint64_t most = config.segment_bytes;
  config.segment_bytes =
      std::clamp(options_.size_bytes / 4 / storage::kIoAlign * storage::kIoAlign,
                 std::max(storage::kMinSegmentBytes, 4 * options_.block_bytes), most);
  config.devices = {{directory_, options_.size_bytes * 2 + 8 * config.segment_bytes}};
  auto store = storage::BlockStore::open(config);
  if (!store) return std::unexpected(store.error());
  store_ = std::move(*store);
  const auto scope = store_->intern({"bench", "model", "", "layout", "shard"});
  if (!scope) return std::unexpected(scope.error());
  scope_ = *scope;
  return {};
}

ipc::Result<StorageRound> StorageLoad::run(StoragePattern pattern) {
  if (!memory_) return ipc::fail(Errc::no_memory, "no memory for the blocks in flight");
  if (pattern == StoragePattern::write_blocks) {
    if (const auto made = make_store(); !made) return std::unexpected(made.error());
  }
  std::mt19937_64 random(++round_);
  const bool parts = pattern == StoragePattern::read_parts;
  const std::uint64_t bytes = parts ? options_.part_bytes : options_.block_bytes;
  const std::uint64_t per_block = options_.block_bytes / bytes;
  // (block, part) in the order in which they are moved.
  std::vector<std::uint64_t> order(keys_.size() * per_block);
  for (std::uint64_t i = 0; i < order.size(); ++i) order[i] = i;
  if (pattern != StoragePattern::write_blocks) std::ranges::shuffle(order, random);

  const auto start = [&](std::uint64_t operation, std::uint32_t slot, storage::Done done) {
    const std::uint64_t block = order[operation] / per_block;
    const std::span<std::byte> memory(memory_.get() + slot * options_.block_bytes, bytes);
    if (pattern == StoragePattern::write_blocks) {
      store_->write(scope_, bytes_of(keys_[block]), memory, bytes, storage::IoClass::write_back,
                    std::move(done));
    } else {
      store_->read(scope_, bytes_of(keys_[block]), blocks_[block],
                   order[operation] % per_block * bytes, memory, storage::IoClass::must_have,
                   std::move(done));
    }
  };
  const double cpu_before = process_cpu_seconds();
  const Stopwatch watch;
  if (const auto done = run_requests(order.size(), options_.depth, start); !done) {
    return std::unexpected(done.error());
  }
  const StorageRound round{watch.seconds(), process_cpu_seconds() - cpu_before,
                           order.size() * bytes};
  if (pattern != StoragePattern::write_blocks) return round;

  std::vector<std::span<const std::byte>> keys;
  keys.reserve(keys_.size());
  for (const std::string& key : keys_) keys.push_back(bytes_of(key));
  const auto found = store_->find(scope_, keys);
  if (!found) return std::unexpected(found.error());
  for (const auto& block : *found) {
    if (!block) return ipc::fail(Errc::data_lost, "a block that was written is not found");
    blocks_.push_back(*block);
  }
  const storage::DeviceStats device = store_->stats().devices.front();
  engine_ = device.engine;
  direct_ = device.direct;
  return round;
}

}  // namespace sluice::tools
