// Facts about a machine, as they were read; what they mean is for the checks (doctor_checks.h).
//
// Plain data, so that tests have machines that nobody has at hand. An error is an errno, 0 if it
// went well. What the machine does not say is nullopt or empty.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "tools/sluicectl/doctor_wanted.h"

namespace sluice::tools::doctor {

inline constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

struct KernelFacts {
  std::string release;  // "6.1.0-13-amd64"
  // Whether the kernel lets this process do it; tried, not guessed from the release.
  int pidfd_error = 0;
  int sealed_memfd_error = 0;
  int huge_page_error = 0;  // of MADV_COLLAPSE of 2 MiB of a memfd
  int io_uring_error = 0;
  std::optional<std::uint64_t> io_uring_disabled;  // sysctl kernel.io_uring_disabled
  std::optional<std::uint64_t> memfd_noexec;       // sysctl vm.memfd_noexec
  std::string huge_pages;                          // transparent_hugepage/enabled: "madvise"
  std::string shmem_huge_pages;                    // transparent_hugepage/shmem_enabled
  std::string clock_source;                        // "tsc"
};

struct NumaNode {
  std::uint64_t id = 0;
  std::uint64_t bytes = 0;
};

struct MemoryFacts {
  std::uint64_t total_bytes = 0;
  std::uint64_t available_bytes = 0;
  std::uint64_t swap_bytes = 0;
  std::uint64_t hugetlb_bytes = 0;  // set aside for hugetlbfs
  std::vector<NumaNode> nodes;      // those that have memory
};

// Of a process: the daemon if it runs on this machine, else this one.
struct ProcessFacts {
  std::optional<std::uint64_t> daemon_pid;  // nullopt: this process
  std::uint64_t memlock_bytes = kUnlimited;
  bool may_lock_memory = false;           // CAP_IPC_LOCK: that limit does not hold
  std::uint64_t open_files = kUnlimited;  // the hard limit, up to which sluiced goes by itself
  std::uint64_t mappings = kUnlimited;    // sysctl vm.max_map_count
  std::uint64_t cgroup_bytes = kUnlimited;
  std::string cgroup_file;  // that says so
};

// The folder of a socket that sluiced makes.
struct SocketFacts {
  std::string socket;
  std::string folder;
  int error = 0;  // of stat
  bool is_folder = false;
  mode_t mode = 0;
  uid_t owner = 0;
  bool parent_exists = false;
};

struct GpuFacts {
  std::vector<std::string> devices;  // "/dev/nvidia0"
  bool control = false;              // /dev/nvidiactl
  bool unified_memory = false;       // /dev/nvidia-uvm
  std::string driver;                // "580.65.06"
};

struct SystemdFacts {
  bool running = false;  // it is the init of this machine
  bool unit = false;     // sluiced.service is installed
};

struct SpeedFacts {
  double write_bytes_per_second = 0;
  double read_bytes_per_second = 0;
  std::uint64_t bytes = 0;  // that were written
};

enum class FileSystemKind : std::uint8_t { disk, copy_on_write, memory, overlay, network, unknown };

struct DirectoryFacts {
  WantedDirectory wanted;
  int error = 0;  // of stat
  bool is_directory = false;
  int write_error = 0;  // of making a file in it
  std::string file_system;
  FileSystemKind file_system_kind = FileSystemKind::unknown;
  std::uint64_t device = 0;  // the file system's number
  bool on_root = false;      // on that of "/"
  std::uint64_t free_bytes = 0;
  std::uint64_t own_bytes = 0;  // of files that are in it already
  int direct_error = 0;         // of O_DIRECT
  std::optional<SpeedFacts> speed;
  int speed_error = 0;
};

struct Machine {
  KernelFacts kernel;
  MemoryFacts memory;
  ProcessFacts process;
  std::vector<SocketFacts> sockets;
  GpuFacts gpu;
  SystemdFacts systemd;
  std::vector<DirectoryFacts> directories;
};

}  // namespace sluice::tools::doctor
