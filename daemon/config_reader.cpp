#include "daemon/config_reader.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "daemon/config_text.h"

namespace sluice::daemon {
namespace {

// How many single-character edits apart, by rows of the usual table.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

Position position_of(const toml::source_region& source) {
  return {static_cast<std::uint32_t>(source.begin.line),
          static_cast<std::uint32_t>(source.begin.column)};
}

Reader::~Reader() {
  for (const auto& [key, node] : table_) {
    if (std::ranges::find(known_, key.str()) == known_.end()) {
      findings_.add(position_of(key.source()), unknown(key.str()));
    }
  }
}

std::string Reader::full(std::string_view key) const {
  return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
}

std::optional<Reader> Reader::table(std::string_view key) {
  const toml::node* node = find(key);
  if (node == nullptr) return std::nullopt;
  if (const toml::table* inner = node->as_table()) {
    return std::optional<Reader>(std::in_place, *inner, full(key), findings_);
  }
  wrong(*node, key, "a table");
  return std::nullopt;
}

const toml::array* Reader::array_of_tables(std::string_view key) {
  const toml::node* node = find(key);
  if (node == nullptr) return nullptr;
  const toml::array* array = node->as_array();
  if (array != nullptr && array->is_array_of_tables()) return array;
  wrong(*node, key, "one [[" + full(key) + "]] for each");
  return nullptr;
}

void Reader::refuse(std::string_view key, const std::string& expected) {
  if (const toml::node* node = find(key)) wrong(*node, key, expected);
}

void Reader::wrong(const toml::node& node, std::string_view key, const std::string& expected) {
  findings_.add(position_of(node.source()),
                full(key) + ": found " + describe(node) + ", expected " + expected);
}

const toml::node* Reader::find(std::string_view key) {
  known_.emplace_back(key);
  const toml::node* node = table_.get(key);
  if (node != nullptr) findings_.place(full(key), position_of(node->source()));
  return node;
}

std::string Reader::unknown(std::string_view key) const {
  std::string text = "unknown key " + quoted(key);
  if (!path_.empty()) text += " in " + path_;
  const std::string_view cut = key.substr(0, kQuotedBytes);
  const auto distance = [&](const std::string& known) { return edit_distance(cut, known); };
  const auto nearest = std::ranges::min_element(known_, {}, distance);
  if (nearest != known_.end() && distance(*nearest) <= std::max<std::size_t>(2, key.size() / 3)) {
    return text + ": did you mean " + quoted(*nearest) + "?";
  }
  return text + ": expected one of " + join(known_, ", ");
}

}  // namespace sluice::daemon
