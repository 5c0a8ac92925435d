// A run of a crash test: kills the daemon and its engines again and again, and looks whether
// anything is wrong, lost or left over.
//
// Each daemon is started for the kill that ends it: at a kill point, or at a random moment. First
// comes each point once, then random ones, as many as wanted. A soak goes on for a time instead,
// and lets a daemon live now and then.
//
// Thread-safety: one thread, in a process without others, since it forks.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/crash/audit.h"
#include "tests/crash/board.h"
#include "tests/crash/engine.h"
#include "tests/crash/victim.h"

namespace sluice::crash {

// A moment in which there are no engines, no caches and no sessions.
struct Emptied {
  std::uint64_t life = 0;  // daemons that were started until then
  pid_t daemon = -1;
  pid_t keeper = -1;
  std::uint64_t daemon_kills = 0, client_kills = 0, blocks_compared = 0;  // until then
};

// A run for a time. In a cycle's last part one daemon lives on, and only engines are killed.
struct Soak {
  std::chrono::milliseconds lasts{0};
  std::chrono::milliseconds cycle{0};
  std::chrono::milliseconds emptying{0};  // between two emptyings
  std::function<void(const Emptied&)> emptied;
};

struct RunOptions {
  std::uint64_t daemon_kills = 100;
  std::uint64_t client_kills = 250;
  std::uint64_t seed = 1;
  std::string store;  // a folder; empty: without a block store
  std::uint32_t store_mib = 256;
  std::string daemon;     // its program; empty: the sluiced beside this one
  bool may_lose = false;  // the store, of what is in it: its disks fail, or it is full
  std::uint32_t engines = 4;
  std::optional<Soak> soak;  // instead of a number of kills
};

struct RunReport {
  std::uint64_t daemon_kills = 0;
  std::uint64_t client_kills = 0;
  std::uint64_t cold_starts = 0;
  std::uint64_t daemon_starts = 0;
  std::uint64_t daemon_stops = 0;  // of a soak, as its other requests to a daemon
  std::uint64_t operator_requests = 0;
  std::uint64_t audits = 0;
  std::map<std::string, std::uint64_t> kills_at;  // by kill point
  std::set<std::string> points_not_met;           // in as many daemons as are tried for one
};

// Kill points that a run with or without a store has to pass.
std::vector<std::string> points_of(bool has_store);
// Those at which a soak kills.
std::vector<std::string> points_of_soak();

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

  bool soak();
  void kill_daemons_until(Clock::time_point end);
  void keep_daemon_until(Clock::time_point end);
  void serve_until(Clock::time_point end);
  void operate();

  Plan next_plan();
  bool start_daemon(const std::string& armed);
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
  const std::vector<std::string> points_;
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
