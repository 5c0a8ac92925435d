#include "tools/sluicectl/health.h"

#include <algorithm>

#include "tools/sluicectl/document.h"

namespace sluice::tools {

std::optional<std::vector<Finding>> findings_in(const Json& status) {
  if (value_at(status, {"health"}) == nullptr) return std::nullopt;
  std::vector<Finding> findings;
  for (const Json& row : rows_at(status, {"health"})) {
    findings.push_back({text_at(row, {"code"}), text_at(row, {"level"}), text_at(row, {"what"}),
                        text_at(row, {"todo"})});
  }
  return findings;
}

std::string verdict_of(const std::vector<Finding>& findings) {
  const auto any = [&](const char* level) {
    return std::ranges::any_of(findings, [&](const Finding& f) { return f.level == level; });
  };
  if (any("error")) return "ERROR";
  // A level that this program does not know is one that somebody should look at.
  const bool well =
      std::ranges::all_of(findings, [](const Finding& f) { return f.level == "info"; });
  return well ? "OK" : "WARN";
}

}  // namespace sluice::tools
