// A device worker's device as a GPU.
#pragma once

#include <memory>
#include <string>

#include "daemon/device_worker/backend.h"
#include "ipc/error.h"

namespace sluice::device_worker {

// Makes the process's CUDA context on the GPU `device`: an ordinal in PCI bus order, or "GPU-...".
// Errors: not_supported (no driver or no GPU), bad_config (not that one), no_memory (the context
// takes some HBM), io_error.
ipc::Result<std::unique_ptr<Backend>> make_cuda_backend(const std::string& device);

}  // namespace sluice::device_worker
