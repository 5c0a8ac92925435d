#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/tools/doctor_machines.h"
#include "tests/tools/sluicectl_world.h"
#include "tools/sluicectl/doctor_report.h"
#include "tools/sluicectl/document.h"

namespace sluice::tools {
namespace {

using doctor::good_directory;
using doctor::good_machine;
using doctor::kGiB;
using doctor::kMiB;
using doctor::Severity;
using doctor::WantedDirectory;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr const char* kListing =
    "daemon.socket = \"/run/sluice/sluice.sock\"\n"
    "daemon.max_sessions = 1024\n"
    "backend.kind = \"host\"\n"
    "backend.devices = [0]\n"
    "tiers.hbm.capacity = \"1GiB\"\n"
    "tiers.hbm.extent = \"64MiB\"\n"
    "tiers.hbm.huge_pages = \"try\"\n"
    "tiers.dram.capacity = \"4GiB\"\n"
    "tiers.dram.extent = \"64MiB\"\n"
    "tiers.dram.huge_pages = \"require\"\n"
    "tiers.dram.numa = \"interleave\"\n"
    "limits.caches = 256\n"
    "tenant.prod.socket = \"/run/sluice/prod.sock\"\n"
    "tenant.batch.socket = \"\"\n"
    "tiers.nvme.directories = [\"/mnt/nvme0/sluice:800GiB\", \"/mnt/nvme1/sluice:1.5TiB\"]\n";

TEST(DoctorWanted, IsReadFromTheDaemonsListing) {
  const doctor::Wanted wanted = doctor::wanted_by(doctor::parse_listing(kListing));
  EXPECT_FALSE(wanted.cuda);
  EXPECT_EQ(wanted.devices, 1u);
  EXPECT_EQ(wanted.hbm.bytes, 1 * kGiB);
  EXPECT_EQ(wanted.dram.bytes, 4 * kGiB);
  EXPECT_EQ(wanted.dram.extents(), 64u);
  EXPECT_EQ(wanted.hbm.huge_pages, doctor::HugePages::attempt);
  EXPECT_EQ(wanted.dram.huge_pages, doctor::HugePages::require);
  EXPECT_EQ(wanted.numa, "interleave");
  EXPECT_EQ(wanted.max_sessions, 1024u);
  EXPECT_EQ(wanted.caches, 256u);
  EXPECT_EQ(wanted.socket, "/run/sluice/sluice.sock");
  EXPECT_THAT(wanted.sockets, ElementsAre("/run/sluice/sluice.sock", "/run/sluice/prod.sock"));
  EXPECT_THAT(wanted.nvme, ElementsAre(WantedDirectory{"/mnt/nvme0/sluice", 800 * kGiB},
                                       WantedDirectory{"/mnt/nvme1/sluice", 1536 * kGiB}));
  EXPECT_EQ(wanted.node_bytes(), 5 * kGiB);
}

TEST(DoctorWanted, CountsTheDevicesThatAreNamed) {
  const auto devices = [](const std::string& value) {
    return doctor::wanted_by({{"backend.devices", value}}).devices;
  };
  EXPECT_EQ(devices("[0, 1, \"GPU-1\"]"), 3u);
  EXPECT_EQ(devices("\"all\""), std::nullopt);
}

TEST(DoctorWanted, AListingWithoutSenseAsksForNothing) {
  for (const char* text :
       {"", "=", "\n\n", "tiers.dram.capacity = \"many\"", "tiers.dram.capacity = 7",
        "tiers.nvme.directories = [\"", "daemon.socket"}) {
    const doctor::Wanted wanted = doctor::wanted_by(doctor::parse_listing(text));
    EXPECT_EQ(wanted.node_bytes(), 0u) << text;
    EXPECT_TRUE(wanted.nvme.empty()) << text;
  }
}

TEST(DoctorWanted, DirectoriesMayHaveASizeAndColons) {
  EXPECT_EQ(doctor::parse_directory("/mnt/a").value(), (WantedDirectory{"/mnt/a", {}}));
  EXPECT_EQ(doctor::parse_directory("/mnt/a:10GiB").value(),
            (WantedDirectory{"/mnt/a", 10 * kGiB}));
  EXPECT_EQ(doctor::parse_directory("/mnt/pci:x/b").value(), (WantedDirectory{"/mnt/pci:x/b", {}}));
  EXPECT_FALSE(doctor::parse_directory("/mnt/a:10 loaves"));
  EXPECT_FALSE(doctor::parse_directory(":10GiB"));
  EXPECT_FALSE(doctor::parse_directory(""));
}

class DoctorCommand : public testing::Test {
 protected:
  DoctorCommand() {
    world.around.list_config = [this](const std::string& file) {
      listed_files.push_back(file);
      return listing;
    };
    world.around.look_at_machine = [this](const doctor::Look& how) {
      look = how;
      return machine;
    };
  }
  std::string severity_of(const std::string& id) const {
    const Json document = world.document();
    for (const Json& row : rows_at(document, {"findings"})) {
      if (row["id"] == id) return row["severity"];
    }
    return "none";
  }

