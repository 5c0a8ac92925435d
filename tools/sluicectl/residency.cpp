#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/document.h"

namespace sluice::tools {
namespace {

using ipc::Errc;

// Parts of the list of sequences that are looked through for one of them.
constexpr int kMostParts = 4096;

// The cache of a sequence: the daemon lists blocks of a sequence within its cache.
ipc::Result<std::uint64_t> cache_of_sequence(const Request& request) {
  Json arguments = {{"limit", kMostListedRows}, {"cursor", 0}};
  for (int part = 0; part < kMostParts; ++part) {
    const auto document = request.ask("sequences", arguments);
    if (!document) return std::unexpected(document.error());
    for (const Json& row : rows_at(*document, {"sequences"})) {
      if (number_at(row, {"session"}) != request.options.session) continue;
      if (number_at(row, {"sequence"}) != request.options.sequence) continue;
      const auto cache = number_at(row, {"cache"});
      if (cache) return *cache;
    }
    const std::uint64_t next = number_at(*document, {"next_cursor"}).value_or(0);
    if (next == 0) break;
    arguments["cursor"] = next;
  }
  return ipc::fail(Errc::not_found,
                   "session " + std::to_string(request.options.session.value_or(0)) +
                       " has no sequence " + std::to_string(request.options.sequence.value_or(0)) +
                       " that you may see");
}

int blocks(const Request& request) {
  const Options& options = request.options;
  Json arguments = request.selectors();
  std::string more = "sluicectl residency --blocks";
  if (options.sequence) {
    const auto cache = cache_of_sequence(request);
    if (!cache) return request.fail(cache.error());
    if (options.cache && *options.cache != *cache) {
      return request.fail({Errc::not_found, "the sequence is in cache " + std::to_string(*cache) +
                                                ", not in cache " +
                                                std::to_string(*options.cache)});
    }
    arguments["cache"] = *cache;
    arguments["sequence"] = *options.sequence;
    more += " --session " + std::to_string(*options.session) + " --sequence " +
            std::to_string(*options.sequence);
  } else {
    more += " --cache " + std::to_string(options.cache.value_or(0));
  }
  const std::uint64_t limit = options.limit.value_or(kDefaultListedRows);
  arguments["blocks"] = true;
  arguments["limit"] = limit;
  arguments["cursor"] = options.after;
  const auto document = request.ask("residency", arguments);
  if (!document) return request.fail(document.error());
  if (options.limit) more += " --limit " + std::to_string(limit);
  return request.show(*document, blocks_view(*document, request.view(), more));
}

}  // namespace

int residency(const Request& request) {
  if (request.options.blocks || request.options.sequence) return blocks(request);
  Json arguments = request.selectors();
  if (request.options.map) arguments["map"] = true;
  const auto document = request.ask("residency", arguments);
  if (!document) return request.fail(document.error());
  return request.show(*document, request.options.map ? map_view(*document, request.view())
                                                     : residency_view(*document, request.view()));
}

}  // namespace sluice::tools
