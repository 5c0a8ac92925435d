#include "tools/sluicectl/views.h"

#include <cstdio>
#include <vector>

#include "tools/common/size.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/duration.h"
#include "tools/sluicectl/health.h"
#include "tools/sluicectl/table.h"

namespace sluice::tools {
namespace {

// "used / limit".
std::string quota_text(const Json& row, const char* tier) {
  return bytes_text(row, {tier, "used_bytes"}) + " / " + bytes_text(row, {tier, "limit_bytes"});
}

// Whether the daemon tells what tenants have in a block store.
bool has_store(const Json& tenants) {
  for (const Json& row : tenants) {
    if (value_at(row, {"nvme", "limit_bytes"}) != nullptr) return true;
  }
  return false;
}

// A row of a table of tenants, without what stands at `place` if there is no block store.
template <class Cell>
std::vector<Cell> row_with(bool store, std::size_t place, std::vector<Cell> row) {
  if (!store) row.erase(row.begin() + static_cast<std::ptrdiff_t>(place));
  return row;
}

// Of all pages that were asked for, as the daemon counts.
std::string hit_text(const Json& row) {
  double pages = 0;
  for (const char* outcome : {"hits", "misses", "no_slot", "absent"}) {
    pages += real_at(row, {"resolve", outcome}).value_or(0);
  }
  return percent_text(real_at(row, {"resolve", "hits"}).value_or(0), pages);
}

std::string upper(std::string text) {
  for (char& c : text) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return text;
}

Colour colour_of(const std::string& verdict) {
  if (verdict == "ERROR") return Colour::red;
  if (verdict == "WARN") return Colour::yellow;
  return verdict == "OK" ? Colour::green : Colour::bold;
}

std::string head_of(const Json& status, const View& view) {
  std::string line =
      painted("sluiced " + text_at(status, {"daemon", "version"}), Colour::bold, view.colour);
  line += "  backend " + text_at(status, {"daemon", "backend"});
  if (const Json& devices = rows_at(status, {"devices"});
      text_at(status, {"daemon", "backend"}) == "cuda") {
    line += devices.size() == 1
                ? " (" + text_at(devices[0], {"name"}) + ", " + text_at(devices[0], {"uuid"}) + ")"
                : " (" + std::to_string(devices.size()) + " devices)";
  }
  line += "  pid " + id_text(status, {"daemon", "pid"});
  line += "  up " + uptime_text(real_at(status, {"daemon", "uptime_seconds"}).value_or(-1));
  if (const std::string held_by = text_at(status, {"restart", "held_by"});
      !held_by.empty() && held_by != "-") {
    line += "  kept by " + held_by;
  }
  const auto findings = findings_in(status);
  if (!findings) return line + "  health -\n";
  const std::string verdict = verdict_of(*findings);
  line += "  health " + painted(verdict, colour_of(verdict), view.colour) + "\n";
  for (const Finding& finding : *findings) {
    line += "  " + painted(finding.code, colour_of(upper(finding.level)), view.colour) + " " +
            finding.text + "; " + finding.remedy + "\n";
  }
  return line;
}

std::string tiers_of(const Json& status, const View& view) {
  Table table(
      {{"TIER", Align::left}, {"CAPACITY"}, {"USED"}, {"%"}, {"FREE"}, {"GUARANTEED"}, {"LENT"}});
  for (const Json& tier : rows_at(status, {"tiers"})) {
    table.add({upper(text_at(tier, {"tier"})), bytes_text(tier, {"capacity_bytes"}),
               bytes_text(tier, {"used_bytes"}),
               percent_text(real_at(tier, {"used_bytes"}).value_or(0),
                            real_at(tier, {"capacity_bytes"}).value_or(0)),
               bytes_text(tier, {"free_bytes"}), bytes_text(tier, {"guaranteed_bytes"}),
               bytes_text(tier, {"lent_bytes"})});
  }
  return table.empty() ? "" : table.text(view.colour);
}

std::string nvme_of(const Json& status, const View& view) {
  Table table({{"NVME DIRECTORY", Align::left},
               {"IO", Align::left},
               {"CAPACITY"},
               {"LIVE"},
               {"%"},
               {"WRITTEN"},
               {"READ"},
               {"CLEANED"},
               {"ERRORS"},
               {"STATE", Align::left}});
  for (const Json& row : rows_at(status, {"nvme", "devices"})) {
    const std::uint64_t errors =
        number_at(row, {"io_errors"}).value_or(0) + number_at(row, {"checksum_errors"}).value_or(0);
    const bool out = flag_at(row, {"taken_out"});
    table.add({text_at(row, {"directory"}), text_at(row, {"io"}),
               bytes_text(row, {"capacity_bytes"}), bytes_text(row, {"live_bytes"}),
               percent_text(real_at(row, {"live_bytes"}).value_or(0),
                            real_at(row, {"capacity_bytes"}).value_or(0)),
               bytes_text(row, {"written_bytes"}), bytes_text(row, {"read_bytes"}),
               bytes_text(row, {"cleaned_bytes"}), human_count(errors),
               out ? "out: " + text_at(row, {"taken_out_why"}) : "in use"});
  }
  if (table.empty()) return "";
  return table.text(view.colour) + "blocks " + count_text(status, {"nvme", "blocks"}) + " | held " +
         bytes_text(status, {"nvme", "held_bytes"}) + " | displaced " +
         count_text(status, {"nvme", "displaced_blocks"}) + " | promoted " +
         count_text(status, {"nvme", "promoted_blocks"}) + " | refused " +
         count_text(status, {"nvme", "write_refused_blocks"}) + " | lost " +
         count_text(status, {"nvme", "lost_blocks"}) + "\n";
}

// Those that a cache has an arena on.
std::string devices_text(const Json& cache) {
  std::string text;
  for (const Json& arena : rows_at(cache, {"arenas"})) {
    text += (text.empty() ? "" : ",") + id_text(arena, {"device"});
  }
  return text.empty() ? "-" : text;
}

// The NUMA nodes that the DRAM of a device's caches comes from.
std::string nodes_text(const Json& row) {
  std::string text;
  const Json* nodes = value_at(row, {"dram_numa_nodes"});
  if (nodes == nullptr || !nodes->is_array()) return "-";
  for (const Json& node : *nodes) text += (text.empty() ? "" : ",") + printable(node.dump());
  return text.empty() ? "any" : text;
}

// Processes of the daemon that resolve for tenants.
std::string executors_of(const Json& document) {
  std::string text;
  for (const Json& device : rows_at(document, {"devices"})) {
    for (const Json& row : rows_at(device, {"executors"})) {
      text += "executor of tenant " + text_at(row, {"tenant"}) + " on device " +
              id_text(device, {"device"}) + ": ";
      const std::uint64_t pid = number_at(row, {"pid"}).value_or(0);
      text += pid == 0 ? "not running" : "pid " + std::to_string(pid);
      text += ", " + bytes_text(row, {"pinned_bytes"}) + " of DRAM pinned, " +
              count_text(row, {"worker_failures"}) + " failures\n";
    }
  }
  return text;
}

std::string devices_of(const Json& document, const View& view) {
  Table table({{"DEVICE"},
               {"NAME", Align::left},
               {"UUID", Align::left},
               {"DRAM ON NODE", Align::left},
               {"CACHES"},
               {"HBM used / capacity"},
               {"%"},
               {"GUARANTEED"},
               {"LENT"}});
  for (const Json& row : rows_at(document, {"devices"})) {
    table.add({id_text(row, {"device"}), text_at(row, {"name"}), text_at(row, {"uuid"}),
               nodes_text(row), count_text(row, {"caches"}),
               bytes_text(row, {"used_bytes"}) + " / " + bytes_text(row, {"capacity_bytes"}),
               percent_text(real_at(row, {"used_bytes"}).value_or(0),
                            real_at(row, {"capacity_bytes"}).value_or(0)),
               bytes_text(row, {"guaranteed_bytes"}), bytes_text(row, {"lent_bytes"})});
  }
  return table.empty() ? "" : table.text(view.colour) + executors_of(document);
}

std::string short_tenants_of(const Json& status, const View& view) {
  constexpr std::size_t kNvme = 5;
  const Json& rows = rows_at(status, {"tenants"});
  const bool store = has_store(rows);
  Table table(row_with<Column>(store, kNvme,
                               {{"TENANT", Align::left},
                                {"SESSIONS"},
                                {"SEQUENCES"},
                                {"HBM used / limit"},
                                {"DRAM used / limit"},
                                {"NVME used / limit"},
                                {"BLOCKS"},
                                {"SHARED"},
                                {"SAVED"},
                                {"HIT"},
                                {"DEATHS"}}));
  for (const Json& row : rows) {
    const std::uint64_t blocks = number_at(row, {"blocks", "private"}).value_or(0) +
                                 number_at(row, {"blocks", "sealed"}).value_or(0);
    table.add(row_with<std::string>(
        store, kNvme,
        {text_at(row, {"tenant"}), count_text(row, {"sessions"}), count_text(row, {"sequences"}),
         quota_text(row, "hbm"), quota_text(row, "dram"), quota_text(row, "nvme"),
         human_count(blocks), count_text(row, {"blocks", "shared"}),
         bytes_text(row, {"sharing", "saved_bytes"}), hit_text(row),
         count_text(row, {"session_deaths"})}));
  }
  return table.empty() ? "No tenants that you may see.\n" : table.text(view.colour);
}

std::string totals_of(const Json& status) {
  std::string line = "resolve: hit rate " + hit_text(status) + ", " +
                     count_text(status, {"resolve", "hits"}) + " hits, " +
                     count_text(status, {"resolve", "misses"}) + " misses, " +
                     bytes_text(status, {"resolve", "bytes_filled"}) + " filled, " +
                     count_text(status, {"resolve", "no_slot"}) + " without a slot, " +
                     count_text(status, {"resolve", "absent"}) + " absent\n";
  if (value_at(status, {"sharing"}) != nullptr) {
    line += "shared " + count_text(status, {"blocks", "shared"}) + " blocks, " +
            bytes_text(status, {"sharing", "saved_bytes"}) + " saved | caches " +
            count_text(status, {"caches"}) + " | blocks nobody refers to " +
            count_text(status, {"blocks", "unreferenced"}) + ", retiring " +
            count_text(status, {"blocks", "retiring"}) + "\n";
  }
  return line;
}

std::string changes_of(const Json& rows, const char* heading, const View& view) {
  Table table({{heading, Align::left}, {"NOW", Align::left}, {"IN THE FILE", Align::left}});
  for (const Json& row : rows) {
    table.add({text_at(row, {"key"}), text_at(row, {"now"}), text_at(row, {"wanted"})});
  }
  return table.text(view.colour);
}

}  // namespace

std::string status_view(const Json& status, const View& view) {
  // Of one device the tier says it all.
  const bool several = rows_at(status, {"devices"}).size() > 1;
  return head_of(status, view) + tiers_of(status, view) + nvme_of(status, view) +
         (several ? devices_of(status, view) : std::string()) + short_tenants_of(status, view) +
         totals_of(status);
}

std::string devices_view(const Json& document, const View& view) {
  const std::string text = devices_of(document, view);
  return text.empty() ? "The daemon tells no devices; is it another version?\n" : text;
}

std::string tenants_view(const Json& document, const View& view) {
  constexpr std::size_t kNvme = 8;
  const Json& rows = rows_at(document, {"tenants"});
  const bool store = has_store(rows);
  Table table(row_with<Column>(store, kNvme,
                               {{"TENANT", Align::left},
                                {"SESSIONS"},
                                {"CACHES"},
                                {"SEQUENCES"},
                                {"HBM used / limit"},
                                {"guaranteed"},
                                {"DRAM used / limit"},
                                {"guaranteed"},
                                {"NVME used / limit"},
                                {"PRIVATE"},
                                {"SEALED"},
                                {"SHARED"},
                                {"SAVED"},
                                {"HIT"},
                                {"EVICTED"},
                                {"FORECAST used"},
                                {"DEATHS"},
                                {"VIOLATIONS"}}));
  for (const Json& row : rows) {
    table.add(row_with<std::string>(
        store, kNvme,
        {text_at(row, {"tenant"}), count_text(row, {"sessions"}), count_text(row, {"caches"}),
         count_text(row, {"sequences"}), quota_text(row, "hbm"),
         bytes_text(row, {"hbm", "guaranteed_bytes"}), quota_text(row, "dram"),
         bytes_text(row, {"dram", "guaranteed_bytes"}), quota_text(row, "nvme"),
         count_text(row, {"blocks", "private"}), count_text(row, {"blocks", "sealed"}),
         count_text(row, {"blocks", "shared"}), bytes_text(row, {"sharing", "saved_bytes"}),
         hit_text(row), bytes_text(row, {"evicted_bytes"}),
         percent_text(real_at(row, {"forecasts", "used_pages"}).value_or(0),
                      real_at(row, {"forecasts", "issued_pages"}).value_or(0)),
         count_text(row, {"session_deaths"}), count_text(row, {"violations"})}));
  }
  return table.empty() ? "No tenants that you may see.\n" : table.text(view.colour);
}

// What is registered with GPUs, and what that costs, has columns if there is such memory.
std::string sessions_view(const Json& document, const View& view) {
  const Json& rows = rows_at(document, {"sessions"});
  const bool pins = std::ranges::any_of(rows, [](const Json& row) {
    return row.value("to_pin_bytes", std::uint64_t{0}) +
               row.value("pinned_bytes", std::uint64_t{0}) !=
           0;
  });
  std::vector<Column> columns = {{"SESSION"},
                                 {"TENANT", Align::left},
                                 {"CLIENT", Align::left},
                                 {"PID"},
                                 {"STATE", Align::left},
                                 {"CACHES"},
                                 {"SEQUENCES"},
                                 {"BLOCKS"},
                                 {"REQUESTS"},
                                 {"FAILURES"}};
  if (pins) columns.insert(columns.end(), {{"PINNED / to pin"}, {"HBM for it"}});
  columns.push_back({"REASON", Align::left});
  Table table(std::move(columns));
  for (const Json& row : rows) {
    std::vector<std::string> cells = {
        id_text(row, {"session"}),      text_at(row, {"tenant"}),    text_at(row, {"client"}),
        id_text(row, {"pid"}),          text_at(row, {"state"}),     count_text(row, {"caches"}),
        count_text(row, {"sequences"}), count_text(row, {"blocks"}), count_text(row, {"requests"}),
        count_text(row, {"failures"})};
    if (pins) {
      cells.push_back(bytes_text(row, {"pinned_bytes"}) + " / " +
                      bytes_text(row, {"to_pin_bytes"}));
      cells.push_back(bytes_text(row, {"pin_hbm_bytes"}));
    }
    cells.push_back(text_at(row, {"reason"}));
    table.add(std::move(cells));
  }
  return table.empty() ? "No sessions: no process is connected.\n" : table.text(view.colour);
}

std::string caches_view(const Json& document, const View& view) {
  Table table({{"CACHE"},
               {"TENANT", Align::left},
               {"MODEL", Align::left},
               {"SALT", Align::left},
               {"SHARD", Align::left},
               {"DEVICES"},
               {"STATE", Align::left},
               {"BLOCK"},
               {"PAGE"},
               {"PAGES"},
               {"SESSIONS"},
               {"SEQUENCES"},
               {"HBM used / arena"},
               {"DRAM"},
               {"PRIVATE"},
               {"SEALED"},
               {"SHARED"},
               {"HIT"},
               {"EVICTED"}});
  for (const Json& row : rows_at(document, {"caches"})) {
    table.add({id_text(row, {"cache"}), text_at(row, {"tenant"}), text_at(row, {"model"}),
               text_at(row, {"salt"}),
               id_text(row, {"shard_index"}) + "/" + id_text(row, {"shard_count"}),
               devices_text(row), text_at(row, {"state"}), bytes_text(row, {"block_bytes"}),
               bytes_text(row, {"page_bytes"}), count_text(row, {"pages_per_block"}),
               count_text(row, {"sessions"}), count_text(row, {"sequences"}),
               bytes_text(row, {"hbm_used_bytes"}) + " / " + bytes_text(row, {"hbm_bytes"}),
               bytes_text(row, {"dram_bytes"}), count_text(row, {"blocks", "private"}),
               count_text(row, {"blocks", "sealed"}), count_text(row, {"blocks", "shared"}),
               hit_text(row), bytes_text(row, {"evicted_bytes"})});
  }
  return table.empty() ? "No caches: no engine has opened one.\n" : table.text(view.colour);
}

std::string sequences_view(const Json& document, const View& view) {
  Table table(
      {{"SESSION"}, {"SEQUENCE"}, {"TENANT", Align::left}, {"CACHE"}, {"BLOCKS"}, {"PRIVATE"}});
  for (const Json& row : rows_at(document, {"sequences"})) {
    table.add({id_text(row, {"session"}), id_text(row, {"sequence"}), text_at(row, {"tenant"}),
               id_text(row, {"cache"}), count_text(row, {"blocks"}), count_text(row, {"private"})});
  }
  const std::uint64_t next = number_at(document, {"next_cursor"}).value_or(0);
  const std::string more =
      next == 0 ? "" : "More follow: add --after " + std::to_string(next) + "\n";
  if (table.empty()) {
    return next == 0 ? "No sequences: no engine holds one.\n"
                     : "None in this part of the list.\n" + more;
  }
  return table.text(view.colour) + more;
}

std::string config_view(const Json& document, const View& view) {
  const Json* values = value_at(document, {"values"});
  Table table({{"KEY", Align::left}, {"VALUE", Align::left}});
  if (values != nullptr && values->is_object()) {
    for (const auto& [key, value] : values->items()) {
      table.add({printable(key), value.is_string() ? printable(value.get<std::string>())
                                                   : printable(value.dump())});
    }
  }
  return table.empty() ? "The daemon tells no values.\n" : table.text(view.colour);
}

std::string reload_view(const Json& document, const View& view) {
  const Json& applied = rows_at(document, {"applied"});
  const Json& deferred = rows_at(document, {"deferred"});
  if (applied.empty() && deferred.empty())
    return "Nothing changed: the daemon runs what the file says.\n";
  std::string text;
  if (!applied.empty()) text += changes_of(applied, "APPLIED", view);
  if (!deferred.empty()) text += changes_of(deferred, "NEEDS A RESTART", view);
  return text;
}

}  // namespace sluice::tools
