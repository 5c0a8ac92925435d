// Mappings of shared memory, as owners.
//
// Mapping: one descriptor, mapped where the kernel likes. ReservedRange: a range of addresses
// without memory, into which extents are mapped at chosen offsets, so that `base + index * stride`
// holds over many extents. All sizes and offsets are in bytes and multiples of 4 KiB unless said
// otherwise.
//
// Thread-safety: as a vector; calls on distinct objects are independent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ipc/error.h"
#include "ipc/memfd.h"

namespace sluice::ipc {

enum class Access : std::uint8_t { read, read_write };

inline constexpr std::uint64_t kMapGranularity = 4096;

class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  // Maps `bytes` (any count above 0) of `fd` from `offset`. `what` names the memory in the error.
  // Memory of kHugePageBytes and more is aligned so that huge pages of its file are mapped as such.
  // The descriptor may be closed afterwards. Errors: invalid_argument, no_memory,
  // permission_denied, io_error.
  static Result<Mapping> map(int fd, std::uint64_t offset, std::uint64_t bytes, Access access,
                             const char* what);

  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }
  std::span<std::byte> bytes() const { return {data_, bytes_}; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  Mapping(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class ReservedRange {
 public:
  ReservedRange() = default;
  ReservedRange(ReservedRange&& other) noexcept;
  ReservedRange& operator=(ReservedRange&& other) noexcept;
  ~ReservedRange();

  // Reserves addresses only: no memory, no commit charge; touching them is SIGSEGV. The base is
  // aligned to kHugePageBytes. Errors: invalid_argument, no_memory (address space).
  static Result<ReservedRange> reserve(std::uint64_t bytes, const char* what);

  // Maps `bytes` of `fd` from `fd_offset` at `offset` of the range, over whatever is there. The
  // caller checked the descriptor's size (check_memfd). Errors: invalid_argument (outside of the
  // range or not aligned; nothing changed), no_memory, io_error.
  Status map_at(std::uint64_t offset, int fd, std::uint64_t fd_offset, std::uint64_t bytes,
                Access access, const char* what);

  // Gives [offset, offset + bytes) back to the reservation. Errors: invalid_argument, no_memory.
  Status unmap_at(std::uint64_t offset, std::uint64_t bytes, const char* what);

  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  ReservedRange(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}
  Status check(std::uint64_t offset, std::uint64_t bytes, const char* what) const;

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace sluice::ipc
