// What sluicectl doctor says about one thing that it looked at.
//
// Pure functions and plain data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools::doctor {

enum class Severity : std::uint8_t {
  ok,
  note,     // works, and is worth knowing
  warning,  // works worse than it could, or fails under load
  error,    // sluiced does not start with this, or cannot do what its configuration says
};

std::string_view word_for(Severity severity);

struct Finding {
  std::string id;  // of what was looked at, "io_uring": stable, for scripts
  Severity severity = Severity::ok;
  std::string subject;  // which one, where there are several: a directory, a health code
  std::string found;
  std::string todo;  // empty: nothing
};

using FindingList = std::vector<Finding>;

// The worst first; of one severity in the order in which they were found.
void put_worst_first(FindingList& findings);

// Bytes, for the texts of findings.
std::string size_text(std::uint64_t bytes);

// What an errno means, for the texts of findings.
std::string words_of(int error);

std::size_t count_of(const FindingList& findings, Severity severity);

}  // namespace sluice::tools::doctor
