#include "tests/storage/small_disk.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <cerrno>
#include <mutex>
#include <optional>
#include <set>

namespace {

struct Disk {
  std::mutex mutex;
  std::optional<int> files;
  std::set<ino_t> have;
};

Disk& disk() {
  static Disk one;
  return one;
}

}  // namespace

// Stands in for the C library's.
// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
extern "C" int fallocate(int fd, int mode, off_t offset, off_t length) {
  using Fallocate = int(int, int, off_t, off_t);
  static auto* const real = reinterpret_cast<Fallocate*>(dlsym(RTLD_NEXT, "fallocate"));
  const std::lock_guard lock(disk().mutex);
  struct stat file{};
  if (disk().files && fstat(fd, &file) == 0) {
    auto& have = disk().have;
    if (mode != 0) {
      have.erase(file.st_ino);
    } else if (!have.contains(file.st_ino)) {
      if (static_cast<int>(have.size()) >= *disk().files) {
        errno = ENOSPC;
        return -1;
      }
      have.insert(file.st_ino);
    }
  }
  return real(fd, mode, offset, length);
}

namespace sluice::storage {

SmallDisk::SmallDisk(int files) {
  const std::lock_guard lock(disk().mutex);
  disk().files = files;
}

SmallDisk::~SmallDisk() {
  const std::lock_guard lock(disk().mutex);
  disk().files.reset();
  disk().have.clear();
}

}  // namespace sluice::storage
