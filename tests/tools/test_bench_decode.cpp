// sluice-bench decode, as far as it needs no GPU: which blocks are read, the bytes of pages, what
// is reported, the command line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <map>
#include <set>

#include "tests/tools/parse_bench.h"
#include "tools/bench/decode_access.h"
#include "tools/bench/decode_report.h"
#include "tools/bench/decode_words.h"

namespace sluice::tools {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Lt;

using Blocks = std::vector<std::uint32_t>;

constexpr const char* kSlice = "tests/data/smollm2_select_b16_slice.jsonl.zst";

SparseTrace slice() {
  auto trace = read_trace(kSlice, {});
  if (!trace) throw std::runtime_error(trace.error().text);
  return std::get<SparseTrace>(std::move(*trace));
}

std::size_t shared(const Blocks& a, const Blocks& b) {
  Blocks both;
  std::ranges::set_intersection(a, b, std::back_inserter(both));
  return both.size();
}

// Requests 0 and 1 of two layers and three steps; list i of step s of request r holds blocks
// derived from all three, of 4 and 8 blocks.
SparseTrace tiny_trace(bool forecasts) {
  SparseTrace trace;
  trace.layers = 2;
  trace.kv_heads = 1;
  trace.block_tokens = kDecodeBlockTokens;
  const auto add = [&](const Blocks& blocks) {
    auto& open = trace.lists.open_list();
    open.insert(open.end(), blocks.begin(), blocks.end());
    trace.lists.close_list();
  };
  for (std::uint32_t r = 0; r < 2; ++r) {
    SparseRequest request;
    request.steps = 3;
    request.prompt_tokens = (r == 0 ? 4 : 8) * kDecodeBlockTokens - request.steps;
    request.first_step = trace.steps.size();
    for (std::uint32_t s = 0; s < request.steps; ++s) {
      SparseStep step;
      step.request = r;
      step.step = s;
      step.select = trace.lists.size();
      for (std::uint32_t layer = 0; layer < 2; ++layer) add({s, s + 1 + r * layer});
      if (forecasts) {
        step.forecast = trace.lists.size();
        add({});
        add({3});
      }
      trace.step_index.push_back(static_cast<std::uint32_t>(trace.steps.size()));
      trace.steps.push_back(step);
    }
    trace.requests.push_back(request);
  }
  return trace;
}

TEST(DecodeAccess, SequencesPlayRequestsInTurn) {
  const DecodeAccess access(tiny_trace(true),
                            {.sequences = 2, .layers = 2, .blocks = 8, .steps = 8});
  EXPECT_EQ(access.reads(0, 0, 0), (Blocks{0, 2})) << "blocks 0 and 1 of 4, as blocks of 8";
  EXPECT_EQ(access.reads(0, 1, 0), (Blocks{0, 2}));
  EXPECT_EQ(access.reads(0, 0, 1), (Blocks{0, 1}));
  EXPECT_EQ(access.reads(0, 1, 1), (Blocks{0, 2}));
  EXPECT_EQ(access.reads(2, 0, 1), (Blocks{2, 3}));
}

TEST(DecodeAccess, ARequestIsPlayedThereAndBack) {
  const DecodeAccess access(tiny_trace(true),
                            {.sequences = 2, .layers = 2, .blocks = 8, .steps = 8});
  const std::uint32_t expected[] = {0, 1, 2, 1, 0, 1, 2};
  for (std::uint32_t step = 0; step < std::size(expected); ++step) {
    EXPECT_EQ(access.reads(step, 0, 1), (Blocks{expected[step], expected[step] + 1})) << step;
  }
}

TEST(DecodeAccess, TheSameRequestIsPlayedAheadOfTheSequenceBefore) {
  const DecodeAccess access(tiny_trace(true),
                            {.sequences = 6, .layers = 2, .blocks = 8, .steps = 8});
  for (std::uint32_t step = 0; step < 8; ++step) {
    EXPECT_EQ(access.reads(step, 1, 3), access.reads(step + kPlayerShift, 1, 1));
    EXPECT_EQ(access.reads(step, 0, 4), access.reads(step + 2 * kPlayerShift, 0, 0));
  }
}

TEST(DecodeAccess, RequestsThatAreLongEnoughAreNotPlayedBackwards) {
  const SparseTrace trace = slice();  // 3 requests of 24 steps
  const DecodeAccess access(slice(), {.sequences = 6, .layers = 2, .blocks = 512, .steps = 10});
  const auto recorded = [&](std::uint32_t request, std::uint32_t step) {
    return trace.select(trace.step_of(trace.requests[request], step), 1).size();
  };
  for (std::uint32_t step = 0; step < 10; ++step) {
    EXPECT_EQ(access.reads(step, 1, 2).size(), recorded(2, step));
    EXPECT_EQ(access.reads(step, 1, 5).size(), recorded(2, step + 7)) << "half of what is left";
  }
}

TEST(DecodeAccess, LayersBeyondTheTracesPlayOthers) {
  const DecodeAccess access(tiny_trace(true),
                            {.sequences = 3, .layers = 5, .blocks = 8, .steps = 8});
  // Player 0 + 3: request 1, ahead by a shift.
  EXPECT_EQ(access.reads(0, 2, 0), access.reads(kPlayerShift, 0, 1));
  EXPECT_EQ(access.reads(4, 3, 0), access.reads(4 + kPlayerShift, 1, 1));
}

TEST(DecodeAccess, ForecastsAreThoseOfTheStep) {
  const DecodeAccess access(tiny_trace(true),
                            {.sequences = 2, .layers = 2, .blocks = 8, .steps = 8});
  EXPECT_TRUE(access.has_forecasts());
  EXPECT_EQ(access.forecast(1, 0, 0), Blocks{});
  EXPECT_EQ(access.forecast(1, 1, 0), Blocks{6}) << "block 3 of 4";
  EXPECT_EQ(access.forecast(1, 1, 1), Blocks{3});
}

TEST(DecodeAccess, WithoutForecastsTheStepBeforeIsForecast) {
  const DecodeAccess access(tiny_trace(false),
                            {.sequences = 2, .layers = 2, .blocks = 8, .steps = 8});
  EXPECT_FALSE(access.has_forecasts());
  EXPECT_EQ(access.forecast(0, 1, 0), Blocks{});
  EXPECT_EQ(access.forecast(2, 1, 1), access.reads(1, 1, 1));
}

TEST(DecodeAccess, FewerBlocksThanARequestHasFallTogether) {
  const DecodeAccess wide(tiny_trace(true), {.sequences = 2, .layers = 2, .blocks = 8, .steps = 8});
  const DecodeAccess narrow(tiny_trace(true),
                            {.sequences = 2, .layers = 2, .blocks = 4, .steps = 8});
  EXPECT_FALSE(wide.folds());
  EXPECT_TRUE(narrow.folds());
  EXPECT_EQ(narrow.reads(0, 0, 1), Blocks{0}) << "blocks 0 and 1 of 8, as blocks of 4";
  EXPECT_EQ(narrow.reads(0, 1, 1), (Blocks{0, 1}));
}

TEST(DecodeAccess, PagesOfAStepAreThoseOfAllLists) {
  const DecodeAccess access(tiny_trace(true),
                            {.sequences = 4, .layers = 5, .blocks = 8, .steps = 8});
  EXPECT_DOUBLE_EQ(access.pages_per_step(7), 4 * 5 * 2);
  EXPECT_EQ(access.longest_list(), 2u);
}

TEST(DecodeAccess, ARecordedTraceKeepsItsCountsAndItsReuse) {
  const SparseTrace trace = slice();
  auto access = DecodeAccess::read(kSlice, {.sequences = 8, .layers = 32, .blocks = 512});
  ASSERT_TRUE(access) << access.error().text;
  EXPECT_FALSE(access->folds());
  EXPECT_TRUE(access->has_forecasts());
  for (std::uint32_t s = 0; s < 3; ++s) {  // players of the first steps
    const SparseRequest& request = trace.requests[s];
    for (std::uint32_t layer = 0; layer < trace.layers; ++layer) {
      for (std::uint32_t step = 1; step < 24; ++step) {
        const auto recorded = trace.select(trace.step_of(request, step), layer);
        const auto before = trace.select(trace.step_of(request, step - 1), layer);
        const Blocks reads = access->reads(step, layer, s);
        ASSERT_EQ(reads.size(), recorded.size());
        ASSERT_TRUE(std::ranges::is_sorted(reads));
        ASSERT_THAT(reads, Each(Lt(512u)));
        ASSERT_EQ(
            shared(reads, access->reads(step - 1, layer, s)),
            shared(Blocks(recorded.begin(), recorded.end()), Blocks(before.begin(), before.end())));
      }
    }
  }
  EXPECT_NE(access->reads(0, 30, 0), access->reads(0, 0, 0)) << "the trace has 30 layers";
  EXPECT_NE(access->reads(0, 0, 3), access->reads(0, 0, 0)) << "the trace has 3 requests";
}

TEST(DecodeAccess, RefusesTracesOfAnotherKind) {
  const DecodeShape shape{.sequences = 8, .layers = 32, .blocks = 512};
  const auto prefixes = DecodeAccess::read("tests/data/mooncake_conversation_200.jsonl", shape);
  ASSERT_FALSE(prefixes);
  EXPECT_THAT(prefixes.error().text, HasSubstr("a trace of prefixes"));
  EXPECT_FALSE(DecodeAccess::read("tests/data/no_such_trace", shape));
}

// What of a list is in the list `lag` steps before, and what a pool of `factor` lists hits.
struct Reuse {
  double size = 0;
  std::map<std::uint32_t, double> overlap;
  std::map<double, double> hits;
};

Reuse reuse_of(const DecodeAccess& access, std::uint32_t steps) {
  Reuse reuse;
  double items = 0;
  std::map<std::uint32_t, double> of_lag;
  const DecodeShape& shape = access.shape();
  const double factors[] = {1.5, 2};
  for (std::uint32_t s = 0; s < shape.sequences; ++s) {
    for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
      std::vector<Blocks> lists;
      std::map<double, std::map<std::uint32_t, std::uint32_t>> used;  // block: last step
      for (std::uint32_t step = 0; step < steps; ++step) {
        lists.push_back(access.reads(step, layer, s));
        items += double(lists.back().size());
        for (const std::uint32_t lag : {1u, 8u, 32u}) {
          if (step < lag) continue;
          reuse.overlap[lag] += double(shared(lists[step], lists[step - lag]));
          of_lag[lag] += double(lists[step].size());
        }
        for (const double factor : factors) {
          auto& last = used[factor];
          for (const std::uint32_t block : lists[step]) {
            reuse.hits[factor] += step > 0 && last.contains(block) ? 1 : 0;
            last[block] = step;
          }
          while (double(last.size()) > factor * double(lists[step].size())) {
            last.erase(
                std::ranges::min_element(last, {}, [](const auto& one) { return one.second; }));
          }
        }
      }
    }
  }
  const double lists = double(steps) * shape.sequences * shape.layers;
  reuse.size = items / lists;
  for (auto& [lag, overlap] : reuse.overlap) overlap /= of_lag[lag];
  for (auto& [factor, hits] : reuse.hits) hits /= items * (steps - 1) / steps;
  return reuse;
}

