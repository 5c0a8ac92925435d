#include "tools/sluicectl/doctor_directory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <new>
#include <random>
#include <span>
#include <utility>

namespace sluice::tools::doctor {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kAlign = 4096;
constexpr std::size_t kPiece = std::size_t{8} << 20;
constexpr std::size_t kMostFiles = 100'000;  // that are counted as its own

struct KnownFileSystem {
  std::uint32_t magic;
  const char* name;
  FileSystemKind kind;
};

// Of linux/magic.h and statfs(2), which has some that the header lacks.
constexpr KnownFileSystem kFileSystems[] = {
    {EXT4_SUPER_MAGIC, "ext4", FileSystemKind::disk},
    {XFS_SUPER_MAGIC, "xfs", FileSystemKind::disk},
    {F2FS_SUPER_MAGIC, "f2fs", FileSystemKind::disk},
    {BTRFS_SUPER_MAGIC, "btrfs", FileSystemKind::copy_on_write},
    {0x2FC12FC1, "zfs", FileSystemKind::copy_on_write},
    {0xCA451A4E, "bcachefs", FileSystemKind::copy_on_write},
    {TMPFS_MAGIC, "tmpfs", FileSystemKind::memory},
    {RAMFS_MAGIC, "ramfs", FileSystemKind::memory},
    {HUGETLBFS_MAGIC, "hugetlbfs", FileSystemKind::memory},
    {OVERLAYFS_SUPER_MAGIC, "overlay", FileSystemKind::overlay},
    {NFS_SUPER_MAGIC, "nfs", FileSystemKind::network},
    {SMB_SUPER_MAGIC, "smb", FileSystemKind::network},
    {0xFF534D42, "cifs", FileSystemKind::network},
    {0xFE534D42, "smb2", FileSystemKind::network},
    {V9FS_MAGIC, "9p", FileSystemKind::network},
    {FUSE_SUPER_MAGIC, "fuse", FileSystemKind::network},
    {0x00C36400, "ceph", FileSystemKind::network},
    {0x0BD00BD0, "lustre", FileSystemKind::network},
    {0x47504653, "gpfs", FileSystemKind::network},
    {0x19830326, "beegfs", FileSystemKind::network},
};

void name_file_system(std::uint32_t magic, DirectoryFacts& facts) {
  for (const KnownFileSystem& known : kFileSystems) {
    if (known.magic != magic) continue;
    facts.file_system = known.name;
    facts.file_system_kind = known.kind;
    return;
  }
  char text[32];
  std::snprintf(text, sizeof text, "type 0x%x", magic);
  facts.file_system = text;
}

std::uint64_t bytes_in(const std::string& directory) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::uint64_t bytes = 0;
  std::size_t count = 0;
  fs::recursive_directory_iterator at(directory, fs::directory_options::skip_permission_denied,
                                      error);
  for (; !error && at != fs::recursive_directory_iterator() && count < kMostFiles;
       at.increment(error)) {
    struct stat file{};
    if (::lstat(at->path().c_str(), &file) != 0 || !S_ISREG(file.st_mode)) continue;
    bytes += static_cast<std::uint64_t>(file.st_blocks) * 512;
    ++count;
  }
  return bytes;
}

