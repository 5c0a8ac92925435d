#include "ipc/validated.h"

#include <limits>

namespace sluice::ipc {

Result<std::span<std::byte>> RequestCopier::checked(const char* name,
                                                    Untrusted<std::uint32_t> offset,
                                                    Untrusted<std::uint32_t> length) const {
  const auto most = static_cast<std::uint32_t>(memory_.size());
  const auto start = offset.in_range(0, most, std::string(name) + " offset");
  if (!start) return std::unexpected(start.error());
  if (*start % kRequestOffsetAlignment != 0) {
    return fail(Errc::peer_violation, std::string(name) + " offset is " + std::to_string(*start) +
                                          "; expected a multiple of " +
                                          std::to_string(kRequestOffsetAlignment));
  }
  const auto bytes = length.in_range(0, most - *start, std::string(name) + " length");
  if (!bytes) return std::unexpected(bytes.error());
  return memory_.subspan(*start, *bytes);
}

Result<std::span<const std::byte>> RequestCopier::copy(Untrusted<std::uint32_t> offset,
                                                       Untrusted<std::uint32_t> length,
                                                       std::size_t most) {
  const auto shared = checked("request", offset, length);
  if (!shared) return std::unexpected(shared.error());
  if (shared->size() > most) {
    return fail(Errc::list_too_long, "a request of " + std::to_string(shared->size()) +
                                         " bytes; expected at most " + std::to_string(most));
  }
  const std::size_t words = (shared->size() + 7) / 8;
  if (buffer_.size() < words) buffer_.resize(words);
  if (!shared->empty()) std::memcpy(buffer_.data(), shared->data(), shared->size());
  // Keeps the compiler from reading the shared bytes again in place of the copy.
  asm volatile("" : : "r"(buffer_.data()) : "memory");
  return std::span(reinterpret_cast<const std::byte*>(buffer_.data()), shared->size());
}

Result<std::span<std::byte>> RequestCopier::reply_area(Untrusted<std::uint32_t> offset,
                                                       Untrusted<std::uint32_t> length) const {
  return checked("reply", offset, length);
}

Result<std::span<const std::byte>> ByteCursor::take_bytes(std::size_t count, const char* what) {
  if (count > rest_.size()) return too_short(what, count, 1);
  const auto taken = rest_.first(count);
  rest_ = rest_.subspan(count);
  return taken;
}

Status ByteCursor::align_to(std::size_t alignment, const char* what) {
  const std::size_t past = reinterpret_cast<std::uintptr_t>(rest_.data()) & (alignment - 1);
  if (past == 0) return {};
  auto skipped = take_bytes(alignment - past, what);
  if (!skipped) return std::unexpected(std::move(skipped.error()));
  return {};
}

std::unexpected<Error> ByteCursor::too_short(const char* what, std::uint64_t count,
                                             std::size_t item_bytes) const {
  return fail(Errc::peer_violation, std::string(what) + " needs " + std::to_string(count) + " x " +
                                        std::to_string(item_bytes) + " bytes; the request has " +
                                        std::to_string(rest_.size()) + " left");
}

std::unexpected<Error> ByteCursor::misaligned(const char* what) {
  return fail(Errc::peer_violation, std::string(what) + " is not aligned");
}

}  // namespace sluice::ipc
