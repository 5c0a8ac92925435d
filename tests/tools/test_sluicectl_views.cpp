#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tools/sluicectl_world.h"
#include "tools/sluicectl/health.h"
#include "tools/sluicectl/views.h"

namespace sluice::tools {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

Json empty(const char* list) { return {{list, Json::array()}}; }

TEST(SluicectlViews, StatusShowsTiersTenantsAndTotals) {
  EXPECT_EQ(
      status_view(Json::parse(kSampleStatus), {}),
      "sluiced 0.1.0  backend host  pid 77  up 00:01:40  health OK\n"
      "TIER  CAPACITY       USED      %       FREE  GUARANTEED       LENT\n"
      "HBM    1.0 GiB  256.0 MiB  25.0%  768.0 MiB         0 B  256.0 MiB\n"
      "DRAM   4.0 GiB    2.0 GiB  50.0%    2.0 GiB     1.0 GiB    1.0 GiB\n"
      "TENANT  SESSIONS  SEQUENCES     HBM used / limit  DRAM used / limit  BLOCKS  SHARED      "
      "SAVED    HIT  DEATHS\n"
      "prod           2          3  256.0 MiB / 1.0 GiB  2.0 GiB / 4.0 GiB   1,208      96  192.0 "
      "MiB  90.0%       1\n"
      "resolve: hit rate 90.0%, 9,000 hits, 1,000 misses, 62.5 MiB filled, 2 without a slot, 1 "
      "absent\n"
      "shared 96 blocks, 192.0 MiB saved | caches 1 | blocks nobody refers to 40, retiring 0\n");
}

TEST(SluicectlViews, StatusNamesTheGpu) {
  Json status = Json::parse(kSampleStatus);
  status["daemon"]["backend"] = "cuda";
  const Json gpu = {{"device", 0},           {"name", "NVIDIA H200"},      {"uuid", "GPU-01"},
                    {"caches", 2},           {"capacity_bytes", 1U << 30}, {"used_bytes", 1U << 28},
                    {"guaranteed_bytes", 0}, {"lent_bytes", 1U << 28}};
  status["devices"] = Json::array({gpu});
  status["devices"][0]["dram_numa_nodes"] = Json::array();
  EXPECT_THAT(status_view(status, {}), HasSubstr("  backend cuda (NVIDIA H200, GPU-01)  pid 77"));
  EXPECT_THAT(status_view(status, {}), Not(HasSubstr("DEVICE")));

  status["devices"].push_back(gpu);
  status["devices"][1]["device"] = 1;
  status["devices"][1]["dram_numa_nodes"] = {0, 1};
  const std::string text = status_view(status, {});
  EXPECT_THAT(text, HasSubstr("  backend cuda (2 devices)  pid 77"));
  const std::string table =
      "DEVICE  NAME         UUID    DRAM ON NODE  CACHES  HBM used / capacity      %  GUARANTEED  "
      "     LENT\n"
      "     0  NVIDIA H200  GPU-01  any                2  256.0 MiB / 1.0 GiB  25.0%         0 B  "
      "256.0 MiB\n"
      "     1  NVIDIA H200  GPU-01  0,1                2  256.0 MiB / 1.0 GiB  25.0%         0 B  "
      "256.0 MiB\n";
  EXPECT_THAT(text, HasSubstr(table));
  EXPECT_EQ(devices_view({{"devices", status["devices"]}}, {}), table);

  status["devices"][1]["executors"] = {
      {{"tenant", "prod"}, {"pid", 77}, {"pinned_bytes", 1U << 30}, {"worker_failures", 2}},
      {{"tenant", "batch"}, {"pid", 0}, {"pinned_bytes", 0}, {"worker_failures", 0}}};
  EXPECT_EQ(devices_view({{"devices", status["devices"]}}, {}),
            table +
                "executor of tenant prod on device 1: pid 77, 1.0 GiB of DRAM pinned, 2 failures\n"
                "executor of tenant batch on device 1: not running, 0 B of DRAM pinned, 0 "
                "failures\n");
}

TEST(SluicectlViews, SessionsShowTheReasonOfAQuarantine) {
  EXPECT_EQ(sessions_view(Json::parse(kSampleSessions), {}),
            "SESSION  TENANT  CLIENT     PID  STATE        CACHES  SEQUENCES  BLOCKS  REQUESTS  "
            "FAILURES  REASON\n"
            "      3  prod    engine-a  4411  open              1          2     640    12,345     "
            "    0  -\n"
            "      4  prod    engine-b  4412  quarantined       1          -       -         7     "
            "    1  an impossible cursor\n");
}

TEST(SluicectlViews, SessionsShowWhatTheyPinForGpus) {
  Json document = Json::parse(kSampleSessions);
  document["sessions"].erase(1);
  document["sessions"][0].update({{"pinned_bytes", std::uint64_t{3} << 30},
                                  {"to_pin_bytes", std::uint64_t{4} << 30},
                                  {"pin_hbm_bytes", 6U << 20}});
  EXPECT_EQ(
      sessions_view(document, {}),
      "SESSION  TENANT  CLIENT     PID  STATE  CACHES  SEQUENCES  BLOCKS  REQUESTS  FAILURES  "
      "  PINNED / to pin  HBM for it  REASON\n"
      "      3  prod    engine-a  4411  open        1          2     640    12,345         0  "
      "3.0 GiB / 4.0 GiB     6.0 MiB  -\n");
}

TEST(SluicectlViews, CachesShowGeometryUseAndHits) {
  EXPECT_EQ(
      caches_view(Json::parse(kSampleCaches), {}),
      "CACHE  TENANT  MODEL    SALT  SHARD  DEVICES  STATE    BLOCK      PAGE  PAGES  SESSIONS  "
      "SEQUENCES       HBM used / arena     DRAM  PRIVATE  SEALED  SHARED    HIT  EVICTED\n"
      "    0  prod    llama8b  -     0/2        0,2  open   2.0 MiB  64.0 KiB     32         2     "
      " "
      "  "
      "  3  144.0 MiB / 256.0 MiB  2.0 GiB        8   1,000      96  90.0%  4.0 MiB\n");
}

TEST(SluicectlViews, ResidencyTellsTheTiersApart) {
  EXPECT_EQ(residency_view(Json::parse(kSampleResidency), {}),
            "shared 96 blocks, 192.0 MiB saved\n"
            "\n"
            "TENANT  CACHES     IN HBM  IN DRAM    IN BOTH    PINNED  BLOCKS  SHARED      SAVED\n"
            "prod         1  144.0 MiB  2.0 GiB  128.0 MiB  16.0 MiB   1,008      96  192.0 MiB\n"
            "\n"
            "CACHE  TENANT  MODEL                     IN HBM / arena     IN DRAM / held    IN BOTH "
            "   PINNED  PRIVATE  SEALED  SHARED  UNREFERENCED      SAVED\n"
            "    0  prod    llama8b shard 0/2  144.0 MiB / 256.0 MiB  2.0 GiB / 2.0 GiB  128.0 MiB "
            " 16.0 MiB        8   1,000      96            40  192.0 MiB\n"
            "IN BOTH: pages in HBM whose block is in DRAM too. PINNED: pages of private blocks, in "
            "HBM only.\n");
}

TEST(SluicectlViews, TheMapIsWrappedToTheWidth) {
  EXPECT_EQ(map_view(Json::parse(kSampleResidency), {.colour = false, .width = 40}),
            "cache 0  prod  llama8b shard 0/2  block = 2.0 MiB = 32 pages\n"
            "cell = 4 blocks   . free   d DRAM only\n"
            "b HBM and DRAM   w private, in DRAM\n"
            "P pinned in HBM\n"
            "  0  bbbbddddPPww....bbbbddddPPww....\n"
            "128  bbbbddddPPww....bbbbddddPPww....\n"
            "256  bbbbdddd\n");
}

TEST(SluicectlViews, TheMapHasColoursOnATerminal) {
  EXPECT_THAT(map_view(Json::parse(kSampleResidency), {.colour = true, .width = 80}),
              HasSubstr("\033[32mbbbb\033[0m\033[34mdddd\033[0m\033[31mPP\033[0m"));
}

TEST(SluicectlViews, BlocksAreListedWholeAndSayHowToGoOn) {
  const Json document = Json::parse(R"({"blocks": [
    {"block": 5, "frame": 9, "state": "sealed", "references": 2, "valid_bytes": 2097152, "key": "00ff",
     "dram": true, "hbm_pages": 3, "pinned_pages": 0},
    {"block": 6, "frame": null, "state": "private", "references": 1, "valid_bytes": 0, "key": "",
     "dram": false}], "next_cursor": 7})");
  EXPECT_EQ(blocks_view(document, {}, "sluicectl residency --blocks --cache 0"),
            "BLOCK  STATE    REFERENCES      BYTES  HBM PAGES  PINNED  DRAM  FRAME  KEY\n"
            "    5  sealed            2  2,097,152          3       0  yes       9  00ff\n"
            "    6  private           1          0          -       -  no        -  -\n"
            "More follow: sluicectl residency --blocks --cache 0 --after 7\n");
}

