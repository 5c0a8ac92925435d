// What a run amounts to, for people and for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tools/replay/run.h"

namespace sluice::tools {

struct ReportInput {
  const Trace& trace;
  const Plan& plan;
  const Options& options;
  const RunResult& result;
};

// 0 all verified; 1 a mismatch or a failure; 130 interrupted.
int exit_code_of(const RunResult& result);

nlohmann::ordered_json json_report(const ReportInput& input);
std::string text_report(const ReportInput& input);

}  // namespace sluice::tools
