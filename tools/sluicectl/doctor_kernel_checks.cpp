#include <cerrno>
#include <charconv>
#include <system_error>
#include <utility>

#include "tools/sluicectl/doctor_checks.h"

namespace sluice::tools::doctor {
namespace {

using Release = std::pair<unsigned, unsigned>;

constexpr Release kPidfdOpen{5, 3};
constexpr Release kMemfdCollapse{6, 1};  // MADV_COLLAPSE of shared memory
constexpr Release kPeerPidfd{6, 5};      // SO_PEERPIDFD

// "6.1.0-13-amd64" is 6.1; {0, 0} if it is something else.
Release release_of(const std::string& text) {
  Release release{0, 0};
  const char* const end = text.data() + text.size();
  const auto [dot, error] = std::from_chars(text.data(), end, release.first);
  if (error != std::errc{} || dot == end || *dot != '.') return {0, 0};
  if (std::from_chars(dot + 1, end, release.second).ec != std::errc{}) return {0, 0};
  return release;
}

Finding must_work(const char* id, int error, const char* what, const char* without) {
  if (error == 0) return {id, Severity::ok, {}, std::string(what) + " works", {}};
  return {id,
          Severity::error,
          {},
          std::string(what) + " fails: " + words_of(error) + "; " + without,
          error == ENOSYS
              ? "take a newer kernel, or allow the call in the container's seccomp profile"
              : "allow the call in the container's seccomp profile"};
}

HugePages stricter(HugePages one, HugePages other) { return one > other ? one : other; }

HugePages huge_pages_wanted(const Wanted& wanted) {
  if (wanted.cuda) return wanted.dram.huge_pages;
  return stricter(wanted.dram.huge_pages, wanted.hbm.huge_pages);
}

std::string huge_page_settings(const KernelFacts& kernel) {
  const auto shown = [](const std::string& word) { return word.empty() ? "unknown" : word; };
  return "transparent_hugepage/enabled: " + shown(kernel.huge_pages) +
         ", shmem_enabled: " + shown(kernel.shmem_huge_pages);
}

std::string huge_page_remedy(const KernelFacts& kernel) {
  if (release_of(kernel.release) < kMemfdCollapse) return "take Linux 6.1 or newer";
  if (kernel.shmem_huge_pages == "deny") {
    return "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled";
  }
  if (kernel.huge_page_error == ENOMEM || kernel.huge_page_error == EAGAIN) {
    return "memory is short or in pieces: echo 1 > /proc/sys/vm/compact_memory, or start sluiced "
           "early after boot";
  }
  return "see that the kernel is built with transparent huge pages, and that they are not turned "
         "off for this process";
}

std::string io_uring_remedy(const KernelFacts& kernel) {
  const std::uint64_t disabled = kernel.io_uring_disabled.value_or(0);
  if (disabled == 2) return "sysctl kernel.io_uring_disabled=0 (now 2: for nobody)";
  if (disabled == 1) {
    return "sysctl kernel.io_uring_disabled=0 (now 1: for CAP_SYS_ADMIN and the group of "
           "kernel.io_uring_group only), or put sluiced's group there";
  }
  if (kernel.io_uring_error == ENOMEM) return "raise the memlock limit (before Linux 5.12)";
  if (kernel.io_uring_error == ENOSYS) {
    return "take a kernel with io_uring, or allow it in the container's seccomp profile";
  }
  return "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp "
         "profile";
}

}  // namespace

Finding check_kernel(const KernelFacts& kernel) {
  const Release release = release_of(kernel.release);
  Finding finding{"kernel", Severity::ok, {}, "Linux " + kernel.release, {}};
  if (release == Release{0, 0}) {
    finding.severity = Severity::note;
    finding.found = "the kernel's release is not known";
  } else if (release < kPidfdOpen) {
    finding.severity = Severity::error;
    finding.found += " is older than 5.3: it has no pidfd_open, by which sluiced sees clients end";
    finding.todo = "take Linux 6.1 or newer";
  } else if (release < kMemfdCollapse) {
    finding.severity = Severity::warning;
    finding.found += " is older than 6.1: it makes no huge pages of shared memory (MADV_COLLAPSE)";
    finding.todo = "take Linux 6.1 or newer";
  } else if (release < kPeerPidfd) {
    finding.severity = Severity::note;
    finding.found +=
        " is older than 6.5: clients are known by a pidfd of their number, which "
        "sluiced checks again (no SO_PEERPIDFD)";
  }
  return finding;
}

Finding check_pidfd(const KernelFacts& kernel) {
  return must_work("pidfd", kernel.pidfd_error, "pidfd_open",
                   "sluiced cannot see that a client ended");
}

Finding check_memfd(const KernelFacts& kernel) {
  Finding finding = must_work("memfd", kernel.sealed_memfd_error, "sealed memory (memfd_create)",
                              "sluiced has no memory that it could share with clients");
  if (kernel.memfd_noexec) {
    finding.found += ", vm.memfd_noexec is " + std::to_string(*kernel.memfd_noexec);
  }
  return finding;
}

Finding check_huge_pages(const KernelFacts& kernel, const Wanted& wanted) {
  Finding finding{"huge_pages", Severity::ok, {}, {}, {}};
  const std::string settings = " (" + huge_page_settings(kernel) + ")";
  if (kernel.huge_page_error == 0) {
    finding.found = "shared memory gets them by MADV_COLLAPSE" + settings;
    return finding;
  }
  finding.found =
      "shared memory gets none by MADV_COLLAPSE: " + words_of(kernel.huge_page_error) + settings;
  switch (huge_pages_wanted(wanted)) {
    case HugePages::never:
      finding.severity = Severity::note;
      finding.found += "; the configuration wants none";
      return finding;
    case HugePages::attempt:
      finding.severity = Severity::warning;
      finding.found += "; memory is taken at a quarter of the speed, in pages of 4 KiB";
      break;
    case HugePages::require:
      finding.severity = Severity::error;
      finding.found += "; tiers.*.huge_pages = \"require\" cannot be met";
      break;
  }
  finding.todo = huge_page_remedy(kernel);
  return finding;
}

Finding check_io_uring(const KernelFacts& kernel, const Wanted& wanted) {
  if (kernel.io_uring_error == 0) return {"io_uring", Severity::ok, {}, "io_uring works", {}};
  return {"io_uring",
          wanted.nvme.empty() ? Severity::note : Severity::warning,
          {},
          "io_uring is not allowed: " + words_of(kernel.io_uring_error) +
              "; NVMe would be read and written by a pool of threads, at more CPU per request",
          io_uring_remedy(kernel)};
}

Finding check_clock(const KernelFacts& kernel) {
  const std::string& source = kernel.clock_source;
  Finding finding{"clock", Severity::ok, {}, "clock source " + source, {}};
  if (source.empty()) {
    finding.severity = Severity::note;
    finding.found = "the clock source is not known";
  } else if (source == "hpet" || source == "acpi_pm" || source == "jiffies" ||
             source == "refined-jiffies") {
    finding.severity = Severity::warning;
    finding.found += ": reading it is a system call, and lanes read it all the time";
    finding.todo =
        "see in the kernel's log why tsc was given up; tsc=reliable on its command line "
        "if the machine's is good";
  } else if (source != "tsc" && source != "arch_sys_counter") {
    finding.severity = Severity::note;
    finding.found += ", a hypervisor's; slower to read than tsc on some";
  }
  return finding;
}

}  // namespace sluice::tools::doctor
