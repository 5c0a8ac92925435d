// The version of the daemon, as CMake's project() states it.
#pragma once

namespace sluice::daemon {

extern const char* const kVersion;  // "0.1.0"

}  // namespace sluice::daemon
