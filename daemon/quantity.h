// Sizes and durations as people write them: "64MiB", "1.5GiB", "30s", "5us".
//
// Sizes: B, KiB, MiB, GiB, TiB; a number alone is bytes. Durations: ns, us, ms, s, min, h; only "0"
// may go without a unit. A fraction must come out as a whole number of bytes or nanoseconds, and is
// computed exactly. Decimal units (MB, GB) are refused, because half of their writers mean the
// binary ones. Whatever a format function prints, the parse function of its kind reads back as the
// same value.
//
// Errors: invalid_argument, with the text that was found and what is expected.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "ipc/error.h"

namespace sluice::daemon {

inline constexpr std::uint64_t kKiB = 1u << 10;
inline constexpr std::uint64_t kMiB = 1u << 20;
inline constexpr std::uint64_t kGiB = 1u << 30;

ipc::Result<std::uint64_t> parse_bytes(std::string_view text);
// In the largest unit that shows the value exactly with at most two decimals: "1.5GiB", "1025B".
std::string format_bytes(std::uint64_t bytes);

// Never negative.
ipc::Result<std::chrono::nanoseconds> parse_duration(std::string_view text);
std::string format_duration(std::chrono::nanoseconds duration);

}  // namespace sluice::daemon
