// The reader of sparse traces: header, one line per request, one line per request and step.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tools/replay/line_reader.h"
#include "tools/replay/trace.h"

namespace sluice::tools {

// `header` is line 1; `lines` stands behind it.
ipc::Result<SparseTrace> read_sparse_trace(LineReader& lines, const std::string& path,
                                           const std::string& name, const nlohmann::json& header,
                                           const TraceOptions& options);

}  // namespace sluice::tools
