// sluice-bench: see options.cpp for what it does and takes.
#include <cstdio>

#include "tools/bench/options.h"
#include "tools/bench/report.h"

namespace sluice::tools {
namespace {

int bench(const BenchOptions& options) {
  int exit_code = 0;
  if (!options.json) std::fputs(table_heading().c_str(), stdout);
  for (const Benchmark* one : options.chosen) {
    const auto figures = one->run(options.setting);
    if (!figures) {
      std::fprintf(stderr, "sluice-bench: %s: %s\n", one->name, figures.error().text.c_str());
      if (figures.error().code == ipc::Errc::daemon_away) return kBenchUnreachable;
      exit_code = kBenchFailed;
      continue;
    }
    const std::string text =
        options.json ? json_line(*one, *figures).dump() + "\n" : table_row(*one, *figures);
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
    if (options.check && !meets(one->target, *figures)) exit_code = kBenchFailed;
  }
  return exit_code;
}

}  // namespace
}  // namespace sluice::tools

int main(int argc, char** argv) {
  sluice::tools::BenchOptions options;
  if (const auto exit_code = sluice::tools::parse_options(argc, argv, options)) return *exit_code;
  if (options.gpu) return sluice::tools::run_gpu(options.gpu_options);
  if (options.decode) return sluice::tools::run_decode(options.decode_options);
  if (options.storage) return sluice::tools::run_storage(options.storage_options);
  if (options.list) {
    for (const auto* one : options.chosen) std::puts(one->name);
    return 0;
  }
  return sluice::tools::bench(options);
}
