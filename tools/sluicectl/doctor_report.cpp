#include "tools/sluicectl/doctor_report.h"

#include <algorithm>

#include "tools/sluicectl/document.h"
#include "tools/sluicectl/table.h"

namespace sluice::tools::doctor {
namespace {

constexpr std::size_t kSeverityWidth = 7;   // "warning"
constexpr std::size_t kNarrowestText = 30;  // a narrower terminal breaks lines itself
constexpr const char* kToDo = "to do: ";

Colour colour_of(Severity severity) {
  switch (severity) {
    case Severity::ok:
      return Colour::green;
    case Severity::note:
      return Colour::cyan;
    case Severity::warning:
      return Colour::yellow;
    case Severity::error:
      return Colour::red;
  }
  return Colour::none;
}

std::string padded(std::string text, std::size_t width) {
  const std::size_t has = width_of(text);
  if (has < width) text.append(width - has, ' ');
  return text;
}

// Broken between words; a longer word stays whole.
std::string broken(const std::string& text, std::size_t indent, std::size_t width) {
  if (width < indent + kNarrowestText) return text;
  std::string out;
  std::size_t column = indent;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    at = end + 1;
    if (!out.empty() && column + 1 + width_of(word) > width) {
      out += "\n" + std::string(indent, ' ') + word;
      column = indent + width_of(word);
      continue;
    }
    out += (out.empty() ? "" : " ") + word;
    column += (column == indent ? 0 : 1) + width_of(word);
  }
  return out;
}

std::string counted(std::size_t count, const char* one, const char* many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

}  // namespace

std::string report_text(const FindingList& findings, bool colour, std::size_t width) {
  std::size_t id_width = 0;
  for (const Finding& finding : findings) id_width = std::max(id_width, width_of(finding.id));
  const std::size_t indent = kSeverityWidth + 2 + id_width + 2;
  std::string text;
  for (const Finding& finding : findings) {
    const std::string word = padded(std::string(word_for(finding.severity)), kSeverityWidth);
    const std::string found =
        (finding.subject.empty() ? "" : finding.subject + ": ") + finding.found;
    text += painted(word, colour_of(finding.severity), colour) + "  " +
            padded(finding.id, id_width) + "  " + broken(printable(found), indent, width) + "\n";
    if (finding.todo.empty()) continue;
    text +=
        std::string(indent, ' ') + broken(printable(kToDo + finding.todo), indent, width) + "\n";
  }
  return text + counted(count_of(findings, Severity::error), "error", "errors") + ", " +
         counted(count_of(findings, Severity::warning), "warning", "warnings") + ", " +
         counted(count_of(findings, Severity::note), "note", "notes") + ", " +
         std::to_string(count_of(findings, Severity::ok)) + " ok\n";
}

Json report_document(const FindingList& findings) {
  Severity worst = Severity::ok;
  Json rows = Json::array();
  for (const Finding& finding : findings) {
    worst = std::max(worst, finding.severity);
    rows.push_back({{"id", finding.id},
                    {"severity", word_for(finding.severity)},
                    {"subject", finding.subject},
                    {"found", finding.found},
                    {"todo", finding.todo}});
  }
  return {{"schema", "sluice.doctor"},
          {"version", 1},
          {"summary",
           {{"worst", word_for(worst)},
            {"errors", count_of(findings, Severity::error)},
            {"warnings", count_of(findings, Severity::warning)},
            {"notes", count_of(findings, Severity::note)},
            {"ok", count_of(findings, Severity::ok)}}},
          {"findings", std::move(rows)}};
}

}  // namespace sluice::tools::doctor
