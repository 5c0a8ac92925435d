#include "daemon/config_findings.h"

#include <cstddef>
#include <utility>

namespace sluice::daemon {

void Findings::add_at(std::string key, std::string text) {
  for (;;) {
    const auto place = places_.find(key);
    if (place != places_.end()) return add(place->second, std::move(text));
    const std::size_t dot = key.rfind('.');
    if (dot == std::string::npos) return add({}, std::move(text));
    key.resize(dot);
  }
}

std::vector<ConfigError> Findings::take() {
  std::vector<ConfigError> errors;
  for (auto& [position, text] : std::exchange(errors_, {})) {
    errors.push_back({position.line, position.column, std::move(text)});
  }
  return errors;
}

}  // namespace sluice::daemon
