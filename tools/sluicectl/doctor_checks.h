// What facts about a machine mean for sluiced with a given configuration.
//
// Each check is a pure function and looks at one thing, whose id is the function's name without
// "check_" (see the bodies where there are several). A check that has nothing to complain about
// says so: an operator wants to see that it was looked at.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ipc/error.h"
#include "tools/sluicectl/doctor_finding.h"
#include "tools/sluicectl/doctor_machine.h"
#include "tools/sluicectl/doctor_wanted.h"
#include "tools/sluicectl/health.h"

namespace sluice::tools::doctor {

// doctor_kernel_checks.cpp
Finding check_kernel(const KernelFacts& kernel);
Finding check_pidfd(const KernelFacts& kernel);
Finding check_memfd(const KernelFacts& kernel);
Finding check_huge_pages(const KernelFacts& kernel, const Wanted& wanted);
Finding check_io_uring(const KernelFacts& kernel, const Wanted& wanted);
Finding check_clock(const KernelFacts& kernel);

// doctor_memory_checks.cpp. `held_bytes`: of the node's memory a running daemon has this much.
Finding check_memory(const MemoryFacts& memory, const Wanted& wanted, std::uint64_t held_bytes);
Finding check_cgroup(const ProcessFacts& process, const Wanted& wanted);
Finding check_numa(const MemoryFacts& memory, const Wanted& wanted);
Finding check_hugetlb(const MemoryFacts& memory);
Finding check_swap(const MemoryFacts& memory, const Wanted& wanted);

// doctor_limit_checks.cpp
Finding check_memlock(const ProcessFacts& process, const Wanted& wanted);
Finding check_open_files(const ProcessFacts& process, const GpuFacts& gpu, const Wanted& wanted);
Finding check_mappings(const ProcessFacts& process, const GpuFacts& gpu, const Wanted& wanted);

// doctor_nvme_checks.cpp: nvme_directory, nvme_file_system, nvme_direct_io and nvme_speed of each
// directory, nvme_space of each file system. `speed`: it was asked for.
FindingList check_directories(const std::vector<DirectoryFacts>& directories, bool speed);

// doctor_node_checks.cpp. Of sockets: socket_folder, of each folder.
FindingList check_sockets(const std::vector<SocketFacts>& sockets, const Wanted& wanted);
Finding check_gpu(const GpuFacts& gpu, const Wanted& wanted);
Finding check_systemd(const SystemdFacts& systemd);

// doctor_daemon_checks.cpp
struct ConfigFacts {
  std::string source;               // "/etc/sluice/sluiced.toml", "the running daemon"
  std::string complaints;           // of sluiced about it, a line each
  std::optional<ipc::Error> error;  // sluiced could not be asked
};
// config, once for each complaint.
FindingList check_config(const ConfigFacts& config);

struct DaemonFacts {
  std::string socket;
  std::optional<ipc::Error> error;  // nobody answered, or not so
  std::string version;
  std::string client_version;
  std::vector<tools::Finding> health;
};
// daemon, and daemon_health once for each code.
FindingList check_daemon(const DaemonFacts& daemon);

}  // namespace sluice::tools::doctor
