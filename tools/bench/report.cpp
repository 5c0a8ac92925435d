#include "tools/bench/report.h"

#include <cstdio>

namespace sluice::tools {
namespace {

double ratio_of(const Figures& figures) {
  return figures.value.median() / figures.ceiling.median();
}

nlohmann::ordered_json json_of(const Target& target) {
  nlohmann::ordered_json json;
  if (target.most_value) json["value_at_most"] = *target.most_value;
  if (target.least_value) json["value_at_least"] = *target.least_value;
  if (target.most_ratio) json["ratio_at_most"] = *target.most_ratio;
  if (target.least_ratio) json["ratio_at_least"] = *target.least_ratio;
  return json;
}

// Three digits that count, and a suffix for what is large: "12.3", "1.23M".
std::string short_number(double value) {
  constexpr double kThousand = 1000;
  const char* suffix = "";
  for (const char* larger : {"k", "M", "G", "T"}) {
    if (value < kThousand * 10) break;
    value /= kThousand;
    suffix = larger;
  }
  char text[32];
  std::snprintf(text, sizeof(text),
                value < 10    ? "%.2f%s"
                : value < 100 ? "%.1f%s"
                              : "%.0f%s",
                value, suffix);
  return text;
}

template <class... Cells>
std::string row(Cells... cells) {
  char text[256];
  std::snprintf(text, sizeof(text), "%-17s %9s %-12s %9s %7s   %-22s %s\n", cells...);
  return text;
}

}  // namespace

bool meets(const Target& target, const Figures& figures) {
  const double value = figures.value.median();
  const double ratio = ratio_of(figures);
  return !(target.most_value && value > *target.most_value) &&
         !(target.least_value && value < *target.least_value) &&
         !(target.most_ratio && ratio > *target.most_ratio) &&
         !(target.least_ratio && ratio < *target.least_ratio);
}

nlohmann::ordered_json json_line(const Benchmark& benchmark, const Figures& figures) {
  nlohmann::ordered_json json;
  json["bench"] = benchmark.name;
  json["value"] = figures.value.median();
  json["unit"] = benchmark.unit;
  json["ceiling"] = figures.ceiling.median();
  json["ratio"] = ratio_of(figures);
  json["repetitions"] = figures.value.rounds();
  json["min"] = figures.value.min();
  json["median"] = figures.value.median();
  json["max"] = figures.value.max();
  json["ceiling_min"] = figures.ceiling.min();
  json["ceiling_max"] = figures.ceiling.max();
  for (const auto& [name, series] : figures.also) json["also"][name] = series.median();
  if (benchmark.target.any()) {
    json["target"] = json_of(benchmark.target);
    json["met"] = meets(benchmark.target, figures);
  }
  if (!figures.note.empty()) json["note"] = figures.note;
  return json;
}

std::string words_for(const Target& target) {
  std::string words;
  const auto add = [&](const char* what, const std::optional<double>& bound) {
    if (bound) words += (words.empty() ? "" : ", ") + std::string(what) + short_number(*bound);
  };
  add("at most ", target.most_value);
  add("at least ", target.least_value);
  add("ratio at most ", target.most_ratio);
  add("ratio at least ", target.least_ratio);
  return words;
}

std::string table_heading() {
  return row("benchmark", "value", "unit", "ceiling", "ratio", "min .. max", "target");
}

std::string table_row(const Benchmark& benchmark, const Figures& figures) {
  const std::string value = short_number(figures.value.median());
  const std::string ceiling = short_number(figures.ceiling.median());
  const std::string ratio = short_number(ratio_of(figures));
  const std::string range =
      short_number(figures.value.min()) + " .. " + short_number(figures.value.max());
  std::string target = words_for(benchmark.target);
  if (!target.empty()) target += meets(benchmark.target, figures) ? ": met" : ": MISSED";
  std::string text = row(benchmark.name, value.c_str(), benchmark.unit, ceiling.c_str(),
                         ratio.c_str(), range.c_str(), target.c_str());
  for (const auto& [name, series] : figures.also) {
    const std::string figure = short_number(series.median());
    text += row(("  " + name).c_str(), figure.c_str(), benchmark.unit, "", "", "", "");
  }
  if (!figures.note.empty()) text += "  (" + figures.note + ")\n";
  return text;
}

}  // namespace sluice::tools
