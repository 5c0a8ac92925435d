// Which errors of CUDA cost a context; needs no GPU.
#include "kernels/cuda/failure.h"

#include <cuda.h>
#include <driver_types.h>
#include <gtest/gtest.h>

namespace sluice::kernels::cuda {
namespace {

TEST(AnErrorOfCuda, TellsACallFromAContextAndFromADevice) {
  EXPECT_EQ(failure_of(cudaSuccess), Failure::none);
  EXPECT_EQ(failure_of(cudaErrorInvalidValue), Failure::call);
  EXPECT_EQ(failure_of(cudaErrorHostMemoryAlreadyRegistered), Failure::call);
  EXPECT_EQ(failure_of(cudaErrorMemoryAllocation), Failure::memory);
  EXPECT_EQ(failure_of(cudaErrorIllegalAddress), Failure::context);
  EXPECT_EQ(failure_of(cudaErrorLaunchFailure), Failure::context);
  EXPECT_EQ(failure_of(cudaErrorECCUncorrectable), Failure::context);
  EXPECT_EQ(failure_of(cudaErrorDevicesUnavailable), Failure::device);
  EXPECT_EQ(failure_of(cudaErrorNoDevice), Failure::device);
}

TEST(AnErrorOfCuda, HasTheSameNumberInTheDriver) {
  EXPECT_EQ(failure_of(CUDA_ERROR_OUT_OF_MEMORY), Failure::memory);
  EXPECT_EQ(failure_of(CUDA_ERROR_ILLEGAL_ADDRESS), Failure::context);
  EXPECT_EQ(failure_of(CUDA_ERROR_ECC_UNCORRECTABLE), Failure::context);
  EXPECT_EQ(failure_of(CUDA_ERROR_DEVICE_UNAVAILABLE), Failure::device);
}

}  // namespace
}  // namespace sluice::kernels::cuda
