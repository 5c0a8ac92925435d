// Machines that nobody has at hand, and ways to say which finding is meant.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "tools/sluicectl/doctor_finding.h"
#include "tools/sluicectl/doctor_machine.h"
#include "tools/sluicectl/doctor_wanted.h"

namespace sluice::tools::doctor {

inline constexpr std::uint64_t kKiB = std::uint64_t{1} << 10;
inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

// Asks for 1 GiB of HBM on the node and 4 GiB of DRAM.
inline Wanted laptop_config() {
  Wanted wanted;
  wanted.hbm = {1 * kGiB, 64 * kMiB, HugePages::attempt};
  wanted.dram = {4 * kGiB, 64 * kMiB, HugePages::attempt};
  wanted.numa = "device";
  wanted.max_sessions = 1024;
  wanted.caches = 256;
  wanted.socket = "/run/sluice/sluice.sock";
  wanted.sockets = {wanted.socket};
  return wanted;
}

inline Wanted gpu_config() {
  Wanted wanted = laptop_config();
  wanted.cuda = true;
  wanted.hbm.bytes = 64 * kGiB;
  wanted.dram.bytes = 256 * kGiB;
  return wanted;
}

// A disk that has everything, and is asked for 100 GiB.
inline DirectoryFacts good_directory(const std::string& path = "/mnt/nvme0/sluice") {
  DirectoryFacts facts;
  facts.wanted = {path, 100 * kGiB};
  facts.is_directory = true;
  facts.file_system = "xfs";
  facts.file_system_kind = FileSystemKind::disk;
  facts.device = 7;
  facts.free_bytes = 500 * kGiB;
  facts.speed = SpeedFacts{3.0 * kGiB, 5.0 * kGiB, 256 * kMiB};
  return facts;
}

// A node on which there is nothing to complain about.
inline Machine good_machine() {
  Machine machine;
  machine.kernel.release = "6.12.41+deb13-amd64";
  machine.kernel.io_uring_disabled = 0;
  machine.kernel.memfd_noexec = 0;
  machine.kernel.huge_pages = "madvise";
  machine.kernel.shmem_huge_pages = "never";
  machine.kernel.clock_source = "tsc";
  machine.memory = {512 * kGiB, 500 * kGiB, 0, 0, {{0, 512 * kGiB}}};
  machine.process.open_files = 1048576;
  machine.process.mappings = 1048576;
  machine.sockets = {{"/run/sluice/sluice.sock", "/run/sluice", 0, true, 0755, 990, true}};
  machine.systemd = {true, true};
  return machine;
}

inline GpuFacts two_gpus() { return {{"/dev/nvidia0", "/dev/nvidia1"}, true, true, "580.65.06"}; }

// The first finding with this id; one that says "none" if there is none.
inline Finding find(const FindingList& findings, const std::string& id) {
  const auto found = std::ranges::find(findings, id, &Finding::id);
  return found == findings.end() ? Finding{"none", Severity::ok, {}, {}, {}} : *found;
}

}  // namespace sluice::tools::doctor
