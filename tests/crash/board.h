// What outlives every process of a crash test but the driver: the oracle, and what went wrong.
//
// It lies in memory that the driver shares with its children. A key is acknowledged in an epoch;
// what was acknowledged in earlier ones may be gone, because everything was evicted since, or the
// keeper ended.
//
// Thread-safety: any process that has it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

#include "tests/crash/content.h"

namespace sluice::crash {

class Board {
 public:
  // Shared with children that are forked from now on. Never null; throws without memory.
  static Board* make();

  std::uint32_t epoch() const { return epoch_.load(std::memory_order_acquire); }
  void begin_epoch() { epoch_.fetch_add(1, std::memory_order_acq_rel); }

  // `in`: the epoch before the seal was asked for.
  void acknowledge(const BlockName& name, std::uint32_t in) {
    if (!name.is_scratch()) keys_[name.number()].store(in, std::memory_order_release);
  }
  // Blocks of the chain from its first on that have to be there now.
  std::uint32_t acknowledged(BlockName name) const;

  // The first failure stays.
  void fail(const std::string& what);
  bool failed() const { return failed_.load(std::memory_order_acquire) == kWritten; }
  std::string failure() const { return failed() ? text_.data() : ""; }

  // One engine at a time takes much memory.
  bool take_turn() { return !turn_.exchange(true, std::memory_order_acq_rel); }
  void end_turn() { turn_.store(false, std::memory_order_release); }

  struct Counts {
    std::atomic<std::uint64_t> blocks_compared{0}, blocks_sealed{0}, keys_checked{0};
    std::atomic<std::uint64_t> checks{0}, steps_held{0}, resumed{0}, seals_put_off{0};
    std::atomic<std::uint64_t> wrong_blocks{0};
    // Of a store that may lose blocks: what was acknowledged and is not found, what is found and
    // cannot be given back.
    std::atomic<std::uint64_t> keys_missing{0}, pages_lost{0};
  };
  Counts counts;

 private:
  static constexpr std::uint32_t kWriting = 1, kWritten = 2;

  std::atomic<std::uint32_t> epoch_{1};
  std::atomic<std::uint32_t> failed_{0};
  std::atomic<bool> turn_{false};
  std::array<char, 2048> text_{};
  std::array<std::atomic<std::uint32_t>, kKeys> keys_{};
};

}  // namespace sluice::crash
