#include <algorithm>
#include <limits>

#include "tools/common/size.h"
#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/duration.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/table.h"

namespace sluice::tools {
namespace {

constexpr std::chrono::milliseconds kLookInterval{50};

std::string blocks_and_bytes(std::uint64_t blocks, std::uint64_t bytes) {
  return human_count(blocks) + (blocks == 1 ? " block (" : " blocks (") +
         human_bytes(static_cast<double>(bytes)) + ")";
}

// What an eviction could give up as things stand. The daemon decides when it happens.
struct Plan {
  Json document;
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;
  std::uint64_t idle_caches = 0;
  std::uint64_t retiring = 0;  // on their way already
};

Plan plan_of(const Json& caches, const Options& options) {
  Plan plan;
  Json list = Json::array();
  for (const Json& cache : rows_at(caches, {"caches"})) {
    const std::uint64_t blocks = number_at(cache, {"blocks", "unreferenced"}).value_or(0);
    const std::uint64_t bytes = blocks * number_at(cache, {"frame_stride_bytes"}).value_or(0);
    const bool drops = options.drop_idle_caches && number_at(cache, {"sessions"}) == 0u;
    plan.blocks += blocks;
    plan.bytes += bytes;
    plan.idle_caches += drops ? 1 : 0;
    plan.retiring += number_at(cache, {"blocks", "retiring"}).value_or(0);
    list.push_back({{"cache", number_at(cache, {"cache"}).value_or(0)},
                    {"tenant", text_at(cache, {"tenant"})},
                    {"evictable_blocks", blocks},
                    {"evictable_bytes", bytes},
                    {"would_be_dropped", drops}});
  }
  plan.document = {{"schema", "sluice.evict_plan"},
                   {"version", 1},
                   {"evictable_blocks", plan.blocks},
                   {"evictable_bytes", plan.bytes},
                   {"wanted_bytes", options.bytes ? Json(*options.bytes) : Json(nullptr)},
                   {"caches", std::move(list)}};
  return plan;
}

// "give up at most ... of ...".
std::string words_for(const Plan& plan, const Options& options) {
  std::string text = blocks_and_bytes(plan.blocks, plan.bytes) + " that no sequence refers to";
  if (options.bytes && *options.bytes < plan.bytes) {
    text = human_bytes(static_cast<double>(*options.bytes)) + " of " + text;
  }
  if (options.drop_idle_caches) {
    text += ", and " + human_count(plan.idle_caches) +
            (plan.idle_caches == 1 ? " cache" : " caches") + " that no session has open";
  }
  return text;
}

std::string dry_view(const Plan& plan, const Request& request) {
  Table table(
      {{"CACHE"}, {"TENANT", Align::left}, {"EVICTABLE"}, {"BYTES"}, {"DROPPED", Align::left}});
  for (const Json& row : rows_at(plan.document, {"caches"})) {
    table.add({id_text(row, {"cache"}), text_at(row, {"tenant"}),
               count_text(row, {"evictable_blocks"}), bytes_text(row, {"evictable_bytes"}),
               flag_at(row, {"would_be_dropped"}) ? "yes" : "no"});
  }
  const std::string head =
      "Would give up " + words_for(plan, request.options) + ". Nothing was changed.\n";
  return table.empty() ? head : head + table.text(request.around.colour);
}

// Blocks come back when running steps have ended: waits for that. The blocks that still wait, 0
// when done.
ipc::Result<std::uint64_t> wait_until_free(const Request& request, std::uint64_t retiring_before,
                                           Timeout timeout) {
  const TimePoint deadline = request.around.now() + timeout;
  std::uint64_t told = std::numeric_limits<std::uint64_t>::max();
  while (true) {
    const auto caches = request.ask("caches", request.selectors());
    if (!caches && caches.error().code != ipc::Errc::not_found)
      return std::unexpected(caches.error());
    const auto status = request.ask("status");
    if (!status) return std::unexpected(status.error());
    // not_found: the cache itself was dropped.
    const std::uint64_t retiring = caches ? plan_of(*caches, request.options).retiring : 0;
    const bool pending = flag_at(*status, {"pending_work"});
    if (!pending && retiring <= retiring_before) return 0;
    if (request.around.now() >= deadline) return std::max<std::uint64_t>(retiring, 1);
    if (retiring != told && told != std::numeric_limits<std::uint64_t>::max()) {
      request.note(human_count(retiring) + " blocks wait for running steps to end");
    }
    told = retiring;
    request.around.sleep_for(kLookInterval);
  }
}

}  // namespace

int evict(const Request& request) {
  const Options& options = request.options;
  const auto caches = request.ask("caches", request.selectors());
  if (!caches) return request.fail(caches.error());
  const Plan plan = plan_of(*caches, options);
  if (options.dry_run) return request.show(plan.document, dry_view(plan, request));
  if (const auto stop = confirm(request, "Giving up " + words_for(plan, options))) return *stop;

  Json arguments = request.selectors();
  if (options.bytes) arguments["bytes"] = *options.bytes;
  if (options.drop_idle_caches) arguments["drop_idle_caches"] = true;
  const auto document = request.ask("evict", arguments);
  if (!document) return request.fail(document.error());

  const Timeout timeout = options.timeout.value_or(kDefaultWait);
  const auto waiting = wait_until_free(request, plan.retiring, timeout);
  const std::uint64_t blocks = number_at(*document, {"blocks"}).value_or(0);
  const std::uint64_t bytes = number_at(*document, {"bytes"}).value_or(0);
  const std::uint64_t dropped = number_at(*document, {"caches_dropped"}).value_or(0);
  std::string text = "Evicted " + blocks_and_bytes(blocks, bytes);
  if (options.drop_idle_caches) {
    text += " and dropped " + human_count(dropped) + (dropped == 1 ? " cache" : " caches");
  }
  if (blocks == 0 && dropped == 0) text = "Nothing to evict: no block is without a sequence";
  request.show(*document, text + ".\n");
  if (!waiting) {
    request.note("the eviction was ordered, but not seen to end: " + waiting.error().text);
    return kExitTimedOut;
  }
  if (*waiting > 0) {
    request.note("after " + duration_text(timeout) + " " + human_count(*waiting) +
                 " blocks still wait for running steps to end; they come back by themselves");
    return kExitTimedOut;
  }
  return kExitDone;
}

}  // namespace sluice::tools
