// One stream of work: decode steps over the documents that it has open, and a comparison of every
// page that a resolve returned, inside the step.
//
// Thread-safety: one thread.
#pragma once

#include <memory>
#include <random>

#include "client/sluice.hpp"
#include "tests/gpu/stress/board.h"

namespace sluice::test::stress {

struct StreamJob {
  const ProcessJob& process;
  Board& board;
  StreamRow& row;
  client::Cache& cache;
  std::uint64_t seed = 0;
};

class Stream {
 public:
  virtual ~Stream() = default;

  // Opens the actor.
  virtual client::Status open() = 0;
  // A step, and now and then another document.
  virtual client::Status turn() = 0;
  // Everything that was enqueued has passed, and is counted.
  virtual client::Status finish() = 0;
};

// Resolves by calls; the CPU learns the slots, and names them to the comparison. With `forecasts`,
// each list is said before, by an actor of its own.
std::unique_ptr<Stream> make_call_stream(const StreamJob& job, bool forecasts);

// Resolves by plans, and compares by kernels that read the plans' answers: the CPU is some steps
// ahead and learns nothing. `advance`: launches leave a step and enter the next one.
std::unique_ptr<Stream> make_plan_stream(const StreamJob& job, bool advance);

}  // namespace sluice::test::stress
