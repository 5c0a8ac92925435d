// What tests of label gpu have instead of gtest_main: a main that runs them where there is a CUDA
// device, and elsewhere says why not and exits with kSkipped, which ctest and run-gpu-tests show as
// skipped.
//
// Thread-safety: any thread.
#pragma once

#include <string>

namespace sluice::test {

inline constexpr int kSkipped = 77;

// Why tests cannot use a GPU here; empty if they can. Makes no CUDA context.
std::string why_no_device();

}  // namespace sluice::test
