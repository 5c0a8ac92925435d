// What the daemon says about sessions and memory, over its admin interface.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "ipc/error.h"

namespace sluice::tools {

// One admin request; the reply as JSON.
ipc::Result<nlohmann::json> ask_daemon(const std::string& admin_socket, const std::string& verb);

}  // namespace sluice::tools