  World world;
  ipc::Result<ProgramResult> listing = ProgramResult{0, kListing};
  std::vector<std::string> listed_files;
  doctor::Look look;
  doctor::Machine machine = good_machine();
};

TEST_F(DoctorCommand, AGoodMachineIsDone) {
  EXPECT_EQ(world.sluicectl({"doctor"}), kExitDone);
  EXPECT_THAT(world.out, HasSubstr("0 errors, 0 warnings"));
  EXPECT_EQ(world.err, "");
}

TEST_F(DoctorCommand, AnErrorIsUnhealthyAndComesFirst) {
  machine.kernel.pidfd_error = EPERM;
  machine.memory.swap_bytes = 1 * kGiB;
  EXPECT_EQ(world.sluicectl({"doctor"}), kExitUnhealthy);
  EXPECT_THAT(world.out, StartsWith("error"));
  EXPECT_THAT(world.out, HasSubstr("1 error, 1 warning,"));
  EXPECT_LT(world.out.find("\nwarning  swap"), world.out.find("\nok "));
}

TEST_F(DoctorCommand, AWarningIsNot) {
  machine.memory.swap_bytes = 1 * kGiB;
  EXPECT_EQ(world.sluicectl({"doctor"}), kExitDone);
}

TEST_F(DoctorCommand, TheDocumentHasASummaryAndEveryFinding) {
  machine.kernel.pidfd_error = EPERM;
  EXPECT_EQ(world.sluicectl({"doctor", "--json"}), kExitUnhealthy);
  const Json document = world.document();
  EXPECT_EQ(document["schema"], "sluice.doctor");
  EXPECT_EQ(document["version"], 1);
  EXPECT_EQ(document["summary"]["worst"], "error");
  EXPECT_EQ(document["summary"]["errors"], 1);
  std::size_t count = 0;
  for (const char* severity : {"errors", "warnings", "notes", "ok"}) {
    count += document["summary"][severity].get<std::size_t>();
  }
  EXPECT_EQ(count, document["findings"].size());
  const Json& first = document["findings"][0];
  EXPECT_EQ(first["id"], "pidfd");
  EXPECT_EQ(first["severity"], "error");
  EXPECT_THAT(first["found"].get<std::string>(), Not(IsEmpty()));
  EXPECT_THAT(first["todo"].get<std::string>(), Not(IsEmpty()));
  for (const char* id : {"config", "daemon", "kernel", "pidfd", "memfd", "memory", "cgroup",
                         "huge_pages", "hugetlb", "numa", "swap", "memlock", "open_files",
                         "mappings", "io_uring", "gpu", "clock", "systemd", "socket_folder"}) {
    EXPECT_NE(severity_of(id), "none") << id;
  }
}

TEST_F(DoctorCommand, WithoutADaemonTheFileThatItWouldStartWithIsRead) {
  EXPECT_EQ(world.sluicectl({"doctor"}), kExitDone);
  world.around.installed_config = "/etc/sluice/sluiced.toml";
  EXPECT_EQ(world.sluicectl({"doctor"}), kExitDone);
  EXPECT_EQ(world.sluicectl({"doctor", "--config", "mine.toml"}), kExitDone);
  EXPECT_THAT(listed_files, ElementsAre("", "/etc/sluice/sluiced.toml", "mine.toml"));
  EXPECT_THAT(world.out, HasSubstr("mine.toml: is valid"));
  EXPECT_EQ(look.wanted.dram.bytes, 4 * kGiB);
  EXPECT_EQ(look.wanted.nvme.size(), 2u);
}

TEST_F(DoctorCommand, ADaemonThatAnswersIsAskedWhatItRunsWith) {
  world.answer("status", kSampleStatus);
  world.answer("config", R"({"schema": "sluice.config", "version": 1, "values": {
      "tiers.dram.capacity": "\"7GiB\"", "tiers.hbm.capacity": "\"1GiB\""}})");
  EXPECT_EQ(world.sluicectl({"doctor"}), kExitDone);
  EXPECT_THAT(listed_files, IsEmpty());
  EXPECT_EQ(look.wanted.dram.bytes, 7 * kGiB);
  EXPECT_EQ(look.daemon_pid, 77u);
  EXPECT_THAT(world.out, HasSubstr("sluiced 0.1.0 answers"));
  EXPECT_THAT(world.out, HasSubstr("2.2 GiB that sluiced has"));
  EXPECT_EQ(world.sluicectl({"doctor", "--config", "next.toml"}), kExitDone);
  EXPECT_THAT(listed_files, ElementsAre("next.toml"));
}

