#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "tools/bench/cuda/benches.h"
#include "tools/bench/cuda/lists.h"
#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr std::uint32_t kSequences[] = {1, 8, 32, 64};
constexpr double kMisses[] = {0, 0.02, 0.07, 0.13, 0.3};
constexpr double kUsualMisses = 0.13;
constexpr double kPoolSteps = 2;
constexpr double kSmallPoolSteps = 1.5;
// Of 656 B rows, 42 sequences come next to 1.5 steps in whole extents.
constexpr std::uint32_t kSmallPoolRowSequences = 42;
constexpr std::uint32_t kSmallPoolSequences = 32;
constexpr double kDuplicates = 0.25;
constexpr std::uint32_t kCopyingCtas[] = {0, 8};
constexpr std::uint32_t kLeastLaunches = 64;  // of a graph
constexpr std::uint32_t kCountedSteps = 16;   // of which misses are counted
constexpr std::uint32_t kSteadyLaunches = 10'000;
constexpr double kSlowState = 1.5;  // the slowest part of a steady run over the mean
// The link of a machine that does other things too is slower for tenths of a second at times. What
// was measured then shows in copy-only, before and after.
constexpr double kSteady = 1.05;
constexpr double kSteadyUs = 0.5;  // and so much
constexpr int kTries = 4;
constexpr double kLeastMissesSeen = 0.97;  // of the rows that are meant to miss
constexpr double kFlushedL2s = 3;          // bytes of the buffer that flushes, over those of the L2

struct Case {
  double misses = 0;
  double duplicates = 0;
  bool varying = false;
  bool flushed = false;
  bool steady = false;
  double pool_steps = kPoolSteps;  // that were asked for
};

class ResolveBench {
 public:
  ResolveBench(GpuRun& run, GpuNode& node) : run_(run), node_(node) {}
  ipc::Status prepare();
  ipc::Status measure(const Case& one);

 private:
  ipc::Status prepare_case(const Case& one);
  // A cycle with its bytes compared; counts the misses of some steps.
  ipc::Status verify_cycle(std::vector<client::Plan>& plans);
  ipc::Status check_bytes(Verified& found);
  ipc::Result<CopyOnly> time_copy(const Case& one);
  // Measures again what the machine's other work was felt in: `copy` is of after it then.
  ipc::Result<double> time_while_steady(const Case& one, std::vector<client::Plan>& plans,
                                        CopyOnly& copy, GpuRow& row);
  ipc::Status measure_arrangement(const Case& one, std::uint32_t ctas, CopyOnly& copy);
  ipc::Result<double> time_launches(const Case& one, std::vector<client::Plan>& plans, GpuRow& row);
  ipc::Status run_steadily(const Graph& graph, std::uint32_t launches, GpuRow& row);
  ipc::Status enqueue_flush() {
    return check(flush(flush_buffer_->data(), flush_buffer_->size(), node_.stream().get()),
                 "flushing the L2");
  }
  ipc::Result<double> flush_us();
  double seconds() const { return run_.options.seconds; }

  GpuRun& run_;
  GpuNode& node_;
  double launch_us_ = 0;  // an empty kernel
  StepPlan plan_;
  std::optional<CycleLists> lists_;
  std::optional<Results> results_;
  std::optional<DeviceArray<std::byte>> flush_buffer_;
  double misses_seen_ = 0;  // per step, of the last cycle
};

double pool_of(const GpuNode& node) {
  return double(node.slots()) / (node.spec().sequences * node.spec().shape.lists_per_sequence);
}

ipc::Status ResolveBench::prepare() {
  auto graph = Graph::capture(node_.stream(), [&]() -> ipc::Status {
    for (std::uint32_t i = 0; i < kLeastLaunches; ++i) {
      if (auto ok = check(launch_empty(node_.stream().get()), "launching an empty kernel"); !ok) {
        return ok;
      }
    }
    return {};
  });
  if (!graph) return std::unexpected(std::move(graph.error()));
  auto times = time_graph(node_.stream(), *graph, kLeastLaunches, seconds());
  if (!times) return std::unexpected(std::move(times.error()));
  launch_us_ = times->median();
  int l2 = 0;
  if (auto ok = check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0),
                      "cudaDeviceGetAttribute of the L2");
      !ok) {
    return ok;
  }
  auto buffer = DeviceArray<std::byte>::make(static_cast<std::size_t>(kFlushedL2s * l2),
                                             "a buffer that flushes the L2");
  if (!buffer) return std::unexpected(std::move(buffer.error()));
  flush_buffer_.emplace(std::move(*buffer));
  return {};
}

