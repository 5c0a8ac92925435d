// How figures are shown: a JSON object per line, or a table.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tools/bench/benchmark.h"

namespace sluice::tools {

// Whether the medians are within the target; true when there is none.
bool meets(const Target& target, const Figures& figures);

// {bench, value, unit, ceiling, ratio, repetitions, min, median, max, ceiling_min, ceiling_max}:
// value and ceiling are medians, ratio is value over ceiling. Where they apply: also {name:
// median}, target {value_at_most, value_at_least, ratio_at_most, ratio_at_least} with met, and
// note.
nlohmann::ordered_json json_line(const Benchmark& benchmark, const Figures& figures);

// A heading for rows, and a row.
std::string table_heading();
std::string table_row(const Benchmark& benchmark, const Figures& figures);

// "at most 25, ratio at most 2"; empty without a target.
std::string words_for(const Target& target);

}  // namespace sluice::tools
