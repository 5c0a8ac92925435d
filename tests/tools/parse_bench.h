// The command line of sluice-bench, for tests of its options.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/bench/options.h"

namespace sluice::tools {

// As parse_options() says: an exit status, or nothing if the options are to be used.
inline std::optional<int> parse(std::vector<std::string> arguments, BenchOptions& options) {
  arguments.insert(arguments.begin(), "sluice-bench");
  std::vector<char*> argv;
  argv.reserve(arguments.size());
  for (std::string& one : arguments) argv.push_back(one.data());
  return parse_options(static_cast<int>(argv.size()), argv.data(), options);
}

}  // namespace sluice::tools
