#include <algorithm>
#include <array>
#include <cmath>

#include "tools/common/size.h"
#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/table.h"

namespace sluice::tools {
namespace {

constexpr Timeout kDefaultInterval{1'000};
// The headings come again after as many rows, so that they are never far up.
constexpr std::uint64_t kRowsPerHeading = 20;

struct Sample {
  double seconds = 0;  // the daemon's own clock
  double hits = 0, misses = 0, no_slot = 0, absent = 0, bytes_filled = 0;
  double pages() const { return hits + misses + no_slot + absent; }
};

Sample sample_of(const Json& status) {
  const auto value = [&](const char* name) {
    return real_at(status, {"resolve", name}).value_or(0);
  };
  return {real_at(status, {"daemon", "uptime_seconds"}).value_or(0),
          value("hits"),
          value("misses"),
          value("no_slot"),
          value("absent"),
          value("bytes_filled")};
}

const std::vector<Column>& columns() {
  static const std::vector<Column> all = {{"TIME", Align::left},
                                          {"SESSIONS"},
                                          {"SEQUENCES"},
                                          {"HBM"},
                                          {"DRAM"},
                                          {"HIT"},
                                          {"HITS/s"},
                                          {"MISSES/s"},
                                          {"FILLED/s"},
                                          {"NO SLOT/s"},
                                          {"ABSENT/s"}};
  return all;
}
const std::vector<std::size_t> kWidths = {8, 8, 9, 10, 10, 6, 12, 10, 10, 9, 8};

// Sums over the tenants in the document: all of them, or the one that was selected.
double sum_of(const Json& status, Path path) {
  double sum = 0;
  for (const Json& tenant : rows_at(status, {"tenants"})) sum += real_at(tenant, path).value_or(0);
  return sum;
}

std::string whole(double number) {
  return human_count(static_cast<std::uint64_t>(std::llround(std::clamp(number, 0.0, 1e18))));
}

// Rates between two samples. Counters go down when a cache goes: then there is no rate to tell.
std::vector<std::string> row_of(const std::string& time, const Json& status, const Sample& before) {
  const Sample now = sample_of(status);
  const double seconds = now.seconds - before.seconds;
  const auto rate = [&](double then, double later, bool bytes) -> std::string {
    if (!(seconds > 0) || later < then) return "-";
    const double per_second = (later - then) / seconds;
    return bytes ? human_bytes(per_second) : whole(per_second);
  };
  const double hits = now.hits - before.hits;
  const double pages = now.pages() - before.pages();
  return {time,
          whole(sum_of(status, {"sessions"})),
          whole(sum_of(status, {"sequences"})),
          human_bytes(sum_of(status, {"hbm", "used_bytes"})),
          human_bytes(sum_of(status, {"dram", "used_bytes"})),
          hits < 0 || pages < hits ? "-" : percent_text(hits, pages),
          rate(before.hits, now.hits, false),
          rate(before.misses, now.misses, false),
          rate(before.bytes_filled, now.bytes_filled, true),
          rate(before.no_slot, now.no_slot, false),
          rate(before.absent, now.absent, false)};
}

// Before every kRowsPerHeading rows.
std::string headings_of(const Request& request, std::uint64_t row) {
  if (row % kRowsPerHeading != 0) return {};
  std::vector<std::string> headings;
  for (const Column& column : columns()) headings.push_back(column.heading);
  return painted(Table::line(columns(), kWidths, headings), Colour::bold, request.around.colour) +
         "\n";
}

}  // namespace

int watch(const Request& request) {
  const Options& options = request.options;
  const bool one_shot = !request.around.out_is_terminal && !options.count && !options.every;
  const std::uint64_t rows = one_shot ? 1 : options.count.value_or(0);  // 0: no end
  const Timeout interval = options.every.value_or(kDefaultInterval);
  TimePoint next = request.around.now();
  Sample before;  // the first row tells averages since the daemon's start
  for (std::uint64_t row = 0; rows == 0 || row < rows; ++row) {
    if (row > 0) {
      next = std::max(next + interval, request.around.now());
      request.around.sleep_for(
          std::chrono::ceil<std::chrono::milliseconds>(next - request.around.now()));
    }
    const auto status = request.ask("status", request.selectors());
    if (!status) return request.fail(status.error());
    const std::string text =
        options.json ? json_text(*status, true)
                     : headings_of(request, row) +
                           Table::line(columns(), kWidths,
                                       row_of(request.around.wall_clock(), *status, before)) +
                           "\n";
    if (!request.around.out(text)) {
      request.note("the output could not be written");
      return kExitFailed;
    }
    before = sample_of(*status);
  }
  return kExitDone;
}

}  // namespace sluice::tools
