#include "tools/sluicectl/doctor_finding.h"

#include <algorithm>
#include <iterator>
#include <system_error>
#include <utility>

#include "tools/common/size.h"

namespace sluice::tools::doctor {

std::string_view word_for(Severity severity) {
  switch (severity) {
    case Severity::ok:
      return "ok";
    case Severity::note:
      return "note";
    case Severity::warning:
      return "warning";
    case Severity::error:
      return "error";
  }
  return "error";
}

void put_worst_first(FindingList& findings) {
  FindingList sorted;
  for (const Severity severity :
       {Severity::error, Severity::warning, Severity::note, Severity::ok}) {
    std::ranges::copy_if(findings, std::back_inserter(sorted),
                         [&](const Finding& finding) { return finding.severity == severity; });
  }
  findings = std::move(sorted);
}

std::string words_of(int error) { return std::generic_category().message(error); }

std::size_t count_of(const FindingList& findings, Severity severity) {
  return static_cast<std::size_t>(std::ranges::count(findings, severity, &Finding::severity));
}

std::string size_text(std::uint64_t bytes) { return human_bytes(static_cast<double>(bytes)); }

}  // namespace sluice::tools::doctor
