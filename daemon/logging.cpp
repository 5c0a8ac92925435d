#include "daemon/logging.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <array>
#include <cmath>
#include <memory>
#include <ostream>
#include <string>
#include <utility>

#include "daemon/utf8.h"

namespace sluice::daemon {
namespace {

struct Log {
  LogFormat format;
  std::unique_ptr<spdlog::logger> logger;
};
Log& the_log() {
  static Log log{LogFormat::text, nullptr};
  return log;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::trace:
      return spdlog::level::trace;
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warn:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

void start(LogLevel level, LogFormat format, spdlog::sink_ptr sink) {
  // spdlog writes the time; the rest of the line is written by log(), because spdlog does not
  // escape.
  constexpr const char* kText = "%Y-%m-%dT%H:%M:%S.%f%z %v";
  constexpr const char* kJson = R"({"time":"%Y-%m-%dT%H:%M:%S.%f%z",%v})";
  auto logger = std::make_unique<spdlog::logger>("sluiced", std::move(sink));
  logger->set_pattern(format == LogFormat::json ? kJson : kText);
  logger->set_level(to_spdlog(level));
  logger->flush_on(spdlog::level::trace);
  the_log() = {format, std::move(logger)};
}

void append_escaped(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const char c = text[0];
    if (length == 0) {
      out += kReplacementCharacter;
    } else if (c == '"' || c == '\\') {
      (out += '\\') += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      const auto byte = static_cast<unsigned char>(c);
      ((out += "\\u00") += kHex[byte >> 4]) += kHex[byte & 15u];
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
}

void append_quoted(std::string& out, std::string_view text) {
  out += '"';
  append_escaped(out, text);
  out += '"';
}

bool reads_as_one_word(std::string_view text) {
  for (const char c : text) {
    const bool plain = (c > ' ' && c < 0x7F) && c != '"' && c != '\\' && c != '=';
    if (!plain) return false;
  }
  return !text.empty();
}

struct AppendValue {
  std::string& out;
  LogFormat format;

  void operator()(std::string_view text) const {
    if (format == LogFormat::text && reads_as_one_word(text)) {
      out += text;
    } else {
      append_quoted(out, text);
    }
  }
  void operator()(bool value) const { out += value ? "true" : "false"; }
  void operator()(double value) const {
    // JSON has no word for these.
    out += std::isfinite(value) ? fmt::format("{}", value) : std::string("null");
  }
  template <std::integral T>
  void operator()(T value) const {
    out += std::to_string(value);
  }
};

std::string text_line(LogLevel level, std::string_view message,
                      std::initializer_list<LogField> fields) {
  std::string line(to_string(level));
  line.resize(6, ' ');
  append_escaped(line, message);
  for (const LogField& field : fields) {
    ((line += ' ') += field.key) += '=';
    std::visit(AppendValue{line, LogFormat::text}, field.value);
  }
  return line;
}

std::string json_members(LogLevel level, std::string_view message,
                         std::initializer_list<LogField> fields) {
  std::string line = "\"level\":\"";
  (line += to_string(level)) += "\",\"message\":";
  append_quoted(line, message);
  for (const LogField& field : fields) {
    line += ',';
    append_quoted(line, field.key);
    line += ':';
    std::visit(AppendValue{line, LogFormat::json}, field.value);
  }
  return line;
}

}  // namespace

std::string_view to_string(LogLevel level) {
  constexpr std::array<std::string_view, 5> kNames = {"trace", "debug", "info", "warn", "error"};
  return kNames.at(static_cast<std::size_t>(level));
}

std::string_view to_string(LogFormat format) { return format == LogFormat::json ? "json" : "text"; }

void start_logging(LogLevel level, LogFormat format) {
  start(level, format, std::make_shared<spdlog::sinks::stderr_sink_mt>());
}

void start_logging(LogLevel level, LogFormat format, std::ostream& out) {
  start(level, format, std::make_shared<spdlog::sinks::ostream_sink_mt>(out));
}

void set_log_level(LogLevel level) {
  if (the_log().logger) the_log().logger->set_level(to_spdlog(level));
}

void log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  const Log& to = the_log();
  if (!to.logger || !to.logger->should_log(to_spdlog(level))) return;
  const std::string line = to.format == LogFormat::json ? json_members(level, message, fields)
                                                        : text_line(level, message, fields);
  to.logger->log(to_spdlog(level), spdlog::string_view_t(line));
}

}  // namespace sluice::daemon
