// A folder that looks like /sys, as far as NUMA nodes are read from it.
//
// Thread-safety: one thread.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace sluice::test {

class FakeSysfs {
 public:
  FakeSysfs() {
    std::string name = std::filesystem::temp_directory_path() / "sluice-sysfs.XXXXXX";
    root_ = mkdtemp(name.data());
  }
  ~FakeSysfs() { std::filesystem::remove_all(root_); }
  FakeSysfs(const FakeSysfs&) = delete;
  FakeSysfs& operator=(const FakeSysfs&) = delete;

  // The node of a PCI device, as text.
  void set_node(const std::string& pci, const std::string& node) const {
    write("bus/pci/devices/" + pci + "/numa_node", node);
  }
  // The nodes that have memory.
  void set_memory(const std::string& list) const { write("devices/system/node/has_memory", list); }
  std::string root() const { return root_; }

 private:
  void write(const std::string& file, const std::string& text) const {
    const std::filesystem::path path = root_ / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << '\n';
  }

  std::filesystem::path root_;
};

}  // namespace sluice::test
