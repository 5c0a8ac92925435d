// The version of the daemon, as CMake's project() states it.
#pragma once

namespace sluice::daemon {

inline constexpr const char* kVersion = SLUICE_VERSION;

}  // namespace sluice::daemon
