#include "daemon/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "daemon/quantity.h"

namespace sluice::daemon {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

#define TENANT "[[tenant]]\nname = 'a'\nuids = [1]\n"
#define STORE "[tiers.nvme]\ndirectories = ['/a:10GiB']\n"

constexpr const char* kPackaged = "packaging/sluiced.toml";  // tests run in the repository root

const Environment kServer = {
    .uid = 0, .socket = "/run/sluice/sluice.sock", .memory_available_bytes = 64 * kGiB};

ConfigReport check(const std::string& toml) { return check_config_text(toml, "f.toml", kServer); }

Config read(const std::string& toml) {
  const ConfigReport report = check(toml);
  EXPECT_TRUE(report.ok()) << report.text();
  return report.config;
}

std::string errors(const std::string& toml) { return check(toml).text(); }

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// ---- defaults

TEST(Defaults, StartWithoutAFile) {
  const Defaults defaults =
      default_config({.uid = 1000, .socket = "/s", .memory_available_bytes = 64 * kGiB});
  EXPECT_EQ(defaults.config.daemon.socket, "/s");
  EXPECT_EQ(defaults.config.hbm.capacity_bytes, 1 * kGiB);
  EXPECT_EQ(defaults.config.dram.capacity_bytes, 4 * kGiB);
  EXPECT_EQ(defaults.config.metrics.address, "");
  ASSERT_EQ(defaults.config.tenants.size(), 1u);
  const TenantConfig& tenant = defaults.config.tenants[0];
  EXPECT_EQ(tenant.name, "default");
  EXPECT_THAT(tenant.uids, ElementsAre(1000));
  EXPECT_EQ(tenant.hbm.limit_bytes, 1 * kGiB);
  EXPECT_EQ(tenant.dram.limit_bytes, 4 * kGiB);
}

TEST(Defaults, TakeAtMostHalfOfTheMemoryAndSaySo) {
  const Defaults small =
      default_config({.uid = 0, .socket = "/s", .memory_available_bytes = 6 * kGiB});
  const std::uint64_t both = small.config.hbm.capacity_bytes + small.config.dram.capacity_bytes;
  EXPECT_LE(both, 3 * kGiB);
  EXPECT_GE(both, 3 * kGiB - 128 * kMiB);
  EXPECT_EQ(small.config.hbm.capacity_bytes % small.config.hbm.extent_bytes, 0u);
  EXPECT_THAT(small.notes, ::testing::Contains(HasSubstr("cut to half of the 6144 MiB on offer")));

  const Defaults large = default_config(kServer);
  EXPECT_THAT(large.notes, ::testing::Contains("default tiers: hbm 1GiB, dram 4GiB, less than half "
                                               "of the 65536 MiB on offer"));
}

TEST(Defaults, LeaveAnExtentInEachTierOfATinyMachine) {
  const Config tiny =
      default_config({.uid = 0, .socket = "/s", .memory_available_bytes = 1}).config;
  EXPECT_EQ(tiny.hbm.capacity_bytes, tiny.hbm.extent_bytes);
  EXPECT_EQ(tiny.dram.capacity_bytes, tiny.dram.extent_bytes);
}

TEST(Defaults, AreWhatThePackagedFileDocuments) {
  const ConfigReport report = check_config(kPackaged, kServer);
  ASSERT_TRUE(report.ok()) << report.text();
  EXPECT_EQ(list_config(report.config), list_config(default_config(kServer).config));
  EXPECT_EQ(report.config, default_config(kServer).config);
}

TEST(Defaults, AreAllInThePackagedFile) {
  const std::string text = contents(kPackaged);
  for (const ConfigValue& value : list_config(default_config(kServer).config)) {
    const std::string key = value.key.substr(value.key.rfind('.') + 1);
    EXPECT_THAT(text, HasSubstr(key + " = ")) << value.key;
  }
}

TEST(Defaults, AreCompletedByThePackagedExampleOfATenant) {
  std::string text = contents(kPackaged);
  const std::size_t at = text.find("# [[tenant]]");
  ASSERT_NE(at, text.npos);
  std::string example = text.substr(at);
  for (std::size_t i = 0; (i = example.find("# ", i)) != example.npos;) {
    if (i == 0 || example[i - 1] == '\n') {
      example.erase(i, 2);
    } else {
      ++i;
    }
  }
  // A tenant has quotas of a block store if there is one.
  const std::string none = "directories = []";
  ASSERT_NE(text.find(none), text.npos);
  const std::string packaged = text.substr(0, at).replace(
      text.find(none), none.size(), "directories = ['/mnt/nvme0/sluice:800GiB']");
  const Config config = read(packaged + example);
  ASSERT_EQ(config.tenants.size(), 1u);
  EXPECT_EQ(config.tenants[0].socket, "/run/sluice/prod.sock");
  EXPECT_EQ(config.tenants[0].hbm,
            QuotaConfig({.guaranteed_bytes = 0, .limit_bytes = kGiB, .weight = 1.0}));
  EXPECT_EQ(config.tenants[0].dram,
            QuotaConfig({.guaranteed_bytes = 0, .limit_bytes = 4 * kGiB, .weight = 1.0}));
  EXPECT_EQ(config.tenants[0].nvme, NvmeQuotaConfig({.limit_bytes = 800 * kGiB, .weight = 1.0}));
}

TEST(Defaults, PutTheSocketWhereTheUserMay) {
  if (::geteuid() == 0) {
    EXPECT_EQ(this_environment().socket, "/run/sluice/sluice.sock");
  } else {
    ::unsetenv("RUNTIME_DIRECTORY");
    ::setenv("XDG_RUNTIME_DIR", "/run/user/5", 1);
    EXPECT_EQ(this_environment().socket, "/run/user/5/sluice/sluice.sock");
    ::setenv("RUNTIME_DIRECTORY", "/run/sluice:/run/other", 1);
    EXPECT_EQ(this_environment().socket, "/run/sluice/sluice.sock");
  }
  EXPECT_GT(this_environment().memory_available_bytes, 0u);
}

// ---- values

TEST(AConfigFile, SetsEveryKey) {
  const Config config = read(R"(
[daemon]
socket = "/tmp/a.sock"
socket_mode = "0600"
log_level = "debug"
log_format = "json"
lanes = 3
max_sessions = 7
reserved_sessions = 4
[metrics]
address = "[::1]:9464"
[backend]
kind = "cuda"
devices = [1, "GPU-01234567-89ab-cdef-0123-456789abcdef", "1"]
device_worker = "/opt/worker"
worker_idle = "3s"
[tiers.hbm]
capacity = "2GiB"
extent = "128MiB"
huge_pages = "require"
[tiers.dram]
capacity = "8GiB"
extent = "256MiB"
huge_pages = "never"
numa = "interleave"
[rings]
capacity = 64
request_memory = "64KiB"
spin_us = 0
[limits]
caches = 5
sequences_per_session = 6
actors_per_cache = 8
step_deadline = "250ms"
open_deadline = "2min"
connections_per_user = 9
admin_idle = "5s"
[admin]
uids = []
gids = [27]
[[tenant]]
name = "prod"
uids = [1000, 1001]
gids = [100]
socket = "/tmp/prod.sock"
socket_mode = "600"
mps_pipe_directory = "/run/nvidia-mps"
hbm = {guaranteed = "1GiB", limit = "1.5GiB", weight = 2}
dram.limit = "3GiB"
)");
  Config expected;
  expected.daemon = {"/tmp/a.sock", 0600, LogLevel::debug, LogFormat::json, 3, 7, 4};
  expected.metrics.address = "[::1]:9464";
  expected.backend = {BackendKind::cuda,
                      {"1", "GPU-01234567-89ab-cdef-0123-456789abcdef", "1"},
                      "/opt/worker",
                      std::chrono::seconds(3)};
  expected.hbm = {2 * kGiB, 128 * kMiB, HugePages::require};
  expected.dram = {8 * kGiB, 256 * kMiB, HugePages::never, NumaPlacement::interleave};
  expected.rings = {64, 65536, 0};
  expected.limits = {
      5, 6, 8, std::chrono::milliseconds(250), std::chrono::minutes(2), 9, std::chrono::seconds(5)};
  expected.admin = {{}, {27}};
  expected.tenants = {{"prod",
                       {1000, 1001},
                       {100},
                       "/tmp/prod.sock",
                       0600,
                       {kGiB, 3 * kGiB / 2, 2.0},
                       {0, 3 * kGiB, 1.0},
                       {},
                       "/run/nvidia-mps"}};
  EXPECT_EQ(config, expected);
}

TEST(AConfigFile, GivesATenantTheCapacityAsLimit) {
  const Config config =
      read("[[tenant]]\nname = 'a'\nuids = [1]\n[tiers.hbm]\ncapacity = '2GiB'\n");
  EXPECT_EQ(config.tenants[0].hbm.limit_bytes, 2 * kGiB);
}

TEST(AConfigFile, GivesTenantsTheirPartOfTheBlockStore) {
  const Config config =
      read("[tiers.nvme]\ndirectories = ['/a:10GiB', '/b:20GiB']\n" TENANT
           "nvme = {limit = '12GiB', weight = 0.5}\n[[tenant]]\nname = 'b'\nuids = [2]\n");
  EXPECT_EQ(config.tenants[0].nvme, NvmeQuotaConfig({12 * kGiB, 0.5}));
  EXPECT_EQ(config.tenants[1].nvme, NvmeQuotaConfig({30 * kGiB, 1.0}));
  EXPECT_THAT(list_config(config),
              ::testing::IsSupersetOf({ConfigValue{"tenant.a.nvme.limit", "\"12GiB\""},
                                       ConfigValue{"tenant.a.nvme.weight", "0.500000"},
                                       ConfigValue{"tenant.b.nvme.limit", "\"30GiB\""},
                                       ConfigValue{"tenant.b.nvme.weight", "1.00000"}}));
  EXPECT_EQ(read("[tiers.nvme]\ndirectories = ['/a:10GiB']\n").tenants[0].nvme.limit_bytes,
            10 * kGiB);
}

TEST(AConfigFile, WithoutABlockStoreHasNoQuotasOfIt) {
  EXPECT_EQ(errors(TENANT "nvme.limit = '1GiB'\n"),
            "f.toml:4:1: tenant.a.nvme: found a table, expected tiers.nvme.directories beside it: "
            "there is no block store");
  EXPECT_THAT(errors(TENANT "nvme = {weight = 1.0}\n"), HasSubstr("f.toml:4:"));
  for (const ConfigValue& value : list_config(read(TENANT))) {
    EXPECT_THAT(value.key, ::testing::Not(HasSubstr("tenant.a.nvme")));
  }
}

TEST(AConfigFile, MayBeEmptyOrPartial) {
  EXPECT_EQ(read(""), default_config(kServer).config);
  Config expected = default_config(kServer).config;
  expected.rings.spin_us = 5;
  EXPECT_EQ(read("[rings]\nspin_us = 5\n"), expected);
}

TEST(AConfigFile, ThatAsksForMoreThanTheNodeHasIsWarnedAbout) {
  const ConfigReport report = check("[tiers.dram]\ncapacity = \"100GiB\"\n");
  EXPECT_TRUE(report.ok());
  EXPECT_THAT(report.notes, ::testing::Contains(HasSubstr("the tiers ask for 101GiB together")));
}

TEST(AConfigFile, OfCudaAsksTheNodeForDramOnly) {
  const ConfigReport report = check(
      "[backend]\nkind = \"cuda\"\n[tiers.hbm]\ncapacity = \"1000GiB\"\n[tiers.dram]\ncapacity = "
      "\"1GiB\"\n");
  EXPECT_TRUE(report.ok());
  EXPECT_THAT(report.notes, ::testing::Not(::testing::Contains(HasSubstr("the tiers ask for"))));
}

TEST(AConfigFile, NamesAGpuByNumberOrUuid) {
  const auto devices = [](const std::string& line) {
    return read("[backend]\n" + line + "\n").backend.devices;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(devices("device = 3"), Names{"3"});
  EXPECT_EQ(devices("device = \"3\""), Names{"3"});
  const std::string uuid = "GPU-01234567-89ab-cdef-0123-456789abcdef";
  EXPECT_EQ(devices("device = \"" + uuid + "\""), Names{uuid});
  EXPECT_EQ(devices("devices = [0]"), Names{"0"});
  EXPECT_EQ(devices("device = \"all\""), Names{"all"});
  EXPECT_EQ(devices("devices = \"all\""), Names{"all"});
}

TEST(AConfigFile, ThatNamesDevicesIsListedAsItWouldBeWritten) {
  const auto listed = [](const std::string& line) {
    for (const ConfigValue& value : list_config(read("[backend]\n" + line + "\n"))) {
      if (value.key == "backend.devices") return value.value;
    }
    return std::string("not there");
  };
  const std::string uuid = "\"GPU-01234567-89ab-cdef-0123-456789abcdef\"";
  EXPECT_EQ(listed(""), "[0]");
  EXPECT_EQ(listed("devices = [1, " + uuid + ", 1]"), "[1, " + uuid + ", 1]");
  EXPECT_EQ(listed("device = \"all\""), "\"all\"");
}

TEST(AConfigFile, NamesDevicesOnce) {
  EXPECT_EQ(errors("[backend]\ndevices = [0]\ndevice = 1\n"),
            "f.toml:3:10: backend.device: found 1, expected one of backend.devices and "
            "backend.device");
}

// ---- errors

TEST(AnError, NamesPlaceFindingAndExpectation) {
  EXPECT_EQ(errors("[rings]\ncapacity = 1000\n"),
            "f.toml:2:12: rings.capacity: found 1000, expected a power of two from 16 to 4096");
  EXPECT_EQ(errors("[daemon]\nlog_level = \"loud\"\n"),
            "f.toml:2:13: daemon.log_level: found \"loud\", expected one of \"trace\", \"debug\", "
            "\"info\", \"warn\", \"error\"");
}

TEST(AnError, SuggestsTheNearestKey) {
  EXPECT_EQ(errors("[tiers.hbm]\n  captcity = \"1GiB\"\n"),
            "f.toml:2:3: unknown key \"captcity\" in tiers.hbm: did you mean \"capacity\"?");
  EXPECT_EQ(errors("[ring]\ncapacity = 16\n"),
            "f.toml:1:2: unknown key \"ring\": did you mean \"rings\"?");
  EXPECT_EQ(errors("[metrics]\nfrequency = 3\n"),
            "f.toml:2:1: unknown key \"frequency\" in metrics: expected one of address");
}

TEST(AnError, IsReportedWithAllOthersInTheOrderOfTheFile) {
  const ConfigReport report = check(R"([daemon]
lanes = 17
sokcet = "/x"
[tiers.hbm]
capacity = "1GB"
[limits]
step_deadline = 30
[[tenant]]
name = "Prod"
uids = [-1, "root"]
)");
  std::vector<std::pair<std::uint32_t, std::uint32_t>> places;
  places.reserve(report.errors.size());
  for (const ConfigError& error : report.errors) places.emplace_back(error.line, error.column);
  using Place = std::pair<std::uint32_t, std::uint32_t>;
  EXPECT_THAT(places, ElementsAre(Place(2, 9), Place(3, 1), Place(5, 12), Place(7, 17), Place(8, 1),
                                  Place(9, 8), Place(10, 9), Place(10, 13)))
      << report.text();
}

TEST(AnError, IsBoundedInNumber) {
  std::string toml = "[daemon]\n";
  for (int i = 0; i < 100; ++i) toml += "nonsense" + std::to_string(i) + " = 1\n";
  const ConfigReport report = check(toml);
  EXPECT_EQ(report.errors.size(), kMaxConfigErrors);
  EXPECT_EQ(report.errors_left_out, 100 - kMaxConfigErrors);
  EXPECT_EQ(report.errors[0].line, 2u);
  EXPECT_THAT(report.text(), HasSubstr("\nf.toml: and 68 more errors"));
}

TEST(AnError, InTheSyntaxHasAPlaceToo) {
  EXPECT_THAT(errors("[daemon]\nlanes = = 3\n"), MatchesRegex("f.toml:2:[0-9]+: not TOML: .*"));
  EXPECT_THAT(errors("[daemon]\nlanes = 1\nlanes = 2\n"),
              MatchesRegex("f.toml:3:[0-9]+: not TOML: .*"));
  EXPECT_THAT(errors("a = \"\xff\"\n"), HasSubstr("not TOML"));
}

struct BadValue {
  const char* toml;
  const char* error;
};
class ABadValue : public ::testing::TestWithParam<BadValue> {};

TEST_P(ABadValue, IsTheOneError) {
  const ConfigReport report = check(GetParam().toml);
  ASSERT_EQ(report.errors.size(), 1u) << report.text();
  EXPECT_GT(report.errors[0].line, 0u);
  EXPECT_THAT(report.errors[0].text, HasSubstr(GetParam().error));
}

INSTANTIATE_TEST_SUITE_P(
    Values, ABadValue,
    ::testing::Values(
        BadValue{"daemon = 3", "daemon: found 3, expected a table"},
        BadValue{"[daemon]\nlanes = 0", "expected an integer from 1 to 16"},
        BadValue{"[daemon]\nlanes = 1.0", "daemon.lanes: found 1"},
        BadValue{"[daemon]\nlanes = true", "found true"},
        BadValue{"[daemon]\nlanes = 9223372036854775807", "expected an integer from 1 to 16"},
        BadValue{"[daemon]\nsocket = \"sluice.sock\"", "expected the absolute path of a socket"},
        BadValue{"[daemon]\nsocket = \"/run/\"", "expected the absolute path of a socket"},
        BadValue{
            "[daemon]\nsocket = "
            "\"/01234567890123456789012345678901234567890123456789012345678901234567890123456789"
            "012345678901234567890123456\"",
            "at most 107 bytes"},
        BadValue{"[daemon]\nsocket = \"/a\\u0000b\"", "expected the absolute path of a socket"},
        BadValue{"[daemon]\nsocket_mode = 660", "in octal, in quotes"},
        BadValue{"[daemon]\nsocket_mode = \"0680\"", "in octal, in quotes"},
        BadValue{"[daemon]\nsocket_mode = \"4755\"", "in octal, in quotes"},
        BadValue{"[daemon]\nlog_format = \"xml\"", "one of \"text\", \"json\""},
        BadValue{"[metrics]\naddress = \"localhost:9464\"", "a numeric address with a port"},
        BadValue{"[metrics]\naddress = \"127.0.0.1\"", "a numeric address with a port"},
        BadValue{"[metrics]\naddress = \"127.0.0.1:65536\"", "a numeric address with a port"},
        BadValue{"[metrics]\naddress = 9464", "an address with a port"},
        BadValue{"[backend]\nkind = \"rocm\"", "one of \"host\", \"cuda\""},
        BadValue{"[backend]\ndevice = -1", "the number of a GPU from 0 to 63"},
        BadValue{"[backend]\ndevice = \"64\"", "or its UUID as nvidia-smi -L shows it"},
        BadValue{"[backend]\ndevice = \"00\"", "or its UUID as nvidia-smi -L shows it"},
        BadValue{"[backend]\ndevice = [0]", "the number of a GPU from 0 to 63"},
        BadValue{"[backend]\ndevices = []", "\"all\", or a list of 1 to 64 GPUs"},
        BadValue{"[backend]\ndevices = 0", "\"all\", or a list of 1 to 64 GPUs"},
        BadValue{"[backend]\ndevices = [0, 64]", "in each place of the list the number of a GPU"},
        BadValue{"[backend]\ndevices = [0, \"all\"]", "in each place of the list"},
        BadValue{"[backend]\ndevice = \"GPU-01234567-89ab-cdef-0123-456789abcdeg\"", "its UUID"},
        BadValue{"[backend]\ndevice_worker = \"bin/worker\"", "the absolute path of a program"},
        BadValue{"[backend]\nworker_idle = \"1ms\"", "a duration in whole milliseconds"},
        BadValue{"[tiers.dram]\ncapacity = \"0\"", "expected a size from 4KiB"},
        BadValue{"[tiers.dram]\ncapacity = \"1000000001B\"", "a multiple of 4KiB"},
        BadValue{"[tiers.dram]\ncapacity = 1073741824", "such as \"64MiB\""},
        BadValue{"[tiers.hbm]\nextent = \"2GiB\"", "at most the capacity of the tier, 1GiB"},
        BadValue{"[tiers.dram]\nnuma = \"node0\"", "one of \"device\", \"interleave\", \"any\""},
        BadValue{"[tiers.hbm]\nnuma = \"any\"", "unknown key \"numa\" in tiers.hbm"},
        BadValue{"[tiers.hbm]\nhuge_pages = \"yes\"", "one of \"try\", \"never\", \"require\""},
        BadValue{"[rings]\ncapacity = 8", "a power of two from 16 to 4096"},
        BadValue{"[rings]\ncapacity = 131072", "a power of two from 16 to 4096"},
        BadValue{"[rings]\nrequest_memory = \"32KiB\"", "from 64KiB to 1GiB"},
        BadValue{"[limits]\nstep_deadline = \"1us\"", "whole milliseconds from 100ms to 1h"},
        BadValue{"[limits]\nstep_deadline = \"2h\"", "whole milliseconds from 100ms to 1h"},
        BadValue{"[limits]\nopen_deadline = \"2h\"", "whole milliseconds from 100ms to 1h"},
        BadValue{"[limits]\ncaches = 1979-05-27", "found a date or time"},
        BadValue{"[admin]\nuids = 0", "an array of at most 1024 numeric ids"},
        BadValue{"[admin]\nuids = [0, 0]", "each id once"},
        BadValue{"[admin]\nuids = [4294967295]", "an integer from 0 to 4294967294"},
        BadValue{"tenant = 3", "one [[tenant]] for each"},
        BadValue{"[tenant]\nname = 'a'", "one [[tenant]] for each"}));

INSTANTIATE_TEST_SUITE_P(
    Tenants, ABadValue,
    ::testing::Values(
        BadValue{"[[tenant]]\nuids = [1]", "without a name"},
        BadValue{"[[tenant]]\nname = 'a'", "nobody could be it; expected uids, gids or a socket"},
        BadValue{"[[tenant]]\nname = 'a'\nuids = []", "nobody could be it"},
        BadValue{"[[tenant]]\nname = ''\nuids = [1]", "1 to 64 characters"},
        BadValue{"[[tenant]]\nname = 'a b'\nuids = [1]", "1 to 64 characters"},
        BadValue{TENANT "hbm.limit = '2GiB'",
                 "tenant.a.hbm.limit: found 2GiB, expected at most the capacity"},
        BadValue{TENANT "hbm.limit = '0'", "tenant.a.hbm.limit: found \"0\""},
        BadValue{TENANT "hbm = {guaranteed = '900MiB', limit = '800MiB'}",
                 "tenant.a.hbm.guaranteed: found 900MiB, expected at most its limit, 800MiB"},
        BadValue{TENANT "hbm.weight = 0", "a number from 0.001 to 1000"},
        BadValue{TENANT "hbm.weight = nan", "a number from 0.001 to 1000"},
        BadValue{TENANT "hbm.weight = '1'", "a number from 0.001 to 1000"},
        BadValue{TENANT "hbm.guarantee = '1GiB'", "did you mean \"guaranteed\"?"},
        BadValue{STORE TENANT "nvme.limit = '11GiB'",
                 "tenant.a.nvme.limit: found 11GiB, expected at most the capacity of tiers.nvme, "
                 "10GiB"},
        BadValue{STORE TENANT "nvme.limit = '0'", "tenant.a.nvme.limit: found \"0\""},
        BadValue{STORE TENANT "nvme.limit = '50%'", "expected a size of at least 1B"},
        BadValue{STORE TENANT "nvme.weight = 0", "a number from 0.001 to 1000"},
        BadValue{STORE TENANT "nvme.guaranteed = '1GiB'",
                 "unknown key \"guaranteed\" in tenant.a.nvme: expected one of limit, weight"},
        BadValue{STORE TENANT "nvme = 3", "tenant.a.nvme: found 3, expected a table"},
        BadValue{TENANT "nvme.limit = '1GiB'", "there is no block store"},
        BadValue{TENANT "dram.guaranteed = '3GiB'\n[[tenant]]\nname = 'b'\nuids = "
                        "[2]\ndram.guaranteed = '2GiB'",
                 "tenant.b.dram.guaranteed: found 2GiB, but only 1GiB is left"},
        BadValue{TENANT "[[tenant]]\nname = 'a'\nuids = [2]", "\"a\" is a tenant already"},
        BadValue{TENANT "[[tenant]]\nname = 'b'\nuids = [2, 1]",
                 "1 belongs to tenant \"a\" already"},
        BadValue{TENANT "gids = [5]\n[[tenant]]\nname = 'b'\ngids = [5]",
                 "5 belongs to tenant \"a\""},
        BadValue{TENANT "socket = '/x'\n[[tenant]]\nname = 'b'\nsocket = '/x'",
                 "\"/x\" belongs to tenant \"a\" already"},
        BadValue{TENANT "socket = '/run/sluice/sluice.sock'", "belongs to daemon.socket already"}));

TEST(AFile, ThatCannotBeReadIsAnErrorThatNamesIt) {
  const auto missing = load_config("no/such/file.toml");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ipc::Errc::bad_config);
  EXPECT_EQ(missing.error().text, "no/such/file.toml: cannot be opened: No such file or directory");
  EXPECT_THAT(load_config("packaging").error().text, HasSubstr("packaging: cannot be"));
}

TEST(AFile, MayNotBeEndless) {
  const auto config = load_config("/dev/zero");
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().text, "/dev/zero: expected at most 1MiB of text");
}

