// The GPU of a run, as far as a process may ask that makes no CUDA context: engines are forked from
// it, and CUDA does not survive a fork.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <string>

#include "ipc/error.h"

namespace sluice::tools {

// Whether this build has the cuda backend.
bool has_cuda();

// The UUID of the GPU with this ordinal, as nvidia-smi -L shows it ("GPU-..."); a daemon may count
// GPUs in another order. A child process asks for it. Errors: not_supported (no such GPU, in CUDA's
// words).
ipc::Result<std::string> gpu_uuid(std::uint32_t ordinal);

}  // namespace sluice::tools
