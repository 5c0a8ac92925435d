// The engines against a fake libsluice: what they count is what the reference counts, and no fault
// escapes.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/tools/fake_sluice.h"
#include "tools/replay/engine.h"
#include "tools/replay/report.h"

namespace sluice::tools {
namespace {

constexpr const char* kSlice = "tests/data/smollm2_select_b16_slice.jsonl.zst";
constexpr const char* kMooncake = "tests/data/mooncake_conversation_200.jsonl";

struct Outcome {
  int exit_code = 0;
  Counters counters;
  std::string failure;
  std::vector<Mismatch> mismatches;
};

class ReplayEngine : public testing::Test {
 protected:
  void SetUp() override {
    fake::reset();
    options.spawn = true;
    options.list_kind = ListKind::head;
  }

  Outcome replay(const char* path) {
    const Trace trace = read_trace(path, {options.list_kind, options.requests}).value();
    const Plan plan = make_plan(trace, options).value();
    Board board = Board::create(1).value();
    Outcome outcome;
    outcome.exit_code = engine_main(trace, {0, "", {}, &options, &plan, &board});
    const EngineBoard& mine = board.engines()[0];
    outcome.counters = mine.snapshot();
    outcome.failure = mine.failure;
    for (std::uint32_t i = 0; i < mine.mismatch_count.load(); ++i)
      outcome.mismatches.push_back(mine.mismatch[i]);
    return outcome;
  }

  Options options;
};

TEST_F(ReplayEngine, VerifiesEveryPageOfASparseTrace) {
  for (const ListKind kind : {ListKind::layer, ListKind::head}) {
    options.list_kind = kind;
    const Outcome outcome = replay(kSlice);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.failure;
    const Counters& c = outcome.counters;
    EXPECT_EQ(c.steps, 72u);
    EXPECT_EQ(c.requests_done, 3u);
    EXPECT_EQ(c.mismatches, 0u);
    EXPECT_EQ(c.no_slot + c.absent, 0u);
    EXPECT_EQ(c.verified_pages, c.pages_requested);
    EXPECT_EQ(c.pages_requested, c.hits + c.misses);
    if (kind == ListKind::head) {
      EXPECT_EQ(c.pages_requested, (40u + 61u + 67u) * 90u * 24u);
    }
    // Request 2 opens what request 0 sealed of their common prefix of 3080 tokens, and all share
    // block 0.
    EXPECT_EQ(c.blocks_matched, 3080u / 16 + 1);
  }
}

// 0.9192 is an offline LRU of that size over the same accesses as recorded (request by request),
// without first steps and first uses of new blocks: the definition of
// buffer_pool_node.shared_by_content_key.lru in the traces' statistics, which it reproduces for the
// whole trace. Engines go layer by layer; that changes little.
TEST_F(ReplayEngine, TheHitRateIsThatOfTheReferenceDefinition) {
  options.hbm = RelativeSize{RelativeSize::Kind::times, 0, 1.5};
  const Outcome outcome = replay(kSlice);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.failure;
  EXPECT_EQ(outcome.counters.no_slot, 0u);
  EXPECT_NEAR(static_cast<double>(outcome.counters.rated_hits) /
                  static_cast<double>(outcome.counters.rated_pages),
              0.9192, 0.003);
}

TEST_F(ReplayEngine, AFlippedBitIsAMismatchThatNamesThePage) {
  for (const std::uint64_t fill : {1u, 5000u, 15000u}) {
    fake::reset();
    fake::settings().faults.corrupt_fill = fill;
    const Outcome outcome = replay(kSlice);
    EXPECT_GT(outcome.counters.mismatches, 0u) << fill;
    ASSERT_FALSE(outcome.mismatches.empty());
    EXPECT_EQ(outcome.mismatches[0].offset, 4095u);
  }
}

TEST_F(ReplayEngine, OldBytesInASlotAreAMismatch) {
  options.hbm = RelativeSize{RelativeSize::Kind::times, 0, 1.2};
  fake::settings().faults.stale_fill = 15000;
  EXPECT_GT(replay(kSlice).counters.mismatches, 0u);
}

TEST_F(ReplayEngine, ASlotOfAnotherPageIsAMismatch) {
  fake::settings().faults.wrong_slot = 100000;
  EXPECT_EQ(replay(kSlice).counters.mismatches, 1u);
}

TEST_F(ReplayEngine, ABlockDamagedAtItsSealIsAMismatch) {
  fake::settings().faults.corrupt_seal = 1;  // block 0, the sink: every list reads it
  EXPECT_GT(replay(kSlice).counters.mismatches, 0u);
}

TEST_F(ReplayEngine, CountsThatDisagreeWithTheOutcomesAreAFailure) {
  fake::settings().faults.lie_in_counts = 40;
  const Outcome outcome = replay(kSlice);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.failure.find("disagree"), std::string::npos) << outcome.failure;
}

TEST_F(ReplayEngine, AnErrorIsToldWithItsCallAndPlace) {
  fake::settings().faults.fail_resolve = 31;  // 30 layers: the first one of the second iteration
  const Outcome outcome = replay(kSlice);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.failure.find("sluice_resolve"), std::string::npos) << outcome.failure;
  EXPECT_NE(outcome.failure.find("iteration 1, layer 0"), std::string::npos) << outcome.failure;
  EXPECT_EQ(outcome.counters.steps, 1u);
}

TEST_F(ReplayEngine, RequestsWaitForMemoryAndAllFinish) {
  fake::settings().max_frames = 700;  // of 981: requests 1 and 2 cannot run together
  const Outcome outcome = replay(kSlice);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.failure;
  EXPECT_EQ(outcome.counters.requests_done, 3u);
  EXPECT_EQ(outcome.counters.mismatches, 0u);
  EXPECT_GT(outcome.counters.memory_waits, 0u);
}

TEST_F(ReplayEngine, ForecastsAreIssuedForEveryLayerButTheFirst) {
  options.forecast = Forecast::recorded;
  EXPECT_EQ(replay(kSlice).counters.forecast_issued, (40u + 61u + 67u) * 87u * 24u);
  options.forecast = Forecast::previous_step;
  EXPECT_EQ(replay(kSlice).counters.forecast_issued, (40u + 61u + 67u) * 87u * 23u);
}

TEST_F(ReplayEngine, VerifiesAPrefixTrace) {
  const Outcome outcome = replay(kMooncake);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.failure;
  const Counters& c = outcome.counters;
  EXPECT_EQ(c.requests_done, 200u);
  EXPECT_EQ(c.mismatches, 0u);
  EXPECT_EQ(c.blocks_opened, 5537u);
  EXPECT_EQ(c.blocks_sealed, 5215u);  // each distinct block once
  EXPECT_EQ(c.blocks_matched, 5537u - 5215u);
  EXPECT_EQ(c.verified_pages, c.blocks_matched);
}

TEST_F(ReplayEngine, PrefixEnginesFindAFlippedBitToo) {
  fake::settings().faults.corrupt_seal = 1;
  EXPECT_GT(replay(kMooncake).counters.mismatches, 0u);
}

}  // namespace
}  // namespace sluice::tools
