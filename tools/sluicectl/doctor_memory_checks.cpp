#include <algorithm>

#include "tools/sluicectl/doctor_checks.h"

namespace sluice::tools::doctor {
namespace {

// Of the node's memory the tiers should leave a tenth to engines and to the system.
constexpr std::uint64_t kNodeTenths = 9;

std::string tiers_ask(const Wanted& wanted) {
  return "the tiers ask for " + size_text(wanted.node_bytes()) +
         (wanted.cuda ? " of the node (DRAM)" : " of the node (HBM and DRAM)");
}

}  // namespace

Finding check_memory(const MemoryFacts& memory, const Wanted& wanted, std::uint64_t held_bytes) {
  Finding finding{"memory", Severity::ok, {}, {}, {}};
  const std::uint64_t asked = wanted.node_bytes();
  const std::uint64_t on_offer = memory.available_bytes + std::min(held_bytes, asked);
  finding.found = tiers_ask(wanted) + "; it has " + size_text(memory.total_bytes) + ", " +
                  size_text(memory.available_bytes) + " available";
  if (held_bytes > 0) finding.found += " beside " + size_text(held_bytes) + " that sluiced has";
  if (asked > memory.total_bytes) {
    finding.severity = Severity::error;
    finding.todo =
        "lower tiers.dram.capacity" + std::string(wanted.cuda ? "" : " or tiers.hbm.capacity");
  } else if (asked > on_offer) {
    finding.severity = Severity::warning;
    finding.found += ": allocations may fail before the tiers are full";
    finding.todo = "free memory, or lower the capacities";
  } else if (asked > memory.total_bytes / 10 * kNodeTenths) {
    finding.severity = Severity::warning;
    finding.found += ": less than a tenth is left for engines and the system";
    finding.todo = "lower the capacities";
  }
  return finding;
}

Finding check_cgroup(const ProcessFacts& process, const Wanted& wanted) {
  const std::string whose = process.daemon_pid ? "the running sluiced" : "this shell";
  if (process.cgroup_bytes == kUnlimited) {
    return {"cgroup", Severity::ok, {}, "no memory limit of a cgroup on " + whose, {}};
  }
  Finding finding{"cgroup",
                  Severity::ok,
                  {},
                  "the cgroup of " + whose + " may take " + size_text(process.cgroup_bytes) + " (" +
                      process.cgroup_file + ")",
                  {}};
  if (wanted.node_bytes() <= process.cgroup_bytes) return finding;
  finding.severity = process.daemon_pid ? Severity::error : Severity::warning;
  finding.found += "; " + tiers_ask(wanted);
  finding.todo =
      "raise it (MemoryMax= of the unit, the container's memory limit), or lower the "
      "capacities";
  return finding;
}

Finding check_numa(const MemoryFacts& memory, const Wanted& wanted) {
  Finding finding{"numa", Severity::ok, {}, {}, {}};
  if (memory.nodes.size() < 2) {
    finding.found = memory.nodes.empty() ? "the machine names no NUMA nodes" : "one NUMA node";
    return finding;
  }
  finding.found = std::to_string(memory.nodes.size()) + " NUMA nodes:";
  for (const NumaNode& node : memory.nodes) {
    finding.found += " " + std::to_string(node.id) + " has " + size_text(node.bytes) + ",";
  }
  finding.found += " tiers.dram.numa is \"" + wanted.numa + "\"";
  const std::uint64_t smallest = std::ranges::min(memory.nodes, {}, &NumaNode::bytes).bytes;
  if (wanted.cuda && wanted.numa == "any") {
    finding.severity = Severity::warning;
    finding.found += ": DRAM may lie at the other socket than the GPU that reads it";
    finding.todo = "set tiers.dram.numa = \"device\"";
  } else if (wanted.numa == "device" && wanted.dram.bytes > smallest) {
    finding.severity = Severity::note;
    finding.found += ": DRAM of " + size_text(wanted.dram.bytes) +
                     " does not fit into one node, the rest comes from others";
  }
  return finding;
}

Finding check_hugetlb(const MemoryFacts& memory) {
  if (memory.hugetlb_bytes == 0) {
    return {"hugetlb", Severity::ok, {}, "no memory is set aside for hugetlbfs", {}};
  }
  return {
      "hugetlb",
      Severity::note,
      {},
      size_text(memory.hugetlb_bytes) + " are set aside for hugetlbfs, which sluiced does not use",
      "sysctl vm.nr_hugepages=0, if nobody else uses them"};
}

Finding check_swap(const MemoryFacts& memory, const Wanted& wanted) {
  if (memory.swap_bytes == 0) return {"swap", Severity::ok, {}, "no swap", {}};
  Finding finding{"swap",
                  Severity::warning,
                  {},
                  size_text(memory.swap_bytes) + " of swap: KV can be swapped out",
                  "swapoff -a, or MemorySwapMax=0 in the unit"};
  if (wanted.cuda) {
    finding.severity = Severity::note;
    finding.found += " until clients have pinned it";
  }
  return finding;
}

}  // namespace sluice::tools::doctor
