// A prepared resolve: pointers bound once, launched in a stream many times; see sluice_plan_desc.
//
// Thread-safety: one thread at a time per plan.
#pragma once

#include <cstdint>

#include "ipc/deadline.h"
#include "ipc/error.h"

namespace sluice::client::internal {

// A stream of the caller; see sluice_stream. Not CUDA: none.
struct StreamRef {
  bool is_cuda = false;
  void* handle = nullptr;
};

enum class PlanItems : std::uint8_t { blocks, rows };

// What a forecast may bring in by one call or launch, unless a plan says otherwise.
inline constexpr std::uint64_t kForecastBudgetBytes = std::uint64_t{64} << 20;

// sluice_plan_desc. Pointers are the device's.
struct PlanOptions {
  PlanItems kind = PlanItems::blocks;
  bool advance = false;
  bool forecast = false;  // the next two are of forecasts
  std::uint32_t confidence = 0;
  std::uint64_t budget_bytes = 0;
  std::uint32_t max_lists = 0;
  std::uint32_t list_capacity = 0;
  std::uint32_t lists_per_sequence = 1;
  std::uint32_t first_page = 0;
  std::uint32_t copying_ctas = 0;
  const std::int32_t* items = nullptr;
  const std::uint32_t* counts = nullptr;
  const std::uint32_t* list_count = nullptr;
  const std::uint32_t* sequences = nullptr;
  std::int32_t* slots = nullptr;
  std::uint8_t* outcomes = nullptr;
  std::uint32_t* without_slot = nullptr;
  std::uint64_t wait_us = 0;  // in the stream
};

class Plan {
 public:
  virtual ~Plan() = default;

  // Only enqueues. Errors: forked, wrong_state (the actor is in no step), io_error.
  virtual ipc::Status launch(const StreamRef& stream) = 0;
  // Launches until all items have come, or the deadline has. Sets how many are absent then. Errors
  // also: invalid_argument (no outcomes, or a forecast), wrong_state (a capture).
  virtual ipc::Status launch_wait(const StreamRef& stream, ipc::Deadline until,
                                  std::uint64_t& absent) = 0;
};

}  // namespace sluice::client::internal
