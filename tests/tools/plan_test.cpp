#include "tools/replay/plan.h"

#include <gtest/gtest.h>

#include "tools/replay/environment.h"

namespace sluice::tools {
namespace {

constexpr const char* kSlice = "tests/data/smollm2_select_b16_slice.jsonl.zst";

Trace slice(ListKind kind) { return read_trace(kSlice, {kind, 0}).value(); }

Options spawn_options() {
  Options options;
  options.spawn = true;
  options.list_kind = ListKind::head;
  return options;
}

// k + 5 blocks per list (see the trace's README): 40, 61 and 67 at the moment when all three run.
TEST(Plan, ThePeakIsTheSumOverTheRequestsOfOneIteration) {
  const auto plan = make_plan(slice(ListKind::head), spawn_options()).value();
  ASSERT_EQ(plan.tenants.size(), 1u);
  EXPECT_EQ(plan.tenants[0].peak_pages, (40u + 61u + 67u) * 90u);
  EXPECT_EQ(plan.tenants[0].pinned_pages, 3u * 90u);
  EXPECT_EQ(plan.shape.payload.page_bytes(), 4096u);
  EXPECT_EQ(plan.shape.frame_stride(), 90u * 4096u);
}

TEST(Plan, TimesIsOfThePeakAndPercentOfTheFootprint) {
  Options options = spawn_options();
  options.hbm = RelativeSize{RelativeSize::Kind::times, 0, 1.5};
  options.dram = RelativeSize{RelativeSize::Kind::percent, 0, 0.75};
  const auto plan = make_plan(slice(ListKind::head), options).value();
  const TenantPlan& tenant = plan.tenants[0];
  EXPECT_EQ(tenant.hbm_bytes, tenant.peak_pages * 3 / 2 * 4096);
  EXPECT_EQ(tenant.dram_bytes, tenant.distinct_blocks * plan.shape.frame_stride() * 3 / 4);
}

TEST(Plan, LessDramThanOneRequestNeedsIsAnErrorThatSaysHowMuchItIs) {
  Options options = spawn_options();
  options.dram = RelativeSize{RelativeSize::Kind::percent, 0, 0.1};
  const auto plan = make_plan(slice(ListKind::head), options);
  ASSERT_FALSE(plan.has_value());
  EXPECT_NE(plan.error().text.find("MiB"), std::string::npos) << plan.error().text;
}

TEST(Plan, RequestsAndTenantsGoRound) {
  Options options = spawn_options();
  options.engines = 3;
  options.tenants = 2;
  const auto plan = make_plan(slice(ListKind::head), options).value();
  EXPECT_EQ(plan.requests[2], (std::vector<std::uint32_t>{2}));
  // Engines 0 and 2 are of tenant 0; requests 0 and 2 share a prefix, so its footprint is less than
  // their sum.
  EXPECT_EQ(plan.tenants[0].peak_pages, (40u + 67u) * 90u);
  EXPECT_EQ(plan.tenants[1].peak_pages, 61u * 90u);
  EXPECT_LT(plan.tenants[0].distinct_blocks, 264u + 477u);
  EXPECT_GE(plan.tenants[1].distinct_blocks, 431u);
}

TEST(Plan, PrefixTracesHaveWholeBlockPages) {
  Options options = spawn_options();
  options.engines = 2;
  options.bytes_per_token = 48;
  const auto trace =
      read_trace("tests/data/mooncake_conversation_200.jsonl", {ListKind::layer, 0}).value();
  const auto plan = make_plan(trace, options).value();
  EXPECT_EQ(plan.shape.payload.page_bytes(), 512u * 48u);
  EXPECT_EQ(plan.shape.payload.pages_per_block, 1u);
  EXPECT_EQ(plan.tenants[0].distinct_blocks, 5215u);
}

TEST(Plan, DevicesGoRoundTheGpusThatThereAre) {
  Options options = spawn_options();
  options.backend = Backend::cuda;
  options.device = 1;
  options.devices = 3;
  const auto plan = make_plan(slice(ListKind::layer), options).value();
  const DaemonSpec several = daemon_spec(plan, options, {"g0", "g1", "g2"});
  EXPECT_EQ(several.gpu, "g1");
  EXPECT_EQ(several.more_gpus, (std::vector<std::string>{"g2", "g0"}));
  EXPECT_EQ(place_of(2, options, 3), (DevicePlace{0, 0}));

  options.device = 0;
  const DaemonSpec posing = daemon_spec(plan, options, {"g0"});
  EXPECT_EQ(posing.gpu, "g0");
  EXPECT_EQ(posing.more_gpus, (std::vector<std::string>{"g0", "g0"}));
  EXPECT_EQ(place_of(2, options, 1), (DevicePlace{0, 2}));
  EXPECT_EQ(place_of(2, options, 2), (DevicePlace{0, 1}));
}

TEST(Plan, ExtentsOfAGpuHoldWholePagesAndWholeMappings) {
  Options options = spawn_options();
  options.backend = Backend::cuda;
  for (const ListKind kind : {ListKind::head, ListKind::layer}) {
    options.list_kind = kind;
    const auto plan = make_plan(slice(kind), options).value();
    const DaemonSpec spec = daemon_spec(plan, options);
    EXPECT_TRUE(spec.cuda);
    EXPECT_EQ(spec.hbm_extent_bytes % (2 << 20), 0u);
    EXPECT_EQ(spec.hbm_extent_bytes % plan.shape.payload.page_bytes(), 0u);
    EXPECT_EQ(spec.tenants.at(0).hbm_bytes % spec.hbm_extent_bytes, 0u);
  }
  EXPECT_TRUE(daemon_spec(make_plan(slice(ListKind::layer), options).value(), options).gpu.empty());
  options.backend = Backend::host;
  EXPECT_FALSE(daemon_spec(make_plan(slice(ListKind::layer), options).value(), options).cuda);
}

}  // namespace
}  // namespace sluice::tools
