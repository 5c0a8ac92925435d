#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "tools/sluicectl/doctor_checks.h"

namespace sluice::tools::doctor {
namespace {

constexpr unsigned kDriverOfCuda13 = 580;

std::string octal(mode_t mode) {
  char text[16];
  std::snprintf(text, sizeof text, "%04o", static_cast<unsigned>(mode));
  return text;
}

std::string folder_of(const std::string& socket) {
  return std::filesystem::path(socket).parent_path().string();
}

Finding absent_folder(Finding finding, const SocketFacts& facts, const Wanted& wanted) {
  // sluiced makes the folder of daemon.socket, and none above it.
  const bool made = facts.folder == folder_of(wanted.socket);
  if (made && facts.parent_exists) {
    finding.found = "does not exist yet; sluiced makes it";
    return finding;
  }
  finding.severity = Severity::error;
  finding.found = made ? "does not exist, nor does the folder above it" : "does not exist";
  finding.todo = "make it (RuntimeDirectory= of the unit), or name another socket";
  return finding;
}

Finding socket_folder(const SocketFacts& facts, const Wanted& wanted) {
  Finding finding{"socket_folder", Severity::ok, facts.folder, {}, {}};
  if (facts.error == ENOENT || facts.error == ENOTDIR) {
    return absent_folder(std::move(finding), facts, wanted);
  }
  if (facts.error != 0) {
    finding.severity = Severity::note;
    finding.found = "cannot be looked at: " + std::generic_category().message(facts.error);
    finding.todo = "run this as the user that runs sluiced, or as root";
    return finding;
  }
  finding.found = "mode " + octal(facts.mode) + ", of uid " + std::to_string(facts.owner);
  if (!facts.is_folder) {
    finding.severity = Severity::error;
    finding.found = "is no folder";
    finding.todo = "name another socket";
  } else if ((facts.mode & S_IWOTH) != 0) {
    const bool sticky = (facts.mode & S_ISVTX) != 0;
    finding.severity = sticky ? Severity::warning : Severity::error;
    finding.found += sticky ? ": anybody can be there first, and pose as sluiced"
                            : ": anybody can put a socket of their own in place of sluiced's";
    finding.todo = "take a folder that only sluiced's user can write, such as /run/sluice";
  }
  return finding;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

std::string missing_of(const GpuFacts& gpu) {
  std::vector<std::string> missing;
  if (gpu.driver.empty()) missing.emplace_back("the driver (/proc/driver/nvidia/version)");
  if (gpu.devices.empty()) missing.emplace_back("a GPU (/dev/nvidia0)");
  if (!gpu.control) missing.emplace_back("/dev/nvidiactl");
  if (!gpu.unified_memory) missing.emplace_back("/dev/nvidia-uvm");
  return joined(missing);
}

unsigned major_of(const std::string& version) {
  unsigned major = 0;
  std::from_chars(version.data(), version.data() + version.size(), major);
  return major;
}

}  // namespace

FindingList check_sockets(const std::vector<SocketFacts>& sockets, const Wanted& wanted) {
  FindingList findings;
  for (const SocketFacts& facts : sockets) {
    if (std::ranges::find(findings, facts.folder, &Finding::subject) != findings.end()) continue;
    findings.push_back(socket_folder(facts, wanted));
  }
  return findings;
}

Finding check_gpu(const GpuFacts& gpu, const Wanted& wanted) {
  const std::string there = joined(gpu.devices) + ", driver " + gpu.driver;
  if (!wanted.cuda) {
    if (gpu.devices.empty()) {
      return {"gpu", Severity::ok, {}, "none, and backend.kind = \"host\" needs none", {}};
    }
    return {"gpu",
            Severity::note,
            {},
            there + "; backend.kind = \"host\" does not use it",
            "set backend.kind = \"cuda\" for HBM"};
  }
  if (const std::string missing = missing_of(gpu); !missing.empty()) {
    return {"gpu",
            Severity::error,
            {},
            "backend.kind = \"cuda\", and this machine lacks " + missing,
            "install the driver and load nvidia and nvidia_uvm (nvidia-modprobe -u); in a "
            "container, start it with the GPUs"};
  }
  Finding finding{"gpu", Severity::ok, {}, there, {}};
  const std::uint64_t devices = wanted.devices.value_or(1);
  if (major_of(gpu.driver) < kDriverOfCuda13) {
    finding.severity = Severity::error;
    finding.found += ", older than CUDA 13 takes";
    finding.todo = "install driver 580 or newer";
  } else if (devices > gpu.devices.size()) {
    finding.severity = Severity::note;
    finding.found += "; the configuration names " + std::to_string(devices) +
                     ", so that GPUs serve as several devices";
  }
  return finding;
}

Finding check_systemd(const SystemdFacts& systemd) {
  if (!systemd.running) {
    return {"systemd",
            Severity::note,
            {},
            "not the init of this machine: nobody starts sluiced again, raises its limits or keeps "
            "descriptors for it",
            "run sluiced under a supervisor that does, with limits as in the packaged unit"};
  }
  if (!systemd.unit) {
    return {"systemd",
            Severity::note,
            {},
            "runs, and has no sluiced.service",
            "install the packaged unit for limits, restarts and the watchdog"};
  }
  return {"systemd", Severity::ok, {}, "runs, and has sluiced.service", {}};
}

}  // namespace sluice::tools::doctor
