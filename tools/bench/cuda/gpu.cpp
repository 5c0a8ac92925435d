#include "tools/bench/gpu.h"

#include <cstdio>
#include <utility>

#include "tools/bench/cuda/benches.h"
#include "tools/bench/cuda/kernels.h"
#include "tools/bench/cuda/probe.h"
#include "tools/bench/options.h"

namespace sluice::tools {
namespace {

using cuda::GpuRun;

struct GpuBenchmark {
  std::string_view name;
  ipc::Status (*run)(GpuRun&);
  bool in_quick;
  bool forks;  // so that this process may not have used CUDA
};

constexpr GpuBenchmark kBenchmarks[] = {
    {kGpuBenchmarks[0], cuda::bench_footprint, true, true},
    {kGpuBenchmarks[1], cuda::bench_resolve, true, false},
    {kGpuBenchmarks[2], cuda::bench_steps, true, false},
    {kGpuBenchmarks[3], cuda::bench_interference, true, false},
    {kGpuBenchmarks[4], cuda::bench_reach, false, false},
    {kGpuBenchmarks[5], cuda::bench_executor, false, false},
};

void complain(std::string_view name, const ipc::Error& error) {
  std::fprintf(stderr, "sluice-bench: gpu %.*s: %s\n", static_cast<int>(name.size()), name.data(),
               error.text.c_str());
}

ipc::Status use_device() {
  if (auto ok = cuda::check(cudaSetDevice(0), "cudaSetDevice"); !ok) return ok;
  return cuda::check(cuda::load_kernels(), "loading the kernels of sluice-bench");
}

bool is_chosen(const GpuBenchmark& one, const GpuOptions& options) {
  return options.only.empty() ? one.in_quick || !options.quick : one.name == options.only;
}

}  // namespace

int run_gpu(const GpuOptions& options) {
  auto found = cuda::probe();
  if (!found) {
    std::fprintf(stderr, "sluice-bench: gpu: not_supported: %s\n", found.error().text.c_str());
    return kBenchUnreachable;
  }
  GpuReport report(options.json);
  GpuRow device = gpu_row("device");
  device["gpu"] = found->name;
  device["uuid"] = found->uuid;
  report.add(device);
  GpuRun run{options, found->uuid, report};
  int exit_code = 0;
  bool used = false;
  for (const GpuBenchmark& one : kBenchmarks) {
    if (!is_chosen(one, options)) continue;
    if (!one.forks && !std::exchange(used, true)) {
      if (auto ok = use_device(); !ok) {
        complain(one.name, ok.error());
        return kBenchFailed;
      }
    }
    if (auto ok = one.run(run); !ok) {
      complain(one.name, ok.error());
      if (ok.error().code == ipc::Errc::daemon_away) return kBenchUnreachable;
      exit_code = kBenchFailed;
    }
  }
  for (const std::string& words : report.missed()) {
    std::fprintf(stderr, "target missed: %s\n", words.c_str());
  }
  return options.check && !report.missed().empty() ? kBenchFailed : exit_code;
}

}  // namespace sluice::tools
