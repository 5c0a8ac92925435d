// Which NUMA nodes the DRAM of a device comes from. Frames that a GPU reads are best in the memory
// of the socket that its PCI bus belongs to: from another one they cross the link between sockets.
//
// Reads sysfs, under a root that tests choose. Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/config.h"

namespace sluice::daemon {

inline constexpr const char* kSysfs = "/sys";

// That of a PCI device ("0000:17:00.0"); nothing if the machine does not say.
std::optional<std::uint32_t> numa_node_of(const std::string& pci_bus_id,
                                          const std::string& sysfs = kSysfs);

// All that have memory, in order; empty if the machine does not say.
std::vector<std::uint32_t> numa_nodes_with_memory(const std::string& sysfs = kSysfs);

// Nodes from which extents are taken in turn; empty: wherever the kernel likes. `pci_bus_id`: of
// the device, empty if it is none.
std::vector<std::uint32_t> numa_nodes_for(NumaPlacement placement, const std::string& pci_bus_id,
                                          const std::string& sysfs = kSysfs);

}  // namespace sluice::daemon
