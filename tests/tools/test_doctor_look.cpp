// Facts are read from files of a machine that a test makes, and from directories that it has.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/tools/doctor_machines.h"
#include "tools/sluicectl/doctor_directory.h"
#include "tools/sluicectl/doctor_look.h"
#include "tools/sluicectl/doctor_probe.h"

namespace sluice::tools::doctor {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

std::string make_folder() {
  std::string name = (fs::temp_directory_path() / "sluice-test-XXXXXX").string();
  return ::mkdtemp(name.data());
}

class DoctorLook : public testing::Test {
 protected:
  void TearDown() override { fs::remove_all(root); }

  void put(const std::string& path, const std::string& text) const {
    const fs::path file = root + path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  const std::string root = make_folder();
};

TEST_F(DoctorLook, TheKernelsSettings) {
  put("/proc/sys/kernel/osrelease", "6.1.0-13-amd64\n");
  put("/proc/sys/kernel/io_uring_disabled", "2\n");
  put("/proc/sys/vm/memfd_noexec", "1\n");
  put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
  put("/sys/kernel/mm/transparent_hugepage/shmem_enabled",
      "always within_size advise never [deny] force\n");
  put("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
  const KernelFacts facts = kernel_files(root);
  EXPECT_EQ(facts.release, "6.1.0-13-amd64");
  EXPECT_EQ(facts.io_uring_disabled, 2u);
  EXPECT_EQ(facts.memfd_noexec, 1u);
  EXPECT_EQ(facts.huge_pages, "madvise");
  EXPECT_EQ(facts.shmem_huge_pages, "deny");
  EXPECT_EQ(facts.clock_source, "tsc");
}

TEST_F(DoctorLook, WhatAMachineDoesNotSayIsLeftOut) {
  const KernelFacts kernel = kernel_files(root);
  EXPECT_EQ(kernel.release, "");
  EXPECT_FALSE(kernel.io_uring_disabled);
  EXPECT_EQ(memory_files(root).total_bytes, 0u);
  EXPECT_TRUE(memory_files(root).nodes.empty());
  EXPECT_EQ(process_files(root, 77).memlock_bytes, kUnlimited);
  EXPECT_TRUE(gpu_files(root).devices.empty());
  EXPECT_FALSE(systemd_files(root).running);
}

TEST_F(DoctorLook, MemoryAndTheNodesThatHaveSome) {
  put("/proc/meminfo",
      "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    800 kB\nSwapTotal:  10 kB\n"
      "HugePages_Total:       4\nHugetlb:  8192 kB\n");
  put("/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:  600 kB\nNode 0 MemFree: 1 kB\n");
  put("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:  0 kB\n");
  put("/sys/devices/system/node/node10/meminfo", "Node 10 MemTotal:  400 kB\n");
  put("/sys/devices/system/node/possible", "0-10\n");
  const MemoryFacts facts = memory_files(root);
  EXPECT_EQ(facts.total_bytes, 1000 * kKiB);
  EXPECT_EQ(facts.available_bytes, 800 * kKiB);
  EXPECT_EQ(facts.swap_bytes, 10 * kKiB);
  EXPECT_EQ(facts.hugetlb_bytes, 8192 * kKiB);
  ASSERT_EQ(facts.nodes.size(), 2u);
  EXPECT_EQ(facts.nodes[1].id, 10u);
  EXPECT_EQ(facts.nodes[1].bytes, 400 * kKiB);
}

constexpr const char* kLimits =
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max open files            1024                 4096                 files     \n"
    "Max locked memory         65536                unlimited            bytes     \n";

TEST_F(DoctorLook, LimitsOfTheDaemonIfItIsHere) {
  put("/proc/77/comm", "sluiced\n");
  put("/proc/77/limits", kLimits);
  put("/proc/77/status", "Name:\tsluiced\nCapEff:\t0000000000004000\n");
  put("/proc/self/limits", "Max open files   unlimited  unlimited  files\n");
  put("/proc/self/status", "CapEff:\t0000000000000001\n");
  put("/proc/sys/vm/max_map_count", "65530\n");
  const ProcessFacts facts = process_files(root, 77);
  EXPECT_EQ(facts.daemon_pid, 77u);
  EXPECT_EQ(facts.memlock_bytes, 65536u);
  EXPECT_EQ(facts.open_files, 4096u);
  EXPECT_TRUE(facts.may_lock_memory);
  EXPECT_EQ(facts.mappings, 65530u);
  const ProcessFacts own = process_files(root, std::nullopt);
  EXPECT_FALSE(own.daemon_pid);
  EXPECT_EQ(own.open_files, kUnlimited);
  EXPECT_FALSE(own.may_lock_memory);
  // The number of a daemon in another container is somebody else's here.
  put("/proc/77/comm", "bash\n");
  EXPECT_FALSE(process_files(root, 77).daemon_pid);
}

TEST_F(DoctorLook, TheLowestLimitOfTheCgroupsAbove) {
  put("/proc/self/cgroup", "0::/system.slice/sluiced.service\n");
  put("/sys/fs/cgroup/system.slice/sluiced.service/memory.max", "max\n");
  EXPECT_EQ(process_files(root, {}).cgroup_bytes, kUnlimited);
  put("/sys/fs/cgroup/system.slice/memory.max", "1048576\n");
  const ProcessFacts facts = process_files(root, {});
  EXPECT_EQ(facts.cgroup_bytes, 1 * kMiB);
  EXPECT_EQ(facts.cgroup_file, "/sys/fs/cgroup/system.slice/memory.max");
}

TEST_F(DoctorLook, CgroupsOfVersionOne) {
  put("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/box\n0::/\n");
  put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(process_files(root, {}).cgroup_bytes, kUnlimited);
  put("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1048576\n");
  EXPECT_EQ(process_files(root, {}).cgroup_bytes, 1 * kMiB);
}

TEST_F(DoctorLook, GpusAndTheirDriver) {
  for (const char* device : {"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-modeset"}) {
    put(std::string("/dev/") + device, "");
  }
  put("/proc/driver/nvidia/version",
      "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
      "GCC version:  gcc version 12.2.0\n");
  const GpuFacts facts = gpu_files(root);
  EXPECT_THAT(facts.devices, ElementsAre("/dev/nvidia0", "/dev/nvidia1"));
  EXPECT_TRUE(facts.control);
  EXPECT_TRUE(facts.unified_memory);
  EXPECT_EQ(facts.driver, "580.65.06");
}

TEST_F(DoctorLook, SystemdAndTheUnit) {
  fs::create_directories(root + "/run/systemd/system");
  EXPECT_TRUE(systemd_files(root).running);
  EXPECT_FALSE(systemd_files(root).unit);
  put("/usr/lib/systemd/system/sluiced.service", "[Unit]\n");
  EXPECT_TRUE(systemd_files(root).unit);
}

TEST_F(DoctorLook, ADirectoryIsTriedAndLeftAsItWas) {
  put("/segment", std::string(10'000, 'x'));
  const DirectoryFacts facts = look_at_directory({root, 1 * kGiB}, true);
  EXPECT_EQ(facts.error, 0);
  EXPECT_TRUE(facts.is_directory);
  EXPECT_EQ(facts.write_error, 0);
  EXPECT_NE(facts.file_system, "");
  EXPECT_GT(facts.free_bytes, 0u);
  EXPECT_GE(facts.own_bytes, 8'192u);
  EXPECT_LT(facts.own_bytes, 1 * kMiB);
  EXPECT_EQ(facts.speed_error, 0);
  if (facts.speed) {
    EXPECT_GT(facts.speed->bytes, 0u);
    EXPECT_LE(facts.speed->bytes, kSpeedBytes);
    EXPECT_GT(facts.speed->read_bytes_per_second, 0);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(root), fs::directory_iterator()), 1);
  EXPECT_FALSE(look_at_directory({root, {}}, false).speed);
}

TEST_F(DoctorLook, AFileThatNeededANameHasItNoMore) {
  EXPECT_TRUE(make_unlinked_file(root));
  EXPECT_TRUE(fs::is_empty(root));
  EXPECT_FALSE(make_unlinked_file(root + "/absent"));
}

TEST_F(DoctorLook, ADirectoryThatIsNone) {
  put("/file", "x");
  EXPECT_EQ(look_at_directory({root + "/absent", {}}, true).error, ENOENT);
  EXPECT_FALSE(look_at_directory({root + "/file", {}}, true).is_directory);
  EXPECT_EQ(look_at_directory({root + "/file", {}}, true).error, 0);
}

TEST_F(DoctorLook, SharedMemoryIsMemory) {
  const DirectoryFacts facts = look_at_directory({"/dev/shm", {}}, true);
  if (facts.error != 0 || facts.file_system != "tmpfs") GTEST_SKIP() << "/dev/shm is no tmpfs here";
  EXPECT_EQ(facts.file_system_kind, FileSystemKind::memory);
  EXPECT_FALSE(facts.speed);
}

TEST(DoctorProbe, ADescriptorMoreIsNeededForEach) {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  const int next = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(next, 0);
  ::close(next);
  const rlimit none{static_cast<rlim_t>(next), files.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const int pidfd = try_pidfd();
  const int memfd = try_sealed_memfd();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  EXPECT_EQ(pidfd, EMFILE);
  EXPECT_EQ(memfd, EMFILE);
  EXPECT_EQ(try_pidfd(), 0);
  EXPECT_EQ(try_sealed_memfd(), 0);
}

TEST(DoctorProbe, NothingStaysOpen) {
  (void)try_pidfd();
  (void)try_sealed_memfd();
  (void)try_huge_page();
  (void)try_io_uring();
  const int before = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::close(before);
  for (int i = 0; i < 3; ++i) {
    (void)try_pidfd();
    (void)try_sealed_memfd();
    (void)try_huge_page();
    (void)try_io_uring();
  }
  const int after = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::close(after);
  EXPECT_EQ(before, after);
}

}  // namespace
}  // namespace sluice::tools::doctor
