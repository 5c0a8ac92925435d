// What is left for this process, from /proc/meminfo and the memory cgroups (v2, or v1 where it
// still rules). Everything that cannot be read counts as unlimited.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

#include "ipc/memfd.h"

namespace sluice::ipc {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

// The number after `name` in a file of lines "name number ...", or `missing`.
std::uint64_t field(const std::string& path, std::string_view name, std::uint64_t missing) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name)) continue;
    const auto digit = line.find_first_of("0123456789", name.size());
    if (digit == std::string::npos) continue;
    return std::strtoull(line.c_str() + digit, nullptr, 10);
  }
  return missing;
}

// The only number of a file; "max" and a missing file read as `missing`.
std::uint64_t number(const std::string& path, std::uint64_t missing) {
  std::uint64_t value = 0;
  return std::ifstream(path) >> value ? value : missing;
}

struct CgroupFiles {
  const char* root;
  const char* limit;
  const char* usage;
  const char* inactive_pages;
  const char* active_pages;
};
constexpr CgroupFiles kV2{"/sys/fs/cgroup", "/memory.max", "/memory.current", "inactive_file ",
                          "active_file "};
constexpr CgroupFiles kV1{"/sys/fs/cgroup/memory", "/memory.limit_in_bytes",
                          "/memory.usage_in_bytes", "total_inactive_file ", "total_active_file "};

std::uint64_t left_in_cgroup(const CgroupFiles& files, const std::string& group) {
  const std::string path = files.root + group;
  const std::uint64_t limit = number(path + files.limit, kUnlimited);
  if (limit == kUnlimited) return kUnlimited;
  // File pages can be given up; memfds are not counted among them.
  const std::uint64_t file_pages = field(path + "/memory.stat", files.inactive_pages, 0) +
                                   field(path + "/memory.stat", files.active_pages, 0);
  const std::uint64_t used = number(path + files.usage, 0);
  const std::uint64_t held = used > file_pages ? used - file_pages : 0;
  return limit > held ? limit - held : 0;
}

std::uint64_t left_in_cgroups() {
  std::uint64_t left = kUnlimited;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const bool v2 = line.starts_with("0::");
    if (!v2 && line.find(":memory:") == std::string::npos) continue;
    std::string group = line.substr(line.rfind(':') + 1);
    while (true) {
      left = std::min(left, left_in_cgroup(v2 ? kV2 : kV1, group == "/" ? "" : group));
      if (group.size() <= 1) break;
      group.resize(std::max<std::size_t>(group.rfind('/'), 1));
    }
  }
  return left;
}

}  // namespace

std::uint64_t available_memory_bytes() {
  const std::uint64_t node_kib = field("/proc/meminfo", "MemAvailable:", kUnlimited / 1024);
  return std::min(node_kib * 1024, left_in_cgroups());
}

}  // namespace sluice::ipc
