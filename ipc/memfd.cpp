#include "ipc/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

#include "ipc/mapping.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace sluice::ipc {
namespace {

// Populating goes piece by piece: a signal makes the kernel give back the whole of one call.
constexpr std::uint64_t kPopulatePiece = std::uint64_t{16} << 20;
static_assert(kPopulatePiece % kHugePageBytes == 0);

#ifndef MADV_COLLAPSE
constexpr int kMadviseCollapse = 25;
#else
constexpr int kMadviseCollapse = MADV_COLLAPSE;
#endif
constexpr std::uint64_t kMostBytes = std::numeric_limits<off_t>::max();

std::string memory_named(const char* name, std::uint64_t bytes) {
  return "memory '" + std::string(name) + "' of " + std::to_string(bytes) + " bytes";
}

// Kernels before 6.3 do not know MFD_NOEXEC_SEAL; hardened ones refuse memfds without it.
int create_sealable(const char* name) {
  const int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (fd >= 0 || errno != EINVAL) return fd;
  return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

Status take(int fd, std::uint64_t at, std::uint64_t bytes) {
  while (fallocate(fd, 0, static_cast<off_t>(at), static_cast<off_t>(bytes)) != 0) {
    if (errno != EINTR) return fail_errno("fallocate");
  }
  return {};
}

// Takes [at, at + bytes) of the file in huge pages, as a whole; false if the kernel has none, with
// errno. `window` is kPopulatePiece of addresses, aligned to kHugePageBytes.
bool take_huge(int fd, std::uint64_t at, std::uint64_t bytes, std::byte* window) {
  for (std::uint64_t done = 0; done < bytes; done += kHugePageBytes) {
    if (!take(fd, at + done, 1)) return false;
  }
  void* mapped = mmap(window, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                      static_cast<off_t>(at));
  return mapped != MAP_FAILED && madvise(mapped, bytes, kMadviseCollapse) == 0;
}

}  // namespace

Result<Fd> create_memfd(const char* name, std::uint64_t bytes, Populate populate,
                        HugePages huge_pages) {
  if (bytes == 0)
    return fail(Errc::invalid_argument, memory_named(name, bytes) + ": nothing to create");
  if (bytes > kMostBytes) return fail(Errc::no_memory, memory_named(name, bytes) + " is absurd");
  Fd fd(create_sealable(name));
  if (!fd) return fail_errno("memfd_create of " + memory_named(name, bytes));
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return fail_errno("ftruncate of " + memory_named(name, bytes));
  }
  if (populate == Populate::yes) {
    if (auto ok = populate_memfd(fd.get(), name, 0, bytes, huge_pages); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
  }
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno("sealing " + memory_named(name, bytes));
  }
  return fd;
}

Status populate_memfd(int fd, const char* name, std::uint64_t offset, std::uint64_t bytes,
                      HugePages huge_pages) {
  if (const std::uint64_t left = available_memory_bytes(); left < bytes) {
    return fail(Errc::no_memory, memory_named(name, bytes) + ": only " + std::to_string(left) +
                                     " bytes are left on the node or in the memory cgroup; lower "
                                     "the size of the tier, or free memory");
  }
  ReservedRange window;  // empty: no huge pages, or no more of them
  if (huge_pages != HugePages::never && bytes >= kHugePageBytes) {
    auto reserved = ReservedRange::reserve(kPopulatePiece, "addresses for populating memory");
    if (!reserved) return std::unexpected(std::move(reserved.error()));
    window = std::move(*reserved);
  }
  for (std::uint64_t done = 0; done < bytes;) {
    const std::uint64_t piece = std::min(kPopulatePiece, bytes - done);
    const std::uint64_t huge =
        window.data() == nullptr ? 0 : piece / kHugePageBytes * kHugePageBytes;
    if (huge != 0) {
      if (take_huge(fd, offset + done, huge, window.data())) {
        done += huge;
        continue;
      }
      const int number = errno;
      if (huge_pages == HugePages::require) {
        return fail(Errc::no_memory, memory_named(name, bytes) +
                                         ": the kernel gave no huge pages (" +
                                         std::generic_category().message(number) +
                                         "); free memory, or do not require them "
                                         "(tiers.*.huge_pages)");
      }
      window = {};
    }
    if (auto ok = take(fd, offset + done, piece); !ok) {
      return fail(ok.error().code, "taking " + memory_named(name, bytes) + ": " + ok.error().text);
    }
    done += piece;
  }
  return {};
}

Status vacate_memfd(int fd, const char* name, std::uint64_t offset, std::uint64_t bytes) {
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(bytes)) != 0) {
    return fail_errno("giving back " + memory_named(name, bytes));
  }
  return {};
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
