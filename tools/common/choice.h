// An option of a command line that takes one of a few words. For programs that use CLI11, whose own
// transformer would print the values.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

namespace sluice::tools {

template <class Value>
struct Choice {
  const char* name;
  Value value;
};

template <class Value>
void add_choice(CLI::App& app, const std::string& option, Value& out,
                std::vector<Choice<Value>> choices, const std::string& meaning) {
  std::string words;
  for (const Choice<Value>& choice : choices) {
    words += (words.empty() ? "" : "|") + std::string(choice.name);
  }
  const auto parse = [&out, option, choices = std::move(choices),
                      words](const CLI::results_t& given) {
    for (const Choice<Value>& choice : choices) {
      if (given.at(0) != choice.name) continue;
      out = choice.value;
      return true;
    }
    throw CLI::ValidationError(option, "'" + given.at(0) + "' is not one of " + words);
  };
  app.add_option(option, parse, meaning)->type_name(words);
}

}  // namespace sluice::tools
