#include "ipc/mapping.h"

#include <sys/mman.h>

#include <limits>
#include <string>
#include <utility>

namespace sluice::ipc {
namespace {

constexpr std::uint64_t kMostMappedBytes = std::numeric_limits<std::int64_t>::max();

int protection(Access access) {
  return access == Access::read ? PROT_READ : PROT_READ | PROT_WRITE;
}

std::string described(const char* what, std::uint64_t bytes) {
  return std::string(what) + " (" + std::to_string(bytes) + " bytes)";
}

// Addresses without memory, aligned to kHugePageBytes. `bytes` is in whole pages.
Result<std::byte*> reserve_aligned(std::uint64_t bytes, const char* what) {
  const std::uint64_t with_slack = bytes + kHugePageBytes;
  void* found =
      mmap(nullptr, with_slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) return fail_errno("reserving addresses for " + described(what, bytes));
  auto* first = static_cast<std::byte*>(found);
  const std::uint64_t past = reinterpret_cast<std::uintptr_t>(first) % kHugePageBytes;
  const std::uint64_t skipped = past == 0 ? 0 : kHugePageBytes - past;
  if (skipped != 0) munmap(first, skipped);
  munmap(first + skipped + bytes, kHugePageBytes - skipped);
  return first + skipped;
}

}  // namespace

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Result<Mapping> Mapping::map(int fd, std::uint64_t offset, std::uint64_t bytes, Access access,
                             const char* what) {
  if (bytes == 0 || bytes > kMostMappedBytes || offset > kMostMappedBytes ||
      offset % kMapGranularity != 0) {
    return fail(Errc::invalid_argument,
                "cannot map " + described(what, bytes) + " at offset " + std::to_string(offset));
  }
  Mapping mapping;
  int flags = MAP_SHARED;
  if (bytes >= kHugePageBytes) {
    auto place =
        reserve_aligned((bytes + kMapGranularity - 1) / kMapGranularity * kMapGranularity, what);
    if (!place) return std::unexpected(std::move(place.error()));
    mapping = Mapping(*place, bytes);
    flags |= MAP_FIXED;
  }
  void* data =
      mmap(mapping.data_, bytes, protection(access), flags, fd, static_cast<off_t>(offset));
  if (data == MAP_FAILED) return fail_errno("mmap of " + described(what, bytes));
  if (mapping.data_ == nullptr) mapping = Mapping(static_cast<std::byte*>(data), bytes);
  return mapping;
}

ReservedRange::ReservedRange(ReservedRange&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

ReservedRange& ReservedRange::operator=(ReservedRange&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

ReservedRange::~ReservedRange() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Result<ReservedRange> ReservedRange::reserve(std::uint64_t bytes, const char* what) {
  if (bytes == 0 || bytes % kMapGranularity != 0 || bytes > kMostMappedBytes - kHugePageBytes) {
    return fail(Errc::invalid_argument, "cannot reserve addresses for " + described(what, bytes));
  }
  auto place = reserve_aligned(bytes, what);
  if (!place) return std::unexpected(std::move(place.error()));
  return ReservedRange(*place, bytes);
}

Status ReservedRange::check(std::uint64_t offset, std::uint64_t bytes, const char* what) const {
  const bool aligned = offset % kMapGranularity == 0 && bytes % kMapGranularity == 0 && bytes != 0;
  if (aligned && bytes <= bytes_ && offset <= bytes_ - bytes) return {};
  return fail(Errc::invalid_argument, described(what, bytes) + " at offset " +
                                          std::to_string(offset) + " is not inside its range of " +
                                          std::to_string(bytes_) + " bytes, in whole pages");
}

Status ReservedRange::map_at(std::uint64_t offset, int fd, std::uint64_t fd_offset,
                             std::uint64_t bytes, Access access, const char* what) {
  if (auto ok = check(offset, bytes, what); !ok) return ok;
  if (fd_offset > kMostMappedBytes || fd_offset % kMapGranularity != 0) {
    return fail(Errc::invalid_argument, "cannot map " + described(what, bytes) + " from offset " +
                                            std::to_string(fd_offset) + " of its file");
  }
  void* mapped = mmap(data_ + offset, bytes, protection(access), MAP_SHARED | MAP_FIXED, fd,
                      static_cast<off_t>(fd_offset));
  if (mapped == MAP_FAILED) return fail_errno("mmap of " + described(what, bytes));
  return {};
}

Status ReservedRange::unmap_at(std::uint64_t offset, std::uint64_t bytes, const char* what) {
  if (auto ok = check(offset, bytes, what); !ok) return ok;
  void* mapped = mmap(data_ + offset, bytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (mapped == MAP_FAILED) return fail_errno("unmapping " + described(what, bytes));
  return {};
}

}  // namespace sluice::ipc
