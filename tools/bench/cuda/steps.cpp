// Entering and leaving a step, as kernels in a graph.
#include <utility>

#include "tools/bench/cuda/benches.h"
#include "tools/bench/cuda/kernels.h"
#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

constexpr std::uint32_t kManyPairs = 64;
constexpr std::uint32_t kFewPairs = 16;
constexpr std::uint32_t kLogEntries = 256;
constexpr int kRounds = 30;
// Until entries about blocks that were given up have been written and applied.
constexpr int kDrains = 100;
constexpr std::uint64_t kDramBytes = std::uint64_t{1} << 30;
constexpr double kMostUs = 6;
constexpr double kMostLoadedUs = 10;

ipc::Status enqueue_pairs(GpuNode& node, std::uint32_t pairs) {
  for (std::uint32_t i = 0; i < pairs; ++i) {
    if (auto ok = to_ipc(node.actor().begin_step()); !ok) return ok;
    if (auto ok = to_ipc(node.actor().end_step()); !ok) return ok;
  }
  return {};
}

ipc::Result<double> time_once(GpuNode& node, const Graph& graph, const Event& begin,
                              const Event& end) {
  if (auto ok = begin.record(node.stream()); !ok) return std::unexpected(std::move(ok.error()));
  if (auto ok = graph.launch(node.stream()); !ok) return std::unexpected(std::move(ok.error()));
  if (auto ok = end.record(node.stream()); !ok) return std::unexpected(std::move(ok.error()));
  if (auto ok = node.stream().wait("steps in a graph"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  return microseconds(begin, end);
}

// What kLogEntries add to a step: blocks of another sequence get ids meanwhile.
ipc::Result<double> entries_us(GpuNode& node, const Graph& graph) {
  auto begin = Event::make();
  if (!begin) return std::unexpected(std::move(begin.error()));
  auto end = Event::make();
  if (!end) return std::unexpected(std::move(end.error()));
  auto opened = to_ipc(node.cache().open_sequence({nullptr, sizeof(Key), 0, 0}));
  if (!opened) return std::unexpected(std::move(opened.error()));
  Series idle, loaded;
  for (int i = 0; i < kRounds; ++i) {
    for (int j = 0; j < kDrains; ++j) {
      auto us = time_once(node, graph, *begin, *end);
      if (!us) return us;
      if (auto ok = node.ping(); !ok) return std::unexpected(std::move(ok.error()));
    }
    auto without = time_once(node, graph, *begin, *end);
    if (!without) return without;
    idle.add(*without);
    auto first = to_ipc(opened->sequence.extend(kLogEntries));
    if (!first) return std::unexpected(std::move(first.error()));
    auto with = time_once(node, graph, *begin, *end);
    if (!with) return with;
    loaded.add(*with);
    auto cut = to_ipc(opened->sequence.truncate(0));
    if (!cut) return std::unexpected(std::move(cut.error()));
  }
  return loaded.median() - idle.median();
}

}  // namespace

ipc::Status bench_steps(GpuRun& run) {
  const PageShape& shape = page_shapes().back();
  GpuNodeSpec spec = run.spec_for(shape, 1, arena_slots(shape, 1, 2), shape.items);
  spec.dram_bytes = kDramBytes;
  auto node = GpuNode::open(spec);
  if (!node) return std::unexpected(std::move(node.error()));
  if (auto ok = enqueue_pairs(*node, 1); !ok) return ok;  // loads the kernels
  const auto graph_of = [&](std::uint32_t pairs) {
    return Graph::capture(node->stream(), [&] { return enqueue_pairs(*node, pairs); });
  };
  auto many = graph_of(kManyPairs);
  if (!many) return std::unexpected(std::move(many.error()));
  auto few = graph_of(kFewPairs);
  if (!few) return std::unexpected(std::move(few.error()));
  auto empty = Graph::capture(node->stream(), [&]() -> ipc::Status {
    for (std::uint32_t i = 0; i < 2 * kManyPairs; ++i) {
      if (auto ok = check(launch_empty(node->stream().get()), "launching an empty kernel"); !ok) {
        return ok;
      }
    }
    return {};
  });
  if (!empty) return std::unexpected(std::move(empty.error()));
  auto pair = time_graph(node->stream(), *many, kManyPairs, run.options.seconds);
  if (!pair) return std::unexpected(std::move(pair.error()));
  auto launches = time_graph(node->stream(), *empty, kManyPairs, run.options.seconds);
  if (!launches) return std::unexpected(std::move(launches.error()));
  auto entries = entries_us(*node, *few);
  if (!entries) return std::unexpected(std::move(entries.error()));
  GpuRow row = gpu_row("steps");
  row["us"] = pair->median();
  row["two_launches_us"] = launches->median();
  row["log_entries"] = kLogEntries;
  row["with_entries_us"] = pair->median() + *entries;
  add_most(row, "us", pair->median(), kMostUs);
  add_most(row, "with_entries_us", pair->median() + *entries, kMostLoadedUs);
  run.report.add(row);
  return {};
}

}  // namespace sluice::tools::cuda
