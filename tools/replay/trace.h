// Recorded traces in memory.
//
// A *sparse trace* (format "sparse-kv-access") says for each request and decode step which blocks
// each layer and KV head reads. A *prefix trace* (the Mooncake format) says only which blocks each
// prompt consists of. Everything in these structs has been validated: indices are in range and
// counts agree.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ipc/error.h"

namespace sluice::tools {

enum class ListKind : std::uint8_t { layer, head };  // what one page, and so one list, covers

// Lists of block indices, packed: `blocks` of list i end at `ends[i]`. Engines pass them on without
// a copy.
class ListPool {
 public:
  std::size_t size() const { return ends_.size(); }
  std::span<const std::uint32_t> operator[](std::size_t list) const {
    const std::size_t begin = list == 0 ? 0 : ends_[list - 1];
    return {blocks_.data() + begin, ends_[list] - begin};
  }
  std::vector<std::uint32_t>& open_list() { return blocks_; }  // append to it, then close_list()
  void close_list() { ends_.push_back(blocks_.size()); }
  std::size_t total_blocks() const { return blocks_.size(); }

 private:
  std::vector<std::uint32_t> blocks_;
  std::vector<std::size_t> ends_;
};

struct SparseRequest {
  std::uint64_t id = 0;      // as the trace names it
  std::uint64_t arrive = 0;  // engine iteration
  std::uint32_t prompt_tokens = 0;
  std::uint32_t steps = 0;
  std::uint32_t prompt_blocks = 0;  // full ones; the rest of the prompt lies in a partial block
  std::uint32_t decode_blocks = 0;  // that decode fills
  std::string keys;                 // of prompt blocks, then of decode blocks, key_bytes each
  std::size_t first_step =
      0;  // its steps, in order, are SparseTrace::steps[step_index[first_step + s]]
};

inline constexpr std::size_t kNoLists = ~std::size_t{0};

struct SparseStep {
  std::uint64_t iter = 0;
  std::uint32_t request = 0;  // index in SparseTrace::requests
  std::uint32_t step = 0;
  std::uint32_t tokens = 0;         // the new one included
  std::size_t select = kNoLists;    // first list in the pool; pages_per_block of them
  std::size_t forecast = kNoLists;  // likewise, or kNoLists
};

struct SparseTrace {
  std::string name;
  std::string model;
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 0;
  std::uint32_t dtype_bytes = 0;
  std::uint32_t key_bytes = 0;
  ListKind list_kind = ListKind::layer;
  std::vector<SparseRequest> requests;  // in arrival order
  std::vector<SparseStep> steps;        // as recorded: by iteration
  std::vector<std::uint32_t> step_index;
  ListPool lists;

  std::uint32_t lists_per_layer() const { return list_kind == ListKind::head ? kv_heads : 1; }
  std::uint32_t pages_per_block() const { return layers * lists_per_layer(); }
  // List i of a step names page i of each of its blocks.
  std::span<const std::uint32_t> select(const SparseStep& step, std::uint32_t page) const {
    return lists[step.select + page];
  }
  std::span<const std::uint32_t> forecast(const SparseStep& step, std::uint32_t page) const {
    if (step.forecast == kNoLists) return {};
    return lists[step.forecast + page];
  }
  const SparseStep& step_of(const SparseRequest& request, std::uint32_t step) const {
    return steps[step_index[request.first_step + step]];
  }
  std::uint32_t final_blocks(const SparseRequest& request) const {
    return (request.prompt_tokens + request.steps + block_tokens - 1) / block_tokens;
  }
  // Empty: a block that never fills has no key.
  std::string_view key_of(const SparseRequest& request, std::uint32_t block) const {
    if (block >= request.prompt_blocks + request.decode_blocks) return {};
    return std::string_view(request.keys).substr(std::size_t{block} * key_bytes, key_bytes);
  }
};

struct PrefixRequest {
  std::uint32_t id = 0;  // its place in the file, from 0
  std::uint64_t timestamp_ms = 0;
  std::uint32_t input_tokens = 0;
  std::vector<std::uint64_t> block_ids;  // the last one is partial if input_tokens does not fill it
};

struct PrefixTrace {
  std::string name;
  static constexpr std::uint32_t kBlockTokens = 512;
  std::vector<PrefixRequest> requests;  // by timestamp
};

using Trace = std::variant<SparseTrace, PrefixTrace>;

struct TraceOptions {
  ListKind list_kind = ListKind::layer;
  std::uint64_t max_requests = 0;  // 0: all
};

// Reads a trace, told by its content. Errors name file and line.
ipc::Result<Trace> read_trace(const std::string& path, const TraceOptions& options);

}  // namespace sluice::tools
