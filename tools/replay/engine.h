// An engine process: replays its requests against the daemon, only through libsluice.
//
// A sparse engine does what a serving engine does. A request opens its known prefix, writes and
// seals the rest of its prompt in frames, then decodes: each step writes the new token into the
// pinned slots of the partial block, resolves the recorded lists layer by layer, compares every
// byte of every slot, and seals the block when it is full. A request that gets no memory waits
// until another one ended, and one that cannot go on is preempted, as schedulers do.
//
// A prefix engine opens the known prefix of each prompt, verifies it, and writes and seals the
// rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "client/sluice.hpp"
#include "tools/replay/board.h"
#include "tools/replay/options.h"
#include "tools/replay/plan.h"
#include "tools/replay/slot_memory.h"
#include "tools/replay/trace.h"

namespace sluice::tools {

struct EngineJob {
  std::uint32_t engine = 0;
  std::string socket;
  DevicePlace device;  // with Backend::cuda
  const Options* options = nullptr;
  const Plan* plan = nullptr;
  Board* board = nullptr;

  EngineBoard& mine() const { return board->engines()[engine]; }
  const std::vector<std::uint32_t>& requests() const { return plan->requests[engine]; }
};

// The engine's connection. Members are closed in reverse order.
struct EngineLink {
  client::Client client;
  client::Cache cache;
  std::unique_ptr<SlotMemory> slots;  // on a GPU it owns the actor's stream
  client::Actor actor;
  client::Actor forecaster;
  sluice_arena_view arena;
  std::string tenant;

  // After a call that may have brought blocks in new extents: until the GPU can read them, so that
  // no page is absent.
  client::Status wait_pinned();

  bool is_slot(std::int32_t slot) const {
    return slot >= 0 && static_cast<std::uint32_t>(slot) < arena.slots;
  }
};

client::Result<EngineLink> open_link(const EngineJob& job);

// Adds the name of the call to an error.
template <class R>
R in_call(const char* call, R result) {
  if (!result) {
    result.error().text = std::string(call) + ": " + sluice_status_name(result.error().code) +
                          ": " + result.error().text;
  }
  return result;
}

// How long one resolve waits for blocks on NVMe, and how often an engine ends its step and begins
// another one for those that did not come: DRAM that a step may still read is not used for them.
inline constexpr std::uint64_t kStoreWaitUs = 50'000;
inline constexpr int kMaxStepsForStore = 400;

// A request that is still to be admitted, from this step on.
struct WaitingRequest {
  std::uint32_t index = 0;  // in the trace
  std::uint32_t next_step = 0;
  std::uint64_t ready = 0;  // iteration from which it may be admitted
};

// How far an engine has come, so that it can go on over another connection.
struct EngineProgress {
  Counters counters;
  std::optional<std::deque<WaitingRequest>> waiting;  // of a sparse engine that has begun
  std::size_t next_request = 0;                       // of a prefix engine: of job.requests()
};

// Both leave in `progress` what is to be done when they end with an error.
client::Status run_sparse_engine(const SparseTrace& trace, const EngineJob& job, EngineLink& link,
                                 EngineProgress& progress);
client::Status run_prefix_engine(const PrefixTrace& trace, const EngineJob& job, EngineLink& link,
                                 EngineProgress& progress);

// The whole life of an engine process; returns its exit code. What went wrong is on its board.
int engine_main(const Trace& trace, const EngineJob& job);

}  // namespace sluice::tools
