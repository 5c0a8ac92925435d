// What a status document says that an operator should act on: a stable code, the cause, the remedy.
// The daemon judges; this only reads.
//
// Pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/sluicectl/surroundings.h"

namespace sluice::tools {

struct Finding {
  std::string code;    // "TENANT_WANTING": stable, for alerts
  std::string level;   // "info", "warn", "error"
  std::string text;    // what is so, and since it is known, why
  std::string remedy;  // what to do
};

// nullopt: the document says nothing about health, as of a daemon of another version.
std::optional<std::vector<Finding>> findings_in(const Json& status);

// "OK", "WARN", "ERROR": the worst that somebody has to act on. Of an info nobody has to.
std::string verdict_of(const std::vector<Finding>& findings);

}  // namespace sluice::tools
