// The io engine for places that forbid io_uring: plain system calls on a pool of threads.
//
// A request waits in a queue, which is as long as the engine is deep, until a thread is free. A
// slow sync or discard holds one thread.
#pragma once

#include "storage/io_engine.h"

namespace sluice::storage {

// Of an engine; a shallower one has as many as it is deep.
inline constexpr std::uint32_t kMaxIoThreads = 16;

// `depth`: 1 to kMaxIoDepth. Errors: limit_reached (threads of the process).
Result<std::unique_ptr<IoEngine>> make_thread_engine(std::uint32_t depth);

}  // namespace sluice::storage
