#include "storage/store_image.h"

#include <fcntl.h>

#include <algorithm>
#include <system_error>
#include <tuple>
#include <utility>

#include "storage/device_directory.h"
#include "storage/store_config.h"

namespace sluice::storage {
namespace {

constexpr std::byte kZero{0};

// Its page, or as much of it as there is.
std::span<std::byte> page_of(const DeviceImage& device, std::uint32_t segment, Page page) {
  const auto opened = open_file(device.directory / segment_name(segment), O_RDONLY);
  if (!opened) return {};
  const auto got = read_at(opened->file.fd(), 0, page);
  return got ? std::span<std::byte>(page).first(*got) : std::span<std::byte>();
}

std::uint64_t size_of(const DeviceImage& device, std::uint32_t segment) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(device.directory / segment_name(segment), error);
  return error ? 0 : bytes;
}

Status list_into(DeviceImage& device, Page page) {
  const auto files = list_segments(device.directory, device.identity.value_or(DeviceIdentity{}));
  if (!files) return std::unexpected(files.error());
  device.segments.clear();
  for (const SegmentFile& file : *files) {
    SegmentImage& segment = device.segments.emplace_back();
    segment.number = file.number;
    segment.sequence = file.sequence;
    segment.file_bytes = size_of(device, file.number);
    if (segment.sequence != 0) continue;
    const auto bytes = page_of(device, file.number, page);
    segment.blank = bytes.size() == kPageBytes &&
                    std::ranges::all_of(bytes, [](std::byte byte) { return byte == kZero; });
  }
  return {};
}

// What the pages of its segments agree on.
std::optional<DeviceIdentity> identity_by_segments(const DeviceImage& device, Page page) {
  std::optional<DeviceIdentity> found;
  for (const SegmentImage& segment : device.segments) {
    if (page_of(device, segment.number, page).size() != kPageBytes) continue;
    const auto said = parse_segment_page(page);
    if (!said || said->segment != segment.number) continue;
    if (found && (found->store != said->store || found->device != said->device)) {
      return std::nullopt;
    }
    const std::uint64_t bytes = std::max(segment.file_bytes, found ? found->segment_bytes : 0);
    found = DeviceIdentity{said->store, said->device, bytes};
  }
  if (found && (found->segment_bytes < kMinSegmentBytes ||
                found->segment_bytes > kMaxSegmentBytes || found->segment_bytes % kIoAlign != 0)) {
    return std::nullopt;
  }
  return found;
}

Result<DeviceImage> open_device(const std::filesystem::path& directory, Access access, Page page) {
  DeviceImage device;
  device.directory = directory;
  auto lock = lock_to_look(directory, access == Access::look);
  if (!lock) return std::unexpected(lock.error());
  device.lock = std::move(*lock);
  const auto identity = read_device_identity(directory);
  if (!identity && identity.error().code == Errc::version_mismatch) {
    return std::unexpected(identity.error());
  }
  if (identity && *identity) {
    device.identity = **identity;
  } else {
    device.identity_fault = identity ? "there is no file `device`" : identity.error().text;
  }
  if (Status listed = list_into(device, page); !listed) return std::unexpected(listed.error());
  if (device.identity) return device;
  device.identity = identity_by_segments(device, page);
  if (Status listed = list_into(device, page); !listed) return std::unexpected(listed.error());
  return device;
}

Status read_index(StoreImage& image, std::optional<StoreId>& store) {
  auto opened = Index::open_to_read(image.index_directory, Index::Log::undamaged);
  if (!opened && opened.error().code == Errc::data_lost) {
    image.index_log_fault = opened.error().text;
    opened = Index::open_to_read(image.index_directory, Index::Log::as_far_as_it_goes);
  }
  if (!opened && opened.error().code == Errc::version_mismatch) {
    return std::unexpected(opened.error());
  }
  Error fault{Errc::ok, {}};
  if (!opened) {
    fault = opened.error();
  } else if (const Status verified = (*opened)->verify(); !verified) {
    fault = verified.error();
  } else if (auto loaded = (*opened)->load(); !loaded) {
    fault = loaded.error();
  } else if (!(*opened)->store()) {
    fault = {Errc::data_lost, "the index does not say which store it belongs to"};
  } else {
    image.index = std::move(*loaded);
    store = (*opened)->store();
  }
  if (fault.code == Errc::ok) return {};
  image.index_fault = fault.text;
  image.index_log_fault.clear();
  return {};
}

Status agree(StoreImage& image, std::optional<StoreId> store) {
  for (std::size_t i = 0; i < image.devices.size(); ++i) {
    const DeviceImage& device = image.devices[i];
    if (!device.identity) continue;
    if (!store) store = device.identity->store;
    if (device.identity->store != *store) {
      return ipc::fail(Errc::bad_config,
                       device.directory.string() + " belongs to another store than the others");
    }
    for (std::size_t other = 0; other < i; ++other) {
      const auto& identity = image.devices[other].identity;
      if (identity && identity->device == device.identity->device) {
        return ipc::fail(Errc::bad_config, device.directory.string() + " is the same device as " +
                                               image.devices[other].directory.string() +
                                               ", or a copy of it");
      }
    }
  }
  if (store) image.store = *store;
  return {};
}

}  // namespace

