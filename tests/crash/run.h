// A run of a crash test: kills the daemon and its engines again and again, and looks whether
// anything is wrong, lost or left over.
//
// Each daemon is started for the kill that ends it: at a kill point, or at a random moment. First
// comes each point once, then random ones, as many as wanted.
//
// Thread-safety: one thread, in a process without others, since it forks.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/crash/audit.h"
#include "tests/crash/board.h"
#include "tests/crash/engine.h"
#include "tests/crash/victim.h"

namespace sluice::crash {

struct RunOptions {
  std::uint64_t daemon_kills = 100;
  std::uint64_t client_kills = 250;
  std::uint64_t seed = 1;
  std::string store;  // a folder; empty: without a block store
  std::uint32_t engines = 4;
};

struct RunReport {
  std::uint64_t daemon_kills = 0;
  std::uint64_t client_kills = 0;
  std::uint64_t cold_starts = 0;
  std::uint64_t audits = 0;
  std::map<std::string, std::uint64_t> kills_at;  // by kill point
  std::set<std::string> points_not_met;           // in as many daemons as are tried for one
};

// Kill points that a run with or without a store has to pass.
std::vector<std::string> points_of(bool has_store);

class CrashRun {
 public:
  explicit CrashRun(const RunOptions& options);
  ~CrashRun();
  CrashRun(const CrashRun&) = delete;
  CrashRun& operator=(const CrashRun&) = delete;

  // False: failure() tells why.
  bool run();
  const RunReport& report() const { return report_; }
  const Board& board() const { return board_; }
  std::string failure() const;

 private:
  using Clock = std::chrono::steady_clock;

  // How a daemon is to end.
  struct Plan {
    std::string point;  // empty: at a random moment
    std::uint64_t passage = 1;
    std::chrono::milliseconds most{0};  // then it is killed anyhow
    bool cold = false;                  // no keeper is there when it starts
    bool thorough = false;              // the point must be met
    std::string text() const;
  };

  Plan next_plan();
  void live(const Plan& plan);
  bool served(const Plan& plan);
  void judge_end(const Plan& plan, bool serving);
  void cold_start();
  bool audit(bool empties);
  void progress();

  void look_after_children();
  void spawn_engine(std::size_t place);
  void kill_some_engine();
  void end_engines();
  void start_check();
  bool check_all();
  void provoke();

  std::uint64_t below(std::uint64_t bound) { return bound == 0 ? 0 : random_() % bound; }

  RunOptions options_;
  Board& board_;
  Victim victim_;
  EngineOptions engine_options_;
  std::mt19937_64 random_;
  RunReport report_;
  Level level_;
  std::deque<std::string> not_met_;
  std::map<std::string, int> attempts_;
  std::vector<pid_t> engines_;
  pid_t checker_ = -1;
  std::vector<std::string> last_plans_;
  std::uint64_t since_audit_ = 0;
  Clock::time_point last_progress_;
  double owed_client_kills_ = 0;
};

}  // namespace sluice::crash
