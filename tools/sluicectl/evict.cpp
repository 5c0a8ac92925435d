#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "tools/common/size.h"
#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/duration.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/table.h"

namespace sluice::tools {
namespace {

constexpr std::chrono::milliseconds kEvictLookInterval{50};

std::string blocks_and_bytes(std::uint64_t blocks, std::uint64_t bytes) {
  return human_count(blocks) + (blocks == 1 ? " block (" : " blocks (") +
         human_bytes(static_cast<double>(bytes)) + ")";
}

// What the daemon says that it would give up, as things stand.
struct Plan {
  Json document;
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;
  std::uint64_t caches_dropped = 0;
  std::uint64_t retiring = 0;  // on their way already
};

Json arguments_of(const Request& request) {
  Json arguments = request.selectors();
  if (request.options.bytes) arguments["bytes"] = *request.options.bytes;
  if (request.options.drop_idle_caches) arguments["drop_idle_caches"] = true;
  return arguments;
}

ipc::Result<Plan> ask_plan(const Request& request) {
  auto document = request.ask("evict_plan", arguments_of(request));
  if (!document) return std::unexpected(std::move(document.error()));
  Plan plan;
  plan.blocks = number_at(*document, {"blocks"}).value_or(0);
  plan.bytes = number_at(*document, {"bytes"}).value_or(0);
  plan.caches_dropped = number_at(*document, {"caches_dropped"}).value_or(0);
  for (const Json& cache : rows_at(*document, {"caches"})) {
    plan.retiring += number_at(cache, {"retiring_blocks"}).value_or(0);
  }
  plan.document = std::move(*document);
  return plan;
}

// "40 blocks (80.0 MiB) that no sequence refers to, and 1 cache that no session has open".
std::string words_for(const Plan& plan, const Options& options) {
  std::string text = blocks_and_bytes(plan.blocks, plan.bytes) + " that no sequence refers to";
  if (options.drop_idle_caches) {
    text += ", and " + human_count(plan.caches_dropped) +
            (plan.caches_dropped == 1 ? " cache" : " caches") + " that no session has open";
  }
  return text;
}

std::string dry_view(const Plan& plan, const Request& request) {
  Table table({{"CACHE"},
               {"TENANT", Align::left},
               {"EVICTABLE"},
               {"BYTES"},
               {"WOULD GO"},
               {"BYTES"},
               {"DROPPED", Align::left}});
  for (const Json& row : rows_at(plan.document, {"caches"})) {
    table.add({id_text(row, {"cache"}), text_at(row, {"tenant"}),
               count_text(row, {"evictable_blocks"}), bytes_text(row, {"evictable_bytes"}),
               count_text(row, {"blocks"}), bytes_text(row, {"bytes"}),
               flag_at(row, {"would_be_dropped"}) ? "yes" : "no"});
  }
  std::string head =
      "Would give up " + words_for(plan, request.options) + ". Nothing was changed.\n";
  if (!flag_at(plan.document, {"exact"})) {
    head += "So many that which caches they come from is an estimate.\n";
  }
  return table.empty() ? head : head + table.text(request.around.colour);
}

// nullopt: go on. A script must name what it means: --yes answers the question, but does not say
// that everything of everybody is meant.
std::optional<int> may_go_on(const Request& request, const Plan& plan) {
  const Options& options = request.options;
  std::string what = "Giving up " + words_for(plan, options);
  if (!options.tenant && !options.cache && !options.everything) {
    if (!request.around.can_ask || options.yes) {
      return request.fail({ipc::Errc::invalid_argument,
                           "evict needs one of --tenant, --cache and --all (of all tenants)"});
    }
    what += " of ALL tenants";
  }
  return confirm(request, what);
}

// Blocks come back when running steps have ended: waits for that. The blocks that still wait, 0
// when done.
ipc::Result<std::uint64_t> wait_until_free(const Request& request, std::uint64_t retiring_before,
                                           Timeout timeout) {
  const TimePoint deadline = request.around.now() + timeout;
  std::uint64_t told = std::numeric_limits<std::uint64_t>::max();
  while (true) {
    const auto plan = ask_plan(request);
    if (!plan && plan.error().code != ipc::Errc::not_found) return std::unexpected(plan.error());
    const auto status = request.ask("status");
    if (!status) return std::unexpected(status.error());
    // not_found: the cache itself was dropped.
    const std::uint64_t retiring = plan ? plan->retiring : 0;
    const bool pending = flag_at(*status, {"pending_work"});
    if (!pending && retiring <= retiring_before) return 0;
    if (request.around.now() >= deadline) return std::max<std::uint64_t>(retiring, 1);
    if (retiring != told && told != std::numeric_limits<std::uint64_t>::max()) {
      request.note(human_count(retiring) + " blocks wait for running steps to end");
    }
    told = retiring;
    request.around.sleep_for(kEvictLookInterval);
  }
}

}  // namespace

int evict(const Request& request) {
  const Options& options = request.options;
  const auto plan = ask_plan(request);
  if (!plan) return request.fail(plan.error());
  if (options.dry_run) return request.show(plan->document, dry_view(*plan, request));
  if (const auto stop = may_go_on(request, *plan)) return *stop;

  const auto document = request.ask("evict", arguments_of(request));
  if (!document) return request.fail(document.error());

  const Timeout timeout = options.timeout.value_or(kDefaultWait);
  const auto waiting = wait_until_free(request, plan->retiring, timeout);
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
