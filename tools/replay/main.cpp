// sluice-replay: see options.cpp for what it does and takes.
#include <cstdio>
#include <optional>
#include <string>
#include <variant>

#include "tools/common/interrupt.h"
#include "tools/common/spawn.h"
#include "tools/replay/environment.h"
#include "tools/replay/gpu.h"
#include "tools/replay/report.h"

namespace sluice::tools {
namespace {

constexpr int kUsageError = 2;
constexpr int kNotReachable = 3;
constexpr int kInterrupted = 130;

int complain(int exit_code, const std::string& text) {
  std::fprintf(stderr, "sluice-replay: %s\n", text.c_str());
  return exit_code;
}

int replay(const Options& options) {
  auto trace = read_trace(options.trace, {options.list_kind, options.requests});
  if (!trace) return complain(kUsageError, trace.error().text);
  if (options.graphs && !std::holds_alternative<SparseTrace>(*trace)) {
    return complain(kUsageError, "--graphs is for traces of sparse decoding; " + options.trace +
                                     " is one of prompts");
  }
  const auto plan = make_plan(*trace, options);
  if (!plan) return complain(kUsageError, plan.error().text);
  const std::uint64_t victim = options.seed % options.engines;
  if (options.kill_engine_at && *options.kill_engine_at >= plan->steps[victim]) {
    return complain(kUsageError, "--kill-engine-at: engine " + std::to_string(victim) +
                                     " has only " + std::to_string(plan->steps[victim]) + " steps");
  }
  auto board = Board::create(options.engines);
  if (!board) return complain(1, board.error().text);

  catch_interrupts();
  std::optional<SpawnedDaemon> daemon;
  RunEnvironment environment;
  if (options.spawn) {
    std::vector<std::string> gpus;
    if (options.backend == Backend::cuda) {
      auto found = gpu_uuids();
      if (!found) return complain(1, found.error().text);
      if (options.device >= found->size()) {
        return complain(1, "--device is " + std::to_string(options.device) + "; there are " +
                               std::to_string(found->size()) + " GPUs");
      }
      gpus = std::move(*found);
    }
    auto started = SpawnedDaemon::start(daemon_spec(*plan, options, gpus));
    if (!started) {
      return complain(interrupted() ? kInterrupted : kNotReachable, started.error().text);
    }
    environment = spawned_environment(daemon.emplace(std::move(*started)), options, gpus);
    if (options.keep)
      std::fprintf(stderr, "sluice-replay: the daemon's folder is %s\n", daemon->folder().c_str());
  } else {
    environment = existing_environment(options);
    for (const std::string& socket : environment.engine_sockets) {
      if (!accepts_connections(socket)) {
        return complain(kNotReachable, "nothing accepts connections at " + socket +
                                           ": start sluiced, or use --spawn");
      }
    }
  }
  const RunResult result = run_engines(*trace, *plan, options, environment, *board);
  const ReportInput input{*trace, *plan, options, result};
  if (options.json) {
    std::printf("%s\n", json_report(input).dump(2).c_str());
    for (const std::string& failure : result.failures) complain(1, failure);
    for (const std::string& mismatch : result.mismatches) complain(1, "wrong bytes: " + mismatch);
  } else {
    std::fputs(text_report(input).c_str(), stdout);
  }
  return exit_code_of(result);
}

}  // namespace
}  // namespace sluice::tools

int main(int argc, char** argv) {
  sluice::tools::Options options;
  if (const auto exit_code = sluice::tools::parse_options(argc, argv, options)) return *exit_code;
  return sluice::tools::replay(options);
}
