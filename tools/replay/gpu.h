// The GPUs of a run, as far as a process may ask that makes no CUDA context: engines are forked
// from it, and CUDA does not survive a fork.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ipc/error.h"

namespace sluice::tools {

// Whether this build has the cuda backend.
bool has_cuda();

// The UUIDs of the GPUs by their ordinals, as nvidia-smi -L shows them ("GPU-..."); a daemon may
// count GPUs in another order. A child process asks for them. Errors: not_supported (there is none,
// in CUDA's words).
ipc::Result<std::vector<std::string>> gpu_uuids();
// One of them. Errors: not_supported, also where there are not so many.
ipc::Result<std::string> gpu_uuid(std::uint32_t ordinal);

}  // namespace sluice::tools
