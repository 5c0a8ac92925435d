// Which NUMA nodes DRAM comes from: what sysfs says, and what the kernel was told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "daemon/device.h"
#include "daemon/numa.h"
#include "ipc/mapping.h"
#include "ipc/numa.h"
#include "tests/daemon/fake_sysfs.h"

namespace sluice::daemon {
namespace {

using ipc::Errc;
using ipc::Tier;
using test::FakeSysfs;
using Nodes = std::vector<std::uint32_t>;

constexpr std::uint64_t kExtent = std::uint64_t{4} << 20;

TEST(TheNumaNodeOfADevice, IsWhatItsPciFolderSays) {
  const FakeSysfs sysfs;
  sysfs.set_node("0000:17:00.0", "1");
  EXPECT_EQ(numa_node_of("0000:17:00.0", sysfs.root()), 1U);
  EXPECT_EQ(numa_nodes_for(NumaPlacement::device, "0000:17:00.0", sysfs.root()), Nodes{1});
}

TEST(TheNumaNodeOfADevice, IsUnknownWhereTheMachineDoesNotSay) {
  const FakeSysfs sysfs;
  for (const char* text : {"-1", "", "node1", "1 2", "4096"}) {
    sysfs.set_node("0000:17:00.0", text);
    EXPECT_EQ(numa_node_of("0000:17:00.0", sysfs.root()), std::nullopt) << text;
  }
  EXPECT_EQ(numa_node_of("0000:18:00.0", sysfs.root()), std::nullopt) << "no such device";
  EXPECT_EQ(numa_node_of("", sysfs.root()), std::nullopt) << "the node's own memory";
  sysfs.set_node("b/0000:17:00.0", "1");
  EXPECT_EQ(numa_node_of("b/0000:17:00.0", sysfs.root()), std::nullopt) << "out of the folder";
  EXPECT_EQ(numa_nodes_for(NumaPlacement::device, "0000:18:00.0", sysfs.root()), Nodes{});
}

TEST(InterleavedMemory, TakesAllNodesThatHaveMemory) {
  const FakeSysfs sysfs;
  for (const auto& [text, nodes] : std::vector<std::pair<std::string, Nodes>>{{"0", {0}},
                                                                              {"0-1", {0, 1}},
                                                                              {"0-1,4", {0, 1, 4}},
                                                                              {"", {}},
                                                                              {"1-0", {}},
                                                                              {"0-", {}},
                                                                              {"0;1", {}},
                                                                              {"x", {}}}) {
    sysfs.set_memory(text);
    EXPECT_EQ(numa_nodes_with_memory(sysfs.root()), nodes) << text;
  }
  sysfs.set_memory("0-1");
  EXPECT_EQ(numa_nodes_for(NumaPlacement::interleave, "0000:17:00.0", sysfs.root()), (Nodes{0, 1}));
  EXPECT_EQ(numa_nodes_for(NumaPlacement::any, "0000:17:00.0", sysfs.root()), Nodes{});
}

// The policy that the kernel has for the first page of a file, as any process sees it that maps it.
struct Policy {
  int mode = -1;
  unsigned long nodes = 0;
  bool operator==(const Policy&) const = default;
};

Policy policy_of(const ipc::Fd& memory) {
  const auto mapping = ipc::Mapping::map(memory.get(), 0, kExtent, ipc::Access::read, "an extent");
  Policy policy;
  std::vector<unsigned long> mask(ipc::kMaxNumaNodes / 64);
  EXPECT_TRUE(mapping);
  EXPECT_EQ(syscall(SYS_get_mempolicy, &policy.mode, mask.data(), ipc::kMaxNumaNodes,
                    mapping->data(), MPOL_F_ADDR),
            0);
  policy.nodes = mask[0];
  return policy;
}

// The node that each page of 4 KiB really lies on; negative: it has no memory.
std::vector<int> where_pages_lie(const ipc::Fd& memory) {
  const auto mapping = ipc::Mapping::map(memory.get(), 0, kExtent, ipc::Access::read, "an extent");
  std::vector<void*> pages;
  for (std::uint64_t at = 0; at < kExtent; at += 4096) {
    std::byte* const page = mapping->data() + at;
    (void)*static_cast<volatile std::byte*>(page);
    pages.push_back(page);
  }
  std::vector<int> nodes(pages.size(), -1);
  EXPECT_EQ(syscall(SYS_move_pages, 0, pages.size(), pages.data(), nullptr, nodes.data(), 0), 0);
  return nodes;
}

struct PlacedMemory : ::testing::TestWithParam<HugePages> {
  void SetUp() override {
    nodes = numa_nodes_with_memory();
    const auto probe = ipc::create_memfd("sluice-probe", kExtent, ipc::Populate::no);
    ASSERT_TRUE(probe);
    const auto set =
        ipc::prefer_numa_node(probe->get(), kExtent, nodes.empty() ? 0 : nodes.front());
    if (nodes.empty() || (!set && set.error().code == Errc::not_supported)) {
      GTEST_SKIP() << "NUMA POLICIES CANNOT BE SET HERE, SO THAT NOTHING OF THEM IS TESTED: "
                   << (set ? "sysfs names no node" : set.error().text);
    }
  }
  Nodes nodes;
};

TEST_P(PlacedMemory, OfADeviceComesFromItsNodeAlsoAfterItWasGivenBack) {
  const std::uint32_t node = nodes.back();
  const auto device = make_host_device(HugePages::never, GetParam(), {node});
  const auto extent = device->allocate_extent(Tier::dram, kExtent);
  ASSERT_TRUE(extent) << extent.error().text;
  const Policy preferred{MPOL_PREFERRED, 1UL << node};
  EXPECT_EQ(policy_of(*extent), preferred);
  const std::vector<int> all_there(kExtent / 4096, static_cast<int>(node));
  EXPECT_EQ(where_pages_lie(*extent), all_there);

  ASSERT_TRUE(ipc::vacate_memfd(extent->get(), "sluice-dram", 0, kExtent));
  ASSERT_TRUE(device->refill_extent(Tier::dram, *extent, kExtent));
  EXPECT_EQ(policy_of(*extent), preferred);
  EXPECT_EQ(where_pages_lie(*extent), all_there);
  EXPECT_EQ(device->dram_nodes(), Nodes{node});
}

TEST_P(PlacedMemory, OfNoNodeIsWhereTheKernelLikes) {
  const auto device = make_host_device(HugePages::never, GetParam());
  const auto extent = device->allocate_extent(Tier::dram, kExtent);
  ASSERT_TRUE(extent);
  EXPECT_EQ(policy_of(*extent).mode, MPOL_DEFAULT);
}

// A node that is not there stands for the second one, of which a machine may have none.
TEST_P(PlacedMemory, OfSeveralNodesTakesTurnsExtentByExtent) {
  const auto device =
      make_host_device(HugePages::never, GetParam(), {nodes.front(), ipc::kMaxNumaNodes - 1});
  for (const int mode : {MPOL_PREFERRED, MPOL_DEFAULT, MPOL_PREFERRED, MPOL_DEFAULT}) {
    const auto extent = device->allocate_extent(Tier::dram, kExtent);
    ASSERT_TRUE(extent);
    EXPECT_EQ(policy_of(*extent).mode, mode);
  }
}

TEST_P(PlacedMemory, OfANodeThatIsNotThereIsTakenAnywhere) {
  const std::uint32_t nowhere = ipc::kMaxNumaNodes - 1;
  const auto probe = ipc::create_memfd("sluice-probe", kExtent, ipc::Populate::no);
  EXPECT_EQ(ipc::prefer_numa_node(probe->get(), kExtent, nowhere).error().code,
            Errc::invalid_argument);
  const auto device = make_host_device(HugePages::never, GetParam(), {nowhere});
  const auto extent = device->allocate_extent(Tier::dram, kExtent);
  ASSERT_TRUE(extent) << "a worse place is better than none";
  EXPECT_EQ(policy_of(*extent).mode, MPOL_DEFAULT);
}

INSTANTIATE_TEST_SUITE_P(InPages, PlacedMemory,
                         ::testing::Values(HugePages::never, HugePages::attempt),
                         [](const auto& each) {
                           return each.param == HugePages::never ? "Small" : "Huge";
                         });

}  // namespace
}  // namespace sluice::daemon