ipc::Fd make_nameless(const std::string& directory) {
  ipc::Fd file(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  const bool unknown = errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL;
  return !file && unknown ? make_unlinked_file(directory) : std::move(file);
}

struct Freed {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<std::byte, Freed>;

// Of bytes that no device can compress.
Buffer random_buffer() {
  void* const memory = std::aligned_alloc(kAlign, kPiece);
  if (memory == nullptr) throw std::bad_alloc();
  std::mt19937_64 random(std::random_device{}());  // NOLINT(cert-msc51-cpp)
  for (std::uint64_t& word : std::span(static_cast<std::uint64_t*>(memory), kPiece / 8)) {
    word = random();
  }
  return Buffer(static_cast<std::byte*>(memory));
}

int error_now() { return errno != 0 ? errno : EIO; }  // a short transfer sets none

int try_direct(int file, std::byte* buffer) {
  errno = 0;
  const int flags = ::fcntl(file, F_GETFL);
  if (flags < 0 || ::fcntl(file, F_SETFL, flags | O_DIRECT) != 0) return error_now();
  const auto align = static_cast<ssize_t>(kAlign);
  if (::pwrite(file, buffer, kAlign, 0) == align && ::pread(file, buffer, kAlign, 0) == align) {
    return 0;
  }
  const int error = error_now();
  ::fcntl(file, F_SETFL, flags);
  return error;
}

double per_second(std::uint64_t bytes, Clock::duration took) {
  const double seconds = std::chrono::duration<double>(took).count();
  return seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
}

// Without O_DIRECT each piece is synced, so that no more than a piece is ever owed to the device.
int test_speed(int file, std::byte* buffer, bool direct, SpeedFacts& speed) {
  errno = 0;
  const auto piece = static_cast<ssize_t>(kPiece);
  const auto begun = Clock::now();
  while (speed.bytes < kSpeedBytes && Clock::now() - begun < kSpeedTime / 2) {
    if (::pwrite(file, buffer, kPiece, static_cast<off_t>(speed.bytes)) != piece ||
        (!direct && ::fdatasync(file) != 0)) {
      return error_now();
    }
    speed.bytes += kPiece;
  }
  if (::fdatasync(file) != 0) return error_now();
  const auto written = Clock::now();
  speed.write_bytes_per_second = per_second(speed.bytes, written - begun);
  if (!direct) (void)::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  std::uint64_t read = 0;
  const auto reading = Clock::now();
  while (read < speed.bytes && Clock::now() - reading < kSpeedTime / 2) {
    if (::pread(file, buffer, kPiece, static_cast<off_t>(read)) != piece) return error_now();
    read += kPiece;
  }
  speed.read_bytes_per_second = per_second(read, Clock::now() - reading);
  return 0;
}

bool is_worth_a_speed_test(const DirectoryFacts& facts) {
  return facts.file_system_kind != FileSystemKind::memory && facts.free_bytes >= 4 * kSpeedBytes;
}

}  // namespace

ipc::Fd make_unlinked_file(const std::string& directory) {
  std::string name = directory + "/.sluice-doctor-XXXXXX";
  ipc::Fd file(::mkostemp(name.data(), O_CLOEXEC));
  if (file) ::unlink(name.c_str());
  return file;
}

DirectoryFacts look_at_directory(const WantedDirectory& wanted, bool with_speed) {
  DirectoryFacts facts;
  facts.wanted = wanted;
  struct stat directory{};
  struct statfs file_system{};
  if (::stat(wanted.path.c_str(), &directory) != 0 ||
      ::statfs(wanted.path.c_str(), &file_system) != 0) {
    facts.error = errno;
    return facts;
  }
  facts.is_directory = S_ISDIR(directory.st_mode);
  facts.device = directory.st_dev;
  struct stat root{};
  facts.on_root = ::stat("/", &root) == 0 && root.st_dev == directory.st_dev;
  facts.free_bytes = static_cast<std::uint64_t>(file_system.f_bavail) *
                     static_cast<std::uint64_t>(file_system.f_bsize);
  name_file_system(static_cast<std::uint32_t>(file_system.f_type), facts);
  if (!facts.is_directory) return facts;
  facts.own_bytes = bytes_in(wanted.path);
  const ipc::Fd file = make_nameless(wanted.path);
  if (!file) {
    facts.write_error = errno;
    return facts;
  }
  const Buffer buffer = random_buffer();
  facts.direct_error = try_direct(file.get(), buffer.get());
  if (!with_speed || !is_worth_a_speed_test(facts)) return facts;
  SpeedFacts speed;
  facts.speed_error = test_speed(file.get(), buffer.get(), facts.direct_error == 0, speed);
  if (facts.speed_error == 0) facts.speed = speed;
  return facts;
}

}  // namespace sluice::tools::doctor
