#include "tools/bench/options.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/bench/gpu_plan.h"
#include "tools/bench/report.h"
#include "tools/common/choice.h"
#include "tools/common/size.h"

namespace sluice::tools {
namespace {

constexpr const char* kDescription =
    "Measures Sluice against what this machine can do at all. Each figure has a ceiling of the "
    "same run: rounds of\n"
    "both take turns, and medians count, since machines do other things too.";

constexpr double kMostSeconds = 3600;
constexpr double kLeastScale = 1e-4;

std::string footer() {
  std::string text = "Benchmarks:\n";
  for (const Benchmark& one : benchmarks()) {
    text += std::string("  ") + one.name + " [" + one.unit + "]\n    value:   " + one.measures +
            "\n    ceiling: " + one.ceiling_is + "\n";
    if (one.target.any()) text += "    target:  " + words_for(one.target) + "\n";
  }
  return text +
         "JSON: bench, value, unit, ceiling, ratio (value over ceiling), repetitions, min, median, "
         "max, ceiling_min,\n"
         "ceiling_max; where they apply also, target, met, note.\n"
         "Exit codes: 0 all ran; 1 one could not run or, with --check, missed its target; 2 usage; "
         "3 no daemon.";
}

constexpr const char* kGpuDescription =
    "Measures the CUDA backend: footprint, resolve, steps, interference, reach, executor";

void add_gpu(CLI::App& app, GpuOptions& options) {
  CLI::App* const gpu = app.add_subcommand("gpu", kGpuDescription);
  gpu->footer(
      "Each figure stands beside its ceiling of the same run and the target of the project. Exit "
      "codes as those of\nsluice-bench; 3 also where there is no GPU.");
  gpu->add_option("--only", options.only, "one of them")
      ->check(
          CLI::IsMember(std::vector<std::string>(kGpuBenchmarks.begin(), kGpuBenchmarks.end())));
  std::vector<std::string> shapes;
  for (const PageShape& shape : page_shapes()) shapes.emplace_back(shape.name);
  gpu->add_option("--shape", options.shape, "of resolve: pages of this shape only")
      ->check(CLI::IsMember(shapes));
  gpu->add_option("--seconds", options.seconds, "of measuring, per figure")
      ->check(CLI::Range(0.0, kMostSeconds))
      ->capture_default_str();
  gpu->add_flag("--quick", options.quick, "some of the cases, in less than a minute");
  gpu->add_flag("--json", options.json, "one JSON object per line");
  gpu->add_flag("--check", options.check, "exit with 1 when a target is missed");
  gpu->add_option("--sluiced", options.sluiced,
                  "the program of the private daemons (default: beside this)");
}

constexpr const char* kDecodeDescription =
    "Measures decode steps of an 8B model whose KV is in Sluice, beside the same loop with all of "
    "it in HBM";

constexpr std::uint32_t kMostSequences = 4096;
constexpr std::uint32_t kLeastTokens = 1024;
constexpr std::uint32_t kMostTokens = 131072;
constexpr std::uint32_t kMostLayers = 128;
constexpr std::uint32_t kMostSteps = 4096;
constexpr double kMostHbmFactor = 100;

// Takes "64MiB" as well as a number of bytes.
void add_bytes(CLI::App* app, const std::string& name, std::uint64_t& bytes,
               const std::string& text) {
  app->add_option_function<std::string>(
         name,
         [&bytes, name](const std::string& value) {
           const auto parsed = parse_bytes(value);
           if (!parsed) throw CLI::ValidationError(name, parsed.error().text);
           bytes = *parsed;
         },
         text)
      ->type_name("SIZE");
}

void add_decode(CLI::App& app, DecodeOptions& options) {
  CLI::App* const decode = app.add_subcommand("decode", kDecodeDescription);
  decode->footer(
      "32 query and 8 KV heads of 128 in bf16, blocks of 16 tokens; pages are a block of a layer, "
      "64 KiB. Frames take\n128 KiB of DRAM per token and sequence with 32 layers. Exit codes as "
      "those of sluice-bench; 3 also where there is no GPU.");
  decode->add_option("--trace", options.trace,
                     "a sparse trace whose accesses are played (default: made up, of the same "
                     "figures as smollm2_quest_b16)");
  decode->add_option("--sequences", options.sequences, "decoded together")
      ->check(CLI::Range(1u, kMostSequences))
      ->capture_default_str();
  decode->add_option("--tokens", options.tokens, "of a sequence, whole blocks")
      ->check(CLI::Range(kLeastTokens, kMostTokens))
      ->capture_default_str();
  decode->add_option("--layers", options.layers, "of the model")
      ->check(CLI::Range(1u, kMostLayers))
      ->capture_default_str();
  decode
      ->add_option("--hbm-factor", options.hbm_factors,
                   "HBM for KV, in pages of a step; may be several")
      ->delimiter(',')
      ->check(CLI::Range(1.0, kMostHbmFactor))
      ->capture_default_str();
  decode->add_option("--steps", options.steps, "that are timed, per configuration")
      ->check(CLI::Range(1u, kMostSteps))
      ->capture_default_str();
  decode->add_option("--warm-steps", options.warm_steps, "before them")
      ->check(CLI::Range(1u, kMostSteps))
      ->capture_default_str();
  add_choice<MatrixChoice>(*decode, "--matrix", options.matrix,
                           {{"auto", MatrixChoice::automatic},
                            {"cublas", MatrixChoice::cublas},
                            {"stand-in", MatrixChoice::stand_in}},
                           "the matrix work of layers (default: cuBLAS, if it is there)");
  add_choice<ForecastPriority>(*decode, "--forecast-priority", options.forecast_priority,
                               {{"high", ForecastPriority::high}, {"low", ForecastPriority::low}},
                               "of their stream, against that of the loop (default: high)");
  add_bytes(decode, "--forecast-budget", options.forecast_budget,
            "bytes per layer (default: what the link moves while a layer computes)");
  decode->add_flag("--json", options.json, "one JSON object per line");
  decode->add_option("--sluiced", options.sluiced,
                     "the program of the private daemons (default: beside this)");
}

constexpr const char* kStorageDescription =
    "Measures the NVMe block store in a directory beside fio: blocks written and read, parts read "
    "at random";

constexpr std::uint32_t kMostStorageDepth = 4096;
constexpr std::uint32_t kMostStorageRounds = 1000;
constexpr std::uint64_t kMostIndexBlocks = 100'000'000;

void add_storage(CLI::App& app, StorageOptions& options) {
  CLI::App* const storage = app.add_subcommand("storage", kStorageDescription);
  storage->footer(
      "Twice --size is written to the directory, and removed. Rounds of the store and of fio take "
      "turns; medians count.\nfio comes with `tools/install-deps --bench`, or apt-get install fio. "
      "Exit codes as those of sluice-bench.");
  storage->add_option("--dir", options.directory, "on the device to measure")->required();
  add_bytes(storage, "--size", options.size_bytes, "that each round moves (default: 1GiB)");
  add_bytes(storage, "--block", options.block_bytes, "of a block (default: 2MiB)");
  add_bytes(storage, "--part", options.part_bytes, "of a part (default: 64KiB)");
  storage->add_option("--depth", options.depth, "requests in flight")
      ->check(CLI::Range(1u, kMostStorageDepth))
      ->capture_default_str();
  storage->add_option("--rounds", options.rounds, "that count, of each")
      ->check(CLI::Range(1u, kMostStorageRounds))
      ->capture_default_str();
  storage
      ->add_option("--index-blocks", options.index_blocks,
                   "also measure an index of so many blocks: open, look-ups, recovery")
      ->check(CLI::Range(std::uint64_t{0}, kMostIndexBlocks));
  storage->add_option("--io", options.io, "auto, uring or threads")
      ->check(CLI::IsMember({"auto", "uring", "threads"}));
  storage->add_option("--fio", options.fio, "the program")->capture_default_str();
  storage->add_flag("--no-fio", options.no_fio, "the store alone");
  storage->add_flag("--json", options.json, "one JSON object per line");
  storage->add_flag("--check", options.check, "exit with 1 when a target is missed");
}

// nullptr: the sizes fit together.
const char* wrong_sizes(const StorageOptions& options) {
  constexpr std::uint64_t kPage = 4096;
  if (options.part_bytes == 0 || options.part_bytes % kPage != 0) {
    return "--part must be a multiple of 4KiB";
  }
  if (options.block_bytes == 0 || options.block_bytes % options.part_bytes != 0) {
    return "--block must be a multiple of --part";
  }
  if (options.size_bytes < options.block_bytes) return "--size must be at least --block";
  return nullptr;
}

}  // namespace

std::optional<int> parse_options(int argc, char** argv, BenchOptions& options) {
  CLI::App app(kDescription, "sluice-bench");
  app.footer(footer());
  std::vector<std::string> names;
  app.add_option("NAME", names, "benchmarks to run (default: all)");
  app.add_flag("--json", options.json, "one JSON object per line");
  app.add_flag("--list", options.list, "only name the benchmarks");
  app.add_flag("--check", options.check, "exit with 1 when a target is missed");
  app.add_option("--seconds", options.setting.seconds, "of measuring, per benchmark")
      ->check(CLI::Range(0.0, kMostSeconds))
      ->capture_default_str();
  app.add_option("--scale", options.setting.scale,
                 "use this part of the pages and blocks; targets are for 1")
      ->check(CLI::Range(kLeastScale, 1.0))
      ->capture_default_str();
  app.add_option("--socket", options.setting.socket,
                 "measure this daemon (default: a private one per benchmark)");
  app.add_option("--sluiced", options.setting.sluiced,
                 "the program of the private daemon (default: beside this)");
  add_gpu(app, options.gpu_options);
  add_decode(app, options.decode_options);
  add_storage(app, options.storage_options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBenchUsage;
  }
  options.gpu = app.got_subcommand("gpu");
  options.decode = app.got_subcommand("decode");
  options.storage = app.got_subcommand("storage");
  if (const char* const wrong = wrong_sizes(options.storage_options)) {
    std::fprintf(stderr, "sluice-bench: storage: %s\n", wrong);
    return kBenchUsage;
  }
  for (const std::string& name : names) {
    const Benchmark* const found = find_benchmark(name);
    if (found == nullptr) {
      std::fprintf(stderr, "sluice-bench: there is no benchmark %s; --list names them\n",
                   name.c_str());
      return kBenchUsage;
    }
    options.chosen.push_back(found);
  }
  if (names.empty()) {
    for (const Benchmark& one : benchmarks()) options.chosen.push_back(&one);
  }
  return std::nullopt;
}

}  // namespace sluice::tools
