#include "tools/replay/run.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>

#include "tools/common/interrupt.h"
#include "tools/replay/accounting.h"
#include "tools/replay/engine.h"
#include "tools/replay/kill_accounting.h"
#include "tools/replay/progress.h"

namespace sluice::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kEnginePoll{10};
constexpr std::chrono::microseconds kKillPoll{200};
constexpr std::chrono::seconds kStopGrace{15};  // for engines to end after one of them failed

class Run {
 public:
  Run(const Trace& trace, const Plan& plan, const Options& options,
      const RunEnvironment& environment, Board& board)
      : trace_(trace),
        plan_(plan),
        options_(options),
        environment_(environment),
        board_(board),
        pids_(options.engines, -1),
        random_(options.seed) {}

  RunResult run();

 private:
  void fork_engines();
  bool reap();  // whether any engine is left
  void engine_ended(std::uint32_t engine, int status);
  void kill_when_due();
  void kill_daemon_when_due();
  void kill_all();
  Counters total() const;
  void check_leftovers();
  void gather();
  std::string describe(std::uint32_t engine, const Mismatch& mismatch) const;

  const Trace& trace_;
  const Plan& plan_;
  const Options& options_;
  const RunEnvironment& environment_;
  Board& board_;
  std::vector<pid_t> pids_;  // -1: reaped
  std::mt19937_64 random_;
  std::optional<Clock::time_point> stopping_since_;
  std::size_t daemon_kills_ = 0;  // of options_.kill_daemon_at
  Counters rated_from_;           // what was counted when the hit rate began anew
  RunResult result_;
};

void Run::fork_engines() {
  const pid_t parent = ::getpid();
  for (std::uint32_t engine = 0; engine < options_.engines; ++engine) {
    std::fflush(nullptr);
    const pid_t pid = ::fork();
    if (pid < 0) {
      result_.failures.push_back("engine " + std::to_string(engine) +
                                 ": fork: " + std::strerror(errno));
      board_.leave(engine);
      continue;
    }
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(1);
      ::signal(SIGINT, SIG_IGN);  // the parent decides
      ::signal(SIGTERM, SIG_DFL);
      ::_exit(
          engine_main(trace_, {engine, environment_.engine_sockets[engine],
                               environment_.engine_devices[engine], &options_, &plan_, &board_}));
    }
    pids_[engine] = pid;
  }
}

void Run::engine_ended(std::uint32_t engine, int status) {
  pids_[engine] = -1;
  board_.leave(engine);
  const EngineBoard& board = board_.engines()[engine];
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  std::string text = "engine " + std::to_string(engine);
  if (board.failure[0] != '\0') {
    text += std::string(", ") + board.failure;
  } else if (WIFSIGNALED(status)) {
    text += std::string(" was ended by signal ") + std::to_string(WTERMSIG(status)) + " (" +
            ::strsignal(WTERMSIG(status)) + ")";
  } else {
    text += " exited with code " + std::to_string(WEXITSTATUS(status));
  }
  result_.failures.push_back(text);
}

bool Run::reap() {
  bool any = false;
  for (std::uint32_t engine = 0; engine < pids_.size(); ++engine) {
    if (pids_[engine] < 0) continue;
    int status = 0;
    if (::waitpid(pids_[engine], &status, WNOHANG) == pids_[engine]) {
      engine_ended(engine, status);
    } else {
      any = true;
    }
  }
  return any;
}

void Run::kill_all() {
  for (pid_t& pid : pids_) {
    if (pid < 0) continue;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    pid = -1;
  }
}

void Run::kill_when_due() {
  const auto engine = static_cast<std::uint32_t>(options_.seed % options_.engines);
  EngineBoard& board = board_.engines()[engine];
  if (pids_[engine] < 0 || board.session.load() == 0) return;
  if (board.steps.load() < *options_.kill_engine_at) return;
  // Not at the end of a step, where the counter moved, but at any instruction.
  constexpr int kMaxDelayUs = 20'000;
  ::usleep(static_cast<useconds_t>(std::uniform_int_distribution<int>(0, kMaxDelayUs)(random_)));
  const auto begin = Clock::now();
  ::kill(pids_[engine], SIGKILL);
  int status = 0;
  ::waitpid(pids_[engine], &status, 0);
  pids_[engine] = -1;
  board_.leave(engine);
  if (!WIFSIGNALED(status)) {
    result_.failures.push_back("engine " + std::to_string(engine) +
                               " ended before it could be killed");
    return;
  }
  result_.kill = account_for_kill(environment_.admin_socket, board.session.load(), begin);
  if (options_.backend == Backend::cuda) {
    // DESIGN §7: the kernel needs that long to tear down a process which has pinned memory.
    constexpr double kBaseMs = 2000;
    constexpr double kMsPerGib = 60;
    const TenantPlan& tenant = plan_.tenants[engine % options_.tenants];
    result_.kill->within_ms =
        kBaseMs + kMsPerGib * static_cast<double>(tenant.dram_bytes) / (1 << 30);
  }
  result_.kill->engine = engine;
  result_.kill->step = board.steps.load();
}

double hit_rate_since(const Counters& then, const Counters& now) {
  const std::uint64_t pages = now.rated_pages - then.rated_pages;
  const std::uint64_t hits = now.rated_hits - then.rated_hits;
  return pages == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(pages);
}

