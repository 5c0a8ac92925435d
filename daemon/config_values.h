// What a TOML node of a configuration may hold.
//
// Each function, or what it returns, takes a node and answers with its value, or with what was
// expected there. Pure.
#pragma once

#include <sys/types.h>
#include <toml++/toml.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/config.h"
#include "daemon/config_text.h"
#include "daemon/quantity.h"
#include "ipc/error.h"

namespace sluice::daemon {

// What a value was expected to be, in words.
template <class T>
using Parsed = std::expected<T, std::string>;

template <class Number>
auto integer(std::int64_t least, std::int64_t most) {
  return [least, most](const toml::node& node) -> Parsed<Number> {
    const std::optional<std::int64_t> value = node.value_exact<std::int64_t>();
    if (value && *value >= least && *value <= most) return static_cast<Number>(*value);
    return std::unexpected("an integer from " + std::to_string(least) + " to " +
                           std::to_string(most));
  };
}

Parsed<bool> truth(const toml::node& node);

inline auto bytes(std::uint64_t least, std::uint64_t most, std::uint64_t multiple) {
  return [=](const toml::node& node) -> Parsed<std::uint64_t> {
    std::string expected = "a size ";
    expected += most == std::numeric_limits<std::uint64_t>::max()
                    ? "of at least " + format_bytes(least)
                    : "from " + format_bytes(least) + " to " + format_bytes(most);
    if (multiple > 1) expected += ", a multiple of " + format_bytes(multiple);
    expected += ", such as \"64MiB\"";
    const std::optional<std::string_view> text = node.value_exact<std::string_view>();
    if (!text) return std::unexpected(expected);
    const ipc::Result<std::uint64_t> value = parse_bytes(*text);
    if (!value || *value < least || *value > most || *value % multiple != 0) {
      return std::unexpected(expected);
    }
    return *value;
  };
}

inline auto duration(std::chrono::milliseconds least, std::chrono::milliseconds most) {
  return [=](const toml::node& node) -> Parsed<std::chrono::milliseconds> {
    const std::optional<std::string_view> text = node.value_exact<std::string_view>();
    if (text) {
      const ipc::Result<std::chrono::nanoseconds> value = parse_duration(*text);
      const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(
          value.value_or(std::chrono::nanoseconds(-1)));
      if (value && ms == *value && ms >= least && ms <= most) return ms;
    }
    return std::unexpected("a duration in whole milliseconds from " + format_duration(least) +
                           " to " + format_duration(most) + ", such as \"30s\"");
  };
}

template <class Value, std::size_t kCount>
auto one_of(const Word<Value> (&words)[kCount]) {
  return [&words](const toml::node& node) -> Parsed<Value> {
    std::vector<std::string> known;
    for (const Word<Value>& word : words) {
      if (node.value_exact<std::string_view>() == word.word) return word.value;
      known.push_back(quoted(word.word));
    }
    return std::unexpected("one of " + join(known, ", "));
  };
}

Parsed<std::uint32_t> ring_capacity(const toml::node& node);
// A list also where one may be named, since that is what BackendConfig::devices is.
Parsed<std::vector<std::string>> one_gpu(const toml::node& node);
Parsed<std::vector<std::string>> gpus(const toml::node& node);
// A list of "PATH:SIZE".
Parsed<std::vector<NvmeDirectory>> nvme_directories(const toml::node& node);
Parsed<std::string> program_path(const toml::node& node);
Parsed<std::string> socket_path(const toml::node& node);
Parsed<std::string> mps_directory(const toml::node& node);
Parsed<mode_t> socket_mode(const toml::node& node);
Parsed<std::string> metrics_address(const toml::node& node);
Parsed<double> weight(const toml::node& node);
Parsed<std::string> tenant_name(const toml::node& node);

// What a node holds, for a message about it.
std::string describe(const toml::node& node);

}  // namespace sluice::daemon
