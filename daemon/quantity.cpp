#include "daemon/quantity.h"

#include <array>
#include <limits>
#include <optional>
#include <span>

namespace sluice::daemon {
namespace {

using ipc::Errc;

struct Unit {
  std::string_view name;
  std::uint64_t factor;
};

// Largest first.
constexpr std::array<Unit, 5> kByteUnits = {{{"TiB", std::uint64_t{1} << 40},
                                             {"GiB", std::uint64_t{1} << 30},
                                             {"MiB", std::uint64_t{1} << 20},
                                             {"KiB", std::uint64_t{1} << 10},
                                             {"B", 1}}};
constexpr std::array<Unit, 6> kTimeUnits = {{{"h", 3'600'000'000'000},
                                             {"min", 60'000'000'000},
                                             {"s", 1'000'000'000},
                                             {"ms", 1'000'000},
                                             {"us", 1'000},
                                             {"ns", 1}}};
// 10^6 of the largest unit still fits into 64 bits.
constexpr std::size_t kMaxDecimals = 6;

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view take_digits(std::string_view& text) {
  std::size_t n = 0;
  while (n < text.size() && is_digit(text[n])) ++n;
  const std::string_view digits = text.substr(0, n);
  text.remove_prefix(n);
  return digits;
}

std::optional<std::uint64_t> to_number(std::string_view digits) {
  std::uint64_t number = 0;
  for (const char c : digits) {
    if (__builtin_mul_overflow(number, std::uint64_t{10}, &number) ||
        __builtin_add_overflow(number, static_cast<std::uint64_t>(c - '0'), &number)) {
      return std::nullopt;
    }
  }
  return number;
}

enum class Problem : std::uint8_t { form, unit, too_large, fraction };

// `number_alone`: the unit of a number without one; 0: it must be zero.
std::expected<std::uint64_t, Problem> parse(std::string_view text, std::span<const Unit> units,
                                            std::uint64_t number_alone) {
  const std::string_view whole_digits = take_digits(text);
  std::string_view decimals;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    decimals = take_digits(text);
    if (decimals.empty()) return std::unexpected(Problem::form);
  }
  if (whole_digits.empty()) return std::unexpected(Problem::form);
  const std::optional<std::uint64_t> whole = to_number(whole_digits);
  if (!whole) return std::unexpected(Problem::too_large);

  std::optional<std::uint64_t> factor;
  for (const Unit& unit : units) {
    if (unit.name == text) factor = unit.factor;
  }
  while (decimals.ends_with('0')) decimals.remove_suffix(1);
  if (text.empty() && (number_alone != 0 || (*whole == 0 && decimals.empty()))) {
    factor = number_alone;
  }
  if (!factor) return std::unexpected(Problem::unit);

  if (decimals.size() > kMaxDecimals) return std::unexpected(Problem::fraction);
  std::uint64_t denominator = 1;
  for (std::size_t i = 0; i < decimals.size(); ++i) denominator *= 10;
  const std::uint64_t numerator = *to_number(decimals) * *factor;
  if (numerator % denominator != 0) return std::unexpected(Problem::fraction);

  std::uint64_t value = 0;
  if (__builtin_mul_overflow(*whole, *factor, &value) ||
      __builtin_add_overflow(value, numerator / denominator, &value)) {
    return std::unexpected(Problem::too_large);
  }
  return value;
}

std::string format(std::uint64_t value, std::span<const Unit> units, std::string_view zero) {
  if (value == 0) return std::string(zero);
  for (const Unit& unit : units) {
    const std::uint64_t rest = value % unit.factor;
    if (value < unit.factor || rest * 100 % unit.factor != 0) continue;
    std::string text = std::to_string(value / unit.factor);
    const std::uint64_t hundredths = rest * 100 / unit.factor;
    if (hundredths != 0) {
      text += '.';
      text += static_cast<char>('0' + hundredths / 10);
      if (hundredths % 10 != 0) text += static_cast<char>('0' + hundredths % 10);
    }
    return text += unit.name;
  }
  SLUICE_ASSERT(false);  // the smallest unit has factor 1
  return {};
}

constexpr std::size_t kQuotedBytes = 64;  // of somebody's text in a message of ours

std::unexpected<ipc::Error> refuse(std::string_view text, std::string_view kind, Problem problem,
                                   std::string_view expected) {
  std::string message =
      "\"" + std::string(text.substr(0, kQuotedBytes)) + "\" is not a " + std::string(kind) + ": ";
  if (problem == Problem::too_large) message += "it is too large; ";
  if (problem == Problem::fraction) message += "it is not a whole number of the smallest unit; ";
  return ipc::fail(Errc::invalid_argument, message + "expected " + std::string(expected));
}

}  // namespace

ipc::Result<std::uint64_t> parse_bytes(std::string_view text) {
  const auto bytes = parse(text, kByteUnits, 1);
  if (!bytes) {
    return refuse(text, "size", bytes.error(),
                  "a number with B, KiB, MiB, GiB or TiB, such as \"64MiB\" or \"1.5GiB\"");
  }
  return *bytes;
}

std::string format_bytes(std::uint64_t bytes) { return format(bytes, kByteUnits, "0B"); }

ipc::Result<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  auto ns = parse(text, kTimeUnits, 0);
  if (ns && *ns > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    ns = std::unexpected(Problem::too_large);
  }
  if (!ns) {
    return refuse(text, "duration", ns.error(),
                  "a number with ns, us, ms, s, min or h, such as \"30s\" or \"5us\"");
  }
  return std::chrono::nanoseconds(static_cast<std::int64_t>(*ns));
}

std::string format_duration(std::chrono::nanoseconds duration) {
  SLUICE_ASSERT(duration.count() >= 0);
  return format(static_cast<std::uint64_t>(duration.count()), kTimeUnits, "0s");
}

}  // namespace sluice::daemon
