#include "tools/bench/decode.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ipc/memfd.h"
#include "tools/bench/cuda/copy_only.h"
#include "tools/bench/cuda/decode_loop.h"
#include "tools/bench/cuda/kernels.h"
#include "tools/bench/cuda/probe.h"
#include "tools/bench/cuda/resident_home.h"
#include "tools/bench/cuda/sluice_home.h"
#include "tools/bench/decode_report.h"
#include "tools/bench/decode_words.h"
#include "tools/bench/node.h"
#include "tools/bench/options.h"
#include "tools/common/interrupt.h"
#include "tools/common/size.h"

namespace sluice::tools {
namespace {

using cuda::check;
using ipc::Errc;
using ipc::fail;

constexpr double kGib = double(std::uint64_t{1} << 30);
// Beside what is counted: pinned lists, tables, the context.
constexpr std::uint64_t kSpareDram = std::uint64_t{2} << 30;
constexpr std::uint64_t kSpareHbm = std::uint64_t{1} << 30;
constexpr std::uint64_t kPinnedPart = 512;  // of pinned memory: what it costs in HBM
// Of streams; 0 is the least.
constexpr int kLow = 0;
constexpr int kHigh = -5;
constexpr double kBytesPerUsAndGb = 1000;
constexpr double kProgressSeconds = 2;

// Lines on stderr, now and then.
class Progress {
 public:
  ipc::Status tell(const std::string& doing, std::uint64_t done, std::uint64_t all) {
    if (interrupted()) return fail(Errc::shutting_down, "interrupted");
    if (doing == last_ && watch_.seconds() < kProgressSeconds) return {};
    std::fprintf(stderr, "sluice-bench: %s, %.0f%%\n", doing.c_str(),
                 all == 0 ? 0.0 : 100 * static_cast<double>(done) / static_cast<double>(all));
    last_ = doing;
    watch_ = Stopwatch();
    return {};
  }
  void tell(const std::string& doing) { std::fprintf(stderr, "sluice-bench: %s\n", doing.c_str()); }