ipc::Status ResolveBench::prepare_case(const Case& one) {
  plan_ = plan_steps(node_.spec().shape.items, one.misses, one.duplicates, pool_of(node_));
  const std::uint32_t in_block = node_.spec().shape.list_pages_per_block();
  if (plan_.universe > node_.spec().blocks_per_sequence * in_block) {
    return fail(Errc::internal, "the sequences are shorter than a cycle");
  }
  const Windows windows(plan_, kSeed);
  const auto draw = [&](std::uint32_t step, std::uint32_t list, std::uint32_t count) {
    return windows.list(step, list, count);
  };
  const std::uint32_t least = std::max(plan_.items / 2, plan_.fresh);
  lists_.reset();
  results_.reset();
  auto lists = CycleLists::make(node_, plan_.items, plan_.steps, draw, one.varying, least);
  if (!lists) return std::unexpected(std::move(lists.error()));
  lists_.emplace(std::move(*lists));
  auto results = Results::make(lists_->all());
  if (!results) return std::unexpected(std::move(results.error()));
  results_.emplace(std::move(*results));
  return {};
}

ipc::Status ResolveBench::verify_cycle(std::vector<client::Plan>& plans) {
  const std::uint32_t every = (plan_.steps + kCountedSteps - 1) / kCountedSteps;
  if (auto ok = results_->counted.clear("clearing a count"); !ok) return ok;
  std::vector<client::Plan> counting;
  for (std::uint32_t step = 0; step < plan_.steps; ++step) {
    const bool counted = step % every == 0;
    if (counted) {
      auto plan = make_plan(node_, *lists_, *results_, step, 0, true);
      if (!plan) return std::unexpected(std::move(plan.error()));
      counting.push_back(std::move(*plan));
    }
    if (auto ok = launch(counted ? counting.back() : plans[step]); !ok) return ok;
    if (auto ok = enqueue_verify(node_, *lists_, *results_, step); !ok) return ok;
    if (!counted) continue;
    if (auto ok = check(count_outcomes(results_->outcomes.data(), lists_->counts(step),
                                       lists_->lists(), lists_->capacity(), SLUICE_MISS,
                                       results_->counted.data(), node_.stream().get()),
                        "counting misses");
        !ok) {
      return ok;
    }
  }
  // Plans go only after their launches.
  auto misses = results_->counted.first("resolving a cycle");
  if (!misses) return std::unexpected(std::move(misses.error()));
  misses_seen_ = double(*misses) / static_cast<double>(counting.size());
  return {};
}

ipc::Status ResolveBench::check_bytes(Verified& found) {
  auto verified = results_->verified.first("comparing bytes");
  if (!verified) return std::unexpected(std::move(verified.error()));
  found = *verified;
  if (found.wrong_words == 0) return {};
  return fail(Errc::internal, std::to_string(found.wrong_words) + " words of " +
                                  node_.spec().shape.name +
                                  " pages are wrong: nothing is measured");
}

ipc::Result<double> ResolveBench::flush_us() {
  auto graph = Graph::capture(node_.stream(), [&]() -> ipc::Status {
    for (std::uint32_t i = 0; i < kLeastLaunches; ++i) {
      if (auto ok = enqueue_flush(); !ok) return ok;
    }
    return {};
  });
  if (!graph) return std::unexpected(std::move(graph.error()));
  auto times = time_graph(node_.stream(), *graph, kLeastLaunches, seconds());
  if (!times) return std::unexpected(std::move(times.error()));
  return times->median();
}

// Of a chunk each, so that a slow state shows.
ipc::Status ResolveBench::run_steadily(const Graph& graph, std::uint32_t launches, GpuRow& row) {
  const std::uint32_t chunks = (kSteadyLaunches + launches - 1) / launches;
  auto begin = Event::make();
  if (!begin) return std::unexpected(std::move(begin.error()));
  std::vector<Event> events;
  if (auto ok = begin->record(node_.stream()); !ok) return ok;
  for (std::uint32_t i = 0; i < chunks; ++i) {
    auto event = Event::make();
    if (!event) return std::unexpected(std::move(event.error()));
    if (auto ok = graph.launch(node_.stream()); !ok) return ok;
    if (auto ok = event->record(node_.stream()); !ok) return ok;
    events.push_back(std::move(*event));
  }
  if (auto ok = node_.stream().wait("a steady run"); !ok) return ok;
  auto all = microseconds(*begin, events.back());
  if (!all) return std::unexpected(std::move(all.error()));
  double slowest = 0;
  for (std::uint32_t i = 0; i < chunks; ++i) {
    auto us = microseconds(i == 0 ? *begin : events[i - 1], events[i]);
    if (!us) return std::unexpected(std::move(us.error()));
    slowest = std::max(slowest, *us);
  }
  row["steady_launches"] = chunks * launches;
  row["steady_us"] = *all / (double(chunks) * launches);
  add_most(row, "steady_max_over_mean", slowest * chunks / *all, kSlowState);
  return {};
}

