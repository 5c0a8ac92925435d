// How the daemon reads request memory: copy once, then validate the copy.
//
// RequestCopier copies [offset, offset + length) into a private buffer after checking that it lies
// inside; ByteCursor takes structs and arrays out of such a copy. Neither allocates once the buffer
// has grown.
//
// Thread-safety: one thread per object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "ipc/error.h"
#include "ipc/untrusted.h"

namespace sluice::ipc {

// Offsets in request memory are multiples of this.
inline constexpr std::uint32_t kRequestOffsetAlignment = 8;

class RequestCopier {
 public:
  // `memory`: SessionMemory::request_memory().
  explicit RequestCopier(std::span<std::byte> memory) : memory_(memory) {}

  // A private copy, aligned to 8, valid until the next copy(). `most`: bytes that the caller is
  // ready to take. Errors: peer_violation (not inside the memory, or not aligned), list_too_long
  // (above `most`).
  Result<std::span<const std::byte>> copy(Untrusted<std::uint32_t> offset,
                                          Untrusted<std::uint32_t> length, std::size_t most);

  // The reply area [offset, offset + length), shared: to be written, never to be read. Errors:
  // peer_violation.
  Result<std::span<std::byte>> reply_area(Untrusted<std::uint32_t> offset,
                                          Untrusted<std::uint32_t> length) const;

 private:
  Result<std::span<std::byte>> checked(const char* name, Untrusted<std::uint32_t> offset,
                                       Untrusted<std::uint32_t> length) const;

  std::span<std::byte> memory_;
  std::vector<std::uint64_t> buffer_;
};

// Walks private bytes from front to back. Each call takes what it returns, or nothing and an error.
class ByteCursor {
 public:
  explicit ByteCursor(std::span<const std::byte> bytes) : rest_(bytes) {}

  // Errors: peer_violation (too few bytes left), which names `what`.
  template <class T>
    requires std::is_trivially_copyable_v<T>
  Result<T> take(const char* what) {
    auto bytes = take_bytes(sizeof(T), what);
    if (!bytes) return std::unexpected(std::move(bytes.error()));
    T value;
    std::memcpy(&value, bytes->data(), sizeof(T));
    return value;
  }

  // `count` values in place. Errors: peer_violation (too few bytes left, or not aligned for T).
  template <class T>
    requires std::is_trivially_copyable_v<T>
  Result<std::span<const T>> take_array(std::uint64_t count, const char* what) {
    if (count > rest_.size() / sizeof(T)) return too_short(what, count, sizeof(T));
    if (reinterpret_cast<std::uintptr_t>(rest_.data()) % alignof(T) != 0) return misaligned(what);
    const auto bytes = take_bytes(static_cast<std::size_t>(count) * sizeof(T), what);
    return std::span<const T>(reinterpret_cast<const T*>(bytes->data()),
                              static_cast<std::size_t>(count));
  }

  // Errors: peer_violation (too few bytes left).
  Result<std::span<const std::byte>> take_bytes(std::size_t count, const char* what);

  // Steps over padding up to a multiple of `alignment` (a power of two) of the address.
  // Errors: peer_violation (too few bytes left).
  Status align_to(std::size_t alignment, const char* what);

  std::span<const std::byte> rest() const { return rest_; }

 private:
  std::unexpected<Error> too_short(const char* what, std::uint64_t count,
                                   std::size_t item_bytes) const;
  static std::unexpected<Error> misaligned(const char* what);

  std::span<const std::byte> rest_;
};

}  // namespace sluice::ipc
