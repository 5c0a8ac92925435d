#include "tools/common/size.h"
#include "tools/sluicectl/doctor_checks.h"

namespace sluice::tools::doctor {
namespace {

// Of a session: its socket, its pidfd, its memory and its bell. Of a cache: its tables. And what
// sluiced has for itself.
constexpr std::uint64_t kFilesPerSession = 4;
constexpr std::uint64_t kFilesPerCache = 2;
constexpr std::uint64_t kFilesOfItsOwn = 64;
constexpr std::uint64_t kMappingsOfItsOwn = 4096;  // of an engine: libraries, heaps, its own memory

std::string whose(const ProcessFacts& process) {
  return process.daemon_pid ? "of the running sluiced" : "of this shell";
}

std::uint64_t extents_wanted(const GpuFacts& gpu, const Wanted& wanted) {
  const std::uint64_t devices = wanted.cuda ? wanted.devices.value_or(gpu.devices.size()) : 1;
  return wanted.dram.extents() + wanted.hbm.extents() * devices;
}

}  // namespace

Finding check_memlock(const ProcessFacts& process, const Wanted& wanted) {
  const std::string limit =
      process.memlock_bytes == kUnlimited ? "unlimited" : size_text(process.memlock_bytes);
  Finding finding{
      "memlock", Severity::ok, {}, "memlock limit " + whose(process) + ": " + limit, {}};
  if (process.may_lock_memory) {
    finding.found += ", which CAP_IPC_LOCK lifts";
    return finding;
  }
  if (process.memlock_bytes >= wanted.dram.bytes) return finding;
  const std::string dram = "DRAM of " + size_text(wanted.dram.bytes);
  if (!wanted.nvme.empty()) {
    finding.severity = Severity::warning;
    finding.found += "; " + dram +
                     " cannot be registered with io_uring, which costs each request "
                     "the pinning of its pages";
  } else if (wanted.cuda) {
    finding.severity = Severity::warning;
    finding.found += "; engines with the same limit may fail to pin " + dram + " for the GPU";
  } else {
    finding.severity = Severity::note;
    finding.found += ", less than the " + dram + "; nothing is pinned without a GPU and NVMe";
  }
  finding.todo = "raise it to " + size_text(wanted.dram.bytes) +
                 " or more: LimitMEMLOCK=infinity in the unit (the packaged one has it), ulimit -l "
                 "unlimited, or --ulimit memlock=-1 of the container";
  return finding;
}

Finding check_open_files(const ProcessFacts& process, const GpuFacts& gpu, const Wanted& wanted) {
  const std::uint64_t extents = extents_wanted(gpu, wanted);
  const std::uint64_t need = extents + kFilesPerSession * wanted.max_sessions +
                             kFilesPerCache * wanted.caches + kFilesOfItsOwn;
  if (process.open_files == kUnlimited) {
    return {"open_files", Severity::ok, {}, "no open-files limit " + whose(process), {}};
  }
  Finding finding{"open_files",
                  Severity::ok,
                  {},
                  "open-files limit " + whose(process) + ": " + human_count(process.open_files) +
                      "; " + human_count(extents) + " extents and " +
                      human_count(wanted.max_sessions) + " sessions take up to " +
                      human_count(need),
                  {}};
  if (process.open_files >= need) return finding;
  const bool fits = process.open_files >= extents + kFilesOfItsOwn;
  finding.severity = fits ? Severity::warning : Severity::error;
  finding.todo =
      "raise the hard limit (LimitNOFILE= of the unit, ulimit -Hn), take larger extents "
      "(tiers.*.extent), or lower daemon.max_sessions";
  return finding;
}

Finding check_mappings(const ProcessFacts& process, const GpuFacts& gpu, const Wanted& wanted) {
  const std::uint64_t need = extents_wanted(gpu, wanted) + kMappingsOfItsOwn;
  Finding finding{"mappings", Severity::ok, {}, {}, {}};
  if (process.mappings == kUnlimited) {
    finding.found = "vm.max_map_count is not known";
    return finding;
  }
  finding.found = "vm.max_map_count: " + human_count(process.mappings) +
                  "; an engine that maps all extents takes some " + human_count(need);
  if (process.mappings >= need) return finding;
  finding.severity = Severity::warning;
  finding.todo = "take larger extents (tiers.*.extent), or sysctl vm.max_map_count=" +
                 std::to_string(2 * need);
  return finding;
}

}  // namespace sluice::tools::doctor
