// Errors as every part of Sluice reports them: a typed code and a sentence for people.
//
// The sentence says what was wrong, what was expected and, where the reader can do something, what
// to do. Codes cross process boundaries and the C ABI as numbers: values are never reused or
// renumbered.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace sluice::ipc {

enum class Errc : std::uint16_t {
  ok = 0,
  invalid_argument = 1,  // a value that can never be right
  invalid_layout = 2,  // a layout that is absurd, or differs from the one the cache was opened with
  unknown_tenant = 3,  // no tenant of the configuration matches the peer's identity
  permission_denied = 4,  // known, but not allowed to do this
  quota_exceeded = 5,     // the tenant's limit in a tier
  no_memory = 6,          // the node has no memory for an extent
  no_slot = 7,            // the hot buffer has no slot that could be used now
  not_found = 8,          // no such object
  stale_handle = 9,       // a handle of an object that is gone, or of another session
  wrong_state = 10,       // the object exists but the call does not fit its state
  size_mismatch = 11,     // a key that is known with another size
  list_too_long = 12,     // more items than one call, or request memory, can hold
  busy = 13,              // not now: try again after a step ended
  timed_out = 14,
  daemon_away = 15,       // the daemon cannot be reached, or is gone
  version_mismatch = 16,  // no common protocol version
  not_supported = 17,     // known to the interface, not built or not enabled
  forked = 18,            // a client used in a process that did not open it
  peer_violation = 19,    // the peer broke the protocol; its session ends
  address_in_use = 20,    // another daemon serves this socket
  io_error = 21,          // the operating system refused; the text has its words
  bad_config = 22,
  shutting_down = 23,
  limit_reached = 24,  // a named limit of the daemon (sessions, caches, sequences, actors)
  internal = 25,       // a bug of ours
  context_lost = 26,   // this process's CUDA context is lost: only a new process has another one
  device_lost = 27,    // the GPU gives nobody a context
  data_lost = 28,      // the only copy of these bytes is unreadable, or fails its checksum
};

inline constexpr Errc kLastErrc = Errc::data_lost;

// The name as it stands in the enum: stable, for logs, metrics and JSON.
constexpr std::string_view to_string(Errc code) {
  constexpr std::string_view names[] = {"ok",
                                        "invalid_argument",
                                        "invalid_layout",
                                        "unknown_tenant",
                                        "permission_denied",
                                        "quota_exceeded",
                                        "no_memory",
                                        "no_slot",
                                        "not_found",
                                        "stale_handle",
                                        "wrong_state",
                                        "size_mismatch",
                                        "list_too_long",
                                        "busy",
                                        "timed_out",
                                        "daemon_away",
                                        "version_mismatch",
                                        "not_supported",
                                        "forked",
                                        "peer_violation",
                                        "address_in_use",
                                        "io_error",
                                        "bad_config",
                                        "shutting_down",
                                        "limit_reached",
                                        "internal",
                                        "context_lost",
                                        "device_lost",
                                        "data_lost"};
  const auto index = static_cast<std::size_t>(code);
  return index < std::size(names) ? names[index] : std::string_view("unknown");
}

struct Error {
  Errc code = Errc::internal;
  std::string text;
};

template <class T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

inline std::unexpected<Error> fail(Errc code, std::string text) {
  return std::unexpected<Error>(Error{code, std::move(text)});
}

// `what`: the call that failed, such as "mmap of the session memory". Takes errno as it stands.
std::unexpected<Error> fail_errno(std::string_view what);

[[noreturn]] inline void assertion_failed(const char* text, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, text);
  std::abort();
}

}  // namespace sluice::ipc

// For our own bugs only: never on bytes that came from a client or a disk.
#define SLUICE_ASSERT(condition) \
  ((condition) ? void(0) : ::sluice::ipc::assertion_failed(#condition, __FILE__, __LINE__))
