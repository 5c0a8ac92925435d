// What `sluice-bench gpu` prints: one line per figure, and which targets were missed.
//
// Thread-safety: one thread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace sluice::tools {

using GpuRow = nlohmann::ordered_json;

// A line's beginning: {bench: "gpu", name}.
GpuRow gpu_row(const std::string& name);

// Adds `what`: {value, at_most or at_least, met} to the row's targets.
void add_most(GpuRow& row, const std::string& what, double value, double limit);
void add_least(GpuRow& row, const std::string& what, double value, double limit);

bool is_met(const GpuRow& row);

// "resolve  shape row656, us 7.42": the row for people.
std::string words_for(const GpuRow& row);

class GpuReport {
 public:
  explicit GpuReport(bool json) : json_(json) {}
  void add(const GpuRow& row);
  // Rows that missed a target, in words.
  const std::vector<std::string>& missed() const { return missed_; }

 private:
  bool json_;
  std::vector<std::string> missed_;
};

}  // namespace sluice::tools
