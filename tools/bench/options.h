// The command line of sluice-bench.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/bench/benchmark.h"
#include "tools/bench/decode.h"
#include "tools/bench/gpu.h"
#include "tools/bench/storage.h"

namespace sluice::tools {

// Exit codes.
inline constexpr int kBenchFailed =
    1;  // a benchmark could not run; with --check: or missed its target
inline constexpr int kBenchUsage = 2;
inline constexpr int kBenchUnreachable = 3;  // the daemon does not start, or nothing listens
inline constexpr int kBenchInterrupted = 130;

struct BenchOptions {
  std::vector<const Benchmark*> chosen;
  bool json = false;
  bool list = false;
  bool check = false;
  Setting setting;
  bool gpu = false;  // the subcommand: `gpu_options` says what to do
  GpuOptions gpu_options;
  bool decode = false;  // likewise
  DecodeOptions decode_options;
  bool storage = false;  // likewise
  StorageOptions storage_options;
};

// An exit code when there is nothing more to do: the help was shown, or the usage is wrong.
std::optional<int> parse_options(int argc, char** argv, BenchOptions& options);

}  // namespace sluice::tools
