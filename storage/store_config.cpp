#include "storage/store_config.h"

#include <sys/resource.h>

#include <cmath>
#include <string>
#include <utility>

namespace sluice::storage {
namespace {

// The index, sockets, and what else a process has open.
constexpr rlim_t kOtherFiles = 2048;

std::unexpected<Error> bad(std::string text) {
  return ipc::fail(Errc::bad_config, std::move(text));
}

Status check_device(const DeviceConfig& device, std::uint64_t segment_bytes) {
  const std::uint64_t segments = device.capacity_bytes / segment_bytes;
  if (device.directory.empty()) return bad("a device has no directory");
  if (segments < kMinSegments) {
    return bad(device.directory.string() + ": the capacity must be at least " +
               std::to_string(kMinSegments) + " segments of " + std::to_string(segment_bytes) +
               " bytes");
  }
  if (segments > kMaxSegments) {
    return bad(device.directory.string() + ": the capacity is more than " +
               std::to_string(kMaxSegments) + " segments: make segments larger");
  }
  return {};
}

}  // namespace

Status check_config(const StoreConfig& config) {
  if (config.devices.empty() || config.devices.size() > kMaxDevices) {
    return bad("a store has 1 to " + std::to_string(kMaxDevices) + " devices");
  }
  if (config.segment_bytes < kMinSegmentBytes || config.segment_bytes > kMaxSegmentBytes ||
      config.segment_bytes % kIoAlign != 0) {
    return bad("segment_bytes must be a multiple of 4 KiB from 1 MiB to 64 GiB");
  }
  if (config.part_bytes == 0 || config.part_bytes % kIoAlign != 0 ||
      config.part_bytes > kMaxBlockBytes) {
    return bad("part_bytes must be a multiple of 4 KiB up to 1 GiB");
  }
  if (config.depth == 0 || config.depth > kMaxIoDepth) {
    return bad("depth must be 1 to " + std::to_string(kMaxIoDepth));
  }
  for (const DeviceConfig& device : config.devices) {
    if (Status checked = check_device(device, config.segment_bytes); !checked) return checked;
  }
  for (const TenantConfig& tenant : config.tenants) {
    if (Status checked = check_tenant(tenant); !checked) return checked;
  }
  return {};
}

Status check_tenant(const TenantConfig& tenant) {
  if (std::isfinite(tenant.weight) && tenant.weight > 0) return {};
  return bad("tenant " + tenant.name + ": the weight must be a number above 0");
}

Status allow_open_files(const StoreConfig& config) {
  rlim_t needed = kOtherFiles;
  for (const DeviceConfig& device : config.devices) {
    needed += device.capacity_bytes / config.segment_bytes;
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed) return {};
  if (limit.rlim_max < needed) {
    return bad("the store may open " + std::to_string(needed) +
               " files, and the limit (RLIMIT_NOFILE) is " + std::to_string(limit.rlim_max) +
               ": raise it, or make segments larger");
  }
  limit.rlim_cur = needed;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return ipc::fail_errno("setrlimit");
  return {};
}

}  // namespace sluice::storage
