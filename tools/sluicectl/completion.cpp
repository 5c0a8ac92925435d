#include "tools/sluicectl/completion.h"

namespace sluice::tools {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// Finds the longest known command among the words before the cursor, and offers what may follow it.
std::string shell_function(const std::vector<CompletionWords>& commands) {
  std::string script =
      "_sluicectl_words() {\n"
      "  local command= word\n"
      "  for word in \"$@\"; do\n"
      "    case \"${command:+$command }$word\" in\n";
  std::string known;
  for (const CompletionWords& entry : commands) {
    if (entry.command.empty()) continue;
    known += (known.empty() ? "" : "|") + ("'" + entry.command + "'");
  }
  script += "      " + known + ") command=\"${command:+$command }$word\" ;;\n    esac\n  done\n";
  script += "  case \"$command\" in\n";
  for (const CompletionWords& entry : commands) {
    script += "    '" + entry.command + "') echo '" + joined(entry.words) + "' ;;\n";
  }
  return script + "  esac\n}\n";
}

std::string fish_script(const std::vector<CompletionWords>& commands) {
  // fish runs functions of its own language: one condition per command.
  std::string script =
      "function __sluicectl_words\n"
      "  set -l command ''\n"
      "  for word in (commandline -opc)[2..-1]\n"
      "    switch (string trim \"$command $word\")\n";
  std::string known;
  for (const CompletionWords& entry : commands) {
    if (!entry.command.empty()) known += " '" + entry.command + "'";
  }
  script += "      case" + known +
            "\n        set command (string trim \"$command $word\")\n    end\n  end\n"
            "  switch \"$command\"\n";
  for (const CompletionWords& entry : commands) {
    script +=
        "    case '" + entry.command + "'\n      printf '%s\\n' " + joined(entry.words) + "\n";
  }
  return script + "  end\nend\ncomplete -c sluicectl -f -a '(__sluicectl_words)'\n";
}

}  // namespace

std::string completion_script(std::string_view shell,
                              const std::vector<CompletionWords>& commands) {
  if (shell == "bash") {
    return shell_function(commands) +
           "_sluicectl() {\n"
           "  mapfile -t COMPREPLY < <(compgen -W \\\n"
           "    \"$(_sluicectl_words \"${COMP_WORDS[@]:1:COMP_CWORD-1}\")\" \\\n"
           "    -- \"${COMP_WORDS[COMP_CWORD]}\")\n"
           "}\n"
           "complete -o default -F _sluicectl sluicectl\n";
  }
  if (shell == "zsh") {
    return "#compdef sluicectl\n" + shell_function(commands) +
           "_sluicectl() {\n"
           "  compadd -- ${=\"$(_sluicectl_words \"${words[@]:1:$((CURRENT-2))}\")\"} || _files\n"
           "}\n"
           "compdef _sluicectl sluicectl\n";
  }
  if (shell == "fish") return fish_script(commands);
  return {};
}

}  // namespace sluice::tools
