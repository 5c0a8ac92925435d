// sluice-device-worker: the only process of ours with a CUDA context. sluiced starts it when there
// is something to do on the GPU, and lets it go when there was nothing for a while.
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "daemon/device_worker/cuda_backend.h"
#include "daemon/device_worker/serve.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

int failed(const sluice::ipc::Error& why, int status) {
  std::fprintf(stderr, "sluice-device-worker: %s (%s)\n", why.text.c_str(),
               std::string(sluice::ipc::to_string(why.code)).c_str());
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace sluice::device_worker;  // NOLINT(google-build-using-namespace): its entry
  auto arguments = take_arguments(argc, argv);
  if (!arguments) return failed(arguments.error(), kExitUsage);
  auto made = make_cuda_backend(arguments->device);
  const std::unique_ptr<Backend> backend =
      made ? std::move(*made) : make_refusing_backend(made.error());
  const auto served = serve(arguments->socket, *backend);
  return served ? 0 : failed(served.error(), kExitFailed);
}