TEST(SluicectlViews, StatusShowsTheBlockStoreOfADaemonThatHasOne) {
  const Json status =
      Json::parse(R"({"nvme": {"blocks": 1234, "held_bytes": 1048576, "displaced_blocks": 5,
    "promoted_blocks": 4, "write_refused_blocks": 3, "lost_blocks": 2, "devices": [
      {"directory": "/mnt/a", "io": "io_uring", "taken_out": false, "capacity_bytes": 1073741824,
       "live_bytes": 268435456, "written_bytes": 536870912, "read_bytes": 0, "cleaned_bytes": 1048576,
       "io_errors": 0, "checksum_errors": 0},
      {"directory": "/mnt/b", "io": "threads", "taken_out": true, "taken_out_why": "64 errors",
       "capacity_bytes": 1073741824, "live_bytes": 0, "io_errors": 63, "checksum_errors": 1}]}})");
  EXPECT_THAT(
      status_view(status, {}),
      HasSubstr("NVME DIRECTORY  IO        CAPACITY       LIVE      %    WRITTEN  READ  "
                "CLEANED  ERRORS  STATE\n"
                "/mnt/a          io_uring   1.0 GiB  256.0 MiB  25.0%  512.0 MiB   0 B  1.0 "
                "MiB       0  in use\n"
                "/mnt/b          threads    1.0 GiB        0 B   0.0%          -     -        "
                "-      64  out: 64 errors\n"
                "blocks 1,234 | held 1.0 MiB | displaced 5 | promoted 4 | refused 3 | lost 2\n"));
}

