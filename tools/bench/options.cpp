#include "tools/bench/options.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/bench/gpu_plan.h"
#include "tools/bench/report.h"

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
    "Measures the CUDA backend: footprint, resolve, steps, interference, reach";

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
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBenchUsage;
  }
  options.gpu = app.got_subcommand("gpu");
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
