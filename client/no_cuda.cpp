// What a build without CUDA answers.
#include "client/device_cache.h"

namespace sluice::client::internal {

ipc::Result<std::unique_ptr<DeviceCache>> DeviceCache::open(const Client&, std::int32_t) {
  return ipc::fail(ipc::Errc::not_supported,
                   "this build of libsluice has no CUDA: open the cache with device_type 0, or "
                   "build with nvcc");
}

}  // namespace sluice::client::internal
