// What an error of CUDA is about, for those who must tell a bad call from a lost context.
//
// Pure functions; any thread.
#pragma once

#include <cstdint>

namespace sluice::kernels::cuda {

enum class Failure : std::uint8_t {
  none,
  call,     // this call; the context lives
  memory,   // too little of it; the context lives
  context,  // sticky: every call of this process fails from now on
  device,   // no process gets a context
};

// `status`: a cudaError_t, or a CUresult, whose numbers are the same. CUDA cannot say in a context
// whether it lost more than that, so errors of the hardware are the context's.
Failure failure_of(int status);

}  // namespace sluice::kernels::cuda
