// What all commands do alike: ask the daemon, print a document or a text, tell an error.
//
// One document per run goes to stdout, in JSON or as text; everything else goes to stderr.
#pragma once

#include <string>
#include <string_view>

#include "ipc/error.h"
#include "tools/sluicectl/options.h"
#include "tools/sluicectl/surroundings.h"
#include "tools/sluicectl/views.h"

namespace sluice::tools {

class Request {
 public:
  Request(const Options& asked, const Surroundings& world) : options(asked), around(world) {}

  // The document, parsed. Errors: those of Ask; internal when the daemon's answer is no object.
  ipc::Result<Json> ask(const std::string& verb, const Json& arguments = Json::object()) const;
  // The same with a bound of its own.
  ipc::Result<Json> ask(const std::string& verb, const Json& arguments, Timeout bound) const;

  Timeout timeout() const { return options.timeout.value_or(kDefaultTimeout); }
  View view() const { return {around.colour, around.width}; }

  // The selectors that were given, as arguments of a verb.
  Json selectors() const;

  // Prints the document as JSON, or `text`.
  int show(const Json& document, const std::string& text) const;
  // A line on stderr.
  void note(std::string_view text) const;
  // Tells an error in both forms; `exit_code` is returned.
  int fail(const ipc::Error& error, int exit_code) const;
  int fail(const ipc::Error& error) const;

  const Options& options;
  const Surroundings& around;
};

// As documents are printed: indented, or one line.
std::string json_text(const Json& document, bool one_line = false);

// Asks whether to go on. nullopt: yes; else the exit code, told already.
std::optional<int> confirm(const Request& request, const std::string& what);

}  // namespace sluice::tools