TEST_F(DoctorCommand, ADaemonThatKeepsItsConfigurationIsStillLookedAt) {
  world.answer("status", kSampleStatus);
  world.refuse("config", ipc::Errc::permission_denied);
  EXPECT_EQ(world.sluicectl({"doctor"}), kExitDone);
  EXPECT_THAT(listed_files, ElementsAre(""));
  EXPECT_THAT(world.out, HasSubstr("answers"));
}

TEST_F(DoctorCommand, AWrongConfigurationIsAnErrorAndTheMachineIsLookedAtAnyway) {
  listing = ProgramResult{2, "bad.toml:3:1: unknown key\n"};
  EXPECT_EQ(world.sluicectl({"doctor", "--config", "bad.toml", "--json"}), kExitUnhealthy);
  EXPECT_EQ(severity_of("config"), "error");
  EXPECT_EQ(severity_of("kernel"), "ok");
  listing = ipc::fail(ipc::Errc::not_found, "no sluiced here");
  EXPECT_EQ(world.sluicectl({"doctor", "--json"}), kExitDone);
  EXPECT_EQ(severity_of("config"), "warning");
}

TEST_F(DoctorCommand, DirectoriesOfTheCommandLineAreAdded) {
  EXPECT_EQ(world.sluicectl(
                {"doctor", "--nvme", "/mnt/x", "--nvme", "/mnt/nvme0/sluice:1GiB", "--no-speed"}),
            kExitDone);
  EXPECT_THAT(look.wanted.nvme, ElementsAre(WantedDirectory{"/mnt/nvme0/sluice", 1 * kGiB},
                                            WantedDirectory{"/mnt/nvme1/sluice", 1536 * kGiB},
                                            WantedDirectory{"/mnt/x", {}}));
  EXPECT_FALSE(look.with_speed);
  EXPECT_EQ(world.sluicectl({"doctor"}), kExitDone);
  EXPECT_TRUE(look.with_speed);
}

TEST_F(DoctorCommand, WhatDirectoriesHaveIsShownWithTheirPath) {
  machine.directories = {good_directory()};
  EXPECT_EQ(world.sluicectl({"doctor"}), kExitDone);
  EXPECT_THAT(world.out, HasSubstr("nvme_direct_io    /mnt/nvme0/sluice: O_DIRECT works\n"));
  EXPECT_THAT(world.out, HasSubstr("nvme_speed"));
  EXPECT_EQ(world.sluicectl({"doctor", "--no-speed"}), kExitDone);
  EXPECT_THAT(world.out, Not(HasSubstr("nvme_speed")));
}

TEST_F(DoctorCommand, UsageErrors) {
  EXPECT_EQ(world.sluicectl({"doctor", "--nvme", "/mnt/x:9 apples"}), kExitUsage);
  EXPECT_EQ(world.sluicectl({"doctor", "--nvme"}), kExitUsage);
  EXPECT_EQ(world.sluicectl({"doctor", "more"}), kExitUsage);
}

const doctor::FindingList kTwoFindings = {
    {"swap", Severity::warning, {}, "one two three four five six seven eight nine ten", "less"},
    {"a_long_name", Severity::ok, "/mnt\x1b[31m", "good", {}}};

TEST(DoctorReport, LinesAreAlignedAndSafe) {
  EXPECT_EQ(report_text(kTwoFindings, false, 0),
            "warning  swap         one two three four five six seven eight nine ten\n"
            "                      to do: less\n"
            "ok       a_long_name  /mnt?[31m: good\n"
            "0 errors, 1 warning, 0 notes, 1 ok\n");
}

TEST(DoctorReport, ATerminalGetsLinesThatFitIt) {
  EXPECT_THAT(report_text(kTwoFindings, false, 54),
              StartsWith("warning  swap         one two three four five six\n"
                         "                      seven eight nine ten\n"
                         "                      to do: less\n"));
  EXPECT_THAT(report_text(kTwoFindings, false, 20),
              StartsWith("warning  swap         one two thr"));
}

TEST(DoctorReport, ColourOnlyWhereItIsWanted) {
  EXPECT_THAT(report_text(kTwoFindings, true, 0), HasSubstr("\033[33mwarning\033[0m  swap"));
  EXPECT_THAT(report_text(kTwoFindings, false, 0), Not(HasSubstr("\033")));
}

}  // namespace
}  // namespace sluice::tools