void Run::kill_daemon_when_due() {
  const auto steps = [&] {
    std::uint64_t sum = 0;
    for (const EngineBoard& board : board_.engines()) sum += board.steps.load();
    return sum;
  };
  if (steps() < options_.kill_daemon_at[daemon_kills_]) return;
  ++daemon_kills_;
  DaemonKill kill;
  const auto begin = Clock::now();
  environment_.kill_daemon();
  kill.step = steps();
  kill.hit_rate_before = hit_rate_since(rated_from_, total());
  rated_from_ = total();
  std::this_thread::sleep_for(std::chrono::milliseconds(options_.daemon_down_ms));
  if (options_.restart == Restart::cold) ++board_.cold_restarts();
  const auto start = Clock::now();
  const auto restarted = environment_.restart_daemon();
  const auto end = Clock::now();
  kill.steps_away = steps() - kill.step;
  kill.away_ms = std::chrono::duration<double, std::milli>(end - begin).count();
  kill.start_ms = std::chrono::duration<double, std::milli>(end - start).count();
  result_.daemon_kills.push_back(kill);
  if (!restarted) result_.failures.push_back("the daemon: " + restarted.error().text);
}

Counters Run::total() const {
  Counters sum;
  for (const EngineBoard& board : board_.engines()) sum += board.snapshot();
  return sum;
}

RunResult Run::run() {
  const auto begin = Clock::now();
  fork_engines();
  ProgressLine progress(options_.progress, plan_.total_steps);
  while (reap()) {
    if (interrupted()) {
      result_.interrupted = true;
      kill_all();
      break;
    }
    if (!stopping_since_ && !result_.failures.empty()) {
      stopping_since_ = Clock::now();
      board_.stop();
    }
    if (stopping_since_ && Clock::now() - *stopping_since_ > kStopGrace) {
      kill_all();
      break;
    }
    const bool kill_pending = options_.kill_engine_at && !result_.kill && !stopping_since_;
    if (kill_pending) kill_when_due();
    const bool daemon_kill_pending =
        daemon_kills_ < options_.kill_daemon_at.size() && !stopping_since_;
    if (daemon_kill_pending) kill_daemon_when_due();
    progress.update(total());
    std::this_thread::sleep_for(
        kill_pending || daemon_kill_pending ? kKillPoll : std::chrono::microseconds(kEnginePoll));
  }
  result_.wall_s = std::chrono::duration<double>(Clock::now() - begin).count();
  progress.clear();
  if (interrupted()) result_.interrupted = true;
  if (!result_.failures.empty() && environment_.daemon_death) {
    if (const auto death = environment_.daemon_death())
      result_.failures.insert(result_.failures.begin(), *death);
  }
  if (options_.kill_engine_at && !result_.kill && !result_.interrupted &&
      result_.failures.empty()) {
    result_.failures.push_back("the engine to be killed ended before step " +
                               std::to_string(*options_.kill_engine_at));
  }
  if (daemon_kills_ < options_.kill_daemon_at.size() && !result_.interrupted &&
      result_.failures.empty()) {
    result_.failures.push_back("the engines ended before step " +
                               std::to_string(options_.kill_daemon_at[daemon_kills_]) +
                               ", when the daemon was to be killed");
  }
  check_leftovers();
  if (!options_.nvme.empty() && !result_.interrupted) {
    auto store = ask_for_store(environment_.admin_socket);
    if (store) {
      result_.store = std::move(*store);
    } else {
      result_.failures.push_back("the daemon did not tell of its block store: " +
                                 store.error().text);
    }
  }
  gather();
  return std::move(result_);
}

// A private daemon has no other clients: what it still holds is lost.
void Run::check_leftovers() {
  if (!environment_.private_daemon() || result_.interrupted || !result_.failures.empty()) return;
  const auto leftovers = find_leftovers(environment_.admin_socket);
  if (!leftovers) return;
  result_.failures.push_back(*leftovers);
  if (result_.kill) result_.kill->memory_returned = false;
}

std::string Run::describe(std::uint32_t engine, const Mismatch& mismatch) const {
  const EngineBoard& board = board_.engines()[engine];
  std::string where = "page " + std::to_string(mismatch.page);
  if (const auto* sparse = std::get_if<SparseTrace>(&trace_)) {
    const std::uint32_t lists = sparse->lists_per_layer();
    where = "layer " + std::to_string(mismatch.page / lists);
    if (sparse->list_kind == ListKind::head)
      where += ", head " + std::to_string(mismatch.page % lists);
  }
  return "tenant " + std::string(board.tenant) + ", engine " + std::to_string(engine) +
         ", request " + std::to_string(mismatch.request) + ", step " +
         std::to_string(mismatch.step) + ", " + where + ", block " +
         std::to_string(mismatch.block) + ", slot " + std::to_string(mismatch.slot) +
         ": differs from byte " + std::to_string(mismatch.offset) + " of the page on";
}

void Run::gather() {
  std::vector<bool> counted(plan_.tenants.size());
  for (std::uint32_t engine = 0; engine < options_.engines; ++engine) {
    const EngineBoard& board = board_.engines()[engine];
    result_.engines.push_back(board.snapshot());
    result_.total += result_.engines.back();
    result_.resolve.merge(board.resolve);
    result_.longest_step_ms =
        std::max(result_.longest_step_ms, static_cast<double>(board.longest_step_us.load()) / 1000);
    const std::uint32_t count = board.mismatch_count.load();
    for (std::uint32_t i = 0; i < count && result_.mismatches.size() < kMaxMismatches; ++i) {
      result_.mismatches.push_back(describe(engine, board.mismatch[i]));
    }
    const std::uint32_t tenant = engine % options_.tenants;
    if (!counted[tenant]) result_.slots += board.slots.load();
    counted[tenant] = true;
  }
  if (daemon_kills_ > 0) result_.hit_rate_after_kill = hit_rate_since(rated_from_, result_.total);
}

}  // namespace

RunResult run_engines(const Trace& trace, const Plan& plan, const Options& options,
                      const RunEnvironment& environment, Board& board) {
  return Run(trace, plan, options, environment, board).run();
}

}  // namespace sluice::tools
