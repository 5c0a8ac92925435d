// sluice-bench storage: the block store beside fio with the same pattern, block size, depth and
// engine, in rounds that take turns; and its index.
//
// The store does what it does for a daemon: checksums are made and verified, writes are durable
// when they are answered. fio moves bytes, and syncs once at the end.
//
// Thread-safety: one thread, in a process that has started no other yet (it forks).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace sluice::tools {

struct StorageOptions {
  std::filesystem::path directory;  // a folder of its own is made in it, and removed
  std::uint64_t size_bytes = std::uint64_t{1} << 30;   // that a round moves
  std::uint64_t block_bytes = std::uint64_t{2} << 20;  // of a block
  std::uint64_t part_bytes = std::uint64_t{64} << 10;  // of a part, which is read at random
  std::uint32_t depth = 32;                            // blocks or parts in flight
  std::uint32_t rounds = 5;
  std::uint64_t index_blocks = 0;  // 0: the index is not measured
  std::string io = "auto";         // "uring", "threads"
  std::string fio = "fio";         // the program
  bool no_fio = false;
  bool json = false;
  bool check = false;
};

// Runs and prints. Returns an exit code of options.h.
int run_storage(const StorageOptions& options);

}  // namespace sluice::tools
