// Findings as text for people, and as the document "sluice.doctor" for scripts.
//
// Pure functions.
#pragma once

#include <cstddef>
#include <string>

#include "tools/sluicectl/doctor_finding.h"
#include "tools/sluicectl/surroundings.h"

namespace sluice::tools::doctor {

// Findings are shown in their order. `width`: lines are broken there; 0: they are not.
std::string report_text(const FindingList& findings, bool colour, std::size_t width);
Json report_document(const FindingList& findings);

}  // namespace sluice::tools::doctor
