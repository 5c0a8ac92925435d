#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/tools/doctor_machines.h"
#include "tools/sluicectl/doctor_checks.h"

namespace sluice::tools::doctor {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

KernelFacts kernel_of(const char* release) {
  KernelFacts kernel = good_machine().kernel;
  kernel.release = release;
  return kernel;
}

TEST(DoctorKernel, WhatFollowsFromItsAge) {
  EXPECT_EQ(check_kernel(kernel_of("4.18.0-553.el8.x86_64")).severity, Severity::error);
  EXPECT_EQ(check_kernel(kernel_of("5.2.9")).severity, Severity::error);
  EXPECT_EQ(check_kernel(kernel_of("5.15.0-119-generic")).severity, Severity::warning);
  EXPECT_THAT(check_kernel(kernel_of("5.15.0-119-generic")).todo, HasSubstr("6.1"));
  EXPECT_EQ(check_kernel(kernel_of("6.1.0-13-amd64")).severity, Severity::note);
  EXPECT_EQ(check_kernel(kernel_of("6.5.0")).severity, Severity::ok);
  EXPECT_EQ(check_kernel(kernel_of("10.0.1")).severity, Severity::ok);
  EXPECT_EQ(check_kernel(kernel_of("custom")).severity, Severity::note);
}

TEST(DoctorKernel, WithoutPidfdOrSealedMemoryNothingWorks) {
  KernelFacts kernel = good_machine().kernel;
  EXPECT_EQ(check_pidfd(kernel).severity, Severity::ok);
  EXPECT_EQ(check_memfd(kernel).severity, Severity::ok);
  kernel.pidfd_error = EPERM;
  kernel.sealed_memfd_error = EACCES;
  kernel.memfd_noexec = 2;
  EXPECT_EQ(check_pidfd(kernel).severity, Severity::error);
  EXPECT_THAT(check_pidfd(kernel).todo, HasSubstr("seccomp"));
  EXPECT_EQ(check_memfd(kernel).severity, Severity::error);
  EXPECT_THAT(check_memfd(kernel).found, HasSubstr("vm.memfd_noexec is 2"));
}

TEST(DoctorKernel, HugePagesMatterAsMuchAsTheConfigurationSays) {
  KernelFacts kernel = good_machine().kernel;
  Wanted wanted = laptop_config();
  EXPECT_EQ(check_huge_pages(kernel, wanted).severity, Severity::ok);
  kernel.huge_page_error = EINVAL;
  EXPECT_EQ(check_huge_pages(kernel, wanted).severity, Severity::warning);
  wanted.hbm.huge_pages = HugePages::require;
  EXPECT_EQ(check_huge_pages(kernel, wanted).severity, Severity::error);
  wanted.cuda = true;  // of a GPU's HBM the node's kernel makes no pages
  EXPECT_EQ(check_huge_pages(kernel, wanted).severity, Severity::warning);
  wanted.dram.huge_pages = HugePages::never;
  EXPECT_EQ(check_huge_pages(kernel, wanted).severity, Severity::note);
}

TEST(DoctorKernel, HugePagesHaveARemedyForEachCause) {
  KernelFacts kernel = good_machine().kernel;
  kernel.huge_page_error = EINVAL;
  kernel.shmem_huge_pages = "deny";
  EXPECT_THAT(check_huge_pages(kernel, laptop_config()).todo, HasSubstr("echo advise"));
  kernel.release = "5.15.0";
  EXPECT_THAT(check_huge_pages(kernel, laptop_config()).todo, HasSubstr("Linux 6.1"));
  kernel = good_machine().kernel;
  kernel.huge_page_error = ENOMEM;
  EXPECT_THAT(check_huge_pages(kernel, laptop_config()).todo, HasSubstr("compact_memory"));
}

TEST(DoctorKernel, ForbiddenIoUringFallsBackToThreads) {
  KernelFacts kernel = good_machine().kernel;
  Wanted wanted = laptop_config();
  EXPECT_EQ(check_io_uring(kernel, wanted).severity, Severity::ok);
  kernel.io_uring_error = EPERM;
  kernel.io_uring_disabled = 2;
  EXPECT_EQ(check_io_uring(kernel, wanted).severity, Severity::note);
  wanted.nvme = {{"/mnt/nvme0", 100 * kGiB}};
  const Finding finding = check_io_uring(kernel, wanted);
  EXPECT_EQ(finding.severity, Severity::warning);
  EXPECT_THAT(finding.found, HasSubstr("pool of threads"));
  EXPECT_THAT(finding.todo, HasSubstr("kernel.io_uring_disabled=0 (now 2"));
  kernel.io_uring_disabled = 1;
  EXPECT_THAT(check_io_uring(kernel, wanted).todo, HasSubstr("io_uring_group"));
  kernel.io_uring_disabled = 0;
  EXPECT_THAT(check_io_uring(kernel, wanted).todo, HasSubstr("seccomp"));
  kernel.io_uring_disabled = std::nullopt;
  kernel.io_uring_error = ENOSYS;
  EXPECT_THAT(check_io_uring(kernel, wanted).todo, HasSubstr("kernel with io_uring"));
}

TEST(DoctorKernel, AClockThatIsASystemCallSlowsLanes) {
  KernelFacts kernel = good_machine().kernel;
  EXPECT_EQ(check_clock(kernel).severity, Severity::ok);
  kernel.clock_source = "kvm-clock";
  EXPECT_EQ(check_clock(kernel).severity, Severity::note);
  kernel.clock_source = "hpet";
  EXPECT_EQ(check_clock(kernel).severity, Severity::warning);
  kernel.clock_source = "";
  EXPECT_EQ(check_clock(kernel).severity, Severity::note);
}

TEST(DoctorMemory, TiersAreComparedWithTheNode) {
  const Wanted wanted = laptop_config();  // 5 GiB
  const auto severity = [&](std::uint64_t total, std::uint64_t available, std::uint64_t held) {
    return check_memory({total, available, 0, 0, {}}, wanted, held).severity;
  };
  EXPECT_EQ(severity(16 * kGiB, 8 * kGiB, 0), Severity::ok);
  EXPECT_EQ(severity(16 * kGiB, 4 * kGiB, 0), Severity::warning);
  EXPECT_EQ(severity(4 * kGiB, 4 * kGiB, 0), Severity::error);
  EXPECT_EQ(severity(5 * kGiB + kMiB, 5 * kGiB + kMiB, 0), Severity::warning);
  // What a running daemon has taken is not available to others, but is to it.
  EXPECT_EQ(severity(16 * kGiB, 1 * kGiB, 5 * kGiB), Severity::ok);
}

TEST(DoctorMemory, HbmOfAGpuIsNotTheNodes) {
  Wanted wanted = laptop_config();
  const MemoryFacts memory{64 * kGiB, 60 * kGiB, 0, 0, {}};
  wanted.hbm.bytes = 80 * kGiB;
  EXPECT_EQ(check_memory(memory, wanted, 0).severity, Severity::error);
  wanted.cuda = true;
  EXPECT_EQ(check_memory(memory, wanted, 0).severity, Severity::ok);
}

TEST(DoctorMemory, ALimitOfTheCgroupIsALimitOfTheTiers) {
  ProcessFacts process;
  EXPECT_EQ(check_cgroup(process, laptop_config()).severity, Severity::ok);
  process.cgroup_bytes = 8 * kGiB;
  process.cgroup_file = "/sys/fs/cgroup/box/memory.max";
  EXPECT_EQ(check_cgroup(process, laptop_config()).severity, Severity::ok);
  process.cgroup_bytes = 2 * kGiB;
  EXPECT_EQ(check_cgroup(process, laptop_config()).severity, Severity::warning);
  EXPECT_THAT(check_cgroup(process, laptop_config()).found, HasSubstr(process.cgroup_file));
  process.daemon_pid = 77;  // now it is the daemon's own
  EXPECT_EQ(check_cgroup(process, laptop_config()).severity, Severity::error);
}

TEST(DoctorMemory, NumaMattersWhereThereIsMoreThanOneNode) {
  MemoryFacts memory = good_machine().memory;
  Wanted wanted = gpu_config();
  EXPECT_EQ(check_numa(memory, wanted).severity, Severity::ok);
  memory.nodes = {{0, 128 * kGiB}, {1, 128 * kGiB}};
  EXPECT_EQ(check_numa(memory, wanted).severity, Severity::note);
  wanted.dram.bytes = 64 * kGiB;
  EXPECT_EQ(check_numa(memory, wanted).severity, Severity::ok);
  wanted.numa = "any";
  EXPECT_EQ(check_numa(memory, wanted).severity, Severity::warning);
}

TEST(DoctorMemory, HugetlbAndSwapAreSeen) {
  MemoryFacts memory = good_machine().memory;
  EXPECT_EQ(check_hugetlb(memory).severity, Severity::ok);
  EXPECT_EQ(check_swap(memory, laptop_config()).severity, Severity::ok);
  memory.hugetlb_bytes = 8 * kGiB;
  memory.swap_bytes = 2 * kGiB;
  EXPECT_THAT(check_hugetlb(memory).found, HasSubstr("8.0 GiB"));
  EXPECT_EQ(check_hugetlb(memory).severity, Severity::note);
  EXPECT_EQ(check_swap(memory, laptop_config()).severity, Severity::warning);
  EXPECT_EQ(check_swap(memory, gpu_config()).severity, Severity::note);
}

TEST(DoctorLimits, MemlockOf64KiBIsTooLittleToPinDram) {
  ProcessFacts process;
  Wanted wanted = laptop_config();
  EXPECT_EQ(check_memlock(process, wanted).severity, Severity::ok);
  process.memlock_bytes = 64 * kKiB;
  EXPECT_EQ(check_memlock(process, wanted).severity, Severity::note);
  EXPECT_EQ(check_memlock(process, gpu_config()).severity, Severity::warning);
  EXPECT_THAT(check_memlock(process, gpu_config()).found, HasSubstr("pin DRAM of 256.0 GiB"));
  wanted.nvme = {{"/mnt/nvme0", 100 * kGiB}};
  const Finding finding = check_memlock(process, wanted);
  EXPECT_EQ(finding.severity, Severity::warning);
  EXPECT_THAT(finding.found, HasSubstr("64.0 KiB"));
  EXPECT_THAT(finding.todo, HasSubstr("4.0 GiB or more"));
  process.may_lock_memory = true;
  EXPECT_EQ(check_memlock(process, wanted).severity, Severity::ok);
  process.may_lock_memory = false;
  process.memlock_bytes = 4 * kGiB;
  EXPECT_EQ(check_memlock(process, wanted).severity, Severity::ok);
}

TEST(DoctorLimits, ExtentsAndSessionsAreOpenFiles) {
  ProcessFacts process;
  const Wanted wanted = gpu_config();  // 1024 extents on each GPU, and 4096 of DRAM
  EXPECT_EQ(check_open_files(process, {}, wanted).severity, Severity::ok);
  process.open_files = 1048576;
  EXPECT_EQ(check_open_files(process, {}, wanted).severity, Severity::ok);
  process.open_files = 6000;
  EXPECT_EQ(check_open_files(process, {}, wanted).severity, Severity::warning);
  EXPECT_THAT(check_open_files(process, {}, wanted).found, HasSubstr("5,120 extents"));
  process.open_files = 4096;
  EXPECT_EQ(check_open_files(process, {}, wanted).severity, Severity::error);
}

TEST(DoctorLimits, AllDevicesAreAsManyAsTheMachineHas) {
  Wanted wanted = gpu_config();
  wanted.devices = std::nullopt;
  ProcessFacts process;
  process.open_files = 1048576;
  EXPECT_THAT(check_open_files(process, two_gpus(), wanted).found, HasSubstr("6,144 extents"));
}

TEST(DoctorLimits, ManyExtentsAreManyMappings) {
  ProcessFacts process;
  process.mappings = 65530;
  Wanted wanted = laptop_config();
  EXPECT_EQ(check_mappings(process, {}, wanted).severity, Severity::ok);
  wanted.dram.bytes = 4096 * kGiB;
  EXPECT_EQ(check_mappings(process, {}, wanted).severity, Severity::warning);
  EXPECT_THAT(check_mappings(process, {}, wanted).todo, HasSubstr("vm.max_map_count="));
}

TEST(DoctorNvme, AGoodDirectoryHasNothingToComplainAbout) {
  const FindingList findings = check_directories({good_directory()}, true);
  EXPECT_EQ(findings.size(), 5u);
  EXPECT_EQ(count_of(findings, Severity::ok), 5u);
  for (const Finding& finding : findings) EXPECT_EQ(finding.subject, "/mnt/nvme0/sluice");
}

TEST(DoctorNvme, ADirectoryThatCannotBeUsedIsLookedAtNoFurther) {
  DirectoryFacts absent = good_directory();
  absent.error = ENOENT;
  ASSERT_EQ(check_directories({absent}, true).size(), 1u);
  EXPECT_EQ(check_directories({absent}, true)[0].severity, Severity::warning);
  EXPECT_THAT(check_directories({absent}, true)[0].todo, HasSubstr("mkdir -p /mnt/nvme0/sluice"));

  DirectoryFacts closed = good_directory();
  closed.error = EACCES;
  EXPECT_EQ(check_directories({closed}, true)[0].severity, Severity::error);
  DirectoryFacts file = good_directory();
  file.is_directory = false;
  EXPECT_EQ(check_directories({file}, true)[0].severity, Severity::error);
  DirectoryFacts readonly = good_directory();
  readonly.write_error = EROFS;
  ASSERT_EQ(check_directories({readonly}, true).size(), 1u);
  EXPECT_EQ(check_directories({readonly}, true)[0].severity, Severity::error);
  DirectoryFacts full = good_directory();
  full.write_error = ENOSPC;
  EXPECT_THAT(check_directories({full}, true)[0].todo, HasSubstr("free space"));
}

TEST(DoctorNvme, AFullDiskCannotHoldWhatIsAskedFor) {
  DirectoryFacts full = good_directory();
  full.free_bytes = 20 * kGiB;
  const Finding finding = find(check_directories({full}, true), "nvme_space");
  EXPECT_EQ(finding.severity, Severity::error);
  EXPECT_THAT(finding.found, HasSubstr("20.0 GiB"));
  EXPECT_THAT(finding.found, HasSubstr("100.0 GiB wanted"));
  full.own_bytes = 95 * kGiB;  // of an earlier run
  EXPECT_EQ(find(check_directories({full}, true), "nvme_space").severity, Severity::ok);
  full.own_bytes = 85 * kGiB;
  EXPECT_EQ(find(check_directories({full}, true), "nvme_space").severity, Severity::note);
  full.wanted.bytes = std::nullopt;
  EXPECT_EQ(find(check_directories({full}, true), "nvme_space").severity, Severity::note);
}

TEST(DoctorNvme, DirectoriesOnOneFileSystemShareItsSpace) {
  DirectoryFacts one = good_directory("/mnt/a");
  DirectoryFacts other = good_directory("/mnt/b");
  one.free_bytes = other.free_bytes = 150 * kGiB;
  const FindingList together = check_directories({one, other}, false);
  EXPECT_EQ(std::ranges::count(together, "nvme_space", &Finding::id), 1);
  EXPECT_EQ(find(together, "nvme_space").severity, Severity::error);
  EXPECT_EQ(find(together, "nvme_space").subject, "/mnt/a, /mnt/b");
  other.device = 8;
  const FindingList apart = check_directories({one, other}, false);
  EXPECT_EQ(std::ranges::count(apart, "nvme_space", &Finding::id), 2);
  EXPECT_EQ(count_of(apart, Severity::error), 0u);
}

TEST(DoctorNvme, FileSystemsThatAreNoDiskAreWarnedOf) {
  DirectoryFacts facts = good_directory();
  for (const FileSystemKind kind :
       {FileSystemKind::memory, FileSystemKind::overlay, FileSystemKind::network}) {
    facts.file_system_kind = kind;
    const Finding finding = find(check_directories({facts}, true), "nvme_file_system");
    EXPECT_EQ(finding.severity, Severity::warning);
    EXPECT_THAT(finding.todo, Not(IsEmpty()));
  }
  facts.file_system_kind = FileSystemKind::copy_on_write;
  EXPECT_EQ(find(check_directories({facts}, true), "nvme_file_system").severity, Severity::note);
  facts = good_directory();
  facts.on_root = true;
  EXPECT_EQ(find(check_directories({facts}, true), "nvme_file_system").severity, Severity::note);
}

TEST(DoctorNvme, DirectIoAndSpeedAreMeasured) {
  DirectoryFacts facts = good_directory();
  facts.direct_error = EINVAL;
  EXPECT_EQ(find(check_directories({facts}, true), "nvme_direct_io").severity, Severity::warning);
  facts.speed->read_bytes_per_second = 0.5 * kGiB;
  EXPECT_EQ(find(check_directories({facts}, true), "nvme_speed").severity, Severity::note);
  facts.speed->write_bytes_per_second = 90.0 * kMiB;
  EXPECT_EQ(find(check_directories({facts}, true), "nvme_speed").severity, Severity::warning);
  facts.speed = std::nullopt;
  EXPECT_EQ(find(check_directories({facts}, true), "nvme_speed").severity, Severity::note);
  facts.speed_error = EIO;
  EXPECT_EQ(find(check_directories({facts}, true), "nvme_speed").severity, Severity::error);
  EXPECT_EQ(find(check_directories({facts}, false), "nvme_speed").id, "none");
}

TEST(DoctorNode, SocketsLieWhereOnlySluicedCanMakeThem) {
  const Wanted wanted = laptop_config();
  SocketFacts facts = good_machine().sockets[0];
  const auto severity = [&] { return check_sockets({facts}, wanted).at(0).severity; };
  EXPECT_EQ(severity(), Severity::ok);
  facts.mode = 0777;
  EXPECT_EQ(severity(), Severity::error);
  facts.mode = 01777;
  EXPECT_EQ(severity(), Severity::warning);
  facts.is_folder = false;
  EXPECT_EQ(severity(), Severity::error);
}

TEST(DoctorNode, SluicedMakesOneFolderForItsOwnSocket) {
  Wanted wanted = laptop_config();
  SocketFacts facts = good_machine().sockets[0];
  facts.error = ENOENT;
  EXPECT_EQ(check_sockets({facts}, wanted)[0].severity, Severity::ok);
  facts.parent_exists = false;
  EXPECT_EQ(check_sockets({facts}, wanted)[0].severity, Severity::error);
  facts.parent_exists = true;
  wanted.socket = "/run/other/sluice.sock";  // and this one is a tenant's
  EXPECT_EQ(check_sockets({facts}, wanted)[0].severity, Severity::error);
}

TEST(DoctorNode, SocketsOfOneFolderAreOneFinding) {
  SocketFacts facts = good_machine().sockets[0];
  SocketFacts tenant = facts;
  tenant.socket = "/run/sluice/prod.sock";
  EXPECT_EQ(check_sockets({facts, tenant}, laptop_config()).size(), 1u);
}

TEST(DoctorNode, CudaNeedsADriverAndItsDevices) {
  EXPECT_EQ(check_gpu({}, laptop_config()).severity, Severity::ok);
  EXPECT_EQ(check_gpu(two_gpus(), laptop_config()).severity, Severity::note);
  EXPECT_EQ(check_gpu(two_gpus(), gpu_config()).severity, Severity::ok);
  EXPECT_EQ(check_gpu({}, gpu_config()).severity, Severity::error);
  GpuFacts gpu = two_gpus();
  gpu.unified_memory = false;
  EXPECT_EQ(check_gpu(gpu, gpu_config()).severity, Severity::error);
  EXPECT_THAT(check_gpu(gpu, gpu_config()).found, HasSubstr("lacks /dev/nvidia-uvm"));
  gpu = two_gpus();
  gpu.driver = "550.90.07";
  EXPECT_EQ(check_gpu(gpu, gpu_config()).severity, Severity::error);
  EXPECT_THAT(check_gpu(gpu, gpu_config()).todo, HasSubstr("580"));
  Wanted many = gpu_config();
  many.devices = 3;
  EXPECT_EQ(check_gpu(two_gpus(), many).severity, Severity::note);
}

TEST(DoctorNode, WithoutSystemdNobodyRaisesLimits) {
  EXPECT_EQ(check_systemd({true, true}).severity, Severity::ok);
  EXPECT_EQ(check_systemd({true, false}).severity, Severity::note);
  EXPECT_EQ(check_systemd({false, true}).severity, Severity::note);
}

TEST(DoctorDaemon, EachComplaintAboutTheConfigurationIsAFinding) {
  EXPECT_EQ(check_config({"defaults", "", {}})[0].severity, Severity::ok);
  const FindingList findings = check_config({"f.toml", "f.toml:1:2: one\nf.toml:3:4: two\n", {}});
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].severity, Severity::error);
  EXPECT_EQ(findings[1].found, "f.toml:3:4: two");
  const FindingList unknown =
      check_config({"f.toml", "", ipc::Error{ipc::Errc::not_found, "no sluiced"}});
  EXPECT_EQ(unknown[0].severity, Severity::warning);
}

