#include "daemon/health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/quantity.h"

namespace sluice::daemon {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

const RecentCounts::Clock::time_point kStart{};

HealthInput healthy() {
  HealthInput input;
  input.hbm.status.capacity_bytes = 16 * kGiB;
  input.dram.status.capacity_bytes = 64 * kGiB;
  for (std::uint32_t i = 0; i < 2; ++i) {
    residency::TenantStatus& tenant = input.tenants.emplace_back();
    tenant.tenant = ipc::TenantId{i};
    tenant.name = i == 0 ? "prod" : "batch";
  }
  input.recent.resize(2);
  return input;
}

std::vector<HealthCode> codes(const HealthInput& input) {
  std::vector<HealthCode> all;
  for (const HealthFinding& finding : findings_in(input)) all.push_back(finding.code);
  return all;
}

TEST(Health, NothingIsSaidOfANodeThatIsWell) {
  HealthInput input = healthy();
  EXPECT_TRUE(findings_in(input).empty());
  input.mps_pipe_directories = {"/run/mps", "/run/other-mps"};
  EXPECT_TRUE(findings_in(input).empty());
  input.mps_pipe_directories = {"", ""};
  EXPECT_TRUE(findings_in(input).empty());
}

TEST(Health, EveryFindingSaysWhatIsSoAndWhatToDo) {
  HealthInput input = healthy();
  input.draining = true;
  input.devices = {{}, {DeviceHealth::State::lost, "the GPU is lost: no such device", 1}};
  input.not_kept = "c3.dram.7 is not kept: full";
  input.away_sessions = 2;
  input.mps_pipe_directories = {"/run/mps", "/run/mps"};
  input.hbm.status.used_bytes = input.hbm.status.capacity_bytes;
  input.dram.status.used_bytes = input.dram.status.capacity_bytes;
  input.tenants[0].hbm.over_limit_bytes = 3 * kGiB / 2;
  input.tenants[0].dram.wanting = true;
  input.tenants[1].forecasts.issued.pages = 100'000;
  input.tenants[1].forecasts.wasted.pages = 61'000;
  input.recent[1].dram_failed = 3;
  input.recent[1].resolved.hits = 97'000;
  input.recent[1].resolved.no_slot = 3'000;
  const auto findings = findings_in(input);
  const std::vector<std::pair<HealthCode, const char*>> expected = {
      {HealthCode::draining, "takes no new sessions"},
      {HealthCode::tier_nearly_full, "HBM is nearly full: 100.0% of 16.0 GiB"},
      {HealthCode::tier_nearly_full, "DRAM is nearly full: 100.0% of 64.0 GiB"},
      {HealthCode::device_lost, "device 1: the GPU is lost: no such device"},
      {HealthCode::restart_not_kept, "c3.dram.7 is not kept"},
      {HealthCode::sessions_away, "2 sessions have not come back"},
      {HealthCode::mps_shared, "share the MPS server at /run/mps: prod, batch"},
      {HealthCode::tenant_over_limit, "prod holds 1.5 GiB of HBM above its limit"},
      {HealthCode::tenant_wanting, "prod was refused DRAM recently"},
      {HealthCode::extents_failed, "no memory for 3 DRAM extents of batch in the last minute"},
      {HealthCode::no_slot_rate, "batch: 3.0% of the pages"},
      {HealthCode::forecast_waste, "batch: 61.0% of the forecast pages"}};
  ASSERT_EQ(findings.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(findings[i].code, expected[i].first) << i;
    EXPECT_THAT(findings[i].what, HasSubstr(expected[i].second));
    EXPECT_NE(findings[i].todo, "");
  }
  EXPECT_EQ(findings[1].level, HealthLevel::info) << "arenas are meant to fill HBM";
  EXPECT_EQ(findings[2].level, HealthLevel::warn);
  EXPECT_EQ(findings[9].level, HealthLevel::error);
  EXPECT_EQ(findings[9].tenant, ipc::TenantId{1});
  EXPECT_EQ(findings[2].tenant, std::nullopt);
}

TEST(Health, AGpuThatDoesNotAnswerIsAnError) {
  HealthInput input = healthy();
  input.devices.resize(1);
  input.devices[0].worker_failures = 3;
  EXPECT_TRUE(findings_in(input).empty()) << "another worker did it";
  input.devices[0].state = DeviceHealth::State::silent;
  EXPECT_THAT(codes(input), ElementsAre(HealthCode::device_silent));
  EXPECT_EQ(findings_in(input)[0].level, HealthLevel::error);
}

TEST(Health, ATierIsNotFullOfWhatCanBeGivenUp) {
  HealthInput input = healthy();
  input.dram.status.used_bytes = 64 * kGiB;
  input.dram.reclaimable_bytes = 4 * kGiB;
  EXPECT_TRUE(codes(input).empty()) << "warm blocks fill every cache sooner or later";
  input.dram.reclaimable_bytes = 3 * kGiB;
  EXPECT_THAT(codes(input), ElementsAre(HealthCode::tier_nearly_full));
  input.dram.reclaimable_bytes = 100 * kGiB;  // counted at another moment than what is used
  EXPECT_TRUE(codes(input).empty());
}

TEST(Health, RatesAreJudgedByEnoughPages) {
  HealthInput input = healthy();
  input.recent[0].resolved.hits = 100;
  input.recent[0].resolved.no_slot = 900;
  input.tenants[0].forecasts.issued.pages = 100;
  input.tenants[0].forecasts.wasted.pages = 99;
  EXPECT_TRUE(codes(input).empty());
  input.recent[0].resolved.hits = 1'000'000;
  input.recent[0].resolved.no_slot = 9'000;
  EXPECT_TRUE(codes(input).empty()) << "less than one in a hundred";
  input.recent[0].resolved.no_slot = 11'000;
  EXPECT_THAT(codes(input), ElementsAre(HealthCode::no_slot_rate));
}

std::vector<HealthCounts> counted(std::uint64_t no_slot, std::uint64_t failed) {
  std::vector<HealthCounts> counts(1);
  counts[0].resolved.no_slot = no_slot;
  counts[0].dram_failed = failed;
  return counts;
}

TEST(RecentCounts, AreThoseOfTheLastMinute) {
  RecentCounts recent(kStart, 1);
  EXPECT_EQ(recent.since(kStart + seconds(1), counted(7, 1))[0].resolved.no_slot, 7u)
      << "since the start, before a minute is over";
  for (int at = 10; at <= 100; at += 10) {
    recent.sample(kStart + seconds(at), counted(static_cast<std::uint64_t>(at), at == 10 ? 0 : 5));
  }
  const auto now = recent.since(kStart + seconds(100), counted(130, 5))[0];
  EXPECT_EQ(now.resolved.no_slot, 90u) << "130 now, 40 a minute ago";
  EXPECT_EQ(now.dram_failed, 0u);
  // Nobody sampled for long: what is old is not recent.
  EXPECT_EQ(recent.since(kStart + seconds(200), counted(130, 5))[0].resolved.no_slot, 30u);
}

}  // namespace
}  // namespace sluice::daemon
