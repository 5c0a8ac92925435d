#include "tools/replay/prefix_trace.h"

#include <algorithm>
#include <optional>

#include "tools/replay/json_scan.h"

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;
using ipc::Result;

constexpr std::uint64_t kMaxInputTokens = 1u << 30;

Result<PrefixRequest> read_line(std::string_view line, const std::string& where) {
  PrefixRequest request;
  std::optional<std::uint64_t> timestamp;
  std::optional<std::uint64_t> input;
  bool has_ids = false;
  JsonScan scan(line);
  const auto take_number = [&](std::optional<std::uint64_t>& out) {
    return scan.number(out.emplace());
  };
  const bool scanned = scan.object([&](std::string_view key) {
    if (key == "timestamp") return take_number(timestamp);
    if (key == "input_length") return take_number(input);
    if (key != "hash_ids") return scan.skip_value();
    has_ids = true;
    return scan.array([&] { return scan.number(request.block_ids.emplace_back()); });
  });
  if (!scanned || !scan.at_end()) {
    return fail(Errc::invalid_argument, where + "not the JSON of a Mooncake line, at column " +
                                            std::to_string(scan.position() + 1));
  }
  if (!timestamp || !input || !has_ids) {
    return fail(Errc::invalid_argument,
                where + "\"timestamp\", \"input_length\" and \"hash_ids\" must all be there");
  }
  const std::uint64_t blocks =
      *input / PrefixTrace::kBlockTokens + (*input % PrefixTrace::kBlockTokens != 0 ? 1 : 0);
  if (*input == 0 || *input > kMaxInputTokens || blocks != request.block_ids.size()) {
    return fail(Errc::invalid_argument,
                where + "\"input_length\" " + std::to_string(*input) + " does not fit " +
                    std::to_string(request.block_ids.size()) + " blocks of 512 tokens");
  }
  request.timestamp_ms = *timestamp;
  request.input_tokens = static_cast<std::uint32_t>(*input);
  return request;
}

}  // namespace

Result<PrefixTrace> read_prefix_trace(LineReader& lines, const std::string& path,
                                      const std::string& name, std::string_view first,
                                      const TraceOptions& options) {
  PrefixTrace trace;
  trace.name = name;
  std::optional<std::string_view> line = first;
  while (line) {
    if (!line->empty()) {
      auto request = read_line(*line, path + ":" + std::to_string(lines.line_number()) + ": ");
      if (!request) return std::unexpected(request.error());
      request->id = static_cast<std::uint32_t>(trace.requests.size());
      trace.requests.push_back(std::move(*request));
    }
    auto next = lines.next();
    if (!next) return std::unexpected(next.error());
    line = *next;
  }
  std::sort(trace.requests.begin(), trace.requests.end(),
            [](const PrefixRequest& a, const PrefixRequest& b) {
              return std::pair(a.timestamp_ms, a.id) < std::pair(b.timestamp_ms, b.id);
            });
  if (options.max_requests != 0 && trace.requests.size() > options.max_requests) {
    trace.requests.resize(options.max_requests);
  }
  return trace;
}

}  // namespace sluice::tools
