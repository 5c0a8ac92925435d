// Documents of the daemon as text for people. The text promises nothing; a missing field shows as
// "-".
//
// Pure functions. `View` says for what kind of output.
#pragma once

#include <cstddef>
#include <string>

#include "tools/sluicectl/surroundings.h"

namespace sluice::tools {

struct View {
  bool colour = false;
  std::size_t width = 80;  // only maps are wrapped; tables are as wide as their cells
};

std::string status_view(const Json& status, const View& view);
std::string devices_view(const Json& document, const View& view);
std::string tenants_view(const Json& document, const View& view);
std::string sessions_view(const Json& document, const View& view);
std::string caches_view(const Json& document, const View& view);
std::string sequences_view(const Json& document, const View& view);
std::string config_view(const Json& document, const View& view);
std::string reload_view(const Json& document, const View& view);

// Per tenant and per cache: what is in HBM, in DRAM, in both and pinned, and what sharing saves.
std::string residency_view(const Json& document, const View& view);
std::string map_view(const Json& document, const View& view);
// `more`: the command that lists what follows, without its cursor.
std::string blocks_view(const Json& document, const View& view, const std::string& more);

}  // namespace sluice::tools