TEST(MadeUpTrace, HasTheFiguresOfTheRecordedOne) {
  const auto access = DecodeAccess::make_up({.sequences = 4, .layers = 4, .blocks = 512});
  const Reuse reuse = reuse_of(access, 128);
  EXPECT_NEAR(reuse.size, 91.5, 1);
  EXPECT_NEAR(reuse.overlap.at(1), 0.83, 0.02);
  EXPECT_NEAR(reuse.overlap.at(8), 0.78, 0.03);
  EXPECT_NEAR(reuse.overlap.at(32), 0.73, 0.03);
  EXPECT_NEAR(reuse.hits.at(1.5), 0.946, 0.01);
  EXPECT_NEAR(reuse.hits.at(2), 0.979, 0.015);
}

TEST(MadeUpTrace, ForecastsMostOfWhatIsRead) {
  const auto access = DecodeAccess::make_up({.sequences = 3, .layers = 4, .blocks = 512});
  double read = 0, forecast = 0, both = 0;
  for (std::uint32_t step = 0; step < 32; ++step) {
    for (std::uint32_t s = 0; s < 3; ++s) {
      EXPECT_TRUE(access.forecast(step, 0, s).empty()) << "nothing is known before layer 0";
      for (std::uint32_t layer = 1; layer < 4; ++layer) {
        const Blocks reads = access.reads(step, layer, s);
        const Blocks guessed = access.forecast(step, layer, s);
        read += double(reads.size());
        forecast += double(guessed.size());
        both += double(shared(reads, guessed));
      }
    }
  }
  EXPECT_NEAR(both / read, 0.88, 0.02);
  EXPECT_NEAR(both / forecast, 0.87, 0.03);
}