TEST(SluicectlViews, AnEmptyResultIsASentence) {
  EXPECT_THAT(sessions_view(empty("sessions"), {}), HasSubstr("No sessions"));
  EXPECT_THAT(tenants_view(empty("tenants"), {}), HasSubstr("No tenants"));
  EXPECT_THAT(caches_view(empty("caches"), {}), HasSubstr("No caches"));
  EXPECT_THAT(sequences_view(empty("sequences"), {}), HasSubstr("No sequences"));
  EXPECT_THAT(blocks_view(empty("blocks"), {}, ""), HasSubstr("No blocks"));
  EXPECT_THAT(map_view(empty("maps"), {}), HasSubstr("No caches"));
  EXPECT_THAT(reload_view(empty("applied"), {}), HasSubstr("Nothing changed"));
}

TEST(SluicectlViews, ADocumentOfAnotherVersionIsShownAsFarAsItGoes) {
  const Json odd = Json::parse(R"({"tiers": [{"tier": "nvme"}], "tenants": [{"tenant": 5}, "x"]})");
  EXPECT_THAT(status_view(odd, {}), HasSubstr("NVME"));
  EXPECT_THAT(residency_view(odd, {}), HasSubstr("No caches"));
  EXPECT_THAT(map_view(Json::parse(R"({"maps": [{"cells": 7, "legend": []}]})"), {}),
              HasSubstr("holds no blocks"));
}

