// One run: forks the engine processes, watches them, and gathers what they counted.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ipc/error.h"
#include "tools/replay/board.h"
#include "tools/replay/options.h"
#include "tools/replay/plan.h"
#include "tools/replay/trace.h"

namespace sluice::tools {

struct KillReport {
  std::uint32_t engine = 0;
  std::uint64_t step = 0;   // of the engine, when it was killed
  double accounted_ms = 0;  // until the daemon's accounting shows the session gone
  double within_ms = 1000;  // what is promised
  bool accounted = false;   // within kAccountingTimeout
  // Its sequences are gone, too, and at the end of a --spawn run nothing is left of anybody.
  bool memory_returned = false;
  std::string trouble;  // why not, if known
};

// A death of the daemon, and what the engines made of it.
struct DaemonKill {
  std::uint64_t step = 0;        // of all engines together, when it was killed
  double away_ms = 0;            // until it accepted connections again
  double start_ms = 0;           // of this, from its start on
  std::uint64_t steps_away = 0;  // that engines made meanwhile
  double hit_rate_before = 0;    // since the run, or the last such death, began
};

// What the block store of a private daemon did.
struct StoreReport {
  std::uint64_t written_bytes = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t displaced_blocks = 0;
  std::uint64_t promoted_blocks = 0;
  std::string engine;  // "io_uring", "threads"
};

struct RunResult {
  Counters total;
  std::vector<Counters> engines;
  Histogram resolve;
  double wall_s = 0;
  std::uint64_t slots = 0;  // of all arenas
  std::vector<std::string> failures;
  std::vector<std::string> mismatches;  // the first few, in words
  std::optional<KillReport> kill;
  std::vector<DaemonKill> daemon_kills;
  double hit_rate_after_kill = 0;  // of the last one
  double longest_step_ms = 0;
  std::optional<StoreReport> store;
  bool interrupted = false;
};

struct RunEnvironment {
  std::vector<std::string> engine_sockets;  // of each engine
  std::vector<DevicePlace> engine_devices;  // the same; of Backend::cuda
  std::string admin_socket;
  // Of a private daemon; else empty. Words, once it is gone.
  std::function<std::optional<std::string>()> daemon_death;
  std::function<void()> kill_daemon;
  std::function<ipc::Status()> restart_daemon;
  bool private_daemon() const { return static_cast<bool>(daemon_death); }
};

RunResult run_engines(const Trace& trace, const Plan& plan, const Options& options,
                      const RunEnvironment& environment, Board& board);

}  // namespace sluice::tools
