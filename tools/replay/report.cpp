#include "tools/replay/report.h"

#include <cstdio>

#include "tools/common/size.h"

namespace sluice::tools {
namespace {

using nlohmann::ordered_json;

const std::string& name_of(const Trace& trace) {
  return std::visit([](const auto& t) -> const std::string& { return t.name; }, trace);
}

std::size_t requests_of(const Trace& trace) {
  return std::visit([](const auto& t) { return t.requests.size(); }, trace);
}

double ratio(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::uint64_t shared_blocks(const Counters& total) {
  return total.blocks_matched + total.blocks_deduplicated;
}

double microseconds(std::uint64_t ns) { return static_cast<double>(ns) / 1000; }

std::string percent(double fraction) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f%%", 100 * fraction);
  return text;
}

bool kill_is_accounted(const KillReport& kill) {
  return kill.accounted && kill.memory_returned && kill.accounted_ms <= kill.within_ms;
}

}  // namespace

int exit_code_of(const RunResult& result) {
  constexpr int kInterrupted = 130;
  if (result.interrupted) return kInterrupted;
  if (!result.failures.empty() || result.total.mismatches != 0) return 1;
  if (result.kill && !kill_is_accounted(*result.kill)) return 1;
  const Counters& t = result.total;
  return t.verified_pages == t.pages_requested - t.no_slot - t.absent ? 0 : 1;
}

ordered_json json_report(const ReportInput& input) {
  const Counters& t = input.result.total;
  const std::uint64_t block_bytes = input.plan.shape.payload.block_bytes();
  ordered_json out;
  out["schema"] = "sluice-replay";
  out["version"] = 1;
  out["trace"] = name_of(input.trace);
  out["backend"] = to_string(input.options.backend);
  out["devices"] = input.options.devices;
  out["executor"] = to_string(input.options.executor);
  out["engines"] = input.options.engines;
  out["tenants"] = input.options.tenants;
  out["requests"] = requests_of(input.trace);
  out["steps"] = t.steps;
  out["pages_requested"] = t.pages_requested;
  out["hits"] = t.hits;
  out["misses"] = t.misses;
  out["no_slot"] = t.no_slot;
  out["absent"] = t.absent;
  out["hit_rate"] = ratio(t.rated_hits, t.rated_pages);
  out["bytes_filled"] = t.bytes_filled;
  out["verified_pages"] = t.verified_pages;
  out["mismatches"] = t.mismatches;
  out["shared_blocks"] = shared_blocks(t);
  out["bytes_saved_by_sharing"] = shared_blocks(t) * block_bytes;
  out["forecasts"] = {{"issued", t.forecast_issued},
                      {"used", t.forecast_used},
                      {"late", t.forecast_late},
                      {"wasted_bytes", t.forecast_wasted_bytes}};
  out["resolve_us"] = {{"p50", microseconds(input.result.resolve.percentile(0.50))},
                       {"p99", microseconds(input.result.resolve.percentile(0.99))},
                       {"max", microseconds(input.result.resolve.max())}};
  out["wall_s"] = input.result.wall_s;

  out["page"] = std::holds_alternative<PrefixTrace>(input.trace)
                    ? "block"
                    : to_string(input.options.list_kind);
  out["forecast"] = to_string(input.options.forecast);
  out["slots"] = input.result.slots;
  out["page_bytes"] = input.plan.shape.payload.page_bytes();
  out["block_bytes"] = block_bytes;
  out["requests_done"] = t.requests_done;
  out["verified_bytes"] = t.verified_bytes;
  out["bytes_written"] = t.bytes_written;
  out["blocks_opened"] = t.blocks_opened;
  out["blocks_matched"] = t.blocks_matched;
  out["blocks_deduplicated"] = t.blocks_deduplicated;
  out["blocks_sealed"] = t.blocks_sealed;
  out["prefix_hit_rate"] = ratio(t.blocks_matched, t.blocks_opened);
  out["memory_waits"] = t.memory_waits;
  out["preemptions"] = t.preemptions;
  if (input.result.store) {
    const StoreReport& store = *input.result.store;
    std::uint64_t dram = 0;
    for (const TenantPlan& tenant : input.plan.tenants) dram += tenant.dram_bytes;
    out["nvme"] = {{"io", store.engine},
                   {"written_bytes", store.written_bytes},
                   {"read_bytes", store.read_bytes},
                   {"dram_bytes", dram},
                   {"displaced_blocks", store.displaced_blocks},
                   {"promoted_blocks", store.promoted_blocks},
                   {"lost", t.lost},
                   {"steps_for_store", t.steps_for_store}};
  }
  if (input.result.kill) {
    const KillReport& kill = *input.result.kill;
    out["kill"] = {{"engine", kill.engine},
                   {"step", kill.step},
                   {"accounted_ms", kill.accounted_ms},
                   {"memory_returned", kill.memory_returned}};
    if (!kill.trouble.empty()) out["kill"]["trouble"] = kill.trouble;
  }
  if (!input.result.daemon_kills.empty()) {
    auto kills = ordered_json::array();
    for (const DaemonKill& kill : input.result.daemon_kills) {
      kills.push_back({{"step", kill.step},
                       {"away_ms", kill.away_ms},
                       {"start_ms", kill.start_ms},
                       {"steps_away", kill.steps_away},
                       {"hit_rate_before", kill.hit_rate_before}});
    }
    out["daemon_kills"] = {{"restart", to_string(input.options.restart)},
                           {"kills", std::move(kills)},
                           {"hit_rate_after", input.result.hit_rate_after_kill},
                           {"longest_step_ms", input.result.longest_step_ms}};
  }
  out["failures"] = input.result.failures;
  out["first_mismatches"] = input.result.mismatches;
  out["exit_code"] = exit_code_of(input.result);
  return out;
}

std::string text_report(const ReportInput& input) {
  const Counters& t = input.result.total;
  const RunResult& result = input.result;
  const auto number = [](std::uint64_t value) { return human_count(value); };
  const auto bytes = [](std::uint64_t value) { return human_bytes(static_cast<double>(value)); };
  char line[256];
  std::string out;

  std::snprintf(line, sizeof line, "Replayed %s in %.1f s: %s of %s requests, %s steps",
                name_of(input.trace).c_str(), result.wall_s, number(t.requests_done).c_str(),
                number(requests_of(input.trace)).c_str(), number(t.steps).c_str());
  out += line;
  out += ", " + std::to_string(input.options.engines) + " engines of " +
         std::to_string(input.options.tenants) + " tenants, " + to_string(input.options.executor) +
         " executor, " + to_string(input.options.backend) + " backend.\n";
  out += "Pages: " + number(t.pages_requested) + " asked for, " + number(t.hits) + " were there, " +
         number(t.misses) + " brought in (" + bytes(t.bytes_filled) + "), " + number(t.no_slot) +
         " without a slot, " + number(t.absent) + " absent.\n";
  out += "Hit rate " + percent(ratio(t.rated_hits, t.rated_pages)) +
         " (without first steps and first uses of new blocks), with " + number(result.slots) +
         " slots of " + bytes(input.plan.shape.payload.page_bytes()) + ".\n";
  out += "Sharing: " + number(shared_blocks(t)) + " blocks were known already, which saved " +
         bytes(shared_blocks(t) * input.plan.shape.payload.block_bytes()) + "; " +
         percent(ratio(t.blocks_matched, t.blocks_opened)) +
         " of the prompts' blocks were not computed.\n";
  if (input.options.forecast != Forecast::none) {
    out += "Forecasts: " + number(t.forecast_issued) + " pages issued, " + number(t.forecast_used) +
           " used, " + number(t.forecast_late) + " late, " + bytes(t.forecast_wasted_bytes) +
           " wasted.\n";
  }
  std::snprintf(line, sizeof line,
                "Resolve: %.0f us median, %.0f us at the 99th percentile, %.0f us at most.\n",
                microseconds(result.resolve.percentile(0.50)),
                microseconds(result.resolve.percentile(0.99)), microseconds(result.resolve.max()));
  out += line;
  if (t.memory_waits != 0) {
    out += "Memory was short " + number(t.memory_waits) + " times; " + number(t.preemptions) +
           " requests were preempted.\n";
  }
  if (result.kill) {
    const KillReport& kill = *result.kill;
    std::snprintf(
        line, sizeof line,
        "Engine %u was killed at its step %llu; the daemon had accounted for it after %.0f ms",
        kill.engine, static_cast<unsigned long long>(kill.step), kill.accounted_ms);
    out += line;
    out += kill.memory_returned ? ", its memory returned.\n" : ", its memory NOT returned.\n";
    if (!kill.trouble.empty()) out += "  " + kill.trouble + "\n";
  }
  for (const DaemonKill& kill : result.daemon_kills) {
    std::snprintf(line, sizeof line,
                  "The daemon was killed at step %llu and back after %.0f ms (%.0f ms from its "
                  "start); engines made %llu steps meanwhile, hit rate before %s.\n",
                  static_cast<unsigned long long>(kill.step), kill.away_ms, kill.start_ms,
                  static_cast<unsigned long long>(kill.steps_away),
                  percent(kill.hit_rate_before).c_str());
    out += line;
  }
  if (!result.daemon_kills.empty()) {
    std::snprintf(line, sizeof line, "After it: hit rate %s. The longest step took %.1f ms.\n",
                  percent(result.hit_rate_after_kill).c_str(), result.longest_step_ms);
    out += line;
  }
  for (const std::string& failure : result.failures) out += "FAILED: " + failure + "\n";
  for (const std::string& mismatch : result.mismatches) out += "WRONG BYTES: " + mismatch + "\n";
  if (result.interrupted) out += "Interrupted.\n";
  out += "Verified " + number(t.verified_pages) + " pages byte by byte (" +
         bytes(t.verified_bytes) +
         "): " + (t.mismatches == 0 ? "no mismatch" : number(t.mismatches) + " MISMATCHES") + ".\n";
  return out;
}

}  // namespace sluice::tools
