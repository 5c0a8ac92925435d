#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"

namespace sluice::kernels::cuda {

const char* describe(Status status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

}  // namespace sluice::kernels::cuda
