// gpu-stress-test: the order between GPU and CPU under stress. A daemon, two processes with four
// streams each, a table of few slots, and DRAM for hardly more than what is in use: pages, ids and
// frames change hands all the time, and every page that a resolve returns is compared with what its
// block must hold, by the device and inside the step.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/gpu/engines/processes.h"
#include "tests/gpu/stress/board.h"
#include "tools/replay/gpu.h"
#include "tools/replay/kill_accounting.h"

namespace sluice::test::stress {

namespace {

using engines::CacheShape;
using engines::Clock;
using nlohmann::json;

constexpr int kExitFailed = 1;
constexpr int kExitNoGpu = 77;

constexpr std::chrono::seconds kEndTimeout{30};
// One of this size is as small as an arena on a GPU gets: 32 slots of 64 KiB, 256 of 8 KiB.
constexpr std::uint64_t kHbmBytes = std::uint64_t{2} << 20;

// What a run must have seen to mean anything.
constexpr std::uint64_t kLeastSteps = 20;         // of each stream
constexpr std::uint64_t kLeastTurnsOfArena = 20;  // pages brought in, as a multiple of the slots
constexpr std::uint64_t kLeastTurnsOfIds = 3;     // blocks sealed, as a multiple of the ids

struct Options {
  std::uint32_t seconds = 10;
  std::uint32_t page_kib = 64;
  std::uint64_t seed = 1;
  bool cuda = true;
};

CacheShape shape_of(const Options& options) {
  CacheShape shape;
  shape.head_dim = options.page_kib * 1024 /
                   (CacheShape::kHeads * CacheShape::kPlanes * CacheShape::kBlockTokens *
                    CacheShape::kElementBytes);
  shape.hbm_bytes = kHbmBytes;
  shape.dram_bytes = kDramBlocks * shape.block_bytes();
  return shape;
}

struct Sums {
  std::uint64_t fewest_steps = ~std::uint64_t{0};
  std::uint64_t steps = 0, compared = 0, misses = 0, no_slot = 0, absent = 0, wrong = 0, absurd = 0,
                sealed = 0, deduplicated = 0, sealed_pins = 0, released_in_step = 0;
};

Sums sums_of(const Board& board) {
  Sums sums;
  for (const auto& process : board.rows) {
    for (const StreamRow& row : process) {
      sums.fewest_steps = std::min<std::uint64_t>(sums.fewest_steps, row.steps);
      sums.steps += row.steps;
      sums.compared += row.compared;
      sums.misses += row.misses;
      sums.no_slot += row.no_slot;
      sums.absent += row.absent;
      sums.wrong += row.wrong;
      sums.absurd += row.absurd;
      sums.sealed += row.sealed;
      sums.deduplicated += row.deduplicated;
      sums.sealed_pins += row.sealed_pins;
      sums.released_in_step += row.released_in_step;
    }
  }
  return sums;
}

std::vector<std::string> judge(const Options& options, const Board& board, const Sums& sums) {
  std::vector<std::string> wrongs;
  const auto none = [&](std::uint64_t found, const char* what) {
    if (found != 0) wrongs.push_back(std::to_string(found) + " " + what);
  };
  none(sums.wrong, "pages had other bytes than their blocks");
  none(sums.absurd, "answers were none that a resolve may give");
  // The CPU's look-ups take a block that was sealed a moment ago for somebody else's pinned one.
  if (options.cuda) none(sums.absent, "pages were absent that are in DRAM");
  const auto least = [&](std::uint64_t found, std::uint64_t wanted, const char* what) {
    if (found >= wanted && found != 0) return;
    wrongs.push_back("only " + std::to_string(found) + " " + what + ", less than " +
                     std::to_string(wanted) + ": this shows nothing; give it more --seconds");
  };
  least(sums.fewest_steps, kLeastSteps, "steps of a stream");
  least(sums.misses, kLeastTurnsOfArena * board.slots, "pages were brought in");
  least(sums.sealed, kLeastTurnsOfIds * board.max_blocks, "blocks were sealed");
  least(sums.released_in_step, 1, "documents were released in a step");
  return wrongs;
}

// Both processes, from their start to their end; what went wrong.
std::vector<std::string> run_processes(const Options& options, const CacheShape& shape,
                                       const tools::SpawnedDaemon& daemon, Board& board) {
  std::mt19937_64 random(options.seed);
  std::vector<std::string> wrongs;
  std::vector<pid_t> pids;
  for (std::uint32_t number = 0; number < kProcesses; ++number) {
    const std::string tenant = engines::tenant_name(0);
    const ProcessJob job{number, random(), options.cuda,
                         shape,  tenant,   daemon.tenant_socket(tenant)};
    pids.push_back(engines::start_process([&] { return run_process(job, board); }));
  }
  // From the first step of the last stream on.
  (void)engines::eventually(kEndTimeout,
                            [&] { return board.stop || sums_of(board).fewest_steps > 0; });
  (void)engines::eventually(std::chrono::seconds(options.seconds),
                            [&] { return board.stop.load(); });
  board.stop = true;
  for (std::uint32_t number = 0; number < kProcesses; ++number) {
    const auto status = engines::await_process(pids[number], kEndTimeout);
    if (!status) {
      wrongs.push_back("a process does not end when it is told to");
      engines::send_signal(pids[number], SIGKILL);
      (void)engines::await_process(pids[number], kEndTimeout);
    } else if (*status != 0) {
      wrongs.push_back("a process " + engines::how_it_ended(*status) + ": " + board.text[number]);
    }
  }
  return wrongs;
}

void report(const Options& options, const std::string& gpu, const Board& board, const Sums& sums,
            const std::vector<std::string>& wrongs) {
  const json document = {{"schema", "sluice-gpu-stress-test"},
                         {"version", 1},
                         {"backend", options.cuda ? "cuda" : "host"},
                         {"gpu", gpu},
                         {"seed", options.seed},
                         {"seconds", options.seconds},
                         {"page_kib", options.page_kib},
                         {"slots", board.slots.load()},
                         {"longest_launch_pages", kListsOfLaunch * list_capacity(board.slots)},
                         {"ids", board.max_blocks.load()},
                         {"steps", sums.steps},
                         {"fewest_steps_of_a_stream", sums.fewest_steps},
                         {"pages_compared", sums.compared},
                         {"misses", sums.misses},
                         {"no_slot", sums.no_slot},
                         {"absent", sums.absent},
                         {"mismatches", sums.wrong},
                         {"absurd_answers", sums.absurd},
                         {"blocks_sealed", sums.sealed},
                         {"blocks_deduplicated", sums.deduplicated},
                         {"blocks_sealed_from_slots", sums.sealed_pins},
                         {"released_in_step", sums.released_in_step},
                         {"wrong", wrongs}};
  std::printf("%s\n", document.dump(2).c_str());
}

int run(const Options& options, const std::string& gpu) {
  const CacheShape shape = shape_of(options);
  auto daemon = engines::start_daemon(shape, 1, gpu);
  if (!daemon) {
    std::fprintf(stderr, "a daemon does not start: %s\n", daemon.error().text.c_str());
    return kExitFailed;
  }
  Board& board = *engines::make_shared_memory<Board>();
  std::vector<std::string> wrongs = run_processes(options, shape, *daemon, board);
  if (const auto death = daemon->death()) {
    wrongs.push_back(*death);
  } else if (const auto leftovers = tools::find_leftovers(daemon->admin_socket())) {
    wrongs.push_back(*leftovers);
  }
  const Sums sums = sums_of(board);
  const auto judged = judge(options, board, sums);
  wrongs.insert(wrongs.end(), judged.begin(), judged.end());
  for (const std::string& text : wrongs) std::fprintf(stderr, "WRONG: %s\n", text.c_str());
  report(options, gpu, board, sums, wrongs);
  return wrongs.empty() ? 0 : kExitFailed;
}

int main_of(int argc, char** argv) {
  Options options;
  std::string backend = "cuda";
  CLI::App app("Two processes with four streams each compete for a table of few slots.",
               "gpu-stress-test");
  app.footer("Exit codes: 0 nothing was wrong; 1 something was; 77 there is no GPU here.");
  app.add_option("--seconds", options.seconds, "how long")->capture_default_str();
  app.add_option("--page-kib", options.page_kib, "bytes of a page: 64 gives 32 slots, 8 gives 256")
      ->check(CLI::IsMember({8, 16, 32, 64}))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of what is random")->capture_default_str();
  app.add_option("--backend", backend, "host: without a GPU; all streams are on the CPU")
      ->check(CLI::IsMember({"cuda", "host"}))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  options.cuda = backend == "cuda";
  if (!options.cuda) return run(options, "");
  const auto gpu = tools::gpu_uuid(0);
  if (!gpu) {
    std::printf("SKIPPED: %s. This test needs a GPU and its driver.\n", gpu.error().text.c_str());
    return kExitNoGpu;
  }
  return run(options, *gpu);
}

}  // namespace

}  // namespace sluice::test::stress

int main(int argc, char** argv) { return sluice::test::stress::main_of(argc, argv); }
