// The reader of prefix traces (Mooncake): one JSON object a line with `timestamp` (ms),
// `input_length` (tokens) and `hash_ids`, one id per 512-token block of the prompt.
#pragma once

#include <string>
#include <string_view>

#include "tools/replay/line_reader.h"
#include "tools/replay/trace.h"

namespace sluice::tools {

// `first` is line 1; `lines` stands behind it.
ipc::Result<PrefixTrace> read_prefix_trace(LineReader& lines, const std::string& path,
                                           const std::string& name, std::string_view first,
                                           const TraceOptions& options);

}  // namespace sluice::tools