ipc::Result<double> ResolveBench::time_launches(const Case& one, std::vector<client::Plan>& plans,
                                                GpuRow& row) {
  const std::uint32_t launches = plan_.steps == 1 ? kLeastLaunches : plan_.steps;
  auto graph = Graph::capture(node_.stream(), [&]() -> ipc::Status {
    for (std::uint32_t i = 0; i < launches; ++i) {
      if (one.flushed) {
        if (auto ok = enqueue_flush(); !ok) return ok;
      }
      if (auto ok = launch(plans[i % plan_.steps]); !ok) return ok;
    }
    return {};
  });
  if (!graph) return std::unexpected(std::move(graph.error()));
  if (auto ok = results_->without_slot.clear("clearing a count"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  auto times = time_graph(node_.stream(), *graph, launches, seconds());
  if (!times) return std::unexpected(std::move(times.error()));
  std::size_t replays = times->rounds() + kWarmRepeats;
  if (!one.flushed) row["us_max"] = times->max();
  if (one.steady) {
    if (auto ok = run_steadily(*graph, launches, row); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    replays += (kSteadyLaunches + launches - 1) / launches;
  }
  auto none = results_->without_slot.first("replaying launches");
  if (!none) return std::unexpected(std::move(none.error()));
  row["no_slot"] = double(*none) / (double(replays) * launches);
  if (!one.flushed) return times->median();
  auto flushing = flush_us();
  if (!flushing) return flushing;
  row["flush_us"] = *flushing;
  return times->median() - *flushing;
}

ipc::Result<CopyOnly> ResolveBench::time_copy(const Case& one) {
  std::function<ipc::Status()> before;
  if (one.flushed) before = [this] { return enqueue_flush(); };
  auto copy = time_copy_only(node_, *lists_, seconds(), before);
  if (!copy || !one.flushed || copy->best == 0) return copy;
  auto flushing = flush_us();
  if (!flushing) return std::unexpected(std::move(flushing.error()));
  copy->best -= *flushing;
  copy->with_8 -= *flushing;
  return copy;
}

ipc::Result<double> ResolveBench::time_while_steady(const Case& one,
                                                    std::vector<client::Plan>& plans,
                                                    CopyOnly& copy, GpuRow& row) {
  for (int tries = 1;; ++tries) {
    auto us = time_launches(one, plans, row);
    if (!us || copy.best == 0) return us;
    auto after = time_copy(one);
    if (!after) return std::unexpected(std::move(after.error()));
    const auto near = [](double a, double b) {
      return std::max(a, b) <= kSteady * std::min(a, b) + kSteadyUs;
    };
    const bool steady = near(copy.best, after->best) && near(copy.with_8, after->with_8);
    copy = *after;
    if (steady || tries == kTries) {
      row["tries"] = tries;
      row["steady"] = steady;
      return us;
    }
  }
}

ipc::Status ResolveBench::measure_arrangement(const Case& one, std::uint32_t ctas, CopyOnly& copy) {
  auto plans = make_plans(node_, *lists_, *results_, ctas);
  if (!plans) return std::unexpected(std::move(plans.error()));
  if (auto ok = results_->verified.clear("clearing a comparison"); !ok) return ok;
  // Twice: what an earlier case left is gone then.
  for (int i = 0; i < 2; ++i) {
    if (auto ok = verify_cycle(*plans); !ok) return ok;
  }
  Verified found{};
  if (auto ok = check_bytes(found); !ok) return ok;
  const PageShape& shape = node_.spec().shape;
  const std::uint32_t sequences = node_.spec().sequences;
  GpuRow row = gpu_row("resolve");
  row["shape"] = shape.name;
  row["sequences"] = sequences;
  row["misses"] = one.misses;
  if (one.duplicates > 0) row["duplicates"] = one.duplicates;
  if (one.varying) row["varying_counts"] = true;
  if (one.flushed) row["l2_flushed"] = true;
  row["copying_ctas"] = ctas;
  row["pool_steps"] = pool_of(node_) / shape.items;
  row["us"] = 0.0;  // for its place in the row
  auto us = time_while_steady(one, *plans, copy, row);
  if (!us) return std::unexpected(std::move(us.error()));
  if (auto ok = verify_cycle(*plans); !ok) return ok;
  if (auto ok = check_bytes(found); !ok) return ok;
  const double against = ctas == 0 ? copy.best : copy.with_8;
  row["us"] = *us;
  row["launch_only_us"] = launch_us_;
  row["copy_only_us"] = copy.best;
  row["copy_only_ctas"] = copy.best_ctas;
  row["copy_only_8_us"] = copy.with_8;
  row["over_us"] = *us - kCopyFactor * against;
  row["rows"] = lists_->moved();
  row["misses_seen"] = misses_seen_;
  if (against > 0) row["gb_per_s"] = lists_->moved() * double(shape.page_bytes()) / *us / 1000;
  add_most(row, "us", *us, resolve_limit({sequences, ctas, one.flushed}, against));
  add_most(row, "no_slot", row["no_slot"].get<double>() + double(found.without_slot), 0);
  // Else less was copied than by what it is compared with.
  add_least(row, "misses_seen", misses_seen_, kLeastMissesSeen * lists_->moved());
  run_.report.add(row);
  return {};
}

ipc::Status ResolveBench::measure(const Case& one) {
  if (auto ok = prepare_case(one); !ok) return ok;
  auto begun = to_ipc(node_.actor().begin_step());
  if (!begun) return std::unexpected(std::move(begun.error()));
  auto copy = time_copy(one);
  if (!copy) return std::unexpected(std::move(copy.error()));
  for (const std::uint32_t ctas : kCopyingCtas) {
    if (auto ok = measure_arrangement(one, ctas, *copy); !ok) return ok;
  }
  auto ended = to_ipc(node_.actor().end_step());
  if (!ended) return std::unexpected(std::move(ended.error()));
  return node_.stream().wait("the end of a case");
}

ipc::Status measure_all(GpuRun& run, const PageShape& shape, std::uint32_t sequences,
                        double pool_steps, const std::vector<Case>& cases) {
  const std::uint64_t slots = arena_slots(shape, sequences, pool_steps);
  const double pool = double(slots) / (sequences * shape.lists_per_sequence);
  std::uint32_t universe = 0;
  for (const Case& one : cases) {
    universe =
        std::max(universe, plan_steps(shape.items, one.misses, one.duplicates, pool).universe);
  }
  auto node = GpuNode::open(run.spec_for(shape, sequences, slots, universe));
  if (!node) return std::unexpected(std::move(node.error()));
  ResolveBench bench(run, *node);
  if (auto ok = bench.prepare(); !ok) return ok;
  for (const Case& one : cases) {
    if (auto ok = bench.measure(one); !ok) return ok;
  }
  return {};
}

std::vector<Case> cases_for(const PageShape& shape, std::uint32_t sequences) {
  std::vector<Case> cases;
  for (const double misses : kMisses) {
    const bool usual = misses == kUsualMisses;
    const bool ends = sequences == kSequences[0] || sequences == kSequences[3];
    cases.push_back({.misses = misses, .steady = usual && ends});
    if (usual || misses == 0) cases.push_back({.misses = misses, .flushed = true});
  }
  if (shape.kind != ListItems::rows) return cases;
  cases.push_back({.misses = kUsualMisses, .duplicates = kDuplicates});
  cases.push_back({.misses = kUsualMisses, .varying = true});
  return cases;
}

ipc::Status quick_resolve(GpuRun& run) {
  const auto shapes = page_shapes();
  const std::vector<Case> ends = {{.misses = 0}, {.misses = kUsualMisses}};
  if (auto ok = measure_all(run, shapes[0], kSequences[1], kPoolSteps,
                            {{.misses = 0},
                             {.misses = kUsualMisses},
                             {.misses = kUsualMisses, .duplicates = kDuplicates},
                             {.misses = kUsualMisses, .varying = true}});
      !ok) {
    return ok;
  }
  if (auto ok = measure_all(run, shapes[0], kSequences[3], kPoolSteps, ends); !ok) return ok;
  return measure_all(run, shapes[1], kSequences[1], kPoolSteps, ends);
}

}  // namespace

ipc::Status bench_resolve(GpuRun& run) {
  if (run.options.quick) return quick_resolve(run);
  for (const PageShape& shape : page_shapes()) {
    if (!run.options.shape.empty() && run.options.shape != shape.name) continue;
    for (const std::uint32_t sequences : kSequences) {
      if (auto ok = measure_all(run, shape, sequences, kPoolSteps, cases_for(shape, sequences));
          !ok) {
        return ok;
      }
    }
    const bool rows = shape.kind == ListItems::rows;
    if (auto ok = measure_all(run, shape, rows ? kSmallPoolRowSequences : kSmallPoolSequences,
                              kSmallPoolSteps, {{.misses = kUsualMisses, .steady = true}});
        !ok) {
      return ok;
    }
  }
  return {};
}

}  // namespace sluice::tools::cuda