TEST(AFile, IsLoadedWithItsNameInTheErrors) {
  EXPECT_TRUE(load_config(kPackaged));
  const std::string path = ::testing::TempDir() + "sluice-config-" + std::to_string(::getpid());
  std::ofstream(path) << "[daemon]\nlanes = 99\n";
  const auto config = load_config(path);
  ::unlink(path.c_str());
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().code, ipc::Errc::bad_config);
  EXPECT_THAT(config.error().text, HasSubstr(path + ":2:9: daemon.lanes"));
}

// ---- reload

constexpr const char* kTwoTenants = R"(
[[tenant]]
name = "a"
uids = [1]
dram = {guaranteed = "1GiB", limit = "3GiB"}
[[tenant]]
name = "b"
uids = [2]
)";

TEST(AReload, OfTheSameFileChangesNothing) {
  const Config running = read(kTwoTenants);
  const auto reload = plan_reload(running, running);
  ASSERT_TRUE(reload);
  EXPECT_EQ(reload->config, running);
  EXPECT_THAT(reload->applied, IsEmpty());
  EXPECT_THAT(reload->deferred, IsEmpty());
}

TEST(AReload, AppliesQuotasLogLevelAndAdmins) {
  const Config running = read(kTwoTenants);
  const Config wanted = read(R"(
[daemon]
log_level = "debug"
[admin]
uids = [0, 1]
[[tenant]]
name = "b"
uids = [2]
dram.guaranteed = "2GiB"
[[tenant]]
name = "a"
uids = [1]
dram = {guaranteed = "1GiB", limit = "2GiB", weight = 3.5}
)");
  const auto reload = plan_reload(running, wanted);
  ASSERT_TRUE(reload) << reload.error().text;
  EXPECT_THAT(reload->deferred, IsEmpty());
  EXPECT_THAT(reload->applied,
              ElementsAre(ConfigChange{"daemon.log_level", "\"info\"", "\"debug\""},
                          ConfigChange{"admin.uids", "[0]", "[0, 1]"},
                          ConfigChange{"tenant.a.dram.limit", "\"3GiB\"", "\"2GiB\""},
                          ConfigChange{"tenant.a.dram.weight", "1.00000", "3.50000"},
                          ConfigChange{"tenant.b.dram.guaranteed", "\"0B\"", "\"2GiB\""}));
  EXPECT_EQ(reload->config.daemon.log_level, LogLevel::debug);
  EXPECT_EQ(reload->config.tenants[0].name, "a");
  EXPECT_EQ(reload->config.tenants[0].dram.limit_bytes, 2 * kGiB);
}