TEST(SluicectlViews, NothingAClientChoseReachesTheTerminalRaw) {
  Json sessions = Json::parse(kSampleSessions);
  sessions["sessions"][0]["client"] = "\033]0;owned\007";
  EXPECT_THAT(sessions_view(sessions, {}), Not(HasSubstr("\033")));
}

TEST(SluicectlViews, TenantsShowTheirHitRate) {
  EXPECT_EQ(
      tenants_view(Json::parse(kSampleStatus), {}),
      "TENANT  SESSIONS  CACHES  SEQUENCES     HBM used / limit  guaranteed  DRAM used / limit "
      " guaranteed  PRIVATE  SEALED  SHARED      SAVED    HIT  EVICTED  FORECAST used  DEATHS "
      " VIOLATIONS\n"
      "prod           2       1          3  256.0 MiB / 1.0 GiB         0 B  2.0 GiB / 4.0 GiB "
      "    1.0 GiB        8   1,200      96  192.0 MiB  90.0%      0 B              -       1 "
      "          0\n");
}

TEST(SluicectlViews, TenantsShowWhatTheyHaveOfABlockStoreThatIsThere) {
  Json status = Json::parse(kSampleStatus);
  status["tenants"][0]["nvme"] = {{"used_bytes", 3U << 20}, {"limit_bytes", 8U << 20}};
  EXPECT_THAT(tenants_view(status, {}),
              AllOf(HasSubstr("  guaranteed  NVME used / limit  PRIVATE  "),
                    HasSubstr("  1.0 GiB  3.0 MiB / 8.0 MiB        8  ")));
  EXPECT_THAT(status_view(status, {}),
              AllOf(HasSubstr("  DRAM used / limit  NVME used / limit  BLOCKS  "),
                    HasSubstr("  2.0 GiB / 4.0 GiB  3.0 MiB / 8.0 MiB   1,208  ")));
  status["tenants"][0]["nvme"] = nullptr;
  EXPECT_THAT(tenants_view(status, {}), Not(HasSubstr("NVME")));
}

Json finding(const char* code, const char* level) {
  return {{"code", code}, {"level", level}, {"what", "it is so"}, {"todo", "do that"}};
}

TEST(SluicectlHealth, FindingsAreShownWithWhatToDo) {
  Json status = Json::parse(kSampleStatus);
  status["health"] = {finding("TENANT_WANTING", "warn")};
  EXPECT_THAT(status_view(status, {}),
              HasSubstr("health WARN\n  TENANT_WANTING it is so; do that\nTIER"));
  EXPECT_THAT(status_view(status, {.colour = true}), HasSubstr("\033[33mTENANT_WANTING\033[0m"));
  status["health"].push_back(finding("EXTENTS_FAILED", "error"));
  EXPECT_THAT(status_view(status, {}), HasSubstr("health ERROR\n"));
  status.erase("health");
  EXPECT_THAT(status_view(status, {}), HasSubstr("health -\n"));
}

TEST(SluicectlHealth, AnInfoIsNothingToActOnAndAnUnknownLevelIs) {
  Json status = Json::parse(kSampleStatus);
  EXPECT_EQ(verdict_of(*findings_in(status)), "OK");
  status["health"] = {finding("TIER_NEARLY_FULL", "info")};
  EXPECT_EQ(verdict_of(*findings_in(status)), "OK");
  EXPECT_THAT(status_view(status, {}), HasSubstr("health OK\n  TIER_NEARLY_FULL"));
  status["health"] = {finding("NEW", "critical")};
  EXPECT_EQ(verdict_of(*findings_in(status)), "WARN");
  status["health"] = "nonsense";
  EXPECT_EQ(verdict_of(*findings_in(status)), "OK");
}

}  // namespace
}  // namespace sluice::tools
