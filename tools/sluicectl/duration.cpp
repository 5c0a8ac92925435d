#include "tools/sluicectl/duration.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>

namespace sluice::tools {
namespace {

struct Unit {
  std::string_view name;
  double milliseconds;
};

constexpr std::array kUnits = {Unit{"ms", 1}, Unit{"s", 1e3}, Unit{"m", 60e3}, Unit{"min", 60e3},
                               Unit{"h", 3600e3}};
constexpr double kMostMilliseconds = 24 * 3600e3;

}  // namespace

ipc::Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc{} && std::isfinite(number) && number >= 0) {
    const std::string_view rest(end, static_cast<std::size_t>(text.data() + text.size() - end));
    for (const Unit& unit : kUnits) {
      if (unit.name != rest) continue;
      const double milliseconds = number * unit.milliseconds;
      if (milliseconds > kMostMilliseconds) {
        return ipc::fail(ipc::Errc::invalid_argument,
                         "'" + std::string(text) + "' is more than a day");
      }
      return std::chrono::milliseconds(std::llround(milliseconds));
    }
  }
  return ipc::fail(ipc::Errc::invalid_argument,
                   "'" + std::string(text) +
                       "' is not a duration: expected a number with ms, s, min or h, such as 30s");
}

std::string duration_text(std::chrono::milliseconds duration) {
  const auto count = duration.count();
  if (count % 1000 == 0) return std::to_string(count / 1000) + "s";
  return std::to_string(count) + "ms";
}

std::string uptime_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e15) return "-";
  const auto whole = static_cast<std::uint64_t>(seconds);
  const unsigned long long days = whole / 86400;
  const unsigned hours = static_cast<unsigned>(whole / 3600 % 24);
  const unsigned minutes = static_cast<unsigned>(whole / 60 % 60);
  char text[64];
  if (days > 0) {
    std::snprintf(text, sizeof text, "%llud %02u:%02u", days, hours, minutes);
  } else {
    std::snprintf(text, sizeof text, "%02u:%02u:%02u", hours, minutes,
                  static_cast<unsigned>(whole % 60));
  }
  return text;
}

}  // namespace sluice::tools
