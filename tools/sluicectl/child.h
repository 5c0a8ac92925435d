// Asks sluiced itself about a configuration file: it knows what it accepts, and what it takes where
// the file says nothing.
//
// Thread-safety: none; it forks.
#pragma once

#include <string>

#include "ipc/error.h"
#include "tools/sluicectl/surroundings.h"

namespace sluice::tools {

// The file `name` in the folder of the running program.
std::string beside_this_program(const std::string& name);

// Runs `program --config=FILE --check` and keeps what it says, up to a bound. Errors: not_found
// (the program cannot be started), internal (it was ended by a signal), io_error.
ipc::Result<ProgramResult> check_config_with(const std::string& program,
                                             const std::string& config_file);

// The same with `--list`: every value as a line "key = value". Without a file for an empty name.
ipc::Result<ProgramResult> list_config_with(const std::string& program,
                                            const std::string& config_file);

}  // namespace sluice::tools