TEST(DoctorDaemon, OneThatIsNotThereIsNoError) {
  DaemonFacts daemon{"/s", {}, "0.1.0", "0.1.0", {}};
  EXPECT_EQ(check_daemon(daemon)[0].severity, Severity::ok);
  daemon.error = {ipc::Errc::daemon_away, "nobody"};
  EXPECT_EQ(check_daemon(daemon)[0].severity, Severity::note);
  daemon.error = {ipc::Errc::permission_denied, "not you"};
  EXPECT_EQ(check_daemon(daemon)[0].severity, Severity::warning);
  daemon.error = {ipc::Errc::timed_out, "too long"};
  EXPECT_EQ(check_daemon(daemon)[0].severity, Severity::error);
}

TEST(DoctorDaemon, ItsVersionAndHealthAreFindings) {
  const DaemonFacts daemon{"/s",
                           {},
                           "0.0.9",
                           "0.1.0",
                           {{"DEVICE_LOST", "error", "gone", "restart"},
                            {"DRAINING", "warn", "no new sessions", "drain --off"},
                            {"TENANT_IDLE", "info", "idle", ""}}};
  const FindingList findings = check_daemon(daemon);
  ASSERT_EQ(findings.size(), 4u);
  EXPECT_EQ(findings[0].severity, Severity::warning);
  EXPECT_EQ(findings[1].severity, Severity::error);
  EXPECT_EQ(findings[1].id, "daemon_health");
  EXPECT_EQ(findings[1].subject, "DEVICE_LOST");
  EXPECT_EQ(findings[2].severity, Severity::warning);
  EXPECT_EQ(findings[3].severity, Severity::note);
}

}  // namespace
}  // namespace sluice::tools::doctor
