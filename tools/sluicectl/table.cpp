#include "tools/sluicectl/table.h"

#include <algorithm>

#include "ipc/error.h"

namespace sluice::tools {
namespace {

constexpr const char* kGap = "  ";

const char* escape_of(Colour colour) {
  switch (colour) {
    case Colour::none:
      return "";
    case Colour::bold:
      return "\033[1m";
    case Colour::red:
      return "\033[31m";
    case Colour::green:
      return "\033[32m";
    case Colour::yellow:
      return "\033[33m";
    case Colour::blue:
      return "\033[34m";
    case Colour::cyan:
      return "\033[36m";
  }
  return "";
}

}  // namespace

std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string painted(const std::string& text, Colour colour, bool enabled) {
  if (!enabled || colour == Colour::none || text.empty()) return text;
  return escape_of(colour) + text + "\033[0m";
}

void Table::add(std::vector<std::string> cells) {
  SLUICE_ASSERT(cells.size() == columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::line(const std::vector<Column>& columns, const std::vector<std::size_t>& widths,
                        const std::vector<std::string>& cells) {
  std::string text;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const std::size_t width = width_of(cells[i]);
    const std::string padding(widths[i] > width ? widths[i] - width : 0, ' ');
    if (i > 0) text += kGap;
    text += columns[i].align == Align::left ? cells[i] + padding : padding + cells[i];
  }
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

std::string Table::text(bool colour) const {
  std::vector<std::string> headings;
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) {
    headings.push_back(column.heading);
    widths.push_back(width_of(column.heading));
  }
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string all = painted(line(columns_, widths, headings), Colour::bold, colour) + "\n";
  for (const auto& row : rows_) all += line(columns_, widths, row) + "\n";
  return all;
}

}  // namespace sluice::tools
