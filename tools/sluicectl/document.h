// Reading the daemon's documents for people: a field that is missing or of another type shows as
// "-".
//
// An older daemon lacks fields that this program knows, and names in a document (of models, of
// client processes) are chosen by tenants: nothing here throws, and no text reaches a terminal with
// control characters in it. Pure functions.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "tools/sluicectl/surroundings.h"

namespace sluice::tools {

// Keys from the outside in: {"blocks", "shared"}.
using Path = std::initializer_list<const char*>;

// The value at `path`; nullptr if there is none.
const Json* value_at(const Json& document, Path path);
// The rows of an array of objects; an empty array if there is none.
const Json& rows_at(const Json& document, Path path);

std::optional<std::uint64_t> number_at(const Json& document, Path path);
std::optional<double> real_at(const Json& document, Path path);
bool flag_at(const Json& document, Path path);  // false if there is none

// For people.
std::string count_text(const Json& document, Path path);  // "41,208"
std::string bytes_text(const Json& document, Path path);  // "2.0 GiB"
std::string id_text(const Json& document, Path path);     // "41208", to be given back as a selector
std::string text_at(const Json& document, Path path);     // printable(); "-" when empty

// Control characters, and bytes that are no UTF-8, become '?'.
std::string printable(std::string_view text);

// "97.1%"; "-" of nothing.
std::string percent_text(double part, double whole);

}  // namespace sluice::tools
