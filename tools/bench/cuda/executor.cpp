// A resolve that is over when it returns, by either executor: what a request to the daemon's costs.
#include <algorithm>
#include <array>
#include <map>
#include <utility>
#include <vector>

#include "tools/bench/cuda/benches.h"
#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

constexpr std::uint32_t kSequences[] = {1, 8, 64};
constexpr double kMisses[] = {0, 0.13};
constexpr double kPoolSteps = 2;
constexpr std::size_t kLeastCalls = 50;
constexpr double kLeastMissesSeen = 0.97;

bool is_mps_client() {
  int enabled = 0;
  if (cudaDeviceGetAttribute(&enabled, cudaDevAttrMpsEnabled, 0) != cudaSuccess) enabled = 0;
  (void)cudaGetLastError();
  return enabled != 0;
}

// The lists of a cycle of steps, in memory of the host.
class HostLists {
 public:
  HostLists(const GpuNode& node, const StepPlan& plan) : steps_(plan.steps) {
    const std::uint32_t sequences = node.spec().sequences;
    const Windows windows(plan, kSeed);
    blocks_.reserve(std::size_t{steps_} * sequences);
    slots_.resize(std::size_t{sequences} * plan.items);
    for (std::uint32_t step = 0; step < steps_; ++step) {
      for (std::uint32_t s = 0; s < sequences; ++s) {
        blocks_.push_back(windows.list(step, s, plan.items).items);
        sluice_page_list list{};
        list.sequence = node.sequence(s).get();
        list.count = plan.items;
        list.blocks = blocks_.back().data();
        list.slots = &slots_[std::size_t{s} * plan.items];
        lists_.push_back(list);
      }
    }
  }

  std::uint32_t steps() const { return steps_; }
  std::span<const client::PageList> of(std::uint32_t step) const {
    const std::size_t each = lists_.size() / steps_;
    return std::span(lists_).subspan(step * each, each);
  }

 private:
  std::uint32_t steps_;
  std::vector<std::vector<std::uint32_t>> blocks_;
  std::vector<std::int32_t> slots_;
  std::vector<client::PageList> lists_;
};

struct Calls {
  Series us;  // of a step with one resolve
  double misses = 0;
  double no_slot = 0;
};

ipc::Result<client::ResolveCounts> step_once(GpuNode& node, std::span<const client::PageList> all) {
  auto begun = to_ipc(node.actor().begin_step());
  if (!begun) return std::unexpected(std::move(begun.error()));
  auto counts = to_ipc(node.actor().resolve(all));
  if (!counts) return counts;
  auto ended = to_ipc(node.actor().end_step());
  if (!ended) return std::unexpected(std::move(ended.error()));
  return counts;
}

ipc::Result<Calls> time_calls(GpuNode& node, const HostLists& lists, double seconds) {
  // Twice: the first one starts what is not there yet, and what an earlier case left is gone then.
  for (std::uint32_t i = 0; i < 2 * lists.steps(); ++i) {
    auto counts = step_once(node, lists.of(i % lists.steps()));
    if (!counts) return std::unexpected(std::move(counts.error()));
  }
  Calls calls;
  const Stopwatch all;
  for (std::uint32_t i = 0; i < kLeastCalls || all.seconds() < seconds; ++i) {
    const Stopwatch watch;
    auto counts = step_once(node, lists.of(i % lists.steps()));
    if (!counts) return std::unexpected(std::move(counts.error()));
    calls.us.add(watch.nanoseconds() / 1000);
    calls.misses += double(counts->misses);
    calls.no_slot += double(counts->no_slot + counts->absent);
  }
  calls.misses /= double(calls.us.rounds());
  calls.no_slot /= double(calls.us.rounds());
  return calls;
}

// `direct`: microseconds by misses; set by that executor, and what the other is compared with.
ipc::Status measure(GpuRun& run, std::uint32_t sequences, sluice_executor executor,
                    std::map<double, double>& direct) {
  const PageShape& shape = page_shapes().back();
  const std::uint64_t slots = arena_slots(shape, sequences, kPoolSteps);
  const double pool = double(slots) / (sequences * shape.lists_per_sequence);
  const auto plan_of = [&](double misses) { return plan_steps(shape.items, misses, 0, pool); };
  std::uint32_t universe = 0;
  for (const double misses : kMisses) universe = std::max(universe, plan_of(misses).universe);
  GpuNodeSpec spec = run.spec_for(shape, sequences, slots, universe);
  spec.executor = executor;
  auto node = GpuNode::open(spec);
  if (!node) return std::unexpected(std::move(node.error()));
  const bool is_direct = executor == SLUICE_EXECUTOR_DIRECT;
  for (const double misses : kMisses) {
    const StepPlan plan = plan_of(misses);
    auto calls = time_calls(*node, HostLists(*node, plan), run.options.seconds);
    if (!calls) return std::unexpected(std::move(calls.error()));
    const double us = calls->us.median();
    GpuRow row = gpu_row("executor");
    row["executor"] = is_direct ? "direct" : "daemon";
    row["mps"] = is_mps_client();
    row["shape"] = shape.name;
    row["sequences"] = sequences;
    row["misses"] = misses;
    row["step_us"] = us;
    row["step_us_p95"] = calls->us.quantile(0.95);
    row["misses_seen"] = calls->misses;
    row["no_slot"] = calls->no_slot;
    if (is_direct) {
      direct[misses] = us;
    } else {
      row["direct_us"] = direct[misses];
      row["over_direct_us"] = us - direct[misses];
    }
    add_most(row, "no_slot", calls->no_slot, 0);
    add_least(row, "misses_seen", calls->misses, kLeastMissesSeen * plan.fresh * sequences);
    run.report.add(row);
  }
  return {};
}

}  // namespace

ipc::Status bench_executor(GpuRun& run) {
  for (const std::uint32_t sequences : kSequences) {
    std::map<double, double> direct;
    for (const sluice_executor executor : {SLUICE_EXECUTOR_DIRECT, SLUICE_EXECUTOR_DAEMON}) {
      if (auto ok = measure(run, sequences, executor, direct); !ok) return ok;
    }
  }
  return {};
}

}  // namespace sluice::tools::cuda
