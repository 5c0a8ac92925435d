#include "tools/bench/cuda/probe.h"

#include <cstdio>
#include <sstream>

#include "tools/bench/cuda/child.h"
#include "tools/bench/cuda/device.h"

namespace sluice::tools::cuda {
namespace {

using ipc::Errc;
using ipc::fail;

std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU-";
  for (std::size_t i = 0; i < sizeof uuid.bytes; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned char>(uuid.bytes[i]));
    text += hex;
  }
  return text;
}

ipc::Status ask(const Child::Say& say) {
  cudaDeviceProp properties{};
  std::size_t free_bytes = 0, all_bytes = 0;
  for (const cudaError_t status :
       {cudaGetDeviceProperties(&properties, 0), cudaMemGetInfo(&free_bytes, &all_bytes)}) {
    if (status == cudaSuccess) continue;
    return fail(Errc::not_supported, std::string("there is no GPU that can be used: CUDA: ") +
                                         cudaGetErrorString(status) +
                                         "; check the driver and CUDA_VISIBLE_DEVICES");
  }
  say(std::to_string(all_bytes - free_bytes) + " " + uuid_text(properties.uuid) + " " +
      properties.name);
  return {};
}

}  // namespace

ipc::Result<Probe> probe() {
  auto child = Child::start(ask);
  if (!child) return std::unexpected(std::move(child.error()));
  Probe found;
  std::istringstream text(child->said());
  text >> found.used_bytes >> found.uuid;
  std::getline(text >> std::ws, found.name);
  return found;
}

}  // namespace sluice::tools::cuda
