#include "tools/bench/gpu_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>

#include "ipc/layout.h"
#include "tools/common/spawn.h"

namespace sluice::tools {
namespace {

constexpr PageShape kShapes[] = {
    {.name = "row656", .head_dim = 656, .kind = ListItems::rows, .items = 2048},
    {.name = "page32k",
     .head_dim = 128,
     .dtype_bytes = 2,
     .kv_heads = 2,
     .planes = 2,
     .items = 96,
     .lists_per_sequence = 2},
    {.name = "page64k", .head_dim = 128, .dtype_bytes = 2, .kv_heads = 2, .planes = 2, .items = 96},
};

// A page is out of the pool before its turn comes again, also where eviction is not quite LRU.
constexpr double kPoolsPerCycle = 2;
constexpr std::uint32_t kLeastSteps = 16;
// Lists do not run in step: each begins elsewhere in the order.
constexpr std::uint64_t kListStride = 7919;

constexpr double kIdleUs = 5.5;
constexpr double kHitsUs = 6;
constexpr double kFewCtasUs = 6.5;
constexpr double kFewCtasManySequencesUs = 10;
constexpr std::uint32_t kFewSequences = 32;
constexpr double kFlushedUs = 3;

}  // namespace

std::span<const PageShape> page_shapes() { return kShapes; }

std::uint64_t arena_slots(const PageShape& shape, std::uint32_t sequences, double steps) {
  const std::uint64_t page = shape.page_bytes();
  const std::uint64_t extent = ipc::extent_bytes_for(page, kDeviceExtentAlignment, 0);
  const double pages = double(sequences) * shape.lists_per_sequence * shape.items * steps;
  const auto bytes = static_cast<std::uint64_t>(std::ceil(pages)) * page;
  return (bytes + extent - 1) / extent * extent / page;
}

StepPlan plan_steps(std::uint32_t items, double misses, double duplicates, double pool) {
  StepPlan plan;
  plan.items = items;
  plan.distinct = std::max(1u, items - static_cast<std::uint32_t>(std::lround(items * duplicates)));
  plan.universe = plan.distinct;
  if (misses <= 0) return plan;
  plan.fresh =
      std::clamp(static_cast<std::uint32_t>(std::lround(items * misses)), 1u, plan.distinct);
  const auto least = static_cast<std::uint32_t>(std::ceil(pool * kPoolsPerCycle)) + plan.distinct;
  plan.steps = std::max(kLeastSteps, (least + plan.fresh - 1) / plan.fresh);
  plan.universe = plan.steps * plan.fresh;
  return plan;
}

Windows::Windows(const StepPlan& plan, std::uint64_t seed)
    : plan_(plan), seed_(seed), order_(plan.universe) {
  std::iota(order_.begin(), order_.end(), 0U);
  std::mt19937_64 random(seed);
  std::ranges::shuffle(order_, random);
}

StepList Windows::list(std::uint32_t step, std::uint32_t list, std::uint32_t count) const {
  const std::uint64_t begin = std::uint64_t{step} * plan_.fresh + list * kListStride;
  const auto at = [&](std::uint32_t i) { return order_[(begin + i) % plan_.universe]; };
  StepList made;
  // A shorter list leaves out some that were there before.
  const std::uint32_t distinct = std::min(plan_.distinct, count);
  const std::uint32_t first = plan_.distinct - distinct;
  for (std::uint32_t i = first; i < plan_.distinct; ++i) made.items.push_back(at(i));
  for (std::uint32_t i = plan_.distinct - plan_.fresh; i < plan_.distinct; ++i) {
    made.fresh.push_back(at(i));
  }
  std::mt19937_64 random(seed_ ^ (std::uint64_t{step} << 32 | list));
  while (made.items.size() < count) made.items.push_back(made.items[random() % distinct]);
  std::ranges::sort(made.items);
  std::ranges::sort(made.fresh);
  return made;
}

double resolve_limit(const ResolveTarget& target, double copy_only) {
  double overhead = copy_only > 0 ? kIdleUs : kHitsUs;
  if (target.copying_ctas != 0) {
    overhead = target.sequences <= kFewSequences ? kFewCtasUs : kFewCtasManySequencesUs;
  }
  return overhead + (target.flushed ? kFlushedUs : 0) + kCopyFactor * copy_only;
}

}  // namespace sluice::tools
