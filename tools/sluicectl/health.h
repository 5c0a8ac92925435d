// What a status document says that an operator should act on: a stable code, the cause, the remedy.
//
// Pure functions.
#pragma once

#include <string>
#include <vector>

#include "tools/sluicectl/surroundings.h"

namespace sluice::tools {

struct Finding {
  std::string code;    // "TENANT_WANTING": stable, for alerts
  std::string text;    // what is so, and since it is known, why
  std::string remedy;  // what to do
};

// Codes: DRAINING, TENANT_WANTING, TENANT_OVER_LIMIT, FORECAST_WASTE.
std::vector<Finding> findings_in(const Json& status);

}  // namespace sluice::tools
