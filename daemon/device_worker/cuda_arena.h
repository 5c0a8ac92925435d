// The arena of executor daemon on a CUDA GPU: the kernels that a client of executor direct launches
// itself, in a stream of this process.
#pragma once

#include <functional>
#include <memory>

#include "daemon/device_worker/arena.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "kernels/table.h"

namespace sluice::device_worker {

// `table`, as the device addresses it, outlives the arena. Each error that a call returns has gone
// through `judge`, which takes note of what the context does not survive. Errors: no_memory,
// io_error.
ipc::Result<std::unique_ptr<Arena>> make_cuda_arena(int device, const kernels::HotTable& table,
                                                    const ArenaShape& shape, const ipc::Fd& lists,
                                                    std::function<ipc::Error(ipc::Error)> judge);

}  // namespace sluice::device_worker
