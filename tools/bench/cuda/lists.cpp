#include "tools/bench/cuda/lists.h"

#include <algorithm>
#include <random>
#include <string>
#include <utility>

#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr std::uint32_t kCopyCtas[] = {8, 16, 32};

}  // namespace

ipc::Result<CycleLists> CycleLists::make(const GpuNode& node, std::uint32_t capacity,
                                         std::uint32_t steps, const Draw& draw, bool varying,
                                         std::uint32_t least, RowOrder order) {
  const PageShape& shape = node.spec().shape;
  CycleLists made;
  made.steps_ = steps;
  made.lists_ = node.spec().sequences * shape.lists_per_sequence;
  made.capacity_ = capacity;
  made.varying_ = varying;
  const std::uint32_t in_block = shape.list_pages_per_block();
  std::mt19937_64 random(kSeed);
  std::vector<std::int32_t> items;
  std::vector<std::uint32_t> counts;
  std::vector<std::uint64_t> from;
  std::vector<std::int32_t> to;
  items.reserve(std::size_t{steps} * made.all());
  for (std::uint32_t step = 0; step < steps; ++step) {
    const std::size_t begin = from.size();
    for (std::uint32_t list = 0; list < made.lists_; ++list) {
      const std::uint32_t count =
          varying ? least + static_cast<std::uint32_t>(random() % (capacity - least + 1))
                  : capacity;
      counts.push_back(count);
      const StepList drawn = draw(step, list, count);
      const std::uint32_t sequence = list / shape.lists_per_sequence;
      for (const std::uint32_t item : drawn.items) items.push_back(static_cast<std::int32_t>(item));
      items.resize((std::size_t{step} * made.lists_ + list + 1) * capacity, 0);
      for (const std::uint32_t item : drawn.fresh) {
        const std::uint32_t page =
            shape.kind == ListItems::rows ? item % in_block : list % shape.lists_per_sequence;
        from.push_back(node.frame(sequence, item / in_block) + page * shape.page_bytes());
        to.push_back(static_cast<std::int32_t>(random() % node.slots()));
      }
    }
    if (order == RowOrder::address) {
      std::sort(from.begin() + static_cast<std::ptrdiff_t>(begin), from.end());
    }
    if (step == 0) made.moved_ = static_cast<std::uint32_t>(from.size());
    if (from.size() != std::size_t{step + 1} * made.moved_) {
      return fail(Errc::internal, "steps bring in different numbers of rows");
    }
  }
  auto on_device = DeviceArray<std::int32_t>::of(items, "items");
  if (!on_device) return std::unexpected(std::move(on_device.error()));
  made.items_ = std::move(*on_device);
  auto count_array = DeviceArray<std::uint32_t>::of(counts, "counts");
  if (!count_array) return std::unexpected(std::move(count_array.error()));
  made.counts_ = std::move(*count_array);
  auto sources = DeviceArray<std::uint64_t>::of(from, "sources");
  if (!sources) return std::unexpected(std::move(sources.error()));
  made.from_ = std::move(*sources);
  auto places = DeviceArray<std::int32_t>::of(to, "places");
  if (!places) return std::unexpected(std::move(places.error()));
  made.to_ = std::move(*places);
  return made;
}

ipc::Result<Results> Results::make(std::uint32_t items) {
  Results made;
  auto slots = DeviceArray<std::int32_t>::make(items, "slots");
  if (!slots) return std::unexpected(std::move(slots.error()));
  made.slots = std::move(*slots);
  auto outcomes = DeviceArray<std::uint8_t>::make(items, "outcomes");
  if (!outcomes) return std::unexpected(std::move(outcomes.error()));
  made.outcomes = std::move(*outcomes);
  auto none = DeviceArray<std::uint32_t>::make(1, "a count");
  if (!none) return std::unexpected(std::move(none.error()));
  made.without_slot = std::move(*none);
  auto verified = DeviceArray<Verified>::make(1, "a comparison");
  if (!verified) return std::unexpected(std::move(verified.error()));
  made.verified = std::move(*verified);
  auto counted = DeviceArray<unsigned long long>::make(1, "a count");
  if (!counted) return std::unexpected(std::move(counted.error()));
  made.counted = std::move(*counted);
  return made;
}

