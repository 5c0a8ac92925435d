// Exit codes of sluicectl: what a script may rely on. They are never given another meaning.
#pragma once

#include "ipc/error.h"

namespace sluice::tools {

inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotReachable = 3;
inline constexpr int kExitRefused = 4;  // permission, in use, quota, not confirmed
inline constexpr int kExitNoSuchObject = 5;
inline constexpr int kExitUnhealthy = 6;  // only ping, status --check, doctor and store check
inline constexpr int kExitTimedOut = 7;   // timed out, or only partly done
inline constexpr int kExitInterrupted = 130;

// Where an error of the daemon or of libsluice ends the program.
int exit_code_of(ipc::Errc code);

}  // namespace sluice::tools
