// How every function of the C ABI begins and ends: what a caller passed is checked, and a result
// becomes a status.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <expected>
#include <iterator>
#include <new>
#include <string>

#include "client/sluice.h"
#include "ipc/deadline.h"
#include "ipc/error.h"

namespace sluice::client::internal {

// So that a deadline fits into the clock.
inline constexpr std::uint64_t kMostTimeoutUs = std::uint64_t{1} << 50;

inline ipc::Deadline deadline_after(std::uint64_t timeout_us) {
  return ipc::deadline_in(std::chrono::microseconds(std::min(timeout_us, kMostTimeoutUs)));
}

// The status of an error, which is also written to `out` unless that is NULL.
sluice_status report(const ipc::Error& error, sluice_error* out);
sluice_status done(sluice_error* out);

// Runs `body`, which returns an ipc::Status; memory that is gone becomes an error like any other.
template <class Body>
sluice_status guarded(sluice_error* error, Body&& body) {
  try {
    const ipc::Status status = body();
    return status ? done(error) : report(status.error(), error);
  } catch (const std::bad_alloc&) {
    return report({ipc::Errc::no_memory, "this process is out of memory"}, error);
  } catch (const std::exception& unexpected) {
    return report({ipc::Errc::internal, unexpected.what()}, error);
  }
}

std::unexpected<ipc::Error> null_argument(const char* name);

// A struct of the caller: its size must be one that this library knows.
template <class Struct>
ipc::Status check_struct(const Struct* value, const char* name) {
  if (value == nullptr) return null_argument(name);
  if (value->struct_size != sizeof(Struct)) {
    return ipc::fail(ipc::Errc::invalid_argument,
                     std::string(name) + ".struct_size is " + std::to_string(value->struct_size) +
                         "; this library expects " + std::to_string(sizeof(Struct)) +
                         " (set it to sizeof, and build against the header of this version)");
  }
  return {};
}

template <std::size_t kCount>
ipc::Status check_zero(const std::uint64_t (&reserved)[kCount], std::uint32_t flags,
                       const char* name) {
  if (flags != 0) {
    return ipc::fail(ipc::Errc::invalid_argument, std::string(name) + ".flags has unknown bits");
  }
  if (std::any_of(std::begin(reserved), std::end(reserved), [](auto word) { return word != 0; })) {
    return ipc::fail(ipc::Errc::invalid_argument, std::string(name) + ".reserved must be zero");
  }
  return {};
}

// Errors: invalid_argument if it has more than `most` bytes. NULL is a text.
ipc::Status check_text(const char* text, std::size_t most, const char* name);
std::string text_or_empty(const char* text);

}  // namespace sluice::client::internal
