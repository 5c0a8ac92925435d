#include "tools/bench/gpu_report.h"

#include <cmath>
#include <cstdio>

namespace sluice::tools {
namespace {

std::string text_of(const GpuRow& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_number_float()) return value.dump();
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", value.get<double>());
  return text;
}

void add_target(GpuRow& row, const std::string& what, double value, double limit, bool most) {
  // A figure that is no number misses.
  const bool met = most ? value <= limit : value >= limit;
  row["targets"][what] = {{"value", value}, {most ? "at_most" : "at_least", limit}, {"met", met}};
}

}  // namespace

GpuRow gpu_row(const std::string& name) {
  GpuRow row;
  row["bench"] = "gpu";
  row["name"] = name;
  return row;
}

void add_most(GpuRow& row, const std::string& what, double value, double limit) {
  add_target(row, what, value, limit, true);
}

void add_least(GpuRow& row, const std::string& what, double value, double limit) {
  add_target(row, what, value, limit, false);
}

bool is_met(const GpuRow& row) {
  if (!row.contains("targets")) return true;
  for (const auto& [what, target] : row["targets"].items()) {
    if (!target["met"].get<bool>()) return false;
  }
  return true;
}

std::string words_for(const GpuRow& row) {
  std::string text = row["name"].get<std::string>() + ":";
  for (const auto& [key, value] : row.items()) {
    if (key == "bench" || key == "name" || key == "targets") continue;
    text += " " + key + " " + text_of(value) + ",";
  }
  text.pop_back();
  if (!row.contains("targets")) return text;
  for (const auto& [what, target] : row["targets"].items()) {
    const bool most = target.contains("at_most");
    text += "; " + what + " " + text_of(target["value"]) + (most ? " <= " : " >= ") +
            text_of(target[most ? "at_most" : "at_least"]) +
            (target["met"].get<bool>() ? " met" : " MISSED");
  }
  return text;
}

void GpuReport::add(const GpuRow& row) {
  const std::string words = words_for(row);
  std::printf("%s\n", json_ ? row.dump().c_str() : words.c_str());
  std::fflush(stdout);
  if (!is_met(row)) missed_.push_back(words);
}

}  // namespace sluice::tools
