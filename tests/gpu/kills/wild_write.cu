#include <cuda_runtime.h>

#include <cstdint>

#include "tests/gpu/kills/wild_write.h"

namespace sluice::test::kills {

namespace {

__global__ void wild_write(std::uintptr_t address) {
  *reinterpret_cast<volatile std::uint64_t*>(address) = 1;
}

}  // namespace

int enqueue_wild_write(void* stream) {
  constexpr std::uintptr_t kNothingThere = std::uintptr_t{1} << 44;
  wild_write<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(kNothingThere);
  return cudaGetLastError();
}

}  // namespace sluice::test::kills
