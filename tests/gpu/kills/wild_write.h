// An error that a process makes by itself.
#pragma once

namespace sluice::test::kills {

// Enqueues a kernel that writes to an address where nothing is; the context is lost. `stream`: a
// cudaStream_t. Returns a cudaError_t.
int enqueue_wild_write(void* stream);

}  // namespace sluice::test::kills
