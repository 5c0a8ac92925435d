#include "tools/replay/sparse_trace.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "tools/replay/json_scan.h"

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;
using ipc::Result;
using ipc::Status;
using nlohmann::json;

constexpr std::uint64_t kMaxRequests = 1u << 20;
constexpr std::uint64_t kMaxSteps = 1u << 28;
constexpr std::uint64_t kMaxTokens = 1u << 30;
constexpr std::size_t kMaxKeyBytes = 64;

class SparseReader {
 public:
  SparseReader(LineReader& lines, const std::string& path, const TraceOptions& options)
      : lines_(lines), path_(path), options_(options) {}

  Result<SparseTrace> read(const std::string& name, const json& header);

 private:
  std::unexpected<ipc::Error> bad(const std::string& text) const {
    return fail(Errc::invalid_argument,
                path_ + ":" + std::to_string(lines_.line_number()) + ": " + text);
  }
  Result<std::uint64_t> number(const json& object, const char* field, std::uint64_t least,
                               std::uint64_t most) const;
  Status read_header(const json& header);
  Status read_requests();
  Status read_request(std::string_view line);
  Status read_keys(const json& object, const char* field, std::uint64_t expected, std::string& out);
  Status read_steps();
  Status read_step(std::string_view line);
  bool scan_lists(JsonScan& scan, ListPool& raw);
  Status add_lists(const ListPool& raw, const char* field, std::uint32_t blocks,
                   std::size_t& first);
  void add_union(const ListPool& raw, std::uint32_t layer);
  Status index_steps();

  LineReader& lines_;
  const std::string& path_;
  const TraceOptions& options_;
  SparseTrace trace_;
  std::uint64_t declared_requests_ = 0;
  std::uint64_t declared_steps_ = 0;
  std::unordered_map<std::uint64_t, std::uint32_t> request_of_id_;  // kSkipped: beyond max_requests
  std::vector<std::uint32_t> steps_seen_;
  std::vector<std::uint64_t> last_iter_;
  std::uint64_t lines_of_steps_ = 0;
  std::string raw_error_;
  ListPool raw_select_;
  ListPool raw_forecast_;
  static constexpr std::uint32_t kSkipped = std::numeric_limits<std::uint32_t>::max();
};

