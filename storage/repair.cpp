#include "storage/repair.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "storage/device_directory.h"
#include "storage/recovery.h"

namespace sluice::storage {
namespace {

Status wipe_page(const DeviceImage& device, std::uint32_t segment, std::uint64_t offset) {
  const auto opened = open_file(device.directory / segment_name(segment), O_RDWR);
  if (!opened) return std::unexpected(opened.error());
  const AlignedMemory page = allocate_aligned(kPageBytes);
  if (!page) return ipc::fail(Errc::io_error, "no memory for a page");
  std::fill_n(page.get(), kPageBytes, std::byte{0});
  if (Status done = write_at(opened->file.fd(), offset, {page.get(), kPageBytes}); !done) {
    return done;
  }
  if (fdatasync(opened->file.fd()) != 0) return ipc::fail_errno("fdatasync");
  return {};
}

Status make_whole(const DeviceImage& device, std::uint32_t segment) {
  const auto opened = open_file(device.directory / segment_name(segment), O_RDWR);
  if (!opened) return std::unexpected(opened.error());
  return reserve_segment(opened->file.fd(), device.identity->segment_bytes);
}

// What is wrong with one place on a device; blocks are the index's matter.
Status mend(const DeviceImage& device, const Finding& finding) {
  switch (finding.kind) {
    case FindingKind::device_page:
      return write_device_identity(device.directory, *device.identity);
    case FindingKind::segment_page:
      if (finding.loses_block) return {};
      return wipe_page(device, *finding.segment, 0);
    case FindingKind::segment_short:
      return make_whole(device, *finding.segment);
    case FindingKind::torn:
      return wipe_page(device, *finding.segment, *finding.offset);
    default:
      return {};
  }
}

Result<std::unique_ptr<Index>> open_index(const StoreImage& image) {
  std::error_code ignored;
  if (!image.index_fault.empty() && std::filesystem::exists(image.index_directory, ignored)) {
    if (const Status aside = Index::set_aside(image.index_directory); !aside) {
      return std::unexpected(aside.error());
    }
  }
  return Index::open(image.index_directory);
}

Status forget(const StoreImage& image, const CheckReport& report, Index& index) {
  IndexBatch batch;
  for (const Finding& finding : report.findings) {
    if (finding.loses_block) batch.deletes.push_back(*finding.digest);
  }
  if (Status done = index.write(batch); !done) return done;
  // What is behind a checkpoint of a clean end would be passed over.
  for (const DeviceImage& device : image.devices) {
    if (!device.identity || device.checkpoint.segment_sequence == 0) continue;
    IndexBatch reopen;
    reopen.device = device.identity->device;
    reopen.checkpoint = device.checkpoint;
    reopen.checkpoint->clean = false;
    if (Status done = index.write(reopen); !done) return done;
  }
  return {};
}

std::vector<OpenedDevice> opened_devices(StoreImage& image) {
  std::vector<OpenedDevice> devices;
  for (DeviceImage& device : image.devices) {
    OpenedDevice& opened = devices.emplace_back();
    opened.lock = std::move(device.lock);
    opened.identity = device.identity;
    opened.config.directory = device.directory;
    // As much as there is: nothing is cut off.
    const std::uint64_t count =
        device.segments.empty() ? 0 : std::uint64_t{device.segments.back().number} + 1;
    opened.config.capacity_bytes = count * device.identity->segment_bytes;
  }
  return devices;
}

Result<Recovered> recover_all(StoreImage& image, Index& index) {
  std::vector<OpenedDevice> devices = opened_devices(image);
  const std::uint64_t segment_bytes = devices.front().identity->segment_bytes;
  const auto store = identify(devices, index, segment_bytes);
  if (!store) return std::unexpected(store.error());
  Catalog catalog;
  auto recovered = recover(devices, index, catalog);
  if (!recovered) return recovered;
  for (const OpenedDevice& device : devices) {
    if (!device.usable()) return ipc::fail(Errc::io_error, device.why_not);
    if (device.checkpoint.segment_sequence == 0) continue;
    IndexBatch closed;
    closed.device = device.identity->device;
    closed.checkpoint = device.checkpoint;
    closed.checkpoint->clean = true;
    if (const Status done = index.write(closed); !done) return std::unexpected(done.error());
  }
  if (const Status synced = index.sync(); !synced) return std::unexpected(synced.error());
  return recovered;
}

}  // namespace

Result<Repaired> repair(StoreImage image, const CheckReport& report) {
  for (const DeviceImage& device : image.devices) {
    if (device.identity) continue;
    return ipc::fail(Errc::wrong_state, device.directory.string() +
                                            ": nothing says which device of which store it is; "
                                            "empty it, or leave it out");
  }
  for (const Finding& finding : report.findings) {
    if (!finding.device) continue;
    if (const Status done = mend(image.devices[*finding.device], finding); !done) {
      return std::unexpected(done.error());
    }
  }
  auto index = open_index(image);
  if (!index) return std::unexpected(index.error());
  if (const Status told = forget(image, report, **index); !told) {
    return std::unexpected(told.error());
  }
  const auto recovered = recover_all(image, **index);
  if (!recovered) return std::unexpected(recovered.error());
  return Repaired{report.lost_blocks, report.lost_bytes, recovered->recovered_blocks};
}

}  // namespace sluice::storage
