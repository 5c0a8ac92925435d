// sluice-bench gpu: the CUDA backend through libsluice, each figure beside its ceiling of the same
// run.
//
// Thread-safety: one thread, in a process that has not used CUDA yet.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace sluice::tools {

struct GpuOptions {
  std::string only;      // one of kGpuBenchmarks; empty: all
  std::string shape;     // of resolve: the name of one of page_shapes(); empty: all
  double seconds = 0.1;  // of measuring, per figure
  bool quick = false;    // some of the cases, in less than a minute
  bool json = false;
  bool check = false;
  std::string sluiced;  // the program of the private daemons; empty: beside this one
};

// In the order in which they run: the first one forks, which CUDA does not survive.
inline constexpr std::array<std::string_view, 6> kGpuBenchmarks = {
    "footprint", "resolve", "steps", "interference", "reach", "executor"};

// Runs and prints. Returns an exit code of options.h: kBenchUnreachable without a GPU, or in a
// build without CUDA.
int run_gpu(const GpuOptions& options);

}  // namespace sluice::tools
