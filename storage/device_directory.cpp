#include "storage/device_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <system_error>

namespace sluice::storage {
namespace {

constexpr std::string_view kSegmentPrefix = "segment-";
constexpr const char* kIdentityName = "device";

std::optional<std::uint32_t> number_of(const std::string& name) {
  if (!name.starts_with(kSegmentPrefix)) return std::nullopt;
  const char* begin = name.data() + kSegmentPrefix.size();
  const char* end = name.data() + name.size();
  std::uint32_t number = 0;
  const auto [rest, error] = std::from_chars(begin, end, number);
  if (error != std::errc() || rest != end || segment_name(number) != name) return std::nullopt;
  return number;
}

std::uint64_t sequence_in(const std::filesystem::path& directory, std::uint32_t number,
                          const DeviceIdentity& identity, Page page) {
  const auto opened = open_file(directory / segment_name(number), O_RDONLY);
  if (!opened) return 0;
  const auto got = read_at(opened->file.fd(), 0, page);
  if (!got || *got != kPageBytes) return 0;
  const auto parsed = parse_segment_page(page);
  if (!parsed || parsed->store != identity.store || parsed->device != identity.device ||
      parsed->segment != number) {
    return 0;
  }
  return parsed->sequence;
}

}  // namespace

std::string segment_name(std::uint32_t segment) {
  char name[32];
  std::snprintf(name, sizeof name, "segment-%08u", segment);
  return name;
}

Result<std::vector<SegmentFile>> list_segments(const std::filesystem::path& directory,
                                               const DeviceIdentity& identity) {
  const AlignedMemory memory = allocate_aligned(kPageBytes);
  if (!memory) return ipc::fail(Errc::io_error, "no memory for a page");
  const Page page(memory.get(), kPageBytes);
  std::vector<SegmentFile> files;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; entry != end;
       entry.increment(error)) {
    if (error) break;
    const auto number = number_of(entry->path().filename().string());
    if (number) files.push_back({*number, sequence_in(directory, *number, identity, page)});
  }
  if (error) {
    return ipc::fail(Errc::io_error, "list of " + directory.string() + ": " + error.message());
  }
  std::ranges::sort(files, {}, &SegmentFile::number);
  return files;
}

Result<std::optional<DeviceIdentity>> read_device_identity(const std::filesystem::path& directory) {
  std::error_code ignored;
  const std::filesystem::path path = directory / kIdentityName;
  if (!std::filesystem::exists(path, ignored) && !ignored) return std::nullopt;
  const auto opened = open_file(path, O_RDONLY);
  if (!opened) return std::unexpected(opened.error());
  const AlignedMemory memory = allocate_aligned(kPageBytes);
  if (!memory) return ipc::fail(Errc::io_error, "no memory for a page");
  const Page page(memory.get(), kPageBytes);
  const auto got = read_at(opened->file.fd(), 0, page);
  if (!got) return std::unexpected(got.error());
  if (*got != kPageBytes) return ipc::fail(Errc::data_lost, path.string() + " is too short");
  const auto identity = parse_device_page(page);
  if (!identity) {
    return ipc::fail(identity.error().code, path.string() + ": " + identity.error().text);
  }
  return *identity;
}

Status write_device_identity(const std::filesystem::path& directory,
                             const DeviceIdentity& identity) {
  const AlignedMemory memory = allocate_aligned(kPageBytes);
  if (!memory) return ipc::fail(Errc::io_error, "no memory for a page");
  const Page page(memory.get(), kPageBytes);
  write_device_page(identity, page);
  // Under another name first: a torn one would take the whole device with it.
  const std::filesystem::path unfinished = directory / "device.new";
  const auto opened = open_file(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
  if (!opened) return std::unexpected(opened.error());
  if (const Status done = write_at(opened->file.fd(), 0, page); !done) return done;
  if (fsync(opened->file.fd()) != 0) return ipc::fail_errno("fsync of " + unfinished.string());
  std::error_code error;
  std::filesystem::rename(unfinished, directory / kIdentityName, error);
  if (error) return ipc::fail(Errc::io_error, "rename in " + directory.string());
  return sync_directory(directory);
}

Result<File> lock_directory(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return ipc::fail(Errc::io_error, "making " + directory.string() + ": " + error.message());
  }
  const std::filesystem::path path = directory / "lock";
  File lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return ipc::fail_errno("open of " + path.string());
  if (flock(lock.fd(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ipc::fail_errno("flock of " + path.string());
    return ipc::fail(Errc::address_in_use,
                     directory.string() + " is used by another store: one process at a time");
  }
  return lock;
}

Result<File> lock_to_look(const std::filesystem::path& directory, bool shared) {
  const std::filesystem::path path = directory / "lock";
  File lock(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!lock && errno == ENOENT) {
    return ipc::fail(Errc::not_found, "there is no store in " + directory.string());
  }
  if (!lock) return ipc::fail_errno("open of " + path.string());
  if (flock(lock.fd(), (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ipc::fail_errno("flock of " + path.string());
    return ipc::fail(Errc::address_in_use, directory.string() + " is used by a running store");
  }
  return lock;
}

Result<OpenedFile> open_segment(const std::filesystem::path& directory, std::uint32_t segment,
                                bool create) {
  return open_file(directory / segment_name(segment), create ? O_RDWR | O_CREAT : O_RDWR);
}

Status reserve_segment(int fd, std::uint64_t segment_bytes) {
  if (fallocate(fd, 0, 0, static_cast<off_t>(segment_bytes)) == 0) return {};
  if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) {
    const int error = errno;
    return ipc::fail(Errc::no_memory,
                     error == EFBIG ? "a segment is larger than files may be" : "the disk is full");
  }
  if (errno != EOPNOTSUPP) return ipc::fail_errno("fallocate");
  if (ftruncate(fd, static_cast<off_t>(segment_bytes)) != 0) return ipc::fail_errno("ftruncate");
  return {};
}

}  // namespace sluice::storage
