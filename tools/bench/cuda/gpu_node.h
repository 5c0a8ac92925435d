// A private daemon with the cuda backend, a cache of one shape in it, and sequences of sealed
// blocks whose bytes are known.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "client/sluice.hpp"
#include "ipc/error.h"
#include "tools/bench/cuda/device.h"
#include "tools/bench/gpu_plan.h"
#include "tools/common/spawn.h"

namespace sluice::tools::cuda {

// Writes a block, the n-th of all; called by many threads.
using FillBlock = void (*)(std::uint64_t n, std::uint32_t pages, std::span<std::uint64_t> words);

// Told now and then how far something is that takes long; an error ends it.
using GpuNodeProgress =
    std::function<ipc::Status(const char* doing, std::uint64_t done, std::uint64_t all)>;

// bench_word, of pages that are numbered through.
void fill_bench_words(std::uint64_t n, std::uint32_t pages, std::span<std::uint64_t> words);

struct GpuNodeSpec {
  PageShape shape;
  std::uint32_t sequences = 0;
  std::uint32_t blocks_per_sequence = 0;
  std::uint64_t slots = 0;  // whole extents; see arena_slots
  // Of HBM; 0: the least that there is, so that an arena has exactly the slots that were asked for.
  std::uint64_t hbm_extent_bytes = 0;
  std::string sluiced;
  std::string gpu;                                    // its UUID
  std::string worker_idle;                            // as in the configuration; empty: its default
  std::uint64_t dram_bytes = 0;                       // of the tier; 0: what the blocks take
  sluice_executor executor = SLUICE_EXECUTOR_DIRECT;  // daemon: no rows, and nothing pinned here
  bool fill = true;  // else frames keep what they have, and cannot be verified
  FillBlock fill_block = fill_bench_words;
  GpuNodeProgress progress;  // or null
};

// What sluiced is to be started with for this.
DaemonSpec daemon_for(const GpuNodeSpec& spec);

class GpuNode {
 public:
  // With a daemon of its own, and device 0 current.
  static ipc::Result<GpuNode> open(const GpuNodeSpec& spec);
  // As a client of a running daemon.
  static ipc::Result<GpuNode> connect(const GpuNodeSpec& spec, const std::string& socket);

  client::Cache& cache() { return *cache_; }
  client::Actor& actor() { return *actor_; }
  const client::Sequence& sequence(std::uint32_t number) const { return sequences_[number]; }
  Stream& stream() { return stream_; }  // the actor's
  const sluice_cache_info& info() const { return info_; }
  const sluice_arena_view& arena() const { return arena_; }
  std::uint32_t slots() const { return info_.slots; }
  // The row number of each sequence, in device memory.
  const std::uint32_t* rows() const { return rows_.data(); }
  // Where a block's bytes lie: an address of this process and of the device. The daemon moves no
  // block while nothing is evicted, and here nothing is.
  std::uint64_t frame(std::uint32_t sequence, std::uint32_t block) const {
    return frames_[std::size_t{sequence} * spec_.blocks_per_sequence + block];
  }
  const GpuNodeSpec& spec() const { return spec_; }
  // A round trip to the daemon.
  ipc::Status ping();

 private:
  GpuNode() = default;
  ipc::Status open_cache();
  ipc::Status prefill();
  ipc::Status extend_sequences();
  ipc::Status fill_frames();
  ipc::Status seal_sequences();
  ipc::Status wait_pinned();
  bool is_direct() const { return spec_.executor == SLUICE_EXECUTOR_DIRECT; }
  ipc::Status tell(const char* doing, std::uint64_t done, std::uint64_t all) const {
    return spec_.progress == nullptr ? ipc::Status{} : spec_.progress(doing, done, all);
  }

  GpuNodeSpec spec_;
  std::optional<SpawnedDaemon> daemon_;  // outlives the client
  std::optional<client::Client> client_;
  std::optional<client::Cache> cache_;
  std::vector<client::Sequence> sequences_;
  Stream stream_;  // outlives the actor
  std::optional<client::Actor> actor_;
  DeviceArray<std::uint32_t> rows_;
  std::vector<std::uint64_t> frames_;
  sluice_cache_info info_{};
  sluice_arena_view arena_{};
};

}  // namespace sluice::tools::cuda
