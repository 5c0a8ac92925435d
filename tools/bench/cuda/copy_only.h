// The rate at which this machine copies pages of a node's frames to its GPU, and nothing else.
//
// Thread-safety: one thread, device 0 current.
#pragma once

#include "ipc/error.h"
#include "tools/bench/cuda/gpu_node.h"

namespace sluice::tools::cuda {

// GB/s, of the best number of CTAs, of pages drawn at random and copied in order of address.
ipc::Result<double> copy_only_gb_per_s(GpuNode& node);

}  // namespace sluice::tools::cuda