 private:
  std::string last_;
  Stopwatch watch_;
};

void fill_block(std::uint64_t n, std::uint32_t pages, std::span<std::uint64_t> words) {
  constexpr std::size_t kWords = cuda::kDecodePageBytes / sizeof(std::uint64_t);
  for (std::uint32_t page = 0; page < pages; ++page) {
    std::uint64_t* const to = words.data() + page * kWords;
    for (std::uint32_t w = 0; w < kWords; ++w) to[w] = decode_word(n * pages + page, w);
  }
}

ipc::Result<std::uint64_t> free_hbm() {
  std::size_t free_bytes = 0, all_bytes = 0;
  if (auto ok = check(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  return free_bytes;
}

class DecodeBench {
 public:
  DecodeBench(const DecodeOptions& options, cuda::Probe gpu, DecodeAccess access)
      : options_(options), gpu_(std::move(gpu)), access_(std::move(access)) {}
  ipc::Status run();

 private:
  ipc::Status prepare();
  void say_conditions();
  ipc::Status measure_all_in_hbm();
  ipc::Status measure_fits_in_hbm(double factor);
  ipc::Status measure_resident(DecodeRun run, bool folded);
  ipc::Status measure_sluice(double factor);
  // Without forecasts, then with them, as `note` says.
  ipc::Status measure_sluice_run(cuda::SluiceHome& home, cuda::GpuNode& node, DecodeRun run,
                                 const std::string& note);
  // Fills in `run`, whose home is Sluice.
  ipc::Status time_sluice(cuda::DecodeLoop& loop, cuda::SluiceHome& home, cuda::GpuNode& node,
                          DecodeRun& run);
  ipc::Status time_resolves(cuda::DecodeLoop& loop, DecodeRun& run);
  // The steps that warm up, and those that count.
  ipc::Result<Series> warm_and_run(cuda::DecodeLoop& loop, const cuda::Graph& graph);
  ipc::Status time_parts(cuda::DecodeLoop& loop, DecodeRun& run);
  ipc::Result<cuda::GpuNodeSpec> spec_for(double factor);
  void add(DecodeRun run);

  std::uint32_t all_steps() const { return options_.warm_steps + options_.steps; }
  std::uint32_t last_step() const { return all_steps() - 1; }
  std::uint64_t kv_bytes() const {
    return cuda::ResidentHome::bytes(access_, options_.sequences, false);
  }
  // Of HBM for KV, whole extents.
  std::uint64_t extent_bytes(double factor) const {
    const auto bytes =
        static_cast<std::uint64_t>(factor * pages_per_step_) * cuda::kDecodePageBytes;
    return spawn_extent_bytes(bytes, cuda::kDecodePageBytes, kDeviceExtentAlignment);
  }
  std::uint64_t slots_for(double factor) const {
    const auto pages = static_cast<std::uint64_t>(std::ceil(factor * pages_per_step_));
    const std::uint64_t of_extent = extent_bytes(factor) / cuda::kDecodePageBytes;
    return (pages + of_extent - 1) / of_extent * of_extent;
  }
  // What the link moves while a layer computes.
  std::uint64_t forecast_budget(double copy_only_gb_per_s) const;

  const DecodeOptions& options_;
  const cuda::Probe gpu_;
  const DecodeAccess access_;
  Progress progress_;
  double pages_per_step_ = 0;
  cuda::Stream stream_;
  std::optional<cuda::Matrix> matrix_;
  std::vector<DecodeRun> runs_;
};

// Before anything is made: what it takes, and what there is.
ipc::Status check_dram(std::uint64_t kv_bytes) {
  const std::uint64_t need = kv_bytes + kSpareDram;
  const std::uint64_t available = ipc::available_memory_bytes();
  if (need <= available) return {};
  return fail(Errc::no_memory, "the frames take " + human_bytes(double(kv_bytes)) +
                                   " of DRAM and the rest " + human_bytes(double(kSpareDram)) +
                                   "; " + human_bytes(double(available)) +
                                   " are available; give fewer --sequences or --tokens");
}

ipc::Status DecodeBench::prepare() {
  if (auto ok = check_dram(kv_bytes()); !ok) return ok;
  if (access_.longest_list() > cuda::kDecodeLongestList) {
    return fail(Errc::invalid_argument,
                "lists of " + std::to_string(access_.longest_list()) + " blocks; at most " +
                    std::to_string(cuda::kDecodeLongestList) + " can be compared");
  }
  pages_per_step_ = access_.pages_per_step(all_steps());
  for (const int status :
       {int{cudaSetDevice(0)}, cuda::load_kernels(), cuda::load_decode_kernels()}) {
    if (auto ok = check(status, "loading the kernels of sluice-bench"); !ok) return ok;
  }
  auto stream =
      cuda::Stream::make(options_.forecast_priority == ForecastPriority::low ? kHigh : kLow);
  if (!stream) return std::unexpected(std::move(stream.error()));
  stream_ = std::move(*stream);
  auto matrix = cuda::Matrix::make(options_.matrix, options_.sequences);
  if (!matrix) return std::unexpected(std::move(matrix.error()));
  matrix_.emplace(std::move(*matrix));
  return {};
}

void DecodeBench::say_conditions() {
  GpuRow row;
  row["bench"] = "decode";
  row["name"] = "conditions";
  row["gpu"] = gpu_.name;
  row["uuid"] = gpu_.uuid;
  row["sequences"] = options_.sequences;
  row["tokens"] = options_.tokens;
  row["layers"] = options_.layers;
  row["frames_gib"] = double(kv_bytes()) / kGib;
  row["accesses"] = access_.name();
  row["blocks_fall_together"] = access_.folds();
  row["pages_per_step"] = pages_per_step_;
  row["longest_list"] = access_.longest_list();
  row["warm_steps"] = options_.warm_steps;
  row["forecasts"] = access_.has_forecasts() ? "of the trace, a layer ahead"
                                             : "what the layer read in the step before";
  row["forecast_priority"] = options_.forecast_priority == ForecastPriority::high ? "high" : "low";
  row["matrix"] = matrix_->how() + "; all layers share one set of weights of " +
                  human_bytes(double(cuda::kMatrixWeightBytes));
  const std::string text = options_.json ? row.dump() : words_for(row);
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

void DecodeBench::add(DecodeRun run) {
  runs_.push_back(std::move(run));
  const GpuRow row = decode_row(runs_.back(), against(runs_.back(), runs_));
  if (options_.json) std::printf("%s\n", row.dump().c_str());
  std::fflush(stdout);
}

ipc::Status DecodeBench::time_parts(cuda::DecodeLoop& loop, DecodeRun& run) {
  struct {
    cuda::LoopParts parts;
    double& us;
  } const parts[] = {{{.attention = true}, run.attention_us}, {{.matrix = true}, run.matrix_us}};
  for (const auto& one : parts) {
    auto graph = loop.capture(one.parts);
    if (!graph) return std::unexpected(std::move(graph.error()));
    auto us = loop.repeat(*graph);
    if (!us) return std::unexpected(std::move(us.error()));
    one.us = *us;
  }
  return {};
}

ipc::Result<Series> DecodeBench::warm_and_run(cuda::DecodeLoop& loop, const cuda::Graph& graph) {
  auto warm = loop.run(graph, 0, options_.warm_steps);
  if (!warm) return warm;
  return loop.run(graph, options_.warm_steps, options_.steps);
}

ipc::Status DecodeBench::measure_resident(DecodeRun run, bool folded) {
  auto home = cuda::ResidentHome::make(access_, run.sequences, all_steps(), folded);
  if (!home) return std::unexpected(std::move(home.error()));
  home->fill_lists(0);
  auto loop = cuda::DecodeLoop::make(*home, *matrix_, stream_);
  if (!loop) return std::unexpected(std::move(loop.error()));
  if (auto ok = loop->verify(0); !ok) return ok;
  auto graph = loop->capture({.matrix = true, .attention = true});
  if (!graph) return std::unexpected(std::move(graph.error()));
  auto times = warm_and_run(*loop, *graph);
  if (!times) return std::unexpected(std::move(times.error()));
  run.step_us = std::move(*times);
  if (auto ok = loop->verify(last_step()); !ok) return ok;
  if (auto ok = time_parts(*loop, run); !ok) return ok;
  add(std::move(run));
  return {};
}

ipc::Status DecodeBench::measure_all_in_hbm() {
  auto room = free_hbm();
  if (!room) return std::unexpected(std::move(room.error()));
  DecodeRun run;
  run.home = DecodeHome::all_in_hbm;
  run.sequences = options_.sequences;
  const bool folded = kv_bytes() + kSpareHbm > *room;
  run.hbm_bytes = cuda::ResidentHome::bytes(access_, options_.sequences, folded);
  if (folded) {
    run.note = human_bytes(double(kv_bytes())) + " do not fit into the " +
               human_bytes(double(*room)) +
               " that are free: pages lie where their places in the lists say, so that a step "
               "reads as many distinct bytes";
    if (run.hbm_bytes + kSpareHbm > *room) {
      return fail(Errc::no_memory, "all in HBM takes " + human_bytes(double(run.hbm_bytes)) +
                                       " even if blocks share pages; " +
                                       human_bytes(double(*room)) +
                                       " are free; give fewer --sequences");
    }
  }
  progress_.tell("all in HBM, " + std::to_string(run.sequences) + " sequences");
  return measure_resident(std::move(run), folded);
}

ipc::Status DecodeBench::measure_fits_in_hbm(double factor) {
  const std::uint64_t bytes = slots_for(factor) * cuda::kDecodePageBytes;
  const auto fitting = static_cast<std::uint32_t>(std::min<std::uint64_t>(
      bytes / cuda::ResidentHome::bytes(access_, 1, false), options_.sequences));
  if (fitting == 0) {
    progress_.tell("not one sequence fits into " + human_bytes(double(bytes)));
    return {};
  }
  DecodeRun run;
  run.home = DecodeHome::fits_in_hbm;
  run.hbm_factor = factor;
  run.sequences = fitting;
  run.hbm_bytes = cuda::ResidentHome::bytes(access_, fitting, false);
  progress_.tell("all in HBM, the " + std::to_string(fitting) + " sequences that fit into " +
                 human_bytes(double(bytes)));
  return measure_resident(std::move(run), false);
}

ipc::Result<cuda::GpuNodeSpec> DecodeBench::spec_for(double factor) {
  const std::uint64_t slots = slots_for(factor);
  const std::uint64_t need = slots * cuda::kDecodePageBytes + kv_bytes() / kPinnedPart + kSpareHbm;
  auto room = free_hbm();
  if (!room) return std::unexpected(std::move(room.error()));
  if (need > *room) {
    return fail(Errc::no_memory, "Sluice with " +
                                     human_bytes(double(slots * cuda::kDecodePageBytes)) +
                                     " of HBM for KV takes " + human_bytes(double(need)) + "; " +
                                     human_bytes(double(*room)) +
                                     " are free; give fewer --sequences or a smaller --hbm-factor");
  }
  cuda::GpuNodeSpec spec;
  spec.shape = {.name = "decode",
                .head_dim = cuda::kDecodeHeadDim,
                .dtype_bytes = 2,
                .kv_heads = cuda::kDecodeKvHeads,
                .planes = 2,
                .block_tokens = cuda::kDecodePageTokens,
                .layers = options_.layers};
  spec.sequences = options_.sequences;
  spec.blocks_per_sequence = access_.shape().blocks;
  spec.slots = slots;
  spec.hbm_extent_bytes = extent_bytes(factor);
  spec.sluiced = options_.sluiced;
  spec.gpu = gpu_.uuid;
  spec.fill_block = fill_block;
  spec.progress = [this](const char* doing, std::uint64_t done, std::uint64_t all) {
    return progress_.tell(doing, done, all);
  };
  return spec;
}

std::uint64_t DecodeBench::forecast_budget(double copy_only_gb_per_s) const {
  if (options_.forecast_budget != 0) return options_.forecast_budget;
  const double layer_us = runs_.front().step_us.median() / options_.layers;
  const auto bytes = static_cast<std::uint64_t>(layer_us * copy_only_gb_per_s * kBytesPerUsAndGb);
  return std::max(bytes / cuda::kDecodePageBytes, std::uint64_t{1}) * cuda::kDecodePageBytes;
}

ipc::Status DecodeBench::time_resolves(cuda::DecodeLoop& loop, DecodeRun& run) {
  auto graph = loop.capture({.resolve = true});
  if (!graph) return std::unexpected(std::move(graph.error()));
  auto hits = loop.repeat(*graph);
  if (!hits) return std::unexpected(std::move(hits.error()));
  run.resolve_hits_us = *hits;
  auto times = warm_and_run(loop, *graph);
  if (!times) return std::unexpected(std::move(times.error()));
  run.resolve_us = times->mean();
  return {};
}

ipc::Status DecodeBench::time_sluice(cuda::DecodeLoop& loop, cuda::SluiceHome& home,
                                     cuda::GpuNode& node, DecodeRun& run) {
  auto graph =
      loop.capture({.matrix = true, .resolve = true, .forecast = run.forecasts, .attention = true});
  if (!graph) return std::unexpected(std::move(graph.error()));
  auto warm = loop.run(*graph, 0, options_.warm_steps);
  if (!warm) return std::unexpected(std::move(warm.error()));
  if (auto ok = home.clear_tally(); !ok) return ok;
  auto before = to_ipc(node.cache().stats());
  if (!before) return std::unexpected(std::move(before.error()));
  auto times = loop.run(*graph, options_.warm_steps, options_.steps);
  if (!times) return std::unexpected(std::move(times.error()));
  run.step_us = std::move(*times);
  auto tally = home.tallied();
  if (!tally) return std::unexpected(std::move(tally.error()));
  auto after = to_ipc(node.cache().stats());
  if (!after) return std::unexpected(std::move(after.error()));
  const auto of_step = [&](std::uint64_t count) { return double(count) / options_.steps; };
  run.hits = of_step(tally->hits);
  run.misses = of_step(tally->misses);
  run.without_slot = of_step(tally->no_room + tally->absent);
  run.forecast_issued = of_step(after->forecast_issued - before->forecast_issued);
  run.forecast_used = of_step(after->forecast_used - before->forecast_used);
  run.forecast_dropped = of_step(after->forecast_dropped - before->forecast_dropped);
  return loop.verify(last_step());
}

ipc::Status DecodeBench::measure_sluice_run(cuda::SluiceHome& home, cuda::GpuNode& node,
                                            DecodeRun run, const std::string& note) {
  auto loop = cuda::DecodeLoop::make(home, *matrix_, stream_);
  if (!loop) return std::unexpected(std::move(loop.error()));
  if (auto ok = loop->verify(0); !ok) return ok;
  for (const bool forecasts : {false, true}) {
    run.forecasts = forecasts;
    run.note = forecasts ? note : "";
    if (auto ok = time_sluice(*loop, home, node, run); !ok) return ok;
    if (!forecasts) {
      if (auto ok = time_parts(*loop, run); !ok) return ok;
      if (auto ok = time_resolves(*loop, run); !ok) return ok;
    }
    add(run);
  }
  return {};
}

ipc::Status DecodeBench::measure_sluice(double factor) {
  auto spec = spec_for(factor);
  if (!spec) return std::unexpected(std::move(spec.error()));
  progress_.tell("Sluice with " + human_bytes(double(spec->slots * cuda::kDecodePageBytes)) +
                 " of HBM for KV");
  auto node = cuda::GpuNode::open(*spec);
  if (!node) return std::unexpected(std::move(node.error()));
  DecodeRun run;
  run.home = DecodeHome::sluice;
  run.hbm_factor = factor;
  run.sequences = options_.sequences;
  run.hbm_bytes = std::uint64_t{node->slots()} * cuda::kDecodePageBytes;
  run.page_bytes = double(cuda::kDecodePageBytes);
  auto copy_only = cuda::copy_only_gb_per_s(*node);
  if (!copy_only) return std::unexpected(std::move(copy_only.error()));
  run.copy_only_gb_per_s = *copy_only;
  const std::uint64_t budget = forecast_budget(*copy_only);
  auto home =
      cuda::SluiceHome::make(*node, access_, stream_, all_steps(), budget,
                             options_.forecast_priority == ForecastPriority::high ? kHigh : kLow);
  if (!home) return std::unexpected(std::move(home.error()));
  home->fill_lists(0);
  const std::string note = "forecasts of at most " + human_bytes(double(budget)) + " per layer";
  auto measured = measure_sluice_run(*home, *node, std::move(run), note);
  // Also after an error, plans go only when their launches have passed.
  (void)stream_.wait("the end of a run");
  if (auto ended = home->end(); !ended && measured) measured = std::move(ended);
  if (auto ok = stream_.wait("the end of a run"); !ok && measured) return ok;
  return measured;
}

ipc::Status DecodeBench::run() {
  if (auto ok = prepare(); !ok) return ok;
  say_conditions();
  if (auto ok = measure_all_in_hbm(); !ok) return ok;
  for (const double factor : options_.hbm_factors) {
    if (auto ok = measure_fits_in_hbm(factor); !ok) return ok;
  }
  for (const double factor : options_.hbm_factors) {
    if (auto ok = measure_sluice(factor); !ok) return ok;
  }
  if (!options_.json) std::fputs(decode_table(runs_).c_str(), stdout);
  return {};
}

int complain(const ipc::Error& error) {
  std::fprintf(stderr, "sluice-bench: decode: %s\n", error.text.c_str());
  if (error.code == Errc::shutting_down && interrupted()) return kBenchInterrupted;
  return error.code == Errc::daemon_away ? kBenchUnreachable : kBenchFailed;
}

}  // namespace

int run_decode(const DecodeOptions& options) {
  catch_interrupts();
  auto gpu = cuda::probe();
  if (!gpu) {
    std::fprintf(stderr, "sluice-bench: decode: not_supported: %s\n", gpu.error().text.c_str());
    return kBenchUnreachable;
  }
  const DecodeShape shape{options.sequences, options.layers, options.tokens / kDecodeBlockTokens,
                          options.warm_steps + options.steps};
  auto access = options.trace.empty() ? ipc::Result<DecodeAccess>(DecodeAccess::make_up(shape))
                                      : DecodeAccess::read(options.trace, shape);
  if (!access) return complain(access.error());
  DecodeBench bench(options, std::move(*gpu), std::move(*access));
  const auto ran = bench.run();
  return ran ? 0 : complain(ran.error());
}

}  // namespace sluice::tools
