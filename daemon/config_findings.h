// Where each key stands in a configuration file, and what is wrong with the file.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "daemon/config.h"

namespace sluice::daemon {

struct Position {
  std::uint32_t line = 0;
  std::uint32_t column = 0;
  auto operator<=>(const Position&) const = default;
};

// Keys by their full names.
class Findings {
 public:
  void place(const std::string& key, Position position) { places_[key] = position; }
  bool has(const std::string& key) const { return places_.contains(key); }

  void add(Position position, std::string text) { errors_.emplace(position, std::move(text)); }
  // At the key, or at the nearest table around it that the file has.
  void add_at(std::string key, std::string text);
  // By position; of the same one in the order in which they were added.
  std::vector<ConfigError> take();

 private:
  std::map<std::string, Position> places_;
  std::multimap<Position, std::string> errors_;
};

}  // namespace sluice::daemon