Result<std::uint64_t> SparseReader::number(const json& object, const char* field,
                                           std::uint64_t least, std::uint64_t most) const {
  const auto found = object.find(field);
  if (found == object.end()) return bad(std::string("the field \"") + field + "\" is missing");
  if (!found->is_number_unsigned()) {
    return bad(std::string("\"") + field + "\" is not a number of 0 or more");
  }
  const auto value = found->get<std::uint64_t>();
  if (value < least || value > most) {
    return bad(std::string("\"") + field + "\" is " + std::to_string(value) + ", expected " +
               std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

Status SparseReader::read_header(const json& header) {
  const auto version = number(header, "version", 0, ~std::uint64_t{0});
  if (!version) return std::unexpected(version.error());
  if (*version != 1) return bad("version " + std::to_string(*version) + " is unknown, expected 1");
  struct Field {
    const char* name;
    std::uint64_t most;
    std::uint32_t& out;
  };
  const Field fields[] = {{"layers", 4096, trace_.layers},
                          {"kv_heads", 4096, trace_.kv_heads},
                          {"head_dim", 65536, trace_.head_dim},
                          {"block_tokens", 65536, trace_.block_tokens},
                          {"dtype_bytes", 16, trace_.dtype_bytes}};
  for (const Field& field : fields) {
    const auto value = number(header, field.name, 1, field.most);
    if (!value) return std::unexpected(value.error());
    field.out = static_cast<std::uint32_t>(*value);
  }
  const auto requests = number(header, "requests", 1, kMaxRequests);
  if (!requests) return std::unexpected(requests.error());
  const auto steps = number(header, "steps", 1, kMaxSteps);
  if (!steps) return std::unexpected(steps.error());
  declared_requests_ = *requests;
  declared_steps_ = *steps;
  if (header.contains("model") && header["model"].is_string()) trace_.model = header["model"];
  if (header.contains("trace") && header["trace"].is_string()) trace_.name = header["trace"];
  return {};
}

Status SparseReader::read_keys(const json& object, const char* field, std::uint64_t expected,
                               std::string& out) {
  const auto found = object.find(field);
  if (found == object.end()) return bad(std::string("the field \"") + field + "\" is missing");
  if (!found->is_array()) return bad(std::string("\"") + field + "\" is not an array");
  if (found->size() != expected) {
    return bad(std::string("\"") + field + "\" has " + std::to_string(found->size()) +
               " keys, but the request's tokens fill " + std::to_string(expected) + " blocks");
  }
  for (const json& element : *found) {
    if (!element.is_string()) return bad(std::string("a key in \"") + field + "\" is not a string");
    const std::string& hex = element.get_ref<const std::string&>();
    if (hex.empty() || hex.size() % 2 != 0 || hex.size() / 2 > kMaxKeyBytes) {
      return bad("the key '" + hex + "' is not 1 to 64 bytes in hex");
    }
    if (trace_.key_bytes == 0) trace_.key_bytes = static_cast<std::uint32_t>(hex.size() / 2);
    if (hex.size() / 2 != trace_.key_bytes) {
      return bad("the key '" + hex + "' has another length than the keys before it");
    }
    int high = -1;
    for (const char c : hex) {
      int digit = 0;
      if (c >= '0' && c <= '9')
        digit = c - '0';
      else if (c >= 'a' && c <= 'f')
        digit = c - 'a' + 10;
      else if (c >= 'A' && c <= 'F')
        digit = c - 'A' + 10;
      else
        return bad("the key '" + hex + "' is not hex");
      if (high < 0) {
        high = digit;
      } else {
        out.push_back(static_cast<char>(high * 16 + digit));
        high = -1;
      }
    }
  }
  return {};
}

Status SparseReader::read_request(std::string_view line) {
  const json object = json::parse(line, nullptr, false);
  if (!object.is_object()) return bad("not a JSON object");
  const auto id = number(object, "request", 0, ~std::uint64_t{0});
  if (!id) return std::unexpected(id.error());
  if (request_of_id_.contains(*id)) return bad("request " + std::to_string(*id) + " appears twice");
  if (options_.max_requests != 0 && trace_.requests.size() >= options_.max_requests) {
    request_of_id_.emplace(*id, kSkipped);
    return {};
  }
  const auto arrive = number(object, "arrive", 0, kMaxTokens);
  if (!arrive) return std::unexpected(arrive.error());
  const auto prompt = number(object, "prompt_tokens", 1, kMaxTokens);
  if (!prompt) return std::unexpected(prompt.error());
  const auto steps = number(object, "steps", 1, kMaxTokens);
  if (!steps) return std::unexpected(steps.error());
  if (!trace_.requests.empty() && *arrive < trace_.requests.back().arrive) {
    return bad("\"arrive\" is less than that of the request before: requests are in arrival order");
  }

  SparseRequest request;
  request.id = *id;
  request.arrive = *arrive;
  request.prompt_tokens = static_cast<std::uint32_t>(*prompt);
  request.steps = static_cast<std::uint32_t>(*steps);
  request.prompt_blocks = request.prompt_tokens / trace_.block_tokens;
  request.decode_blocks =
      (request.prompt_tokens + request.steps) / trace_.block_tokens - request.prompt_blocks;
  if (auto s = read_keys(object, "block_keys", request.prompt_blocks, request.keys); !s) return s;
  if (auto s = read_keys(object, "decode_block_keys", request.decode_blocks, request.keys); !s)
    return s;
  request_of_id_.emplace(*id, static_cast<std::uint32_t>(trace_.requests.size()));
  trace_.requests.push_back(std::move(request));
  return {};
}

Status SparseReader::read_requests() {
  for (std::uint64_t i = 0; i < declared_requests_; ++i) {
    const auto line = lines_.next();
    if (!line) return std::unexpected(line.error());
    if (!*line) {
      return bad("the file ends after " + std::to_string(i) + " of " +
                 std::to_string(declared_requests_) + " request lines: it is truncated");
    }
    if (auto status = read_request(**line); !status) return status;
  }
  steps_seen_.assign(trace_.requests.size(), 0);
  last_iter_.assign(trace_.requests.size(), 0);
  return {};
}

// [layer][kv_head][first, difference, ...] as raw lists, one per layer and head; a layer may be [].
bool SparseReader::scan_lists(JsonScan& scan, ListPool& raw) {
  raw = ListPool();
  std::uint32_t layers = 0;
  const bool scanned = scan.array([&] {
    std::uint32_t heads = 0;
    const bool layer_scanned = scan.array([&] {
      std::uint64_t block = 0;
      bool first = true;
      const bool list_scanned = scan.array([&] {
        std::uint64_t difference = 0;
        if (!scan.number(difference)) return false;
        if (!first && difference == 0) {
          raw_error_ = "a block is named twice in one list";
          return false;
        }
        block += difference;
        first = false;
        if (difference > kMaxTokens || block > kMaxTokens) {
          raw_error_ = "a block index is absurdly large";
          return false;
        }
        raw.open_list().push_back(static_cast<std::uint32_t>(block));
        return true;
      });
      raw.close_list();
      ++heads;
      return list_scanned && heads <= trace_.kv_heads;
    });
    if (!layer_scanned) return false;
    if (heads == 0) {  // "[]": no list for any head of this layer
      for (; heads < trace_.kv_heads; ++heads) raw.close_list();
    }
    ++layers;
    if (heads != trace_.kv_heads || layers > trace_.layers) {
      raw_error_ = "the lists are not of " + std::to_string(trace_.layers) + " layers with " +
                   std::to_string(trace_.kv_heads) + " KV heads";
      return false;
    }
    return true;
  });
  if (scanned && layers != trace_.layers) {
    raw_error_ = "there are lists of " + std::to_string(layers) + " layers, expected " +
                 std::to_string(trace_.layers);
    return false;
  }
  return scanned;
}

void SparseReader::add_union(const ListPool& raw, std::uint32_t layer) {
  std::vector<std::uint32_t>& out = trace_.lists.open_list();
  const std::size_t begin = out.size();
  for (std::uint32_t head = 0; head < trace_.kv_heads; ++head) {
    const auto list = raw[std::size_t{layer} * trace_.kv_heads + head];
    out.insert(out.end(), list.begin(), list.end());
  }
  const auto first = out.begin() + static_cast<std::ptrdiff_t>(begin);
  std::sort(first, out.end());
  out.erase(std::unique(first, out.end()), out.end());
  trace_.lists.close_list();
}

Status SparseReader::add_lists(const ListPool& raw, const char* field, std::uint32_t blocks,
                               std::size_t& first) {
  first = trace_.lists.size();
  for (std::uint32_t layer = 0; layer < trace_.layers; ++layer) {
    for (std::uint32_t head = 0; head < trace_.kv_heads; ++head) {
      const auto list = raw[std::size_t{layer} * trace_.kv_heads + head];
      if (!list.empty() && list.back() >= blocks) {
        return bad(std::string("\"") + field + "\" of layer " + std::to_string(layer) + ", head " +
                   std::to_string(head) + " names block " + std::to_string(list.back()) +
                   ", but the request has " + std::to_string(blocks) + " blocks in this step");
      }
      if (trace_.list_kind == ListKind::head) {
        std::vector<std::uint32_t>& out = trace_.lists.open_list();
        out.insert(out.end(), list.begin(), list.end());
        trace_.lists.close_list();
      }
    }
    if (trace_.list_kind == ListKind::layer) add_union(raw, layer);
  }
  return {};
}

Status SparseReader::read_step(std::string_view line) {
  constexpr std::uint64_t kMissing = ~std::uint64_t{0};
  std::uint64_t iter = kMissing;
  std::uint64_t id = kMissing;
  std::uint64_t step = kMissing;
  std::uint64_t tokens = kMissing;
  bool has_select = false;
  bool has_forecast = false;
  raw_error_.clear();
  JsonScan scan(line);
  const bool scanned = scan.object([&](std::string_view key) {
    if (key == "iter") return scan.number(iter);
    if (key == "request") return scan.number(id);
    if (key == "step") return scan.number(step);
    if (key == "tokens") return scan.number(tokens);
    if (key == "select") {
      has_select = true;
      return scan_lists(scan, raw_select_);
    }
    if (key == "forecast") {
      if (scan.literal("null")) return true;
      has_forecast = true;
      return scan_lists(scan, raw_forecast_);
    }
    return scan.skip_value();
  });
  if (!scanned || !scan.at_end()) {
    return bad((raw_error_.empty() ? "not the JSON of a step line" : raw_error_) + ", at column " +
               std::to_string(scan.position() + 1));
  }
  for (const auto& [value, name] : {std::pair{iter, "iter"}, std::pair{id, "request"},
                                    std::pair{step, "step"}, std::pair{tokens, "tokens"}}) {
    if (value == kMissing) return bad(std::string("the field \"") + name + "\" is missing");
  }
  if (!has_select) return bad("the field \"select\" is missing");

  const auto found = request_of_id_.find(id);
  if (found == request_of_id_.end()) return bad("request " + std::to_string(id) + " is unknown");
  if (found->second == kSkipped) return {};
  const std::uint32_t index = found->second;
  const SparseRequest& request = trace_.requests[index];
  if (step != steps_seen_[index] || step >= request.steps) {
    return bad("step " + std::to_string(step) + " of request " + std::to_string(id) +
               " is out of order, expected " + std::to_string(steps_seen_[index]));
  }
  if (tokens != request.prompt_tokens + step + 1) {
    return bad("\"tokens\" is " + std::to_string(tokens) +
               ", expected prompt_tokens + step + 1 = " +
               std::to_string(request.prompt_tokens + step + 1));
  }
  if (iter < request.arrive || iter > kMaxTokens || (step > 0 && iter <= last_iter_[index]) ||
      (!trace_.steps.empty() && iter < trace_.steps.back().iter)) {
    return bad("\"iter\" " + std::to_string(iter) + " is out of order");
  }
  SparseStep out;
  out.iter = iter;
  out.request = index;
  out.step = static_cast<std::uint32_t>(step);
  out.tokens = static_cast<std::uint32_t>(tokens);
  const std::uint32_t blocks = (out.tokens + trace_.block_tokens - 1) / trace_.block_tokens;
  if (auto s = add_lists(raw_select_, "select", blocks, out.select); !s) return s;
  if (has_forecast) {
    if (auto s = add_lists(raw_forecast_, "forecast", blocks, out.forecast); !s) return s;
  }
  ++steps_seen_[index];
  last_iter_[index] = iter;
  trace_.steps.push_back(out);
  return {};
}

Status SparseReader::read_steps() {
  for (;;) {
    const auto line = lines_.next();
    if (!line) return std::unexpected(line.error());
    if (!*line) break;
    if ((*line)->empty()) continue;
    ++lines_of_steps_;
    if (lines_of_steps_ > declared_steps_) {
      return bad("more step lines than the " + std::to_string(declared_steps_) + " of the header");
    }
    if (auto status = read_step(**line); !status) return status;
  }
  if (lines_of_steps_ != declared_steps_) {
    return bad("the file ends after " + std::to_string(lines_of_steps_) + " of " +
               std::to_string(declared_steps_) + " step lines: it is truncated");
  }
  return {};
}

Status SparseReader::index_steps() {
  std::size_t next = 0;
  for (std::size_t i = 0; i < trace_.requests.size(); ++i) {
    SparseRequest& request = trace_.requests[i];
    if (steps_seen_[i] != request.steps) {
      return fail(Errc::invalid_argument, path_ + ": request " + std::to_string(request.id) +
                                              " has " + std::to_string(steps_seen_[i]) +
                                              " step lines, expected " +
                                              std::to_string(request.steps));
    }
    request.first_step = next;
    next += request.steps;
  }
  trace_.step_index.resize(next);
  for (std::size_t i = 0; i < trace_.steps.size(); ++i) {
    const SparseStep& step = trace_.steps[i];
    trace_.step_index[trace_.requests[step.request].first_step + step.step] =
        static_cast<std::uint32_t>(i);
  }
  return {};
}

Result<SparseTrace> SparseReader::read(const std::string& name, const json& header) {
  trace_.name = name;
  trace_.list_kind = options_.list_kind;
  if (auto s = read_header(header); !s) return std::unexpected(s.error());
  if (auto s = read_requests(); !s) return std::unexpected(s.error());
  if (auto s = read_steps(); !s) return std::unexpected(s.error());
  if (auto s = index_steps(); !s) return std::unexpected(s.error());
  return std::move(trace_);
}

}  // namespace

Result<SparseTrace> read_sparse_trace(LineReader& lines, const std::string& path,
                                      const std::string& name, const json& header,
                                      const TraceOptions& options) {
  return SparseReader(lines, path, options).read(name, header);
}

}  // namespace sluice::tools
