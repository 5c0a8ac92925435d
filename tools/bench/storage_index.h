// The index of the block store with many blocks: how long it takes to open, to look blocks up, and
// to come back after the kill of a process that was writing.
//
// The blocks are rows of the index that point into segments without data, since only the index is
// measured; what the killed process writes is real.
//
// Thread-safety: one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "ipc/error.h"
#include "tools/bench/measure.h"

namespace sluice::tools {

struct IndexFigures {
  std::uint64_t blocks = 0;
  double index_bytes = 0;   // of its files
  double memory_bytes = 0;  // that the store takes when it is open
  Series open_seconds;
  Series look_up_us;  // each of a block drawn at random
  double recovery_seconds = 0;
  std::uint64_t acknowledged_blocks = 0;  // writes that the killed process was told of
  std::uint64_t recovered_blocks = 0;     // that the index did not know
};

// A process that will write and be killed. It is forked before anything else is done, since the
// store's threads do not survive a fork.
class KilledWriter {
 public:
  // Errors: io_error.
  static ipc::Result<KilledWriter> fork_now();
  KilledWriter(KilledWriter&& other) noexcept;
  KilledWriter& operator=(KilledWriter&&) = delete;
  ~KilledWriter();

  // Lets it open the store and write, and kills it after `blocks` were acknowledged. How many were.
  ipc::Result<std::uint64_t> run(const std::filesystem::path& directory, std::uint64_t blocks);

 private:
  KilledWriter(pid_t child, int go, int told) : child_(child), go_(go), told_(told) {}

  pid_t child_ = -1;
  int go_ = -1;
  int told_ = -1;
};

// `directory` is made.
ipc::Result<IndexFigures> measure_index(const std::filesystem::path& directory,
                                        std::uint64_t blocks, KilledWriter writer);

}  // namespace sluice::tools