ipc::Result<client::Plan> make_plan(GpuNode& node, const CycleLists& lists, const Results& results,
                                    std::uint32_t step, std::uint32_t copying_ctas,
                                    bool with_outcomes) {
  const PageShape& shape = node.spec().shape;
  sluice_plan_desc desc = SLUICE_PLAN_DESC_INIT;
  desc.kind = shape.kind == ListItems::rows ? SLUICE_ITEM_ROW : SLUICE_ITEM_BLOCK;
  desc.flags = SLUICE_PLAN_ADVANCE;
  desc.max_lists = lists.lists();
  desc.list_capacity = lists.capacity();
  desc.lists_per_sequence = shape.lists_per_sequence;
  desc.copying_ctas = copying_ctas;
  desc.items = lists.items(step);
  desc.counts = lists.counts(step);
  desc.sequences = node.rows();
  desc.slots = results.slots.data();
  desc.outcomes = with_outcomes ? results.outcomes.data() : nullptr;
  desc.without_slot = results.without_slot.data();
  auto plan = to_ipc(client::Plan::create(node.actor(), desc));
  if (!plan) plan.error().text = "sluice_plan_create: " + plan.error().text;
  return plan;
}

ipc::Result<std::vector<client::Plan>> make_plans(GpuNode& node, const CycleLists& lists,
                                                  const Results& results,
                                                  std::uint32_t copying_ctas) {
  std::vector<client::Plan> plans;
  plans.reserve(lists.steps());
  for (std::uint32_t step = 0; step < lists.steps(); ++step) {
    auto plan = make_plan(node, lists, results, step, copying_ctas, false);
    if (!plan) return std::unexpected(std::move(plan.error()));
    plans.push_back(std::move(*plan));
  }
  return plans;
}

ipc::Status launch(client::Plan& plan) {
  auto launched = to_ipc(plan.launch());
  if (!launched) launched.error().text = "sluice_plan_launch: " + launched.error().text;
  return launched;
}

ipc::Status enqueue_verify(const GpuNode& node, const CycleLists& lists, const Results& results,
                           std::uint32_t step) {
  const PageShape& shape = node.spec().shape;
  VerifiedLists verified;
  verified.items = lists.items(step);
  verified.counts = lists.counts(step);
  verified.slots = results.slots.data();
  verified.lists = lists.lists();
  verified.list_capacity = lists.capacity();
  verified.lists_per_sequence = shape.lists_per_sequence;
  verified.rows_per_block = shape.kind == ListItems::rows ? shape.block_tokens : 0;
  verified.blocks_per_sequence = node.spec().blocks_per_sequence;
  verified.pages_per_block = shape.pages_per_block();
  verified.page_bytes = static_cast<std::uint32_t>(shape.page_bytes());
  verified.slot_limit = node.slots();
  return check(verify(verified, static_cast<const std::byte*>(node.arena().base),
                      results.verified.data(), const_cast<GpuNode&>(node).stream().get()),
               "comparing bytes");
}

ipc::Result<double> time_gather(GpuNode& node, const CycleLists& lists, std::byte* place,
                                std::uint32_t ctas, double seconds,
                                const std::function<ipc::Status()>& before) {
  const auto row_bytes = static_cast<std::uint32_t>(node.spec().shape.page_bytes());
  auto graph = Graph::capture(node.stream(), [&]() -> ipc::Status {
    for (std::uint32_t step = 0; step < lists.steps(); ++step) {
      if (before != nullptr) {
        if (auto ok = before(); !ok) return ok;
      }
      if (auto ok = check(gather(ctas, lists.from(step), place, lists.to(step), lists.moved(),
                                 row_bytes, node.stream().get()),
                          "launching the copy-only gather");
          !ok) {
        return ok;
      }
    }
    return {};
  });
  if (!graph) return std::unexpected(std::move(graph.error()));
  auto times = time_graph(node.stream(), *graph, lists.steps(), seconds);
  if (!times) return std::unexpected(std::move(times.error()));
  return times->median();
}

