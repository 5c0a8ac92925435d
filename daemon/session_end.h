// Why the daemon ends a session, and whether that counts as the client's misconduct.
//
// Thread-safety: plain data.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include "ipc/error.h"

namespace sluice::daemon {

// Misconduct by kind: a closed set, with the names that metrics and documents use.
enum class Violation : std::uint8_t {
  cursor,         // a ring cursor that cannot be
  descriptor,     // an unknown operation, or a range outside of request memory
  message,        // a control frame that does not verify, or comes with descriptors
  flood,          // completions or descriptors that nobody takes
  step_deadline,  // an actor stayed in one step too long
};
inline constexpr std::size_t kViolations = 5;

constexpr std::string_view to_string(Violation kind) {
  constexpr std::array<std::string_view, kViolations> names = {"cursor", "descriptor", "message",
                                                               "flood", "step_deadline"};
  return names[static_cast<std::size_t>(kind)];
}

using ViolationCounts = std::array<std::uint64_t, kViolations>;  // by Violation

struct SessionEnd {
  ipc::Error error;                    // what the client is told
  std::optional<Violation> violation;  // none: an operator's wish, or the node had no memory
};

// The end by an error of a ring or a socket: misconduct only if the peer broke the protocol.
inline SessionEnd end_by(ipc::Error error, Violation kind) {
  const bool broke = error.code == ipc::Errc::peer_violation;
  return {std::move(error), broke ? std::optional(kind) : std::nullopt};
}

}  // namespace sluice::daemon
