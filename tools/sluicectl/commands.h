// Runs one command of sluicectl against the daemon. Returns the exit code (exit_codes.h).
#pragma once

#include "tools/sluicectl/options.h"
#include "tools/sluicectl/request.h"
#include "tools/sluicectl/surroundings.h"

namespace sluice::tools {

int run(const Options& options, const Surroundings& around);

// The commands that have a file of their own.
int watch(const Request& request);
int evict(const Request& request);
int drain(const Request& request);
int residency(const Request& request);
int doctor_command(const Request& request);
int store_check(const Request& request);
int store_stats(const Request& request);
int store_compact(const Request& request);
int store_dump(const Request& request);

}  // namespace sluice::tools
