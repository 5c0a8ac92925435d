#include "tools/sluicectl/doctor_look.h"

#include <sys/stat.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include "tools/sluicectl/doctor_directory.h"
#include "tools/sluicectl/doctor_probe.h"

namespace sluice::tools::doctor {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kCapIpcLock = 14;                            // linux/capability.h
constexpr std::uint64_t kUnlimitedV1 = std::uint64_t{1} << 62;  // cgroup v1 says "none" by such

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string first_line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<std::uint64_t> number_in(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return std::nullopt;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data() + begin, text.data() + text.size(), number);
  if (error != std::errc{}) return std::nullopt;
  return number;
}

std::optional<std::uint64_t> number_of(const std::string& path) {
  return number_in(first_line_of(path));
}

// The word in brackets of "always [madvise] never".
std::string chosen_of(const std::string& path) {
  const std::string line = first_line_of(path);
  const std::size_t begin = line.find('[');
  const std::size_t end = line.find(']');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return {};
  return line.substr(begin + 1, end - begin - 1);
}

// What follows `name` in a file of "name value" lines.
std::string_view value_after(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    if (line.starts_with(name)) return line.substr(name.size());
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return {};
}

std::uint64_t kib_after(std::string_view text, std::string_view name) {
  return number_in(value_after(text, name)).value_or(0) * 1024;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error); !error && at != fs::directory_iterator();
       at.increment(error)) {
    names.push_back(at->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

// The number of "node12" or "nvidia12".
std::optional<std::uint64_t> numbered(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return number;
}

std::vector<NumaNode> numa_nodes(const std::string& root) {
  const std::string folder = root + "/sys/devices/system/node";
  std::vector<NumaNode> nodes;
  for (const std::string& name : names_in(folder)) {
    const auto id = numbered(name, "node");
    if (!id) continue;
    const std::string info = text_of((fs::path(folder) / name / "meminfo").string());
    const std::uint64_t bytes = kib_after(info, "Node " + std::to_string(*id) + " MemTotal:");
    if (bytes > 0) nodes.push_back({*id, bytes});
  }
  std::ranges::sort(nodes, {}, &NumaNode::id);
  return nodes;
}

// The values of a line of /proc/PID/limits: "Max locked memory   8388608   8388608   bytes".
struct Limit {
  std::uint64_t soft = kUnlimited;
  std::uint64_t hard = kUnlimited;
};

Limit limit_in(const std::string& limits, std::string_view name) {
  std::istringstream words(std::string(value_after(limits, name)));
  std::string soft;
  std::string hard;
  words >> soft >> hard;
  return {number_in(soft).value_or(kUnlimited), number_in(hard).value_or(kUnlimited)};
}

// `status`: of /proc/PID/status, which has "CapEff:\t000001ffffffffff".
bool has_capability(const std::string& status, unsigned number) {
  std::istringstream words(std::string(value_after(status, "CapEff:")));
  std::uint64_t set = 0;
  words >> std::hex >> set;
  return (set >> number & 1) != 0;
}

// Lowers the limit to that of a memory cgroup and of each above it.
void take_cgroup(const std::string& root, const std::string& mount, const std::string& group,
                 const char* file, ProcessFacts& facts) {
  for (fs::path at = group; true; at = at.parent_path()) {
    const std::string path =
        (fs::path(mount) / at.relative_path() / file).lexically_normal().string();
    const auto bytes = number_of(root + path);
    if (bytes && *bytes < kUnlimitedV1 && *bytes < facts.cgroup_bytes) {
      facts.cgroup_bytes = *bytes;
      facts.cgroup_file = path;
    }
    if (!at.has_relative_path()) return;
  }
}

void take_cgroups(const std::string& root, const std::string& process, ProcessFacts& facts) {
  std::istringstream lines(text_of(process + "/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    // "4:memory:/some/group" of version 1, "0::/some/group" of version 2
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first == std::string::npos ? first : first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    if (!group.starts_with('/')) continue;
    if (controllers.empty()) take_cgroup(root, "/sys/fs/cgroup", group, "memory.max", facts);
    if (controllers == "memory") {
      take_cgroup(root, "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", facts);
    }
  }
}

std::string driver_version(const std::string& line) {
  // "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build ..."
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    const bool dotted = word.find('.') != std::string::npos;
    if (dotted && word.find_first_not_of("0123456789.") == std::string::npos) return word;
  }
  return {};
}

SocketFacts look_at_socket(const std::string& socket) {
  SocketFacts facts;
  facts.socket = socket;
  const fs::path folder = fs::path(socket).parent_path();
  facts.folder = folder.string();
  struct stat status{};
  if (::stat(folder.c_str(), &status) == 0) {
    facts.is_folder = S_ISDIR(status.st_mode);
    facts.mode = status.st_mode & 07777;
    facts.owner = status.st_uid;
  } else {
    facts.error = errno;
  }
  std::error_code error;
  facts.parent_exists = fs::is_directory(folder.parent_path(), error);
  return facts;
}

}  // namespace

KernelFacts kernel_files(const std::string& root) {
  KernelFacts facts;
  facts.release = first_line_of(root + "/proc/sys/kernel/osrelease");
  facts.io_uring_disabled = number_of(root + "/proc/sys/kernel/io_uring_disabled");
  facts.memfd_noexec = number_of(root + "/proc/sys/vm/memfd_noexec");
  facts.huge_pages = chosen_of(root + "/sys/kernel/mm/transparent_hugepage/enabled");
  facts.shmem_huge_pages = chosen_of(root + "/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  facts.clock_source =
      first_line_of(root + "/sys/devices/system/clocksource/clocksource0/current_clocksource");
  return facts;
}

MemoryFacts memory_files(const std::string& root) {
  const std::string info = text_of(root + "/proc/meminfo");
  MemoryFacts facts;
  facts.total_bytes = kib_after(info, "MemTotal:");
  facts.available_bytes = kib_after(info, "MemAvailable:");
  facts.swap_bytes = kib_after(info, "SwapTotal:");
  facts.hugetlb_bytes = kib_after(info, "Hugetlb:");
  facts.nodes = numa_nodes(root);
  return facts;
}

ProcessFacts process_files(const std::string& root, std::optional<std::uint64_t> daemon_pid) {
  ProcessFacts facts;
  std::string process = root + "/proc/self";
  if (daemon_pid) {
    // A daemon in another container has a number that is somebody else's here.
    const std::string its = root + "/proc/" + std::to_string(*daemon_pid);
    if (first_line_of(its + "/comm") == "sluiced" && !first_line_of(its + "/limits").empty()) {
      facts.daemon_pid = daemon_pid;
      process = its;
    }
  }
  const std::string limits = text_of(process + "/limits");
  facts.memlock_bytes = limit_in(limits, "Max locked memory").soft;
  facts.may_lock_memory = has_capability(text_of(process + "/status"), kCapIpcLock);
  facts.open_files = limit_in(limits, "Max open files").hard;
  facts.mappings = number_of(root + "/proc/sys/vm/max_map_count").value_or(kUnlimited);
  take_cgroups(root, process, facts);
  return facts;
}

GpuFacts gpu_files(const std::string& root) {
  GpuFacts facts;
  for (const std::string& name : names_in(root + "/dev")) {
    if (name == "nvidiactl") facts.control = true;
    if (name == "nvidia-uvm") facts.unified_memory = true;
    if (numbered(name, "nvidia")) facts.devices.push_back("/dev/" + name);
  }
  facts.driver = driver_version(first_line_of(root + "/proc/driver/nvidia/version"));
  return facts;
}

SystemdFacts systemd_files(const std::string& root) {
  SystemdFacts facts;
  std::error_code error;
  facts.running = fs::is_directory(root + "/run/systemd/system", error);
  for (const char* folder : {"/etc/systemd/system", "/run/systemd/system",
                             "/usr/lib/systemd/system", "/lib/systemd/system"}) {
    facts.unit |= fs::exists(root + folder + "/sluiced.service", error);
  }
  return facts;
}

Machine look_at_machine(const Look& look) {
  Machine machine;
  machine.kernel = kernel_files("");
  machine.kernel.pidfd_error = try_pidfd();
  machine.kernel.sealed_memfd_error = try_sealed_memfd();
  machine.kernel.huge_page_error = try_huge_page();
  machine.kernel.io_uring_error = try_io_uring();
  machine.memory = memory_files("");
  machine.process = process_files("", look.daemon_pid);
  for (const std::string& socket : look.wanted.sockets) {
    machine.sockets.push_back(look_at_socket(socket));
  }
  machine.gpu = gpu_files("");
  machine.systemd = systemd_files("");
  for (const WantedDirectory& directory : look.wanted.nvme) {
    machine.directories.push_back(look_at_directory(directory, look.with_speed));
  }
  return machine;
}

}  // namespace sluice::tools::doctor