TEST(AReload, DefersTheRestAndNamesIt) {
  const Config running = read(kTwoTenants);
  const Config wanted =
      read("[daemon]\nlanes = 2\nlog_level = \"warn\"\n" + std::string(kTwoTenants) +
           "gids = [9]\n[[tenant]]\nname = \"c\"\nuids = [3]\n");
  const auto reload = plan_reload(running, wanted);
  ASSERT_TRUE(reload);
  EXPECT_EQ(reload->applied.size(), 1u);
  EXPECT_EQ(reload->config.daemon.lanes, 1u);
  EXPECT_EQ(reload->config.tenants.size(), 2u);
  EXPECT_THAT(reload->deferred,
              ::testing::IsSupersetOf({ConfigChange{"daemon.lanes", "1", "2"},
                                       ConfigChange{"tenant.b.gids", "[]", "[9]"},
                                       ConfigChange{"tenant.c.uids", "", "[3]"}}));
}

TEST(AReload, KeepsATenantThatTheFileNoLongerHas) {
  const Config running = read(kTwoTenants);
  const auto reload = plan_reload(running, read("[[tenant]]\nname = \"a\"\nuids = [1]\n"
                                                "dram = {guaranteed = '1GiB', limit = '3GiB'}\n"));
  ASSERT_TRUE(reload);
  EXPECT_EQ(reload->config, running);
  EXPECT_THAT(reload->deferred, ::testing::Contains(ConfigChange{"tenant.b.uids", "[2]", ""}));
}

