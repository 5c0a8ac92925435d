// Reading the tables of a configuration file, strictly: all that is wrong is found, and each of it
// says where it stands and what is expected.
#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <concepts>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/config.h"
#include "daemon/config_findings.h"
#include "daemon/config_values.h"

namespace sluice::daemon {

Position position_of(const toml::source_region& source);

// Reads the keys of one table. What was never asked for when it is destroyed is unknown, and an
// error.
class Reader {
 public:
  Reader(const toml::table& table, std::string path, Findings& findings)
      : table_(table), path_(std::move(path)), findings_(findings) {}
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader();

  std::string full(std::string_view key) const;

  // Leaves `into` as it is if the key is not there or wrong.
  template <class Value, class Parse>
  void read(std::string_view key, Value& into, Parse parse) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    auto value = parse(*node);
    if (value) {
      into = std::move(*value);
    } else {
      wrong(*node, key, value.error());
    }
  }

  // A list of uids or gids.
  template <std::unsigned_integral Number>
  void read_ids(std::string_view key, std::vector<Number>& into) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const toml::array* array = node->as_array();
    if (array == nullptr || array->size() > kMaxIdsPerList) {
      wrong(
          *node, key,
          "an array of at most " + std::to_string(kMaxIdsPerList) + " numeric ids, such as [1000]");
      return;
    }
    into.clear();
    for (const toml::node& element : *array) {
      // The largest number means "no id" to the kernel.
      const auto id = integer<Number>(0, std::numeric_limits<Number>::max() - 1)(element);
      if (!id) {
        wrong(element, key, id.error());
      } else if (std::ranges::find(into, *id) != into.end()) {
        wrong(element, key, "each id once");
      } else {
        into.push_back(*id);
      }
    }
  }

  // The table under a key; nullopt if there is none.
  std::optional<Reader> table(std::string_view key);
  // Null if there is none.
  const toml::array* array_of_tables(std::string_view key);

  bool has(std::string_view key) const { return table_.contains(key); }
  // Says that the key, if it is there, should not be.
  void refuse(std::string_view key, const std::string& expected);
  void wrong(const toml::node& node, std::string_view key, const std::string& expected);

 private:
  const toml::node* find(std::string_view key);
  std::string unknown(std::string_view key) const;

  const toml::table& table_;
  std::string path_;
  Findings& findings_;
  std::vector<std::string> known_;
};

}  // namespace sluice::daemon
