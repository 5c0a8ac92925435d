// Durations as people write them on a command line, and as sluicectl shows them.
//
// Pure functions; errors are Errc::invalid_argument and name the text and what was expected.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "ipc/error.h"

namespace sluice::tools {

// "500ms", "30s", "1.5min" (or "m"), "2h"; at most a day. A number without a unit is refused.
ipc::Result<std::chrono::milliseconds> parse_duration(std::string_view text);

// "30s", "500ms": as parse_duration reads it.
std::string duration_text(std::chrono::milliseconds duration);

// "3d 04:12", "04:12:09": how long something has been up.
std::string uptime_text(double seconds);

}  // namespace sluice::tools
