// Reads the facts about this machine that lie in files and limits, and has the rest tried
// (doctor_probe.h, doctor_directory.h).
//
// Nothing is changed, and what cannot be read is left out. One thread.
#pragma once

#include <optional>
#include <string>

#include "tools/sluicectl/doctor_machine.h"
#include "tools/sluicectl/doctor_wanted.h"

namespace sluice::tools::doctor {

struct Look {
  Wanted wanted;
  std::optional<std::uint64_t> daemon_pid;  // as the daemon says, if one answers
  bool with_speed = true;                   // of the directories
};

Machine look_at_machine(const Look& look);

// The parts that come from files alone. `root` stands in for "/".
KernelFacts kernel_files(const std::string& root);
MemoryFacts memory_files(const std::string& root);
// Limits of the daemon if `root` has a sluiced of that number, else of this process.
ProcessFacts process_files(const std::string& root, std::optional<std::uint64_t> daemon_pid);
GpuFacts gpu_files(const std::string& root);
SystemdFacts systemd_files(const std::string& root);

}  // namespace sluice::tools::doctor
