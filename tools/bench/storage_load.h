// The block store's side of `sluice-bench storage`: rounds of one pattern.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ipc/error.h"
#include "storage/block_store.h"
#include "storage/file.h"
#include "tools/bench/storage.h"

namespace sluice::tools {

enum class StoragePattern : std::uint8_t { write_blocks, read_blocks, read_parts };

struct StorageRound {
  double seconds = 0;
  double cpu_seconds = 0;
  std::uint64_t bytes = 0;
  double bytes_per_s() const { return static_cast<double>(bytes) / seconds; }
  double cpu_s_per_gb() const { return cpu_seconds / (static_cast<double>(bytes) / 1e9); }
};

// Removes a file or a folder, and waits until the file system has done what that costs it (where it
// is mounted with `discard`, it tells the device with its next commit), so that no round pays for
// it.
void remove_at_once(const std::filesystem::path& path);

// `operations` requests, `depth` in flight: `start` begins one, into memory that is the slot's.
// Errors: the first one that was answered.
using StartRequest =
    std::function<void(std::uint64_t operation, std::uint32_t slot, storage::Done done)>;
ipc::Status run_requests(std::uint64_t operations, std::uint32_t depth, const StartRequest& start);

class StorageLoad {
 public:
  StorageLoad(const StorageOptions& options, std::filesystem::path directory);

  // A round of writes makes the store anew; reads are of what the last one wrote.
  ipc::Result<StorageRound> run(StoragePattern pattern);

  // Of the store that runs.
  const std::string& engine() const { return engine_; }
  bool direct() const { return direct_; }

 private:
  ipc::Status make_store();
  ipc::Status write_block(std::uint64_t block);

  const StorageOptions& options_;
  const std::filesystem::path directory_;
  storage::AlignedMemory memory_;  // a block per slot
  std::unique_ptr<storage::BlockStore> store_;
  storage::NamespaceId scope_;
  std::vector<std::string> keys_;
  std::vector<storage::StoredBlock> blocks_;
  std::string engine_;
  bool direct_ = false;
  std::uint64_t round_ = 0;
};

}  // namespace sluice::tools
