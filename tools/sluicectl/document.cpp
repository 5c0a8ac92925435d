#include "tools/sluicectl/document.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "tools/common/size.h"

namespace sluice::tools {
namespace {

// Bytes of the UTF-8 character at the front of `text`; 0 if it is none, or an ASCII or C1 control.
std::size_t printable_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x20 || first == 0x7F) return 0;
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC2 ? 2 : 0;
  if (length == 0 || first > 0xF4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if (first == 0xC2 && byte(1) < 0xA0) return 0;
  return length;
}

// Characters that turn the direction of text, or separate lines, would let a name imitate another.
bool reorders_text(std::string_view character) {
  if (character.size() != 3 || character[0] != '\xE2') return false;
  const auto low = static_cast<unsigned char>(character[2]);
  return (character[1] == '\x80' &&
          ((low >= 0x8E && low <= 0x8F) || (low >= 0xA8 && low <= 0xAE))) ||
         (character[1] == '\x81' && low >= 0xA6 && low <= 0xA9);
}

}  // namespace

const Json* value_at(const Json& document, Path path) {
  const Json* at = &document;
  for (const char* key : path) {
    if (!at->is_object()) return nullptr;
    const auto found = at->find(key);
    if (found == at->end()) return nullptr;
    at = &*found;
  }
  return at;
}

const Json& rows_at(const Json& document, Path path) {
  static const Json none = Json::array();
  const Json* rows = value_at(document, path);
  return rows != nullptr && rows->is_array() ? *rows : none;
}

std::optional<std::uint64_t> number_at(const Json& document, Path path) {
  const Json* value = value_at(document, path);
  if (value == nullptr || !value->is_number_integer()) return std::nullopt;
  if (!value->is_number_unsigned() && value->get<std::int64_t>() < 0) return std::nullopt;
  return value->get<std::uint64_t>();
}

std::optional<double> real_at(const Json& document, Path path) {
  const Json* value = value_at(document, path);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->get<double>();
}

bool flag_at(const Json& document, Path path) {
  const Json* value = value_at(document, path);
  return value != nullptr && value->is_boolean() && value->get<bool>();
}

std::string count_text(const Json& document, Path path) {
  const auto count = number_at(document, path);
  return count ? human_count(*count) : "-";
}

std::string bytes_text(const Json& document, Path path) {
  const auto bytes = number_at(document, path);
  return bytes ? human_bytes(static_cast<double>(*bytes)) : "-";
}

std::string id_text(const Json& document, Path path) {
  const auto id = number_at(document, path);
  return id ? std::to_string(*id) : "-";
}

std::string text_at(const Json& document, Path path) {
  const Json* value = value_at(document, path);
  if (value == nullptr || !value->is_string()) return "-";
  const auto& text = value->get_ref<const std::string&>();
  return text.empty() ? "-" : printable(text);
}

std::string printable(std::string_view text) {
  std::string safe;
  while (!text.empty()) {
    const std::size_t length = printable_character(text);
    const std::string_view character = text.substr(0, std::max<std::size_t>(length, 1));
    if (length == 0 || reorders_text(character)) {
      safe += '?';
    } else {
      safe += character;
    }
    text.remove_prefix(character.size());
  }
  return safe;
}

std::string percent_text(double part, double whole) {
  if (!(whole > 0)) return "-";
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f%%", 100.0 * part / whole);
  return text.data();
}

}  // namespace sluice::tools
