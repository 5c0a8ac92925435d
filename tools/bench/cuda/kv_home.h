// Where the KV of a decode loop lies, and how its pages are found: all in HBM, or in Sluice.
//
// Thread-safety: one thread, device 0 current. What is enqueued may be captured.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ipc/error.h"
#include "tools/bench/cuda/decode_kernels.h"
#include "tools/bench/cuda/decode_lists.h"

namespace sluice::tools::cuda {

class KvHome {
 public:
  virtual ~KvHome() = default;

  virtual DecodeLists& lists() = 0;
  virtual const std::byte* pages() const = 0;
  virtual std::uint32_t slot_limit() const = 0;
  // Of a layer, in device memory, as its items; valid from its resolve on.
  virtual const std::int32_t* slots(std::uint32_t layer) const = 0;
  // What must lie in them.
  virtual KnownPages known(std::uint32_t layer) const = 0;
  virtual void fill_lists(std::uint32_t first_step) = 0;

  // Layer 0 begins a step.
  virtual ipc::Status enqueue_resolve(std::uint32_t layer) = 0;
  // Beside what is enqueued from here on.
  virtual ipc::Status enqueue_forecast(std::uint32_t layer) = 0;
  // Waits for the forecasts of the step.
  virtual ipc::Status enqueue_join() = 0;
  // Counts the outcomes of the step.
  virtual ipc::Status enqueue_tally() = 0;
};

}  // namespace sluice::tools::cuda
