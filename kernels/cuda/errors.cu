#include <cuda_runtime.h>

#include "kernels/cuda/device.cuh"

namespace sluice::kernels::cuda {

const char* describe(Status status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

Status load() {
  if (const Status failed = load_steps()) return failed;
  if (const Status failed = load_blocks()) return failed;
  if (const Status failed = load_resolve()) return failed;
  return load_forecast();
}

}  // namespace sluice::kernels::cuda
