#include <algorithm>
#include <cerrno>

#include "tools/common/size.h"
#include "tools/sluicectl/doctor_checks.h"

namespace sluice::tools::doctor {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr double kSlow = 0.25 * kGiB;  // per second: a disk that turns, or a network's
constexpr double kFast = 1 * kGiB;     // any NVMe device reads as fast
// Flash that is nearly full has little room to collect garbage in.
constexpr std::uint64_t kFlashTenths = 9;

std::string rate(double bytes_per_second) { return human_bytes(bytes_per_second) + "/s"; }

Finding about(const char* id, const DirectoryFacts& facts, std::string found) {
  return {id, Severity::ok, facts.wanted.path, std::move(found), {}};
}

bool can_be_used(const DirectoryFacts& facts) {
  return facts.error == 0 && facts.is_directory && facts.write_error == 0;
}

Finding directory(const DirectoryFacts& facts) {
  Finding finding = about("nvme_directory", facts, "exists, and files can be made in it");
  const std::string& path = facts.wanted.path;
  if (facts.error == ENOENT) {
    finding.severity = Severity::warning;
    finding.found = "does not exist; sluiced would make it on whatever is mounted above";
    finding.todo = "mount the device first, then: mkdir -p " + path + " && chown sluice: " + path;
  } else if (facts.error != 0) {
    finding.severity = Severity::error;
    finding.found = "cannot be looked at: " + words_of(facts.error);
    finding.todo = "let the user that runs sluiced pass through the folders above";
  } else if (!facts.is_directory) {
    finding.severity = Severity::error;
    finding.found = "is no directory";
    finding.todo = "name a directory on a file system; sluiced does not use raw devices";
  } else if (facts.write_error == ENOSPC || facts.write_error == EDQUOT) {
    finding.severity = Severity::error;
    finding.found = "no file can be made in it: " + words_of(facts.write_error);
    finding.todo = "free space, inodes or quota";
  } else if (facts.write_error != 0) {
    finding.severity = Severity::error;
    finding.found = "no file can be made in it: " + words_of(facts.write_error);
    finding.todo = "let the user that runs sluiced write there, or run this as that user";
  }
  return finding;
}

Finding file_system(const DirectoryFacts& facts) {
  Finding finding = about("nvme_file_system", facts, facts.file_system);
  switch (facts.file_system_kind) {
    case FileSystemKind::disk:
      break;
    case FileSystemKind::copy_on_write:
      finding.severity = Severity::note;
      finding.found += ": copies on write and has checksums of its own, and so writes more";
      finding.todo = "better xfs or ext4; on btrfs, chattr +C on the empty directory";
      break;
    case FileSystemKind::memory:
      finding.severity = Severity::warning;
      finding.found += ": is memory of the node, and gone at the next boot";
      finding.todo = "name a directory on an NVMe device, or make the DRAM tier larger instead";
      break;
    case FileSystemKind::overlay:
      finding.severity = Severity::warning;
      finding.found += ": the layer of a container, gone with it";
      finding.todo = "mount a directory of the host into the container";
      break;
    case FileSystemKind::network:
      finding.severity = Severity::warning;
      finding.found += ": is on a network, or goes through another process; each miss pays for it";
      finding.todo = "name a directory on an NVMe device of this node";
      break;
    case FileSystemKind::unknown:
      finding.severity = Severity::note;
      finding.found += ": not known to this program";
      break;
  }
  if (facts.on_root && finding.severity < Severity::warning) {
    finding.severity = Severity::note;
    finding.found += ", the one of \"/\": the system suffers when it is full";
    finding.todo = "a device of its own is better";
  }
  return finding;
}

Finding direct_io(const DirectoryFacts& facts) {
  Finding finding = about("nvme_direct_io", facts, "O_DIRECT works");
  if (facts.direct_error == 0) return finding;
  finding.severity = Severity::warning;
  finding.found = "O_DIRECT does not work: " + words_of(facts.direct_error) +
                  "; blocks go through the page cache, and take memory from the DRAM tier";
  finding.todo = "take a file system that has it, such as xfs or ext4";
  return finding;
}

Finding speed(const DirectoryFacts& facts) {
  Finding finding = about("nvme_speed", facts, {});
  if (facts.speed_error != 0) {
    finding.severity = Severity::error;
    finding.found = "reading and writing fails: " + words_of(facts.speed_error);
    finding.todo = facts.speed_error == ENOSPC || facts.speed_error == EDQUOT
                       ? "free space or quota"
                       : "see the kernel's log for errors of the device";
    return finding;
  }
  if (!facts.speed) {
    finding.severity = Severity::note;
    finding.found = "not tested: too little space, or no disk";
    return finding;
  }
  const SpeedFacts& measured = *facts.speed;
  finding.found = "writes " + rate(measured.write_bytes_per_second) + ", reads " +
                  rate(measured.read_bytes_per_second) + ", one request at a time (" +
                  size_text(measured.bytes) + ")";
  const double slower = std::min(measured.write_bytes_per_second, measured.read_bytes_per_second);
  if (slower < kSlow) {
    finding.severity = Severity::warning;
    finding.found += ": computing KV again may be faster";
    finding.todo = "name a directory on an NVMe device that is not busy";
  } else if (slower < kFast) {
    finding.severity = Severity::note;
    finding.found += ": slower than NVMe devices are";
  }
  return finding;
}

// Of directories that share a file system.
Finding space(const std::vector<DirectoryFacts>& directories, std::uint64_t device) {
  Finding finding{"nvme_space", Severity::ok, {}, {}, {}};
  std::uint64_t asked = 0;
  std::uint64_t room = 0;
  std::size_t unsized_count = 0;
  std::size_t count = 0;
  for (const DirectoryFacts& facts : directories) {
    if (!can_be_used(facts) || facts.device != device) continue;
    finding.subject += (finding.subject.empty() ? "" : ", ") + facts.wanted.path;
    asked += facts.wanted.bytes.value_or(0);
    unsized_count += facts.wanted.bytes ? 0 : 1;
    room = std::max(room, facts.free_bytes);
    ++count;
  }
  for (const DirectoryFacts& facts : directories) {
    if (can_be_used(facts) && facts.device == device) room += facts.own_bytes;
  }
  finding.found = size_text(room) + " for " + (count > 1 ? "all of them together" : "it") +
                  " (free, and its own files)";
  if (unsized_count == count) {
    finding.severity = Severity::note;
    finding.found += "; no size was given";
    return finding;
  }
  finding.found += ", " + size_text(asked) + " wanted";
  if (asked > room) {
    finding.severity = Severity::error;
    finding.todo = "free space, or ask for " + size_text(room / 10 * kFlashTenths) + " or less";
  } else if (asked > room / 10 * kFlashTenths) {
    finding.severity = Severity::note;
    finding.found += ": flash is slower when it is nearly full";
    finding.todo = "leave a tenth free: " + size_text(room / 10 * kFlashTenths);
  }
  return finding;
}

}  // namespace

FindingList check_directories(const std::vector<DirectoryFacts>& directories, bool with_speed) {
  FindingList findings;
  std::vector<std::uint64_t> devices;
  for (const DirectoryFacts& facts : directories) {
    findings.push_back(directory(facts));
    if (!can_be_used(facts)) continue;
    if (std::ranges::find(devices, facts.device) == devices.end()) {
      devices.push_back(facts.device);
      findings.push_back(space(directories, facts.device));
    }
    findings.push_back(file_system(facts));
    findings.push_back(direct_io(facts));
    if (with_speed) findings.push_back(speed(facts));
  }
  return findings;
}

}  // namespace sluice::tools::doctor
