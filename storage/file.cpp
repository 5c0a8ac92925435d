#include "storage/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace sluice::storage {
namespace {

constexpr std::uint64_t kHugePageBytes = std::uint64_t{2} << 20;

}  // namespace

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

AlignedMemory allocate_aligned(std::uint64_t bytes) {
  if (bytes < kHugePageBytes) {
    return AlignedMemory(static_cast<std::byte*>(std::aligned_alloc(kIoAlign, bytes)));
  }
  const std::uint64_t whole = (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  AlignedMemory memory(static_cast<std::byte*>(std::aligned_alloc(kHugePageBytes, whole)));
  // Only a hint: from small pages a request goes to the device in more pieces. Not for a last page
  // that would be huge for a few bytes.
  if (memory) madvise(memory.get(), bytes / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
  return memory;
}

Result<OpenedFile> open_file(const std::filesystem::path& path, int flags) {
  constexpr mode_t mode = 0600;  // payload of all tenants
  const int direct = open(path.c_str(), flags | O_DIRECT | O_CLOEXEC, mode);
  if (direct >= 0) return OpenedFile{File(direct), true};
  if (errno != EINVAL) return ipc::fail_errno("open of " + path.string());
  const int buffered = open(path.c_str(), flags | O_CLOEXEC, mode);
  if (buffered < 0) return ipc::fail_errno("open of " + path.string());
  return OpenedFile{File(buffered), false};
}

Result<std::uint64_t> read_at(int fd, std::uint64_t offset, std::span<std::byte> memory) {
  std::uint64_t done = 0;
  while (done < memory.size()) {
    const ssize_t got =
        pread(fd, memory.data() + done, memory.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ipc::fail_errno("read");
    done += static_cast<std::uint64_t>(got);
    // What does not end at a multiple ends where the file does.
    if (got == 0 || done % kIoAlign != 0) break;
  }
  return done;
}

Status write_at(int fd, std::uint64_t offset, std::span<const std::byte> memory) {
  std::uint64_t done = 0;
  while (done < memory.size()) {
    const ssize_t put =
        pwrite(fd, memory.data() + done, memory.size() - done, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ipc::fail_errno("write");
    if (put == 0) return ipc::fail(Errc::io_error, "write: nothing was written");
    done += static_cast<std::uint64_t>(put);
  }
  return {};
}

Status sync_directory(const std::filesystem::path& directory) {
  const File opened(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened) return ipc::fail_errno("open of " + directory.string());
  if (fsync(opened.fd()) != 0) return ipc::fail_errno("fsync of " + directory.string());
  return {};
}

}  // namespace sluice::storage