const SegmentImage* DeviceImage::segment(std::uint32_t number) const {
  const auto found = std::ranges::lower_bound(segments, number, {}, &SegmentImage::number);
  return found != segments.end() && found->number == number ? &*found : nullptr;
}

SegmentIdentity DeviceImage::identity_of(const SegmentImage& segment) const {
  return {identity->store, identity->device, segment.number, segment.sequence};
}

const DeviceImage* StoreImage::device(std::uint32_t number) const {
  const auto found = std::ranges::find_if(devices, [&](const DeviceImage& device) {
    return device.identity && device.identity->device == number;
  });
  return found == devices.end() ? nullptr : &*found;
}

Result<StoreImage> open_image(const StoreLocation& location, Access access) {
  if (location.directories.empty() || location.directories.size() > kMaxDevices) {
    return ipc::fail(Errc::bad_config,
                     "a store has 1 to " + std::to_string(kMaxDevices) + " devices");
  }
  const AlignedMemory memory = allocate_aligned(kPageBytes);
  if (!memory) return ipc::fail(Errc::io_error, "no memory for a page");
  StoreImage image;
  for (const std::filesystem::path& directory : location.directories) {
    auto device = open_device(directory, access, Page(memory.get(), kPageBytes));
    if (!device) return std::unexpected(device.error());
    image.devices.push_back(std::move(*device));
  }
  image.index_directory = location.index_directory.empty() ? location.directories.front() / "index"
                                                           : location.index_directory;
  std::optional<StoreId> store;
  if (Status read = read_index(image, store); !read) return std::unexpected(read.error());
  if (Status agreed = agree(image, store); !agreed) return std::unexpected(agreed.error());
  for (const auto& [number, checkpoint] : image.index.checkpoints) {
    for (DeviceImage& device : image.devices) {
      if (device.identity && device.identity->device == number) device.checkpoint = checkpoint;
    }
  }
  image.tenants.insert(image.index.tenants.begin(), image.index.tenants.end());
  std::ranges::sort(image.index.entries, {}, [](const IndexEntry& entry) {
    return std::tuple(entry.device, entry.segment, entry.offset_pages);
  });
  return image;
}

StoreConfig config_of(const StoreImage& image) {
  StoreConfig config;
  config.index_directory = image.index_directory;
  config.cleaning = Cleaning::when_asked;
  for (const DeviceImage& device : image.devices) {
    if (!device.identity) continue;
    config.segment_bytes = device.identity->segment_bytes;
    const std::uint64_t segments =
        device.segments.empty() ? 0 : std::uint64_t{device.segments.back().number} + 1;
    config.devices.push_back(
        {device.directory, std::max(segments, kMinSegments) * config.segment_bytes});
  }
  return config;
}

