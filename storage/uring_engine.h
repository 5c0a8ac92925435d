// The io engine of io_uring: one ring, driven by the thread that uses the engine.
//
// Files are in the ring's table, memory that is registered in the table of buffers; where the
// kernel refuses one of them (an old kernel, the memlock limit), the requests go the slower way.
#pragma once

#include "storage/io_engine.h"

namespace sluice::storage {

// `depth`: 1 to kMaxIoDepth. Errors: not_supported (the text says what the kernel answered, or what
// it lacks), limit_reached (descriptors of the process), io_error.
Result<std::unique_ptr<IoEngine>> make_uring_engine(std::uint32_t depth);

}  // namespace sluice::storage
