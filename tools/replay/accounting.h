// What the daemon says about sessions and memory, over its admin interface.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "ipc/error.h"
#include "tools/replay/run.h"

namespace sluice::tools {

// One admin request; the reply as JSON. `arguments`: a JSON object, or empty.
ipc::Result<nlohmann::json> ask_daemon(const std::string& admin_socket, const std::string& verb,
                                       const std::string& arguments = {});

// What the block store of the daemon did since it started.
ipc::Result<StoreReport> ask_for_store(const std::string& admin_socket);

}  // namespace sluice::tools
