#include "kernels/cuda/failure.h"

#include <driver_types.h>

namespace sluice::kernels::cuda {

Failure failure_of(int status) {
  switch (status) {
    case cudaSuccess:
      return Failure::none;
    case cudaErrorMemoryAllocation:
      return Failure::memory;
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorContextIsDestroyed:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorMpsClientTerminated:
      return Failure::context;
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoDevice:
    case cudaErrorSystemNotReady:
      return Failure::device;
    default:
      return Failure::call;
  }
}

}  // namespace sluice::kernels::cuda
