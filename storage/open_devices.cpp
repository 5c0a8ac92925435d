#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "storage/recovery.h"
#include "storage/store_config.h"

namespace sluice::storage {
namespace {

// Numbers are not given again: a device that is away may come back.
constexpr std::uint32_t kMaxDeviceNumber = 4096;

Result<OpenedDevice> open_device(const DeviceConfig& config) {
  OpenedDevice device;
  device.config = config;
  auto lock = lock_directory(config.directory);
  if (!lock) return std::unexpected(lock.error());
  device.lock = std::move(*lock);
  const auto identity = read_device_identity(config.directory);
  if (!identity) return std::unexpected(identity.error());
  device.identity = *identity;
  return device;
}

Status list(OpenedDevice& device) {
  const DeviceIdentity& identity = *device.identity;
  const auto files = list_segments(device.config.directory, identity);
  if (!files) return std::unexpected(files.error());
  Segments::Config& segments = device.segments;
  segments.directory = device.config.directory;
  segments.identity = identity;
  segments.within =
      static_cast<std::uint32_t>(device.config.capacity_bytes / identity.segment_bytes);
  const auto in_use = [&](std::uint32_t from, std::uint32_t to) {
    return static_cast<std::uint32_t>(std::ranges::count_if(*files, [&](const SegmentFile& file) {
      return file.sequence != 0 && file.number >= from && file.number < to;
    }));
  };
  // One more may be begun when cleaning has no other room. What is in it stays, unless there were
  // more than that: the capacity was larger then.
  const bool was_larger =
      in_use(0, std::numeric_limits<std::uint32_t>::max()) > segments.within + 1;
  const std::uint32_t kept =
      segments.within + (was_larger ? 0 : in_use(segments.within, segments.within + 1));
  segments.count = std::max(kept, segments.within + (segments.within < kMaxSegments ? 1 : 0));
  segments.sequences.assign(segments.count, 0);
  segments.exists.assign(segments.count, false);
  for (const SegmentFile& file : *files) {
    if (file.number < kept) {
      segments.sequences[file.number] = file.sequence;
      segments.exists[file.number] = true;
      continue;
    }
    std::error_code ignored;
    std::filesystem::remove(device.config.directory / segment_name(file.number), ignored);
  }
  return {};
}

std::uint32_t unused_number(const std::set<std::uint32_t>& used) {
  return used.empty() ? 0 : *used.rbegin() + 1;
}

Status settle(OpenedDevice& device, const StoreId& store, std::uint64_t segment_bytes,
              std::set<std::uint32_t>& used) {
  if (!device.identity) {
    const DeviceIdentity identity{store, unused_number(used), segment_bytes};
    if (Status done = write_device_identity(device.config.directory, identity); !done) return done;
    device.identity = identity;
    used.insert(identity.device);
  }
  if (device.identity->store != store) {
    return ipc::fail(Errc::bad_config, "it belongs to another store; empty it to use it here");
  }
  if (device.identity->segment_bytes != segment_bytes) {
    return ipc::fail(Errc::bad_config, "it was made with segments of " +
                                           std::to_string(device.identity->segment_bytes) +
                                           " bytes; keep that, or empty it");
  }
  if (device.identity->device > kMaxDeviceNumber) {
    return ipc::fail(Errc::bad_config, "too many devices were in this store; make a new one");
  }
  return list(device);
}

}  // namespace

Result<std::vector<OpenedDevice>> open_devices(const std::vector<DeviceConfig>& configs) {
  std::vector<OpenedDevice> devices;
  Error last;
  for (const DeviceConfig& config : configs) {
    auto device = open_device(config);
    if (!device) {
      last = device.error();
      // These are mistakes of the configuration, not of a device.
      if (last.code == Errc::address_in_use || last.code == Errc::version_mismatch) {
        return std::unexpected(last);
      }
      device = OpenedDevice{};
      device->config = config;
      device->why_not = last.text;
    }
    devices.push_back(std::move(*device));
  }
  if (std::ranges::none_of(devices, &OpenedDevice::usable)) {
    return ipc::fail(Errc::io_error, "no device can be used: " + last.text);
  }
  return devices;
}

Result<StoreId> identify(std::vector<OpenedDevice>& devices, Index& index,
                         std::uint64_t segment_bytes) {
  std::optional<StoreId> store = index.store();
  std::set<std::uint32_t> used;
  const auto known = index.devices();
  if (!known) return std::unexpected(known.error());
  used.insert(known->begin(), known->end());
  for (const OpenedDevice& device : devices) {
    if (!device.identity) continue;
    if (!store) store = device.identity->store;
    if (device.identity->store == *store && !used.insert(device.identity->device).second &&
        std::ranges::count_if(devices, [&](const OpenedDevice& other) {
          return other.identity && other.identity->device == device.identity->device;
        }) > 1) {
      return ipc::fail(Errc::bad_config, device.config.directory.string() +
                                             " is a copy of another device of the store");
    }
  }
  if (!store) {
    const auto made = make_store_id();
    if (!made) return std::unexpected(made.error());
    store = *made;
  }
  if (!index.store()) {
    if (const Status done = index.set_store(*store); !done) return std::unexpected(done.error());
  }
  for (OpenedDevice& device : devices) {
    if (!device.usable()) continue;
    const Status settled = settle(device, *store, segment_bytes, used);
    if (settled) continue;
    if (settled.error().code == Errc::bad_config) {
      return ipc::fail(Errc::bad_config,
                       device.config.directory.string() + ": " + settled.error().text);
    }
    device.why_not = settled.error().text;
  }
  if (std::ranges::none_of(devices, &OpenedDevice::usable)) {
    return ipc::fail(Errc::io_error, "no device can be used: " + devices.front().why_not);
  }
  return *store;
}

}  // namespace sluice::storage
