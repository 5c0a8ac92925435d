// Rows drawn at random from a large pool of frames, which the GPU's address translation feels.
#include <algorithm>
#include <random>
#include <utility>

#include "ipc/memfd.h"
#include "tools/bench/cuda/benches.h"
#include "tools/bench/cuda/lists.h"
#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

constexpr std::uint32_t kSequences = 64;
constexpr std::uint32_t kRows = 266;   // of a list: 13% of 2,048
constexpr double kPoolSteps = 2;       // of whole lists
constexpr double kArenasPerCycle = 2;  // so that nothing is found again
constexpr std::uint64_t kMostBytes = std::uint64_t{64} << 30;
constexpr std::uint64_t kQuickBytes = std::uint64_t{4} << 30;
constexpr double kMemoryPart = 0.7;  // of what the node has available
constexpr double kLeastRatio = 0.85;
constexpr double kLeastMissesSeen = 0.97;  // of the rows; some are drawn twice
constexpr double kBytesPerUsAndGb = 1000;

StepList drawn(std::uint32_t step, std::uint32_t list, std::uint32_t count, std::uint32_t rows,
               bool sorted) {
  std::mt19937_64 random(kSeed ^ (std::uint64_t{step} << 32 | list));
  StepList made;
  for (std::uint32_t i = 0; i < count; ++i) {
    made.items.push_back(static_cast<std::uint32_t>(random() % rows));
  }
  made.fresh = made.items;
  if (sorted) std::ranges::sort(made.fresh);
  return made;
}

}  // namespace

ipc::Status bench_reach(GpuRun& run) {
  const PageShape& shape = page_shapes().front();
  const auto room =
      static_cast<std::uint64_t>(kMemoryPart * static_cast<double>(ipc::available_memory_bytes()));
  const std::uint64_t bytes = std::min(run.options.quick ? kQuickBytes : kMostBytes, room);
  const auto blocks = static_cast<std::uint32_t>(bytes / shape.frame_stride() / kSequences);
  const std::uint32_t rows = blocks * shape.block_tokens;
  GpuNodeSpec spec =
      run.spec_for(shape, kSequences, arena_slots(shape, kSequences, kPoolSteps), rows);
  spec.fill = false;
  auto node = GpuNode::open(spec);
  if (!node) return std::unexpected(std::move(node.error()));
  const auto steps =
      static_cast<std::uint32_t>(kArenasPerCycle * node->slots() / (kSequences * kRows)) + 1;
  const auto lists_of = [&](bool sorted, RowOrder order) {
    return CycleLists::make(
        *node, kRows, steps,
        [&](std::uint32_t step, std::uint32_t list, std::uint32_t count) {
          return drawn(step, list, count, rows, sorted);
        },
        false, 0, order);
  };
  GpuRow row = gpu_row("reach");
  row["frames_gib"] = double(std::uint64_t{blocks} * kSequences * shape.frame_stride()) /
                      double(std::uint64_t{1} << 30);
  row["rows"] = kSequences * kRows;
  double best = 0;
  const struct {
    const char* name;
    bool sorted;
    RowOrder order;
  } orders[] = {{"copy_only_as_drawn_us", false, RowOrder::as_listed},
                {"copy_only_by_sequence_us", true, RowOrder::as_listed},
                {"copy_only_by_address_us", false, RowOrder::address}};
  for (const auto& one : orders) {
    auto lists = lists_of(one.sorted, one.order);
    if (!lists) return std::unexpected(std::move(lists.error()));
    auto copy = time_copy_only(*node, *lists, run.options.seconds);
    if (!copy) return std::unexpected(std::move(copy.error()));
    row[one.name] = copy->best;
    if (best == 0 || copy->best < best) best = copy->best;
  }
  auto lists = lists_of(false, RowOrder::as_listed);
  if (!lists) return std::unexpected(std::move(lists.error()));
  const double moved = lists->moved() * double(shape.page_bytes());
  auto cycle = ResolveCycle::make(*node, std::move(*lists), 0, steps);
  if (!cycle) return std::unexpected(std::move(cycle.error()));
  auto us = time_graph(node->stream(), cycle->graph(), steps, run.options.seconds);
  if (!us) return std::unexpected(std::move(us.error()));
  auto seen = cycle->look(*node);
  if (!seen) return std::unexpected(std::move(seen.error()));
  auto ended = to_ipc(node->actor().end_step());
  if (!ended) return std::unexpected(std::move(ended.error()));
  row["us"] = us->median();
  row["gb_per_s"] = moved / us->median() / kBytesPerUsAndGb;
  row["best_copy_only_gb_per_s"] = moved / best / kBytesPerUsAndGb;
  row["misses_seen"] = seen->misses;
  row["no_slot"] = seen->without_slot;
  add_least(row, "ratio", best / us->median(), kLeastRatio);
  add_most(row, "no_slot", seen->without_slot, 0);
  add_least(row, "misses_seen", seen->misses, kLeastMissesSeen * kSequences * kRows);
  run.report.add(row);
  return node->stream().wait("the end of reach");
}

}  // namespace sluice::tools::cuda
