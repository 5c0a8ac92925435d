// Shell completion scripts, made from the command tree itself.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

// What may follow a command: its subcommands and its options.
struct CompletionWords {
  std::string command;  // "config check"; empty: the program
  std::vector<std::string> words;
};

// A script for "bash", "zsh" or "fish"; empty for any other shell.
std::string completion_script(std::string_view shell, const std::vector<CompletionWords>& commands);

}  // namespace sluice::tools