TEST(AReload, AppliesALimitAsFarAsTheRunningCapacityGoes) {
  const Config running = read(kTwoTenants);
  const Config wanted = read("[tiers.dram]\ncapacity = '8GiB'\n" TENANT "dram.limit = '6GiB'\n");
  const auto reload = plan_reload(running, wanted);
  ASSERT_TRUE(reload);
  EXPECT_EQ(reload->config.tenants[0].dram.limit_bytes, 4 * kGiB);
  EXPECT_THAT(reload->applied,
              ::testing::Contains(ConfigChange{"tenant.a.dram.limit", "\"3GiB\"", "\"4GiB\""}));
  EXPECT_THAT(reload->deferred, ::testing::IsSupersetOf(
                                    {ConfigChange{"tiers.dram.capacity", "\"4GiB\"", "\"8GiB\""},
                                     ConfigChange{"tenant.a.dram.limit", "\"4GiB\"", "\"6GiB\""}}));
}

TEST(AReload, AppliesQuotasOfTheBlockStoreThatRuns) {
  const Config running = read(STORE TENANT "nvme.limit = '6GiB'\n");
  const auto lower = plan_reload(running, read(STORE TENANT "nvme = {limit = '2GiB', weight = 3}"));
  ASSERT_TRUE(lower);
  EXPECT_THAT(lower->deferred, IsEmpty());
  EXPECT_THAT(lower->applied,
              ElementsAre(ConfigChange{"tenant.a.nvme.limit", "\"6GiB\"", "\"2GiB\""},
                          ConfigChange{"tenant.a.nvme.weight", "1.00000", "3.00000"}));
  EXPECT_EQ(lower->config.tenants[0].nvme, NvmeQuotaConfig({2 * kGiB, 3.0}));

  const auto larger = plan_reload(
      running, read("[tiers.nvme]\ndirectories = ['/a:40GiB']\n" TENANT "nvme.limit = '30GiB'"));
  ASSERT_TRUE(larger);
  EXPECT_EQ(larger->config.tenants[0].nvme.limit_bytes, 10 * kGiB);
  EXPECT_THAT(larger->deferred,
              ::testing::Contains(ConfigChange{"tenant.a.nvme.limit", "\"10GiB\"", "\"30GiB\""}));
}

