#include "tools/replay/trace.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tools/replay/line_reader.h"
#include "tools/replay/prefix_trace.h"
#include "tools/replay/sparse_trace.h"

namespace sluice::tools {

using ipc::Errc;
using ipc::fail;

ipc::Result<Trace> read_trace(const std::string& path, const TraceOptions& options) {
  auto lines = LineReader::open(path);
  if (!lines) return std::unexpected(lines.error());
  const auto first = lines->next();
  if (!first) return std::unexpected(first.error());
  if (!*first) return fail(Errc::invalid_argument, path + ": the file is empty");

  const auto json = nlohmann::json::parse(**first, nullptr, false);
  std::string name = std::filesystem::path(path).filename().string();
  for (const std::string_view suffix : {".zst", ".jsonl"}) {
    if (name.ends_with(suffix)) name.resize(name.size() - suffix.size());
  }
  if (json.is_object() && json.contains("format") && json["format"] == "sparse-kv-access") {
    auto trace = read_sparse_trace(*lines, path, name, json, options);
    if (!trace) return std::unexpected(trace.error());
    return std::move(*trace);
  }
  if (json.is_object() && json.contains("hash_ids")) {
    auto trace = read_prefix_trace(*lines, path, name, **first, options);
    if (!trace) return std::unexpected(trace.error());
    return std::move(*trace);
  }
  return fail(Errc::invalid_argument,
              path +
                  ":1: not a trace: expected a header with \"format\":\"sparse-kv-access\", or a "
                  "Mooncake line with \"hash_ids\"");
}

}  // namespace sluice::tools
