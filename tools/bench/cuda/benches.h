// The benchmarks of `sluice-bench gpu`. Each adds rows to the report. Errors: what could not run.
//
// Thread-safety: one thread.
#pragma once

#include <string>

#include "ipc/error.h"
#include "tools/bench/cuda/gpu_node.h"
#include "tools/bench/gpu.h"
#include "tools/bench/gpu_report.h"

namespace sluice::tools::cuda {

struct GpuRun {
  const GpuOptions& options;
  std::string gpu;  // its UUID
  GpuReport& report;

  // A node for cycles of up to `universe` pages per list.
  GpuNodeSpec spec_for(const PageShape& shape, std::uint32_t sequences, std::uint64_t slots,
                       std::uint32_t universe) const {
    GpuNodeSpec spec;
    spec.shape = shape;
    spec.sequences = sequences;
    spec.blocks_per_sequence =
        (universe + shape.list_pages_per_block() - 1) / shape.list_pages_per_block();
    spec.slots = slots;
    spec.sluiced = options.sluiced;
    spec.gpu = gpu;
    return spec;
  }
};

ipc::Status bench_resolve(GpuRun& run);
ipc::Status bench_steps(GpuRun& run);
ipc::Status bench_interference(GpuRun& run);
ipc::Status bench_reach(GpuRun& run);
ipc::Status bench_executor(GpuRun& run);

// Before this process uses CUDA.
ipc::Status bench_footprint(GpuRun& run);

}  // namespace sluice::tools::cuda
