#include "tools/common/size.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;

struct Unit {
  std::string_view name;
  double bytes;
};

constexpr double kKi = 1024.0;
constexpr std::array kUnits = {
    Unit{"", 1},
    Unit{"B", 1},
    Unit{"K", kKi},
    Unit{"KiB", kKi},
    Unit{"M", kKi* kKi},
    Unit{"MiB", kKi* kKi},
    Unit{"G", kKi* kKi* kKi},
    Unit{"GiB", kKi* kKi* kKi},
    Unit{"T", kKi* kKi* kKi* kKi},
    Unit{"TiB", kKi* kKi* kKi* kKi},
    Unit{"kB", 1e3},
    Unit{"MB", 1e6},
    Unit{"GB", 1e9},
    Unit{"TB", 1e12},
};

struct NumberAndRest {
  double number;
  std::string_view rest;
};

ipc::Result<NumberAndRest> leading_number(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || !std::isfinite(number) || number < 0) {
    return fail(Errc::invalid_argument,
                "'" + std::string(text) + "' is not a size: expected a number such as 512MiB");
  }
  std::string_view rest(end, static_cast<std::size_t>(text.data() + text.size() - end));
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  return NumberAndRest{number, rest};
}

}  // namespace

ipc::Result<std::uint64_t> parse_bytes(std::string_view text) {
  const auto parsed = leading_number(text);
  if (!parsed) return std::unexpected(parsed.error());
  for (const Unit& unit : kUnits) {
    if (unit.name != parsed->rest) continue;
    const double bytes = parsed->number * unit.bytes;
    if (bytes >= 0x1p63) {
      return fail(Errc::invalid_argument, "'" + std::string(text) + "' is more than 8 EiB");
    }
    return static_cast<std::uint64_t>(bytes);
  }
  return fail(Errc::invalid_argument, "'" + std::string(text) + "' has the unknown unit '" +
                                          std::string(parsed->rest) +
                                          "': expected B, KiB, MiB, GiB or TiB");
}

ipc::Result<RelativeSize> parse_relative_size(std::string_view text) {
  const auto parsed = leading_number(text);
  if (!parsed) return std::unexpected(parsed.error());
  if (parsed->rest == "x" || parsed->rest == "%") {
    if (parsed->number <= 0) {
      return fail(Errc::invalid_argument, "'" + std::string(text) + "' must be more than zero");
    }
    const bool times = parsed->rest == "x";
    const double factor = times ? parsed->number : parsed->number / 100;
    if (factor > kMaxFactor) {
      return fail(Errc::invalid_argument,
                  "'" + std::string(text) + "' is more than " + human_count(kMaxFactor) + " times");
    }
    return RelativeSize{times ? RelativeSize::Kind::times : RelativeSize::Kind::percent, 0, factor};
  }
  const auto bytes = parse_bytes(text);
  if (!bytes) return std::unexpected(bytes.error());
  return RelativeSize{RelativeSize::Kind::bytes, *bytes, 0};
}

std::string human_bytes(double bytes) {
  constexpr std::array kNames = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < kNames.size()) {
    bytes /= 1024;
    ++unit;
  }
  char text[48];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kNames[unit]);
  return text;
}

std::string human_count(std::uint64_t count) {
  std::string digits = std::to_string(count);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

}  // namespace sluice::tools
