// Blocks that a cache holds in advance, so that its sequences can grow while the daemon is away.
//
// They are private blocks of a sequence that nobody sees. While nobody is connected, extend() takes
// them from here; the resume then adopts each in the sequence that has it. How many: as many as the
// live sequences fill at a token per kStepTime in an outage of the length that the daemon said.
//
// All of it is best effort. Memory that cannot be had leaves the stock smaller for a while, and
// when a caller's own request fails for memory, the stock is given back for it.
//
// Thread-safety: any thread, inside the gate.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>

#include "client/link.h"
#include "ipc/deadline.h"
#include "ipc/error.h"

namespace sluice::client::internal {

class Cache;
class Sequence;

inline constexpr std::chrono::milliseconds kStepTime{20};
// After memory was short, for how long the stock does not grow.
inline constexpr std::chrono::seconds kStockPause{1};
// How long a caller's request waits for memory before it gets the stock.
inline constexpr std::chrono::milliseconds kStockPatience{100};

// Blocks that one sequence fills in an outage: at least 1.
std::uint32_t blocks_for_outage(std::uint32_t outage_ms, std::uint32_t block_tokens);

// Whether this error of an extend or a fork means that memory was short.
inline bool is_for_memory(ipc::Errc code) {
  return code == ipc::Errc::quota_exceeded || code == ipc::Errc::no_memory ||
         code == ipc::Errc::busy;
}

class Stock {
 public:
  Stock(Cache& cache, std::uint32_t blocks_per_sequence);
  ~Stock();

  // So many sequences are live now: gets what is missing, and gives back what is far too much.
  void adjust(Link& link, std::size_t sequences);
  // Moves blocks to the end of a sequence, all or none. Nobody is connected.
  bool take(Sequence& to, std::uint32_t count);
  // For a request that failed for memory: whether that may help.
  bool give_back(Link& link);
  // The cache is closed.
  void release(Link& link);
  // Adopts what is left. Errors: the link broke.
  ipc::Status resume(Link& link);

  std::uint32_t blocks() const;

 private:
  // With mutex_ held.
  bool make_sequence(Link& link);
  void grow(Link& link, std::uint32_t blocks);
  void drop(Link& link);

  Cache& cache_;
  const std::uint32_t blocks_per_sequence_;
  mutable std::mutex mutex_;
  std::unique_ptr<Sequence> sequence_;  // null: there is none yet
  ipc::Deadline grow_again_{};
};

}  // namespace sluice::client::internal
