#include "tests/crash/run.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "ipc/kill_point.h"

namespace sluice::crash {

namespace {

constexpr std::chrono::milliseconds kThoroughPatience{3000};
constexpr int kMostAttempts = 10;
constexpr std::uint64_t kKillsPerAudit = 50;
constexpr std::uint64_t kAuditsPerEmptying = 3;
constexpr std::uint64_t kColdStartsIn = 40;  // of so many, one
constexpr std::uint64_t kMostLifeInSoakMs = 2000;
constexpr useconds_t kNapUs = 1000;
constexpr std::chrono::seconds kProgressInterval{2};

// Cleaning of the store takes a full one, and what a full one drops cannot be asked for: these are
// met where it is not (tools/crash-test).
bool needs_full_store(std::string_view point) {
  return point.starts_with("store.move.") || point == "store.segment.freeing" ||
         point == "store.segment.freed";
}

// A cache's arena goes alone only where the cache has another one.
bool needs_devices(std::string_view point) { return point == "arena.disowned"; }

bool is_of_keeper(std::string_view point) { return point.starts_with("keeper."); }

}  // namespace

std::vector<std::string> points_of(bool has_store) {
  std::vector<std::string> points;
  for (const std::string_view point : ipc::kill_points::kNames) {
    if (needs_full_store(point) || needs_devices(point)) continue;
    if (point.starts_with("store.") == has_store) points.emplace_back(point);
  }
  return points;
}

std::string CrashRun::Plan::text() const {
  if (point.empty()) return "a random moment";
  return point + ":" + std::to_string(passage);
}

CrashRun::CrashRun(const RunOptions& options)
    : options_(options),
      board_(*Board::make()),
      victim_({options.store, options.store_mib, options.store.empty() ? "64MiB" : "12MiB",
               options.daemon}),
      random_(options.seed),
      points_(options.soak ? points_of_soak() : points_of(!options.store.empty())),
      engines_(options.engines, -1) {
  // Keepers are nobody's children; somebody must reap them.
  (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
  engine_options_.wait_us = options.store.empty() ? 0 : 200'000;
  engine_options_.large_blocks = options.store.empty() ? 1000 : 0;
  engine_options_.may_lose = options.may_lose;
  if (!options.soak) not_met_.assign(points_.begin(), points_.end());
}

CrashRun::~CrashRun() {
  end_engines();
  if (board_.failed()) victim_.keep_folder();
}

std::string CrashRun::failure() const {
  if (!board_.failed()) return {};
  std::string text = board_.failure() + "\nseed " + std::to_string(options_.seed) +
                     "; the last daemons were to be killed at:";
  for (const std::string& plan : last_plans_) text += " " + plan + ",";
  return text + "\nthe daemon's folder is " + victim_.folder() + "; its log ends:\n" +
         victim_.log();
}

bool CrashRun::run() {
  if (!start_daemon({})) {
    board_.fail("the daemon does not start: it ended " + victim_.how_text());
    return false;
  }
  if (!audit(true)) return false;  // the level of an empty one
  victim_.kill();
  if (options_.soak) return soak();
  while (!board_.failed() && (report_.daemon_kills < options_.daemon_kills ||
                              report_.client_kills < options_.client_kills || !not_met_.empty())) {
    live(next_plan());
    if (++since_audit_ < kKillsPerAudit || board_.failed()) continue;
    if (!audit(report_.audits % kAuditsPerEmptying == 0)) break;
    victim_.kill();
  }
  return !board_.failed() && audit(false) && audit(true);
}

CrashRun::Plan CrashRun::next_plan() {
  Plan plan;
  if (!not_met_.empty()) {
    plan.point = not_met_.front();
    plan.most = kThoroughPatience;
    plan.thorough = true;
    // The others' turn, if it is not met. What chance does not reach is said, and no fault of a
    // daemon.
    not_met_.pop_front();
    if (++attempts_[plan.point] < kMostAttempts) {
      not_met_.push_back(plan.point);
    } else {
      report_.points_not_met.insert(plan.point);
    }
  } else if (options_.soak) {
    if (below(2) == 0) plan.point = points_[below(points_.size())];
    plan.passage = 1 + below(std::uint64_t{1} << below(6));
    plan.most = std::chrono::milliseconds(below(kMostLifeInSoakMs));
  } else if (below(2) == 0) {
    plan.most = std::chrono::milliseconds(2 + below(80));
  } else {
    plan.point = points_[below(points_.size())];
    plan.passage = 1 + below(std::uint64_t{1} << below(8));
    plan.most = std::chrono::milliseconds(30 + below(70));
  }
  plan.cold =
      is_of_keeper(plan.point) || (!plan.thorough && !options_.soak && below(kColdStartsIn) == 0);
  return plan;
}

bool CrashRun::start_daemon(const std::string& armed) {
  ++report_.daemon_starts;
  return victim_.start(armed);
}

void CrashRun::cold_start() {
  victim_.end_keeper();
  board_.begin_epoch();
  ++report_.cold_starts;
}

void CrashRun::live(const Plan& plan) {
  last_plans_.push_back(plan.text() + (plan.cold ? " (cold)" : ""));
  if (last_plans_.size() > 5) last_plans_.erase(last_plans_.begin());
  if (plan.cold) cold_start();
  owed_client_kills_ +=
      static_cast<double>(options_.client_kills) / static_cast<double>(options_.daemon_kills);
  const bool serving = start_daemon(plan.point.empty() ? "" : plan.text());
  if (serving && !served(plan)) {
    victim_.kill();
    ++report_.daemon_kills;
  } else {
    judge_end(plan, serving);
  }
  // Some die while nobody is there to see it.
  for (; owed_client_kills_ >= 1; --owed_client_kills_) kill_some_engine();
  progress();
}

// True: it has ended by itself.
bool CrashRun::served(const Plan& plan) {
  const auto until = Clock::now() + plan.most;
  start_check();
  std::uint64_t naps = 0;
  while (victim_.runs()) {
    if (Clock::now() >= until || board_.failed()) return false;
    look_after_children();
    if (owed_client_kills_ >= 1 && below(16) == 0) {
      kill_some_engine();
      --owed_client_kills_;
    }
    if (++naps % 32 == 0 && (plan.thorough || below(8) == 0)) provoke();
    usleep(kNapUs);
  }
  return true;
}

void CrashRun::judge_end(const Plan& plan, bool serving) {
  // A daemon whose keeper was killed while it started says so, and ends.
  const bool is_refusal = plan.point == "keeper.listening" && !serving && !victim_.was_killed();
  if (!victim_.was_killed() && !is_refusal) {
    board_.fail("the daemon ended " + victim_.how_text() + ", and nobody killed it");
    return;
  }
  ++report_.daemon_kills;
  ++report_.kills_at[plan.point];
  std::erase(not_met_, plan.point);
  report_.points_not_met.erase(plan.point);
}

bool CrashRun::audit(bool empties) {
  since_audit_ = 0;
  end_engines();
  if (!victim_.runs() && !start_daemon({})) {
    board_.fail("the daemon does not start: it ended " + victim_.how_text());
    return false;
  }
  if (!check_all()) return false;
  const bool has_store = !options_.store.empty();
  auto wrong = audit_idle(victim_, has_store);
  if (!wrong && empties) {
    board_.begin_epoch();
    if (level_.daemon == 0) level_ = {~std::size_t{0}, ~std::size_t{0}};
    wrong = audit_empty(victim_, level_);
    if (level_.daemon == ~std::size_t{0}) level_ = level_of(victim_);
  }
  if (wrong) board_.fail("with all engines ended, " + *wrong);
  ++report_.audits;
  if (!wrong && empties && options_.soak) {
    options_.soak->emptied({report_.daemon_starts, victim_.pid(), victim_.keeper().value_or(-1),
                            report_.daemon_kills, report_.client_kills,
                            board_.counts.blocks_compared});
  }
  return !wrong;
}

void CrashRun::progress() {
  const auto now = Clock::now();
  if (options_.soak || now - last_progress_ < kProgressInterval) return;
  last_progress_ = now;
  std::fprintf(stderr,
               "%llu kills of daemons, %llu of clients, %zu points to meet, the last one at %s\n",
               static_cast<unsigned long long>(report_.daemon_kills),
               static_cast<unsigned long long>(report_.client_kills), not_met_.size(),
               last_plans_.back().c_str());
}

// Until the daemon is killed, each who ends is replaced.
void CrashRun::look_after_children() {
  int status = 0;
  for (std::size_t place = 0; place < engines_.size(); ++place) {
    pid_t& pid = engines_[place];
    if (pid > 0 && waitpid(pid, &status, WNOHANG) == pid) {
      pid = -1;
      const bool fine = (WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
                        (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      if (!fine) {
        board_.fail("engine " + std::to_string(place) + " ended with wait status " +
                    std::to_string(status));
      }
    }
    if (pid <= 0) spawn_engine(place);
  }
  if (checker_ > 0 && waitpid(checker_, &status, WNOHANG) == checker_) checker_ = -1;
}

void CrashRun::spawn_engine(std::size_t place) {
  const std::uint64_t seed = random_();
  const pid_t pid = fork();
  if (pid != 0) {
    engines_[place] = pid;
    return;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto number = static_cast<std::uint32_t>(place);
  const std::uint32_t tenant = number / 2 % kTenants;
  const Engine engine{number, tenant,
                      number % 2 == 0 ? SLUICE_EXECUTOR_DIRECT : SLUICE_EXECUTOR_DAEMON,
                      victim_.folder() + "/" + static_cast<char>('a' + tenant) + ".sock"};
  run_engine(board_, engine, engine_options_, seed);
  _exit(0);
}

void CrashRun::kill_some_engine() {
  pid_t& pid = engines_[below(engines_.size())];
  if (pid <= 0) return;
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  pid = -1;
  ++report_.client_kills;
}

void CrashRun::end_engines() {
  for (pid_t& pid : engines_) {
    if (pid <= 0) continue;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    pid = -1;
  }
  if (checker_ > 0) {
    kill(checker_, SIGKILL);
    waitpid(checker_, nullptr, 0);
    checker_ = -1;
  }
  board_.end_turn();
}

// A child: its session is to be over when it ends. One whose daemon was killed may still be at it.
void CrashRun::start_check() {
  look_after_children();
  if (checker_ > 0) return;
  const std::uint64_t seed = random_();
  checker_ = fork();
  if (checker_ != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  (void)check_acknowledged(board_, victim_.folder(), engine_options_, 8, seed);
  _exit(0);
}

bool CrashRun::check_all() {
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(check_acknowledged(board_, victim_.folder(), engine_options_, 16, random_()) ? 0 : 1);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  board_.fail("nothing was killed, and the check did not come to its end: wait status " +
              std::to_string(status));
  return false;
}

// Drops caches that nobody relies on.
void CrashRun::provoke() {
  const auto caches = victim_.ask("caches", nlohmann::json::object());
  if (!caches) return;
  for (const auto& cache : (*caches)["caches"]) {
    if (!cache["model"].get<std::string>().starts_with("s")) continue;
    (void)victim_.ask("evict", {{"cache", cache["cache"]}, {"drop_idle_caches", true}});
  }
}

}  // namespace sluice::crash
