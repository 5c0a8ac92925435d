// The lists of a cycle of steps in device memory, and the plans that resolve them.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "client/sluice.hpp"
#include "tools/bench/cuda/device.h"
#include "tools/bench/cuda/gpu_node.h"
#include "tools/bench/cuda/kernels.h"
#include "tools/bench/gpu_plan.h"

namespace sluice::tools::cuda {

// How the rows of a step are gathered.
enum class RowOrder : std::uint8_t { address, as_listed };

class CycleLists {
 public:
  using Draw = std::function<StepList(std::uint32_t step, std::uint32_t list, std::uint32_t count)>;

  // `varying`: lists have between `least` and `capacity` items, else all have `capacity`.
  static ipc::Result<CycleLists> make(const GpuNode& node, std::uint32_t capacity,
                                      std::uint32_t steps, const Draw& draw, bool varying = false,
                                      std::uint32_t least = 0, RowOrder order = RowOrder::address);

  std::uint32_t steps() const { return steps_; }
  std::uint32_t lists() const { return lists_; }
  std::uint32_t capacity() const { return capacity_; }
  std::uint32_t all() const { return lists_ * capacity_; }
  std::uint32_t moved() const { return moved_; }  // rows of a step that come in

  const std::int32_t* items(std::uint32_t step) const {
    return items_.data() + std::size_t{step} * all();
  }
  const std::uint32_t* counts(std::uint32_t step) const {
    return varying_ ? counts_.data() + std::size_t{step} * lists_ : nullptr;
  }
  // Of the gather.
  const std::uint64_t* from(std::uint32_t step) const {
    return from_.data() + std::size_t{step} * moved_;
  }
  const std::int32_t* to(std::uint32_t step) const {
    return to_.data() + std::size_t{step} * moved_;
  }

 private:
  std::uint32_t steps_ = 0;
  std::uint32_t lists_ = 0;
  std::uint32_t capacity_ = 0;
  std::uint32_t moved_ = 0;
  bool varying_ = false;
  DeviceArray<std::int32_t> items_;
  DeviceArray<std::uint32_t> counts_;
  DeviceArray<std::uint64_t> from_;
  DeviceArray<std::int32_t> to_;
};

// Where launches leave their results; those of a stream share them.
struct Results {
  DeviceArray<std::int32_t> slots;
  DeviceArray<std::uint8_t> outcomes;
  DeviceArray<std::uint32_t> without_slot;
  DeviceArray<Verified> verified;
  DeviceArray<unsigned long long> counted;

  static ipc::Result<Results> make(std::uint32_t items);
};

// A plan that advances the step and resolves the lists of `step`.
ipc::Result<client::Plan> make_plan(GpuNode& node, const CycleLists& lists, const Results& results,
                                    std::uint32_t step, std::uint32_t copying_ctas,
                                    bool with_outcomes);
ipc::Result<std::vector<client::Plan>> make_plans(GpuNode& node, const CycleLists& lists,
                                                  const Results& results,
                                                  std::uint32_t copying_ctas);

ipc::Status launch(client::Plan& plan);

// Compares the bytes of what was resolved last with those of the lists of `step`.
ipc::Status enqueue_verify(const GpuNode& node, const CycleLists& lists, const Results& results,
                           std::uint32_t step);

// Microseconds of the gathers of a cycle by `ctas`, per step, with `before` enqueued before each.
ipc::Result<double> time_gather(GpuNode& node, const CycleLists& lists, std::byte* place,
                                std::uint32_t ctas, double seconds,
                                const std::function<ipc::Status()>& before = nullptr);

// What a loop of resolves needs, in the arrangement with `copying_ctas`; its pool is warm.
class ResolveCycle {
 public:
  // Begins a step of the node's actor, in which the cycle runs.
  static ipc::Result<ResolveCycle> make(GpuNode& node, CycleLists lists, std::uint32_t copying_ctas,
                                        std::uint32_t launches);

  const CycleLists& lists() const { return lists_; }
  const Graph& graph() const { return graph_; }
  std::uint32_t launches() const { return launches_; }  // of the graph
  // Misses and items without a slot of one more cycle, per step.
  struct Seen {
    double misses = 0;
    double without_slot = 0;
  };
  ipc::Result<Seen> look(GpuNode& node);

 private:
  CycleLists lists_;
  Results results_;
  std::vector<client::Plan> plans_;
  Graph graph_;  // goes before its plans
  std::uint32_t launches_ = 0;
};

struct CopyOnly {
  double best = 0;  // microseconds per step; 0: nothing to copy
  std::uint32_t best_ctas = 0;
  double with_8 = 0;
};
ipc::Result<CopyOnly> time_copy_only(GpuNode& node, const CycleLists& lists, double seconds,
                                     const std::function<ipc::Status()>& before = nullptr);

}  // namespace sluice::tools::cuda
