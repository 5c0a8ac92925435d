// Kernels that read HBM, beside resolves in another stream.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "tools/bench/cuda/benches.h"
#include "tools/bench/cuda/lists.h"
#include "tools/bench/cuda/readers.h"
#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

constexpr std::uint32_t kSequences = 64;
constexpr double kMisses = 0.13;
constexpr double kPoolSteps = 2;
constexpr std::uint32_t kCopyingCtas = 8;
constexpr std::uint32_t kHitLaunches = 64;  // of a graph
constexpr int kReads = 100;                 // long enough for several graphs of resolves
constexpr int kTries = 4;                   // to have resolves beside all of the reads
constexpr double kLonger = 2;
constexpr double kBytesPerUsAndGb = 1000;  // per us, of 1 GB/s
constexpr double kMostSlowdown = 1.08;
constexpr double kMostHitSlowdown = 1.03;
constexpr double kLeastLinkShare = 0.6;

struct Beside {
  double read_us = 0;
  double launch_us = 0;  // of the resolves, meanwhile
};

// Of the memory's clock and width; 0 if the driver does not say.
double hbm_peak_gb_per_s() {
  int khz = 0, bits = 0;
  double peak = 0;
  if (cudaDeviceGetAttribute(&khz, cudaDevAttrMemoryClockRate, 0) == cudaSuccess &&
      cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, 0) == cudaSuccess) {
    peak = 2.0 * khz * (bits / 8.0) / 1e6;  // two transfers per clock
  }
  (void)cudaGetLastError();
  return peak;
}

// Reads of one after the other: events around each.
ipc::Status enqueue(Reader& reader, const Stream& stream, std::vector<Event>& events) {
  for (int i = 0; i <= kReads; ++i) {
    auto event = Event::make();
    if (!event) return std::unexpected(std::move(event.error()));
    if (auto ok = event->record(stream); !ok) return ok;
    events.push_back(std::move(*event));
    if (i == kReads) break;
    if (auto ok = check(reader.launch(stream.get()), "launching a kernel that reads HBM"); !ok) {
      return ok;
    }
  }
  return {};
}

ipc::Result<double> median_of(const std::vector<Event>& events) {
  Series series;
  for (std::size_t i = 0; i + 1 < events.size(); ++i) {
    auto us = microseconds(events[i], events[i + 1]);
    if (!us) return us;
    series.add(*us);
  }
  return series.median();
}

ipc::Result<double> read_alone(Reader& reader, const Stream& stream) {
  double us = 0;
  for (int i = 0; i < 2; ++i) {  // the first one warms up
    std::vector<Event> events;
    if (auto ok = enqueue(reader, stream, events); !ok)
      return std::unexpected(std::move(ok.error()));
    if (auto ok = stream.wait(reader.name()); !ok) return std::unexpected(std::move(ok.error()));
    auto median = median_of(events);
    if (!median) return median;
    us = *median;
  }
  return us;
}

// Microseconds of a launch among graphs that began and ended during the reads; 0: there were none,
// or the reads went on after the last graph.
ipc::Result<double> covered_launch_us(const std::vector<Event>& graphs,
                                      const std::vector<Event>& reads, std::uint32_t launches) {
  auto after = microseconds(reads.back(), graphs.back());
  if (!after) return after;
  if (*after < 0) return 0.0;
  double all = 0;
  std::uint32_t count = 0;
  for (std::size_t i = 0; i + 1 < graphs.size(); ++i) {
    auto before = microseconds(reads.front(), graphs[i]);
    if (!before) return before;
    auto left = microseconds(graphs[i + 1], reads.back());
    if (!left) return left;
    if (*before < 0 || *left < 0) continue;
    auto us = microseconds(graphs[i], graphs[i + 1]);
    if (!us) return us;
    all += *us;
    ++count;
  }
  return count == 0 ? 0.0 : all / count / launches;
}