ipc::Result<ResolveCycle> ResolveCycle::make(GpuNode& node, CycleLists lists,
                                             std::uint32_t copying_ctas, std::uint32_t launches) {
  ResolveCycle cycle;
  cycle.lists_ = std::move(lists);
  cycle.launches_ = launches;
  auto results = Results::make(cycle.lists_.all());
  if (!results) return std::unexpected(std::move(results.error()));
  cycle.results_ = std::move(*results);
  auto plans = make_plans(node, cycle.lists_, cycle.results_, copying_ctas);
  if (!plans) return std::unexpected(std::move(plans.error()));
  cycle.plans_ = std::move(*plans);
  auto begun = to_ipc(node.actor().begin_step());
  if (!begun) return std::unexpected(std::move(begun.error()));
  for (int i = 0; i < 2; ++i) {
    for (client::Plan& plan : cycle.plans_) {
      if (auto ok = launch(plan); !ok) return std::unexpected(std::move(ok.error()));
    }
  }
  if (auto ok = node.stream().wait("the first cycles of resolves"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  auto graph = Graph::capture(node.stream(), [&]() -> ipc::Status {
    for (std::uint32_t i = 0; i < launches; ++i) {
      if (auto ok = launch(cycle.plans_[i % cycle.plans_.size()]); !ok) return ok;
    }
    return {};
  });
  if (!graph) return std::unexpected(std::move(graph.error()));
  cycle.graph_ = std::move(*graph);
  return cycle;
}

ipc::Result<ResolveCycle::Seen> ResolveCycle::look(GpuNode& node) {
  const auto steps = lists_.steps();
  if (auto ok = results_.counted.clear("clearing a count"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  if (auto ok = results_.without_slot.clear("clearing a count"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  std::vector<client::Plan> plans;
  for (std::uint32_t step = 0; step < steps; ++step) {
    auto plan = make_plan(node, lists_, results_, step, 0, true);
    if (!plan) return std::unexpected(std::move(plan.error()));
    plans.push_back(std::move(*plan));
    if (auto ok = launch(plans.back()); !ok) return std::unexpected(std::move(ok.error()));
    if (auto ok = check(count_outcomes(results_.outcomes.data(), lists_.counts(step),
                                       lists_.lists(), lists_.capacity(), SLUICE_MISS,
                                       results_.counted.data(), node.stream().get()),
                        "counting misses");
        !ok) {
      return std::unexpected(std::move(ok.error()));
    }
  }
  auto misses = results_.counted.first("a cycle of resolves");
  if (!misses) return std::unexpected(std::move(misses.error()));
  auto none = results_.without_slot.first("a cycle of resolves");
  if (!none) return std::unexpected(std::move(none.error()));
  return Seen{double(*misses) / steps, double(*none) / steps};
}

ipc::Result<CopyOnly> time_copy_only(GpuNode& node, const CycleLists& lists, double seconds,
                                     const std::function<ipc::Status()>& before) {
  CopyOnly copy;
  if (lists.moved() == 0) return copy;
  // Not the arena: resolve would take what the gather leaves there for pages.
  auto place = DeviceArray<std::byte>::make(node.slots() * node.spec().shape.page_bytes(),
                                            "the place of copy-only rows");
  if (!place) return std::unexpected(std::move(place.error()));
  for (const std::uint32_t ctas : kCopyCtas) {
    auto us = time_gather(node, lists, place->data(), ctas, seconds, before);
    if (!us) return std::unexpected(std::move(us.error()));
    if (ctas == kCopyCtas[0]) copy.with_8 = *us;
    if (copy.best_ctas == 0 || *us < copy.best) {
      copy.best = *us;
      copy.best_ctas = ctas;
    }
  }
  return copy;
}

}  // namespace sluice::tools::cuda
