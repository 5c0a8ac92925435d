// How a configuration's values are written, in its file and in messages about it.
//
// Pure functions.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/config.h"
#include "daemon/logging.h"

namespace sluice::daemon {

inline constexpr std::size_t kQuotedBytes = 64;  // of the file's text in a message of ours

// In quotes, and cut after kQuotedBytes.
std::string quoted(std::string_view text);
std::string join(const std::vector<std::string>& parts, std::string_view separator);

// A value that has a word of its own.
template <class Value>
struct Word {
  std::string_view word;
  Value value;
};

inline constexpr Word<LogLevel> kLogLevels[] = {{"trace", LogLevel::trace},
                                                {"debug", LogLevel::debug},
                                                {"info", LogLevel::info},
                                                {"warn", LogLevel::warn},
                                                {"error", LogLevel::error}};
inline constexpr Word<LogFormat> kLogFormats[] = {{"text", LogFormat::text},
                                                  {"json", LogFormat::json}};
inline constexpr Word<BackendKind> kBackendKinds[] = {{"host", BackendKind::host},
                                                      {"cuda", BackendKind::cuda}};
inline constexpr Word<NumaPlacement> kNumaPlacements[] = {{"device", NumaPlacement::device},
                                                          {"interleave", NumaPlacement::interleave},
                                                          {"any", NumaPlacement::any}};
inline constexpr Word<IoKind> kIoKinds[] = {
    {"auto", IoKind::automatic}, {"io_uring", IoKind::io_uring}, {"threads", IoKind::threads}};
inline constexpr Word<HugePages> kHugePages[] = {
    {"try", HugePages::attempt}, {"never", HugePages::never}, {"require", HugePages::require}};

template <class Value, std::size_t kCount>
std::string word_for(const Word<Value> (&words)[kCount], Value value) {
  for (const Word<Value>& word : words) {
    if (word.value == value) return quoted(word.word);
  }
  return "\"?\"";
}

// "GPU-" and a UUID in its usual groups.
bool is_gpu_uuid(std::string_view text);

// In octal and in quotes.
std::string format_mode(mode_t mode);

// The name a tenant has in messages, and under which its keys are placed.
std::string tenant_path(const TenantConfig& tenant);

}  // namespace sluice::daemon
