// Structured logs on standard error: a constant sentence and named fields.
//
//   log_info("session opened", {{"session", id}, {"tenant", tenant.name}});
//
//   text   2026-11-03T10:15:30.123456+01:00 info  session opened session=17 tenant=prod
//   json   {"time":"2026-11-03T10:15:30.123456+01:00","level":"info","message":"session opened",
//           "session":17,"tenant":"prod"}
//
// One event is one line in both formats, whatever bytes a client managed to put into a field:
// control characters and invalid UTF-8 are escaped. The sentence stays the same for the same event,
// so that it can be searched for and counted; what varies is a field. No field may be named time,
// level or message.
//
// Before start_logging() nothing is written. Thread-safety: log() and set_log_level() from any
// thread; start_logging() while no other thread logs. A line is written by the caller, under a
// lock: lanes log faults, not requests.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <string_view>
#include <variant>

namespace sluice::daemon {

enum class LogLevel : std::uint8_t { trace, debug, info, warn, error };
enum class LogFormat : std::uint8_t { text, json };

std::string_view to_string(LogLevel level);
std::string_view to_string(LogFormat format);

// A value views its text, and lives as long as the call it is written in.
struct LogField {
  using Value = std::variant<std::string_view, std::int64_t, std::uint64_t, double, bool>;

  template <class T>
  LogField(std::string_view field_key, const T& field_value)
      : key(field_key), value(make_value(field_value)) {}

  std::string_view key;
  Value value;

 private:
  template <class T>
  static Value make_value(const T& v) {
    if constexpr (std::same_as<T, bool>) {
      return v;
    } else if constexpr (std::signed_integral<T>) {
      return static_cast<std::int64_t>(v);
    } else if constexpr (std::unsigned_integral<T>) {
      return static_cast<std::uint64_t>(v);
    } else if constexpr (std::floating_point<T>) {
      return static_cast<double>(v);
    } else {
      return std::string_view(v);
    }
  }
};

void start_logging(LogLevel level, LogFormat format);
// The same into a stream that outlives the next start_logging(); for tests.
void start_logging(LogLevel level, LogFormat format, std::ostream& out);
void set_log_level(LogLevel level);

void log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

inline void log_debug(std::string_view message, std::initializer_list<LogField> fields = {}) {
  log(LogLevel::debug, message, fields);
}
inline void log_info(std::string_view message, std::initializer_list<LogField> fields = {}) {
  log(LogLevel::info, message, fields);
}
inline void log_warn(std::string_view message, std::initializer_list<LogField> fields = {}) {
  log(LogLevel::warn, message, fields);
}
inline void log_error(std::string_view message, std::initializer_list<LogField> fields = {}) {
  log(LogLevel::error, message, fields);
}

}  // namespace sluice::daemon