TEST(MadeUpTrace, FitsSmallSequencesToo) {
  for (const std::uint32_t blocks : {64u, 100u, 1024u}) {
    const auto access = DecodeAccess::make_up({.sequences = 2, .layers = 2, .blocks = blocks});
    EXPECT_FALSE(access.folds());
    for (std::uint32_t step = 0; step < 64; ++step) {
      const Blocks reads = access.reads(step, 1, 1);
      EXPECT_EQ(reads.size(), static_cast<std::size_t>(std::round(blocks * 91.5 / 512)));
      EXPECT_EQ(std::set(reads.begin(), reads.end()).size(), reads.size());
      EXPECT_THAT(reads, Each(Lt(blocks)));
    }
  }
}

float number_of(std::uint64_t word, unsigned place) {
  const auto bits = static_cast<std::uint32_t>(word >> (16 * place) & 0xFFFF) << 16;
  float number = 0;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

TEST(DecodeWords, AreNumbersThatAttentionCanUse) {
  double sum = 0;
  for (std::uint64_t page = 0; page < 20; ++page) {
    for (std::uint32_t word = 0; word < 8192; ++word) {
      for (unsigned place = 0; place < 4; ++place) {
        const float number = number_of(decode_word(page, word), place);
        ASSERT_GE(std::fabs(number), 0.5f);
        ASSERT_LT(std::fabs(number), 2.0f);
        sum += number;
      }
    }
  }
  EXPECT_LT(std::fabs(sum / (20 * 8192 * 4)), 0.01) << "of either sign";
}

// Another page shows in each of the four numbers of a word, also in the lowest one.
TEST(DecodeWords, DifferBetweenPagesInEachNumber) {
  for (unsigned place = 0; place < 4; ++place) {
    std::size_t same = 0;
    for (std::uint64_t page = 0; page < 1000; ++page) {
      const std::uint64_t here = decode_word(page, 17) >> (16 * place) & 0xFFFF;
      const std::uint64_t there = decode_word(page + 1, 17) >> (16 * place) & 0xFFFF;
      same += here == there ? 1 : 0;
    }
    EXPECT_LT(same, 20u) << place;
  }
}

DecodeRun run_of(DecodeHome home, double factor, std::uint32_t sequences,
                 std::initializer_list<double> step_us) {
  DecodeRun run;
  run.home = home;
  run.hbm_factor = factor;
  run.sequences = sequences;
  for (const double us : step_us) run.step_us.add(us);
  return run;
}

std::vector<DecodeRun> some_runs() {
  std::vector<DecodeRun> runs = {
      run_of(DecodeHome::all_in_hbm, 0, 64, {10'000}),
      run_of(DecodeHome::fits_in_hbm, 1.5, 16, {5'000}),
      run_of(DecodeHome::fits_in_hbm, 2, 32, {5'000}),
      run_of(DecodeHome::sluice, 1.5, 64, {10'000, 20'000, 20'000, 30'000})};
  DecodeRun& sluice = runs.back();
  sluice.forecasts = true;
  sluice.hits = 900;
  sluice.misses = 90;
  sluice.without_slot = 10;
  sluice.forecast_issued = 10;
  sluice.page_bytes = 1'000'000;
  sluice.copy_only_gb_per_s = 50;
  return runs;
}

TEST(DecodeReport, ARowSaysHowItComparesWithAllInHbm) {
  const auto runs = some_runs();
  const GpuRow row = decode_row(runs.back(), against(runs.back(), runs));
  EXPECT_EQ(row["bench"], "decode");
  EXPECT_DOUBLE_EQ(row["step_ms"], 20);
  EXPECT_DOUBLE_EQ(row["step_p95_ms"], 30);
  EXPECT_DOUBLE_EQ(row["tokens_per_s"], 3200);
  EXPECT_DOUBLE_EQ(row["hit_rate"], 0.9);
  EXPECT_DOUBLE_EQ(row["bytes_swapped"], 1e8) << "by resolves and by forecasts";
  EXPECT_DOUBLE_EQ(row["link_gb_per_s"], 5);
  EXPECT_DOUBLE_EQ(row["link_share"], 0.1);
  EXPECT_DOUBLE_EQ(row["time_over_all_in_hbm"], 2);
  EXPECT_DOUBLE_EQ(row["tokens_over_fits_in_hbm"], 1) << "of the same HBM";
}

TEST(DecodeReport, WhatDidNotRunIsNotComparedWith) {
  const auto runs = some_runs();
  const GpuRow row = decode_row(runs.back(), against(runs.back(), {runs.back()}));
  EXPECT_FALSE(row.contains("time_over_all_in_hbm"));
  EXPECT_FALSE(row.contains("tokens_over_fits_in_hbm"));
}

TEST(DecodeReport, TheTableHasALineForEachRun) {
  const std::string table = decode_table(some_runs());
  EXPECT_EQ(std::ranges::count(table, '\n'), 5);
  EXPECT_THAT(table, HasSubstr("all in HBM"));
  EXPECT_THAT(table, HasSubstr("1.5x"));
  EXPECT_THAT(table, HasSubstr("0.9000"));
}

TEST(Series, QuantilesAreFiguresThatWereMeasured) {
  Series series;
  for (int i = 20; i > 0; --i) series.add(i);
  EXPECT_EQ(series.quantile(0.95), 19);
  EXPECT_EQ(series.quantile(1), 20);
  EXPECT_EQ(series.quantile(0), 1);
  EXPECT_DOUBLE_EQ(series.mean(), 10.5);
}

TEST(BenchDecodeOptions, AreOfTheSubcommand) {
  BenchOptions options;
  EXPECT_EQ(parse({"decode", "--sequences", "4", "--tokens", "2048", "--layers", "8",
                   "--hbm-factor", "1.25,3", "--steps", "7", "--matrix", "stand-in",
                   "--forecast-priority", "low", "--forecast-budget", "2MiB", "--json"},
                  options),
            std::nullopt);
  EXPECT_TRUE(options.decode);
  EXPECT_FALSE(options.gpu);
  const DecodeOptions& decode = options.decode_options;
  EXPECT_EQ(decode.sequences, 4u);
  EXPECT_EQ(decode.tokens, 2048u);
  EXPECT_EQ(decode.layers, 8u);
  EXPECT_EQ(decode.hbm_factors, (std::vector<double>{1.25, 3}));
  EXPECT_EQ(decode.steps, 7u);
  EXPECT_EQ(decode.matrix, MatrixChoice::stand_in);
  EXPECT_EQ(decode.forecast_priority, ForecastPriority::low);
  EXPECT_EQ(decode.forecast_budget, std::uint64_t{2} << 20);
  EXPECT_TRUE(decode.json);
}

TEST(BenchDecodeOptions, DefaultsAreThoseOfTheShow) {
  BenchOptions options;
  EXPECT_EQ(parse({"decode"}, options), std::nullopt);
  const DecodeOptions& decode = options.decode_options;
  EXPECT_EQ(decode.sequences, 64u);
  EXPECT_EQ(decode.tokens, 8192u);
  EXPECT_EQ(decode.layers, 32u);
  EXPECT_EQ(decode.hbm_factors, (std::vector<double>{1.5, 2}));
}

TEST(BenchDecodeOptions, RefuseWhatCannotBe) {
  for (const std::vector<std::string>& wrong :
       {std::vector<std::string>{"decode", "--hbm-factor", "0.5"},
        {"decode", "--tokens", "100"},
        {"decode", "--forecast-budget", "much"},
        {"decode", "--matrix", "none"}}) {
    BenchOptions options;
    EXPECT_EQ(parse(wrong, options), kBenchUsage) << wrong[1];
  }
}

}  // namespace
}  // namespace sluice::tools
