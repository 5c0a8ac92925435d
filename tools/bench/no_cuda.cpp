// What a build without CUDA answers.
#include <cstdio>

#include "tools/bench/decode.h"
#include "tools/bench/gpu.h"
#include "tools/bench/options.h"

namespace sluice::tools {

int run_gpu(const GpuOptions&) {
  std::fputs("sluice-bench: gpu: not_supported: this build has no CUDA\n", stderr);
  return kBenchUnreachable;
}

int run_decode(const DecodeOptions&) {
  std::fputs("sluice-bench: decode: not_supported: this build has no CUDA\n", stderr);
  return kBenchUnreachable;
}

}  // namespace sluice::tools
