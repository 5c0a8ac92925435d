// Whether the daemon has everything back: from a killed engine at once, and from all of them at the
// end.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "tools/replay/run.h"

namespace sluice::tools {

// How long to look before giving up; the promise is one second.
inline constexpr std::chrono::seconds kAccountingTimeout{5};

// Asks the daemon until session `session`, killed at `killed_at`, and its sequences are gone from
// its accounts.
KillReport account_for_kill(const std::string& admin_socket, std::uint64_t session,
                            std::chrono::steady_clock::time_point killed_at);

// With no engine left nothing may be private, pinned, referenced or on its way out. Asks until it
// is so; nullopt: it became so, else what the daemon still holds for nobody.
std::optional<std::string> find_leftovers(const std::string& admin_socket);

}  // namespace sluice::tools
