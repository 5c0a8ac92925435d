#include "ipc/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace sluice::ipc {
namespace {

// Populating goes piece by piece: a signal makes the kernel give back the whole of one call.
constexpr std::uint64_t kPopulatePiece = std::uint64_t{16} << 20;
constexpr std::uint64_t kMostBytes = std::numeric_limits<off_t>::max();

std::string described(const char* name, std::uint64_t bytes) {
  return "memory '" + std::string(name) + "' of " + std::to_string(bytes) + " bytes";
}

// Kernels before 6.3 do not know MFD_NOEXEC_SEAL; hardened ones refuse memfds without it.
int create_sealable(const char* name) {
  const int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (fd >= 0 || errno != EINVAL) return fd;
  return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

}  // namespace

Status populate_memfd(int fd, const char* name, std::uint64_t offset, std::uint64_t bytes) {
  if (const std::uint64_t left = available_memory_bytes(); left < bytes) {
    return fail(Errc::no_memory, described(name, bytes) + ": only " + std::to_string(left) +
                                     " bytes are left on the node or in the memory cgroup; lower "
                                     "the size of the tier, or free memory");
  }
  for (std::uint64_t done = 0; done < bytes;) {
    const std::uint64_t piece = std::min(kPopulatePiece, bytes - done);
    if (fallocate(fd, 0, static_cast<off_t>(offset + done), static_cast<off_t>(piece)) == 0) {
      done += piece;
    } else if (errno != EINTR) {
      return fail_errno("taking " + described(name, bytes));
    }
  }
  return {};
}

Status vacate_memfd(int fd, const char* name, std::uint64_t offset, std::uint64_t bytes) {
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(bytes)) != 0) {
    return fail_errno("giving back " + described(name, bytes));
  }
  return {};
}

Result<Fd> create_memfd(const char* name, std::uint64_t bytes, Populate populate) {
  if (bytes == 0)
    return fail(Errc::invalid_argument, described(name, bytes) + ": nothing to create");
  if (bytes > kMostBytes) return fail(Errc::no_memory, described(name, bytes) + " is absurd");
  Fd fd(create_sealable(name));
  if (!fd) return fail_errno("memfd_create of " + described(name, bytes));
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return fail_errno("ftruncate of " + described(name, bytes));
  }
  if (populate == Populate::yes) {
    if (auto ok = populate_memfd(fd.get(), name, 0, bytes); !ok) return std::unexpected(ok.error());
  }
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno("sealing " + described(name, bytes));
  }
  return fd;
}

Status check_memfd(int fd, std::uint64_t bytes, const char* what) {
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || (seals & F_SEAL_GROW) == 0) {
    return fail(Errc::peer_violation,
                std::string(what) + " is not memory that is sealed against resizing");
  }
  struct stat status{};
  if (fstat(fd, &status) != 0) return fail_errno("fstat of " + std::string(what));
  if (static_cast<std::uint64_t>(status.st_size) != bytes) {
    return fail(Errc::peer_violation, std::string(what) + " has " + std::to_string(status.st_size) +
                                          " bytes; " + std::to_string(bytes) + " were promised");
  }
  return {};
}

}  // namespace sluice::ipc
