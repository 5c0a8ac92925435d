#include <algorithm>
#include <string_view>

#include "tools/bench/benchmark.h"

namespace sluice::tools {
namespace {

constexpr Benchmark kBenchmarks[] = {
    {"ring_round_trip",
     "ns",
     "sluice_ping: an empty request through the rings to the daemon's lane and back",
     "two processes that play ping-pong on two cache lines of shared memory, spinning as the "
     "library does: "
     "on few cores both yield the processor after each look",
     {.most_ratio = 4},
     ring_round_trip},
    {"resolve_hit",
     "ns/page",
     "lists of 256 random pages out of 1e5 resident ones, executor direct, a step per call: every "
     "page is "
     "stamped, and begin and end of the step count. Also same_step: pages that carry the step's "
     "stamp already",
     "an array of that many 64-bit words in plain memory: a load and a compare-exchange per page. "
     "Also ceiling_in_table_memory: the same in such memory as hot tables have, in huge pages "
     "where there are any",
     {.most_value = 25, .most_ratio = 2},
     resolve_hit},
    {"resolve_scale",
     "ns/page",
     "the same out of 1e7 resident pages",
     "an array of that many 64-bit words in plain memory: a plain load and an addition per page. "
     "Also ceiling_in_table_memory, as above",
     {.most_ratio = 2.5},
     resolve_scale},
    {"resolve_miss_64k",
     "bytes/s",
     "1,024 pages of 64 KiB per call, executor direct, none of them resident",
     "memcpy of 1,024 x 64 KiB in random order between memory files that are made and mapped as "
     "the daemon and "
     "the library do",
     {.least_ratio = 0.85},
     resolve_miss_64k},
    {"open_sequence",
     "sequences/s",
     "open and release of a sequence over 128 known blocks, each drawn at random from 1e6. Also "
     "whole_prefixes: "
     "128 blocks that were sealed one after the other",
     "one sequence per two round trips of sluice_ping",
     {.least_value = 30'000},
     open_sequence},
    {"extend_seal",
     "blocks/s",
     "sequences that take 64 new blocks, seal each under a key of its own, and are released; at "
     "the tenant's "
     "limit, so evictions are part of it",
     "67 round trips of sluice_ping per 64 blocks",
     {},
     extend_seal},
    {"step",
     "ns",
     "begin and end of an empty step, executor direct",
     "what the protocol of steps cannot do without: a fence, an addition that others see, and two "
     "stores",
     {},
     step},
    {"resolve_daemon",
     "us",
     "one list of 256 random resident pages out of 1e5, resolved by the daemon over the rings",
     "one round trip of sluice_ping and the same list by executor direct",
     {},
     resolve_daemon},
};

}  // namespace

std::span<const Benchmark> benchmarks() { return kBenchmarks; }

const Benchmark* find_benchmark(std::string_view name) {
  const auto found =
      std::ranges::find_if(kBenchmarks, [&](const Benchmark& one) { return one.name == name; });
  return found == std::end(kBenchmarks) ? nullptr : found;
}

}  // namespace sluice::tools
