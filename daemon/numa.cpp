#include "daemon/numa.h"

#include <charconv>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "ipc/numa.h"

namespace sluice::daemon {

namespace {

std::string first_line_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// A node's number at the start of `text`, which is cut by it.
std::optional<std::uint32_t> take_node(std::string_view& text) {
  std::uint32_t node = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), node);
  if (error != std::errc() || node >= ipc::kMaxNumaNodes) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return node;
}

// "0-1,3", as sysfs writes lists; empty if it is none.
std::vector<std::uint32_t> parse_nodes(std::string_view text) {
  std::vector<std::uint32_t> nodes;
  while (!text.empty()) {
    const auto first = take_node(text);
    auto last = first;
    if (text.starts_with('-')) {
      text.remove_prefix(1);
      last = take_node(text);
    }
    if (!first || !last || *last < *first) return {};
    for (std::uint32_t node = *first; node <= *last; ++node) nodes.push_back(node);
    if (text.starts_with(',')) {
      text.remove_prefix(1);
    } else if (!text.empty()) {
      return {};
    }
  }
  return nodes;
}

}  // namespace

std::optional<std::uint32_t> numa_node_of(const std::string& pci_bus_id, const std::string& sysfs) {
  if (pci_bus_id.empty() || pci_bus_id.find('/') != pci_bus_id.npos) return std::nullopt;
  const std::string line =
      first_line_of(std::filesystem::path(sysfs) / "bus/pci/devices" / pci_bus_id / "numa_node");
  // -1: the firmware does not know.
  std::string_view text = line;
  const auto node = take_node(text);
  return text.empty() ? node : std::nullopt;
}

std::vector<std::uint32_t> numa_nodes_with_memory(const std::string& sysfs) {
  return parse_nodes(
      first_line_of(std::filesystem::path(sysfs) / "devices/system/node/has_memory"));
}

std::vector<std::uint32_t> numa_nodes_for(NumaPlacement placement, const std::string& pci_bus_id,
                                          const std::string& sysfs) {
  switch (placement) {
    case NumaPlacement::device:
      if (const auto node = numa_node_of(pci_bus_id, sysfs)) return {*node};
      return {};
    case NumaPlacement::interleave:
      return numa_nodes_with_memory(sysfs);
    case NumaPlacement::any:
      return {};
  }
  return {};
}

}  // namespace sluice::daemon
