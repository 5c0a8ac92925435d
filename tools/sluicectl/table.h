// A table of text for people: columns as wide as their widest cell, two spaces between them.
//
// No cell is ever cut. Widths count characters (UTF-8), not bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::tools {

enum class Align : std::uint8_t { left, right };

struct Column {
  std::string heading;
  Align align = Align::right;
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // As many cells as there are columns.
  void add(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }

  // Headings and rows, a line each.
  std::string text(bool colour) const;
  // The lines of one row with widths that were chosen before: for tables that grow while they are
  // shown.
  static std::string line(const std::vector<Column>& columns,
                          const std::vector<std::size_t>& widths,
                          const std::vector<std::string>& cells);

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

enum class Colour : std::uint8_t { none, bold, red, green, yellow, blue, cyan };

// `text` as a terminal shows it in that colour; `text` itself if not `enabled`.
std::string painted(const std::string& text, Colour colour, bool enabled);

// Characters, not bytes.
std::size_t width_of(const std::string& text);

}  // namespace sluice::tools
