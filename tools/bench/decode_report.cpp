#include "tools/bench/decode_report.h"

#include <algorithm>
#include <cstdio>

#include "tools/common/size.h"

namespace sluice::tools {
namespace {

constexpr double kUsPerSecond = 1e6;
constexpr double kUsPerMs = 1e3;
constexpr double kBytesPerUsAndGb = 1e3;
constexpr double kTail = 0.95;

const char* name_of(DecodeHome home) {
  switch (home) {
    case DecodeHome::all_in_hbm:
      return "all in HBM";
    case DecodeHome::fits_in_hbm:
      return "fits in HBM";
    case DecodeHome::sluice:
      return "Sluice";
  }
  return "?";
}

double ms(double us) { return us / kUsPerMs; }

double time_ratio(const DecodeRun& run, const DecodeRun& other) {
  return run.step_us.median() / other.step_us.median();
}

// Of a column; empty where it says nothing.
std::string number(double value, const char* format, bool is_there = true) {
  if (!is_there) return "-";
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

double DecodeRun::tokens_per_s() const { return sequences * kUsPerSecond / step_us.mean(); }
double DecodeRun::gb_per_s() const { return bytes_swapped() / step_us.mean() / kBytesPerUsAndGb; }
double DecodeRun::link_share() const { return gb_per_s() / copy_only_gb_per_s; }

DecodeAgainst against(const DecodeRun& run, const std::vector<DecodeRun>& all) {
  DecodeAgainst others;
  for (const DecodeRun& one : all) {
    if (one.home == DecodeHome::all_in_hbm) others.all_in_hbm = &one;
    if (one.home == DecodeHome::fits_in_hbm && one.hbm_factor == run.hbm_factor) {
      others.fits_in_hbm = &one;
    }
  }
  return others;
}

GpuRow decode_row(const DecodeRun& run, const DecodeAgainst& others) {
  GpuRow row;
  row["bench"] = "decode";
  row["name"] = name_of(run.home);
  if (run.hbm_factor > 0) row["hbm_factor"] = run.hbm_factor;
  if (run.home == DecodeHome::sluice) row["forecasts"] = run.forecasts;
  row["sequences"] = run.sequences;
  row["kv_hbm_bytes"] = run.hbm_bytes;
  if (!run.note.empty()) row["note"] = run.note;
  row["steps"] = run.step_us.rounds();
  row["step_ms"] = ms(run.step_us.median());
  row["step_p95_ms"] = ms(run.step_us.quantile(kTail));
  row["step_mean_ms"] = ms(run.step_us.mean());
  row["tokens_per_s"] = run.tokens_per_s();
  row["attention_alone_ms"] = ms(run.attention_us);
  row["matrix_alone_ms"] = ms(run.matrix_us);
  if (run.home != DecodeHome::sluice) return row;
  row["resolve_alone_ms"] = ms(run.resolve_us);
  row["resolve_hits_alone_ms"] = ms(run.resolve_hits_us);
  row["hit_rate"] = run.hit_rate();
  row["pages"] = run.hits + run.misses + run.without_slot;
  row["misses"] = run.misses;
  row["without_slot"] = run.without_slot;
  if (run.forecasts) {
    row["forecast_issued"] = run.forecast_issued;
    row["forecast_used"] = run.forecast_used;
    row["forecast_dropped"] = run.forecast_dropped;
  }
  row["bytes_swapped"] = run.bytes_swapped();
  row["link_gb_per_s"] = run.gb_per_s();
  row["copy_only_gb_per_s"] = run.copy_only_gb_per_s;
  row["link_share"] = run.link_share();
  if (others.all_in_hbm != nullptr) {
    row["time_over_all_in_hbm"] = time_ratio(run, *others.all_in_hbm);
  }
  if (others.fits_in_hbm != nullptr) {
    row["tokens_over_fits_in_hbm"] = run.tokens_per_s() / others.fits_in_hbm->tokens_per_s();
  }
  return row;
}

std::string decode_table(const std::vector<DecodeRun>& runs) {
  std::vector<std::vector<std::string>> rows = {
      {"", "HBM", "KV in HBM", "forecasts", "seqs", "step ms", "p95", "tokens/s", "attention",
       "matrix", "resolve", "(hits)", "hit rate", "misses", "swapped", "link", "t / all in HBM",
       "tok/s / fits"}};
  for (const DecodeRun& run : runs) {
    const bool sluice = run.home == DecodeHome::sluice;
    const DecodeAgainst others = against(run, runs);
    rows.push_back({name_of(run.home), number(run.hbm_factor, "%.3gx", run.hbm_factor > 0),
                    human_bytes(static_cast<double>(run.hbm_bytes)),
                    sluice ? run.forecasts ? "yes" : "no" : "-", std::to_string(run.sequences),
                    number(ms(run.step_us.median()), "%.2f"),
                    number(ms(run.step_us.quantile(kTail)), "%.2f"),
                    number(run.tokens_per_s(), "%.0f"), number(ms(run.attention_us), "%.2f"),
                    number(ms(run.matrix_us), "%.2f"), number(ms(run.resolve_us), "%.2f", sluice),
                    number(ms(run.resolve_hits_us), "%.2f", sluice),
                    number(run.hit_rate(), "%.4f", sluice), number(run.misses, "%.0f", sluice),
                    sluice ? human_bytes(run.bytes_swapped()) : std::string("-"),
                    number(run.link_share(), "%.2f", sluice),
                    sluice && others.all_in_hbm != nullptr
                        ? number(time_ratio(run, *others.all_in_hbm), "%.2f")
                        : std::string("-"),
                    sluice && others.fits_in_hbm != nullptr
                        ? number(run.tokens_per_s() / others.fits_in_hbm->tokens_per_s(), "%.2f")
                        : std::string("-")});
  }
  std::vector<std::size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string space(widths[i] - row[i].size(), ' ');
      line += i == 0 ? row[i] + space : "  " + space + row[i];
    }
    text += line + "\n";
  }
  for (const DecodeRun& run : runs) {
    if (!run.note.empty()) text += std::string(name_of(run.home)) + ": " + run.note + "\n";
  }
  return text;
}

}  // namespace sluice::tools
