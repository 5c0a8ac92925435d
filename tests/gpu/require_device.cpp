#include "tests/gpu/require_device.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdio>

namespace sluice::test {

std::string why_no_device() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return {};
  const std::string reason = error == cudaSuccess ? "none is visible" : cudaGetErrorString(error);
  return "no CUDA device: " + reason;
}

}  // namespace sluice::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (GTEST_FLAG_GET(list_tests)) return RUN_ALL_TESTS();
  if (const std::string reason = sluice::test::why_no_device(); !reason.empty()) {
    std::printf("SKIPPED: %s. These tests need a GPU and its driver.\n", reason.c_str());
    return sluice::test::kSkipped;
  }
  return RUN_ALL_TESTS();
}
