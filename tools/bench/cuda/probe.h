// The GPU of a run, asked by a child.
//
// Thread-safety: as child.h.
#pragma once

#include <cstdint>
#include <string>

#include "ipc/error.h"

namespace sluice::tools::cuda {

struct Probe {
  std::uint64_t used_bytes = 0;  // of HBM, by all processes and the context of the child that asked
  std::string uuid;              // "GPU-..."
  std::string name;
};

// Errors: not_supported (no GPU that can be used, in CUDA's words).
ipc::Result<Probe> probe();

}  // namespace sluice::tools::cuda
