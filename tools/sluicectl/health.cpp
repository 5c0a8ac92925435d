#include "tools/sluicectl/health.h"

#include "tools/common/size.h"
#include "tools/sluicectl/document.h"

namespace sluice::tools {
namespace {

// Fewer pages say little about a forecaster.
constexpr std::uint64_t kJudgedForecastPages = 10'000;
constexpr double kWastefulShare = 0.5;

void look_at_tier(const Json& tenant, const char* tier, const char* name,
                  std::vector<Finding>& findings) {
  const std::string who = text_at(tenant, {"tenant"});
  const std::uint64_t over = number_at(tenant, {tier, "over_limit_bytes"}).value_or(0);
  if (over > 0) {
    findings.push_back(
        {"TENANT_OVER_LIMIT",
         who + " holds " + human_bytes(static_cast<double>(over)) + " of " + name +
             " above its limit, in blocks or caches that are in use",
         "wait for its sequences to end, or end sessions with `sluicectl sessions kill`"});
  }
  if (flag_at(tenant, {tier, "wanting"})) {
    findings.push_back(
        {"TENANT_WANTING",
         who + " was refused " + name + " recently (" + bytes_text(tenant, {tier, "used_bytes"}) +
             " used, limit " + bytes_text(tenant, {tier, "limit_bytes"}) + ")",
         "raise its limit or guarantee and run `sluicectl config reload`, or run fewer "
         "sequences"});
  }
}

void look_at_forecasts(const Json& tenant, std::vector<Finding>& findings) {
  const std::uint64_t issued = number_at(tenant, {"forecasts", "issued_pages"}).value_or(0);
  const std::uint64_t wasted = number_at(tenant, {"forecasts", "wasted_pages"}).value_or(0);
  if (issued < kJudgedForecastPages) return;
  if (static_cast<double>(wasted) < kWastefulShare * static_cast<double>(issued)) return;
  findings.push_back({"FORECAST_WASTE",
                      text_at(tenant, {"tenant"}) + ": " +
                          percent_text(static_cast<double>(wasted), static_cast<double>(issued)) +
                          " of the forecast pages were never used",
                      "forecast with a shorter horizon or a higher confidence"});
}

}  // namespace

std::vector<Finding> findings_in(const Json& status) {
  std::vector<Finding> findings;
  if (flag_at(status, {"daemon", "draining"})) {
    findings.push_back({"DRAINING", "the daemon takes no new sessions",
                        "when the maintenance is over: `sluicectl drain --off`"});
  }
  for (const Json& tenant : rows_at(status, {"tenants"})) {
    look_at_tier(tenant, "hbm", "HBM", findings);
    look_at_tier(tenant, "dram", "DRAM", findings);
    look_at_forecasts(tenant, findings);
  }
  return findings;
}

}  // namespace sluice::tools