ipc::Result<Beside> read_beside(Reader& reader, const Stream& stream, GpuNode& node,
                                const ResolveCycle& cycle, double read_us, double launch_us) {
  double factor = kLonger;
  for (int i = 0; i < kTries; ++i, factor *= 2) {
    const auto graphs =
        static_cast<std::size_t>(factor * kReads * read_us / (launch_us * cycle.launches())) + 4;
    std::vector<Event> graph_events, read_events;
    for (std::size_t g = 0; g <= graphs; ++g) {
      auto event = Event::make();
      if (!event) return std::unexpected(std::move(event.error()));
      graph_events.push_back(std::move(*event));
    }
    for (std::size_t g = 0; g <= graphs; ++g) {
      if (auto ok = graph_events[g].record(node.stream()); !ok) {
        return std::unexpected(std::move(ok.error()));
      }
      if (g == graphs) break;
      if (auto ok = cycle.graph().launch(node.stream()); !ok) {
        return std::unexpected(std::move(ok.error()));
      }
      if (g != 1) continue;
      // The reads begin when resolves are under way, and the other graphs are enqueued meanwhile.
      if (auto ok = check(cudaStreamWaitEvent(stream.get(), graph_events[1].get(), 0),
                          "cudaStreamWaitEvent");
          !ok) {
        return std::unexpected(std::move(ok.error()));
      }
      if (auto ok = enqueue(reader, stream, read_events); !ok) {
        return std::unexpected(std::move(ok.error()));
      }
    }
    if (auto ok = check(cudaDeviceSynchronize(), "reads beside resolves"); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    auto covered = covered_launch_us(graph_events, read_events, cycle.launches());
    if (!covered) return std::unexpected(std::move(covered.error()));
    if (*covered == 0) continue;
    auto us = median_of(read_events);
    if (!us) return std::unexpected(std::move(us.error()));
    return Beside{*us, *covered};
  }
  return ipc::fail(ipc::Errc::timed_out,
                   std::string(reader.name()) + " never ran beside resolves all the time");
}

struct Resolves {
  ResolveCycle& cycle;
  double misses = 0;
  double alone_us = 0;
  double copy_only_us = 0;
};

ipc::Status measure(GpuRun& run, GpuNode& node, Reader& reader, const Resolves& resolves) {
  auto stream = Stream::make();
  if (!stream) return std::unexpected(std::move(stream.error()));
  auto alone = read_alone(reader, *stream);
  if (!alone) return std::unexpected(std::move(alone.error()));
  ResolveCycle& cycle = resolves.cycle;
  auto beside = read_beside(reader, *stream, node, cycle, *alone, resolves.alone_us);
  if (!beside) return std::unexpected(std::move(beside.error()));
  auto seen = cycle.look(node);
  if (!seen) return std::unexpected(std::move(seen.error()));

  const double slowdown = beside->read_us / *alone;
  GpuRow row = gpu_row("interference");
  row["reader"] = reader.name();
  row["sequences"] = kSequences;
  row["misses"] = resolves.misses;
  row["copying_ctas"] = kCopyingCtas;
  row["slowdown"] = slowdown;
  row["reader_us"] = *alone;
  row["reader_gb_per_s"] = double(reader.bytes()) / *alone / kBytesPerUsAndGb;
  row["hbm_peak_gb_per_s"] = hbm_peak_gb_per_s();
  row["launch_us_alone"] = resolves.alone_us;
  row["launch_us_beside"] = beside->launch_us;
  row["misses_seen"] = seen->misses;
  if (resolves.misses > 0) {
    const double bytes = cycle.lists().moved() * double(node.spec().shape.page_bytes());
    row["gb_per_s"] = bytes / beside->launch_us / kBytesPerUsAndGb;
    row["copy_only_gb_per_s"] = bytes / resolves.copy_only_us / kBytesPerUsAndGb;
    const double share = resolves.copy_only_us / beside->launch_us;
    row["link_share"] = share;
    add_least(row, "link_share", share, kLeastLinkShare);
  }
  add_most(row, "slowdown", slowdown, resolves.misses > 0 ? kMostSlowdown : kMostHitSlowdown);
  run.report.add(row);
  return {};
}

ipc::Status measure_all(GpuRun& run, GpuNode& node, double misses) {
  const PageShape& shape = node.spec().shape;
  const double pool = double(node.slots()) / kSequences;
  const StepPlan plan = plan_steps(shape.items, misses, 0, pool);
  const Windows windows(plan, kSeed);
  auto lists = CycleLists::make(node, plan.items, plan.steps,
                                [&](std::uint32_t step, std::uint32_t list, std::uint32_t count) {
                                  return windows.list(step, list, count);
                                });
  if (!lists) return std::unexpected(std::move(lists.error()));
  auto copy = time_copy_only(node, *lists, run.options.seconds);
  if (!copy) return std::unexpected(std::move(copy.error()));
  const std::uint32_t launches = plan.steps == 1 ? kHitLaunches : plan.steps;
  auto cycle = ResolveCycle::make(node, std::move(*lists), kCopyingCtas, launches);
  if (!cycle) return std::unexpected(std::move(cycle.error()));
  auto idle = time_graph(node.stream(), cycle->graph(), launches, run.options.seconds);
  if (!idle) return std::unexpected(std::move(idle.error()));
  for (const auto make : {make_paged_attention, make_tile_reader}) {
    auto reader = make();
    if (!reader) return std::unexpected(std::move(reader.error()));
    const Resolves resolves{*cycle, misses, idle->median(), copy->best};
    if (auto ok = measure(run, node, **reader, resolves); !ok) return ok;
  }
  return to_ipc(node.actor().end_step());
}

}  // namespace

ipc::Status bench_interference(GpuRun& run) {
  const PageShape& shape = page_shapes().front();
  const std::uint64_t slots = arena_slots(shape, kSequences, kPoolSteps);
  const StepPlan plan = plan_steps(shape.items, kMisses, 0, double(slots) / kSequences);
  auto node = GpuNode::open(run.spec_for(shape, kSequences, slots, plan.universe));
  if (!node) return std::unexpected(std::move(node.error()));
  if (auto ok = measure_all(run, *node, kMisses); !ok) return ok;
  return measure_all(run, *node, 0);
}

}  // namespace sluice::tools::cuda
