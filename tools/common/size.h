// Sizes as people write them on a command line: "512MiB", "1.5GB", "64K", "1.5x", "60%".
//
// Pure functions; errors are Errc::invalid_argument and name the text and what was expected.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "ipc/error.h"

namespace sluice::tools {

// Bytes. Suffixes K, M, G, T with or without "iB" are powers of 1024; with "B" (kB, MB) powers of
// 1000.
ipc::Result<std::uint64_t> parse_bytes(std::string_view text);

// The most that a relative size may be of what it is relative to.
inline constexpr std::uint64_t kMaxFactor = 1'000'000;

// A size that may be relative to something which only the caller knows.
struct RelativeSize {
  enum class Kind { bytes, times, percent };
  Kind kind = Kind::bytes;
  std::uint64_t bytes = 0;  // Kind::bytes
  double factor = 0;        // Kind::times: 1.5 for "1.5x"; Kind::percent: 0.6 for "60%"
};

ipc::Result<RelativeSize> parse_relative_size(std::string_view text);

// "1.3 GiB", "512 B": for people.
std::string human_bytes(double bytes);

// "12,345,678": for people.
std::string human_count(std::uint64_t count);

}  // namespace sluice::tools