ImageReader::ImageReader(const StoreImage& image)
    : image_(image), page_(allocate_aligned(kPageBytes)) {}

Status ImageReader::open(const IndexEntry& entry) {
  const DeviceImage* device = image_.device(entry.device);
  if (device == nullptr) return ipc::fail(Errc::not_found, "its device was not given");
  if (device == device_ && segment_ == entry.segment) return {};
  if (device->segment(entry.segment) == nullptr) {
    return ipc::fail(Errc::not_found, "its segment's file is not there");
  }
  auto opened = open_file(device->directory / segment_name(entry.segment), O_RDONLY);
  if (!opened) return std::unexpected(opened.error());
  file_ = std::move(opened->file);
  device_ = device;
  segment_ = entry.segment;
  window_.emplace(file_.fd());
  return {};
}

Result<RecordFields> ImageReader::header(const IndexEntry& entry) {
  if (Status opened = open(entry); !opened) return std::unexpected(opened.error());
  const Page page(page_.get(), kPageBytes);
  if (!page_ || !*window_) return ipc::fail(Errc::io_error, "no memory to read a record");
  const std::uint64_t segment_bytes = device_->identity->segment_bytes;
  if (!is_possible(entry, segment_bytes)) {
    return ipc::fail(Errc::data_lost, "no record can be as the index says");
  }
  const std::uint64_t offset = std::uint64_t{entry.offset_pages} * kIoAlign;
  const auto got = read_at(file_.fd(), offset, page);
  if (!got) return std::unexpected(got.error());
  if (*got != kPageBytes) return ipc::fail(Errc::io_error, "it is behind the end of the file");
  const SegmentIdentity segment{image_.store, entry.device, entry.segment, entry.segment_sequence};
  auto fields = parse_record_page(page, segment, offset, segment_bytes);
  if (!fields) return fields;
  if (fields->sequence != entry.sequence || fields->valid_bytes != entry.valid_bytes ||
      fields->layout.block_bytes != std::uint64_t{entry.block_pages} * kIoAlign ||
      fields->layout.part_bytes != std::uint64_t{entry.part_pages} * kIoAlign) {
    return ipc::fail(Errc::data_lost, "another record is in its place");
  }
  if (digest_of(image_.store, fields->encoded_namespace, fields->key) != entry.digest) {
    return ipc::fail(Errc::data_lost, "the record of another block is in its place");
  }
  return fields;
}

std::vector<BadPart> ImageReader::bad_parts(const RecordFields& fields, std::size_t most) {
  return storage::bad_parts(*window_, fields, most);
}

Status ImageReader::payload(const IndexEntry& entry, const Take& take) {
  const auto fields = header(entry);
  if (!fields) return std::unexpected(fields.error());
  const AlignedMemory part = allocate_aligned(fields->layout.part_bytes);
  if (!part) return ipc::fail(Errc::io_error, "no memory for a part");
  std::uint64_t at = fields->offset + kPageBytes;
  std::uint64_t left = fields->valid_bytes;
  for (std::uint32_t number = 0; number < fields->layout.parts; ++number) {
    const std::span<std::byte> bytes(part.get(), fields->layout.bytes_of(number));
    const auto got = read_at(file_.fd(), at, bytes);
    if (!got) return std::unexpected(got.error());
    if (*got != bytes.size() || checksum_of(bytes) != fields->part_checksums[number]) {
      return ipc::fail(Errc::data_lost, "a part does not match its checksum");
    }
    const std::uint64_t valid = std::min<std::uint64_t>(left, bytes.size());
    if (valid > 0) {
      if (Status taken = take(bytes.first(valid)); !taken) return taken;
    }
    at += bytes.size();
    left -= valid;
  }
  return {};
}

}  // namespace sluice::storage
