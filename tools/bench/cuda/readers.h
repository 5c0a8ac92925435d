// Kernels that read HBM all the time, as those of an engine do beside resolves.
//
// Thread-safety: one thread.
#pragma once

#include <cstddef>
#include <memory>

#include "ipc/error.h"
#include "tools/bench/cuda/device.h"

namespace sluice::tools::cuda {

class Reader {
 public:
  virtual ~Reader() = default;
  virtual const char* name() const = 0;
  virtual std::size_t bytes() const = 0;  // of HBM that a launch reads
  // Enqueues one. Returns a cudaError_t.
  virtual int launch(cudaStream_t stream) = 0;
};

// Decode attention over pages of 64 KiB at random places of HBM, with a list of slots for each of
// 64 sequences, as in `sluice-bench decode`: what an engine has. Bounded by latency as much as by
// HBM.
ipc::Result<std::unique_ptr<Reader>> make_paged_attention();

// As much of HBM as can be read: tiles of neighbouring bytes and a dot product.
ipc::Result<std::unique_ptr<Reader>> make_tile_reader();

}  // namespace sluice::tools::cuda
