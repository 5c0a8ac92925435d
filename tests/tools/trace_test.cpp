#include "tools/replay/trace.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/tools/temp_file.h"

namespace sluice::tools {
namespace {

using Blocks = std::vector<std::uint32_t>;

// Two layers, two heads, blocks of 4 tokens; request 7: prompt of 9 tokens, 4 steps, so blocks 0
// and 1 are of the prompt and block 2 is filled by the third step.
constexpr const char* kHeader =
    R"({"format":"sparse-kv-access","version":1,"layers":2,"kv_heads":2,"head_dim":3,"block_tokens":4,)"
    R"("dtype_bytes":1,"model":"m","requests":1,"steps":4})"
    "\n";
constexpr const char* kRequest =
    R"({"request":7,"arrive":3,"prompt_tokens":9,"steps":4,"block_keys":["00ff","1234"],)"
    R"("decode_block_keys":["abCD"]})"
    "\n";

std::string step(int index, const std::string& select, const std::string& more = "") {
  return R"({"iter":)" + std::to_string(3 + index) + R"(,"request":7,"step":)" +
         std::to_string(index) + R"(,"tokens":)" + std::to_string(10 + index) + R"(,"select":)" +
         select + more + "}\n";
}

const std::string kAnySelect = "[[[0],[0,1]],[[0,2],[1]]]";

std::string steps() {
  return step(0, "[[[0,2],[0,1,1]],[[2],[1]]]", R"(,"forecast":[[],[[0,1],[2]]])") +
         step(1, kAnySelect) + step(2, kAnySelect) + step(3, "[[[3],[0]],[[],[1]]]");
}

ipc::Result<Trace> read(const std::string& text, ListKind kind = ListKind::head,
                        std::uint64_t requests = 0) {
  const TempFile file(text);
  return read_trace(file.path(), {kind, requests});
}

Blocks list(std::span<const std::uint32_t> blocks) { return {blocks.begin(), blocks.end()}; }

TEST(SparseTrace, ReadsListsPerHead) {
  const auto trace = std::get<SparseTrace>(read(kHeader + (kRequest + steps())).value());
  ASSERT_EQ(trace.requests.size(), 1u);
  ASSERT_EQ(trace.steps.size(), 4u);
  EXPECT_EQ(trace.pages_per_block(), 4u);
  const SparseRequest& request = trace.requests[0];
  EXPECT_EQ(request.prompt_blocks, 2u);
  EXPECT_EQ(request.decode_blocks, 1u);
  EXPECT_EQ(trace.final_blocks(request), 4u);
  EXPECT_EQ(trace.key_of(request, 0), std::string_view("\x00\xff", 2));
  EXPECT_EQ(trace.key_of(request, 2), "\xab\xcd");
  EXPECT_TRUE(trace.key_of(request, 3).empty());

  const SparseStep& first = trace.step_of(request, 0);
  EXPECT_EQ(list(trace.select(first, 0)), (Blocks{0, 2}));
  EXPECT_EQ(list(trace.select(first, 1)), (Blocks{0, 1, 2}));
  EXPECT_EQ(list(trace.select(first, 2)), (Blocks{2}));
  EXPECT_EQ(list(trace.forecast(first, 0)), (Blocks{}));
  EXPECT_EQ(list(trace.forecast(first, 2)), (Blocks{0, 1}));
  EXPECT_EQ(list(trace.forecast(trace.step_of(request, 1), 2)), (Blocks{}));
  EXPECT_EQ(list(trace.select(trace.step_of(request, 3), 2)), (Blocks{}));
}

TEST(SparseTrace, LayerPagesAreTheUnionOfTheHeads) {
  const auto trace =
      std::get<SparseTrace>(read(kHeader + (kRequest + steps()), ListKind::layer).value());
  EXPECT_EQ(trace.pages_per_block(), 2u);
  const SparseStep& first = trace.step_of(trace.requests[0], 0);
  EXPECT_EQ(list(trace.select(first, 0)), (Blocks{0, 1, 2}));
  EXPECT_EQ(list(trace.select(first, 1)), (Blocks{1, 2}));
  EXPECT_EQ(list(trace.forecast(first, 1)), (Blocks{0, 1, 2}));
}

struct BadTrace {
  const char* what;
  std::string text;
  const char* says;  // part of the message
  int line;          // that the message names
};

TEST(SparseTrace, SaysWhatIsWrongAndWhere) {
  const std::string head = std::string(kHeader) + kRequest;
  const std::string ok = step(0, kAnySelect);
  const std::vector<BadTrace> cases = {
      {"block beyond the sequence", head + step(0, "[[[3],[0]],[[0],[0]]]"), "names block 3", 3},
      {"sum beyond the sequence", head + step(0, "[[[2,1],[0]],[[0],[0]]]"), "names block 3", 3},
      {"huge number", head + step(0, "[[[99999999999999999999],[0]],[[0],[0]]]"), "column", 3},
      {"large index", head + step(0, "[[[4294967295,1],[0]],[[0],[0]]]"), "absurdly large", 3},
      {"block named twice", head + step(0, "[[[1,0],[0]],[[0],[0]]]"), "twice", 3},
      {"negative", head + step(0, "[[[-1],[0]],[[0],[0]]]"), "column", 3},
      {"too few layers", head + step(0, "[[[0],[0]]]"), "1 layers", 3},
      {"too many heads", head + step(0, "[[[0],[0],[0]],[[0],[0]]]"), "column", 3},
      {"line cut", head + ok.substr(0, ok.size() - 10), "column", 3},
      {"something behind", head + ok.substr(0, ok.size() - 1) + "x\n", "column", 3},
      {"no select", head + R"({"iter":3,"request":7,"step":0,"tokens":10})" + "\n", "\"select\"",
       3},
      {"no tokens", head + R"({"iter":3,"request":7,"step":0,"select":[]})" + "\n", "", 3},
      {"unknown request",
       head + R"({"iter":3,"request":8,"step":0,"tokens":10,"select":)" + kAnySelect + "}\n",
       "request 8 is unknown", 3},
      {"step skipped", head + step(1, kAnySelect), "out of order", 3},
      {"iter before arrival",
       head + R"({"iter":2,"request":7,"step":0,"tokens":10,"select":)" + kAnySelect + "}\n",
       "out of order", 3},
      {"wrong tokens",
       head + R"({"iter":3,"request":7,"step":0,"tokens":12,"select":)" + kAnySelect + "}\n",
       "prompt_tokens + step + 1", 3},
      {"file cut after steps", head + ok, "1 of 4 step lines", 3},
      {"file cut after header", kHeader, "0 of 1 request lines", 1},
      {"too many steps", head + steps() + ok, "more step lines", 7},
      {"missing header field", R"({"format":"sparse-kv-access","version":1,"layers":2})",
       "kv_heads", 1},
      {"zero layers",
       R"({"format":"sparse-kv-access","version":1,"layers":0,"kv_heads":2,"head_dim":3,"block_tokens":4})",
       "\"layers\" is 0", 1},
      {"other version", R"({"format":"sparse-kv-access","version":2})", "version 2", 1},
      {"unknown format", R"({"format":"other"})", "not a trace", 1},
      {"no JSON", "hello\n", "not a trace", 1},
      {"empty", "", "empty", 0},
  };
  for (const BadTrace& bad : cases) {
    const auto trace = read(bad.text);
    ASSERT_FALSE(trace.has_value()) << bad.what;
    EXPECT_NE(trace.error().text.find(bad.says), std::string::npos)
        << bad.what << ": " << trace.error().text;
    if (bad.line > 0) {
      const std::string where = ":" + std::to_string(bad.line) + ": ";
      EXPECT_NE(trace.error().text.find(where), std::string::npos)
          << bad.what << ": " << trace.error().text;
    }
  }
}

TEST(SparseTrace, SaysWhatIsWrongWithARequest) {
  const auto says = [](const std::string& request, const char* text) {
    const auto trace = read(kHeader + request + "\n");
    ASSERT_FALSE(trace.has_value()) << request;
    EXPECT_NE(trace.error().text.find(text), std::string::npos) << trace.error().text;
    EXPECT_NE(trace.error().text.find(":2: "), std::string::npos) << trace.error().text;
  };
  says(R"({"request":7,"arrive":3,"prompt_tokens":9,"steps":4,"decode_block_keys":["abcd"]})",
       "block_keys");
  says(
      R"({"request":7,"arrive":3,"prompt_tokens":9,"steps":4,"block_keys":["00"],"decode_block_keys":["aa"]})",
      "fill 2 blocks");
  says(
      R"({"request":7,"arrive":3,"prompt_tokens":9,"steps":4,"block_keys":["00","1"],"decode_block_keys":[]})",
      "1 to 64 bytes");
  says(
      R"({"request":7,"arrive":3,"prompt_tokens":9,"steps":4,"block_keys":["00","zz"],"decode_block_keys":[]})",
      "not hex");
  says(
      R"({"request":7,"arrive":3,"prompt_tokens":9,"steps":4,"block_keys":["00","1122"],"decode_block_keys":[]})",
      "another length");
  says(R"({"request":7,"arrive":3,"prompt_tokens":0,"steps":4})", "\"prompt_tokens\" is 0");
  says(R"({"request":7,"arrive":-3,"prompt_tokens":9,"steps":4})", "\"arrive\"");
  says(R"([1])", "not a JSON object");
}

TEST(SparseTrace, TheSliceOfARealTraceIsRead) {
  const auto read_slice =
      read_trace("tests/data/smollm2_select_b16_slice.jsonl.zst", {ListKind::head, 0});
  ASSERT_TRUE(read_slice.has_value()) << read_slice.error().text;
  const auto& trace = std::get<SparseTrace>(*read_slice);
  EXPECT_EQ(trace.requests.size(), 3u);
  EXPECT_EQ(trace.steps.size(), 72u);
  EXPECT_EQ(trace.pages_per_block(), 90u);
  EXPECT_EQ(trace.key_of(trace.requests[0], 0), trace.key_of(trace.requests[1], 0));
  const auto two =
      read_trace("tests/data/smollm2_select_b16_slice.jsonl.zst", {ListKind::layer, 2});
  ASSERT_TRUE(two.has_value()) << two.error().text;
  EXPECT_EQ(std::get<SparseTrace>(*two).requests.size(), 2u);
  EXPECT_EQ(std::get<SparseTrace>(*two).steps.size(), 48u);
}

TEST(PrefixTrace, IsReadInOrderOfTime) {
  const auto trace = std::get<PrefixTrace>(
      read("{\"timestamp\": 9, \"input_length\": 600, \"output_length\": 1, \"hash_ids\": [1, 2]}\n"
           "{\"timestamp\": 5, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1]}\n")
          .value());
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[0].timestamp_ms, 5u);
  EXPECT_EQ(trace.requests[1].block_ids, (std::vector<std::uint64_t>{1, 2}));
}

TEST(PrefixTrace, SaysWhatIsWrongAndWhere) {
  const std::string good = "{\"timestamp\": 0, \"input_length\": 600, \"hash_ids\": [1, 2]}\n";
  for (const char* bad : {"{\"timestamp\": 0, \"input_length\": 600, \"hash_ids\": [1]}",
                          "{\"timestamp\": 0, \"input_length\": 0, \"hash_ids\": []}",
                          "{\"timestamp\": 0, \"hash_ids\": [1, 2]}",
                          "{\"timestamp\": 0, \"input_length\": 600, \"hash_ids\": [1, 2",
                          "{\"timestamp\": 0, \"input_length\": 600, \"hash_ids\": [1, \"x\"]}"}) {
    const auto trace = read(good + bad + "\n");
    ASSERT_FALSE(trace.has_value()) << bad;
    EXPECT_NE(trace.error().text.find(":2: "), std::string::npos) << trace.error().text;
  }
}

TEST(PrefixTrace, TheSliceOfARealTraceIsRead) {
  const auto trace = read_trace("tests/data/mooncake_conversation_200.jsonl", {ListKind::layer, 0});
  ASSERT_TRUE(trace.has_value()) << trace.error().text;
  EXPECT_EQ(std::get<PrefixTrace>(*trace).requests.size(), 200u);
}

}  // namespace
}  // namespace sluice::tools
