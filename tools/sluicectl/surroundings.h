// What the commands of sluicectl need of the world: the daemon, the terminal and the clock.
//
// Plain data and functions, so that tests can put others in their place. One thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "ipc/error.h"
#include "tools/sluicectl/doctor_look.h"

namespace sluice::tools {

// Documents keep the order of fields that the daemon gave them.
using Json = nlohmann::ordered_json;

using Timeout = std::chrono::milliseconds;
using TimePoint = std::chrono::steady_clock::time_point;

// One admin request: a verb and its arguments (an object), answered by one JSON document. Errors:
// the daemon's, and daemon_away, timed_out.
using Ask = std::function<ipc::Result<std::string>(const std::string& verb, const Json& arguments,
                                                   Timeout timeout)>;

struct ProgramResult {
  int exit_code = 0;
  std::string output;  // stdout and stderr
};

struct Surroundings {
  Ask ask;
  // Runs `sluiced --config FILE --check`. Errors: not_found (no such program), internal, io_error.
  std::function<ipc::Result<ProgramResult>(const std::string& config_file)> check_config;
  // Runs `sluiced --config FILE --list`; without a file for an empty name. Errors: the same.
  std::function<ipc::Result<ProgramResult>(const std::string& config_file)> list_config;
  std::function<doctor::Machine(const doctor::Look&)> look_at_machine;
  std::function<bool(std::string_view)> out;  // results; whether they could be written
  std::function<void(std::string_view)> err;  // errors, progress, questions
  std::function<std::string()> read_line;     // an answer; empty at the end of input
  std::function<TimePoint()> now;
  std::function<void(std::chrono::milliseconds)> sleep_for;
  std::function<std::string()> wall_clock;  // "14:03:07"

  bool out_is_terminal = false;
  bool can_ask = false;  // there is a person to answer questions
  bool colour = false;   // the terminal shows it and the user wants it
  std::size_t width = 80;
  std::string socket;  // where the daemon is expected
  std::string client_version;
  std::string installed_config;  // the file that the packaged unit names; empty: there is none
};

}  // namespace sluice::tools