TEST(AReload, LeavesQuotasAloneWhereABlockStoreComesOrGoes) {
  const Config with = read(STORE TENANT "nvme.limit = '6GiB'\n");
  const Config without = read(TENANT);
  const auto goes = plan_reload(with, without);
  ASSERT_TRUE(goes);
  EXPECT_EQ(goes->config, with);
  EXPECT_THAT(goes->deferred,
              ::testing::Contains(ConfigChange{"tenant.a.nvme.limit", "\"6GiB\"", ""}));
  const auto comes = plan_reload(without, with);
  ASSERT_TRUE(comes) << comes.error().text;
  EXPECT_THAT(comes->applied, IsEmpty());
  EXPECT_THAT(comes->deferred,
              ::testing::Contains(ConfigChange{"tenant.a.nvme.limit", "", "\"6GiB\""}));
}

TEST(AReload, ThatCannotRunWithTheRunningCapacityChangesNothing) {
  const Config running = read(kTwoTenants);
  const Config wanted =
      read("[tiers.dram]\ncapacity = '8GiB'\n" TENANT "dram.guaranteed = '5GiB'\n");
  const auto reload = plan_reload(running, wanted);
  ASSERT_FALSE(reload);
  EXPECT_EQ(reload.error().code, ipc::Errc::bad_config);
  EXPECT_THAT(reload.error().text, HasSubstr("tenant.a.dram.guaranteed: found 5GiB"));
}

// ---- peers

TEST(APeer, IsTheTenantOfItsUidBeforeThatOfItsGid) {
  const Config config =
      read("[[tenant]]\nname = 'a'\ngids = [7]\n[[tenant]]\nname = 'b'\nuids = [1]\n");
  EXPECT_EQ(tenant_of_peer(config, 1, 7), 1u);
  EXPECT_EQ(tenant_of_peer(config, 2, 7), 0u);
  const auto nobody = tenant_of_peer(config, 2, 8);
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code, ipc::Errc::unknown_tenant);
  EXPECT_THAT(nobody.error().text, HasSubstr("uid 2, gid 8 is no tenant here"));
}

}  // namespace
}  // namespace sluice::daemon
