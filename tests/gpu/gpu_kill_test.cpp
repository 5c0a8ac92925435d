// gpu-kill-test: kills engines, device workers and daemons at random moments, and looks whether the
// others go on, whether every byte is right, and whether the memory comes back.
//
// A private sluiced, and engines of two tenants in decode loops (kills/engine.cpp). This process
// makes no CUDA context: engines are forked from it. Its parts are asked for by counts, so that it
// can be run in pieces.
//
// A cache that no session has open stays, idle, with its arena: who opens it again finds its pages.
// With --own-tenants no other engine has the cache of a killed one, so that the daemon can be told
// to give it up, and its arena has to come back: in the daemon's books, and as the driver says.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <thread>

#include "tests/gpu/engines/cache.h"
#include "tests/gpu/engines/processes.h"
#include "tests/gpu/kills/board.h"
#include "tests/gpu/kills/hbm.h"
#include "tools/common/spawn.h"
#include "tools/replay/accounting.h"
#include "tools/replay/gpu.h"
#include "tools/replay/kill_accounting.h"

namespace sluice::test::kills {

namespace {

using engines::Clock;
using engines::eventually;
using engines::how_it_ended;
using engines::ms_since;
using engines::send_signal;
using engines::start_process;
using nlohmann::json;
using std::chrono::milliseconds;

constexpr int kExitFailed = 1;
constexpr int kExitNoGpu = 77;

constexpr std::chrono::seconds kStartTimeout{60};  // of an engine: context, prefill and pinning
constexpr std::chrono::seconds kEndTimeout{20};
constexpr milliseconds kLongestPause{250};      // before something is killed
constexpr milliseconds kLongestStart{1500};     // before an engine is killed that starts
constexpr std::uint32_t kKillsPerStarting = 4;  // for each that is killed while it starts
constexpr std::chrono::seconds kLongestDown{5};
// Of each other engine, while a child has what it inherited.
constexpr std::uint64_t kStepsBesideChild = 20;
// A daemon's death must not be felt; what a step takes on a busy machine is far less.
constexpr std::uint64_t kMostStepUs = 100'000;
// What processes of others, and the driver, may take and give meanwhile.
constexpr std::uint64_t kNoiseBytes = std::uint64_t{64} << 20;
// An engine that made so many has taken what HBM it takes: the driver loads a kernel, and gives it
// local memory, when it is launched first.
constexpr std::uint64_t kSettledSteps = 3 * kStepsPerBlock;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

struct Options {
  std::uint32_t engines = 4;
  std::uint32_t kills = 20;
  std::uint32_t daemon_kills = 5;
  std::uint32_t worker_kills = 5;
  std::uint32_t wild = 1;
  std::uint32_t children = 2;
  std::uint32_t seconds = 600;
  std::uint64_t seed = 1;
  std::uint64_t arena_mib = kShape.hbm_bytes / kMiB;
  bool own_tenants = false;
  bool json = false;
  bool cuda = true;

  std::uint64_t arena_bytes() const { return arena_mib * kMiB; }
  std::uint32_t tenants() const { return own_tenants ? engines : kTenants; }
};

// HBM in use, and whether a device worker's context is part of it.
struct HbmLevel {
  std::uint64_t used = 0;
  bool has_worker = false;
};

// The promise: 2 s, and 60 ms per GiB that the engine had pinned.
double bound_ms() {
  return 2000.0 + 60.0 * static_cast<double>(kShape.dram_bytes) / static_cast<double>(1u << 30);
}

// The child of `parent` whose name begins with `name`; -1: there is none.
pid_t child_named(pid_t parent, const std::string& name) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    std::ifstream file(entry.path() / "stat");
    std::string line;
    if (!std::getline(file, line)) continue;
    const auto open = line.find('(');
    const auto close = line.rfind(')');
    if (open == std::string::npos || close == std::string::npos) continue;
    if (line.compare(open + 1, name.size(), name) != 0) continue;
    char state = 0;
    int of = 0;
    if (std::sscanf(line.c_str() + close + 1, " %c %d", &state, &of) != 2) continue;
    if (of == parent && state != 'Z') return static_cast<pid_t>(std::stol(line));
  }
  return -1;
}

class KillTest {
 public:
  KillTest(const Options& options, std::string gpu)
      : options_(options),
        gpu_(std::move(gpu)),
        random_(options.seed),
        end_(Clock::now() + std::chrono::seconds(options.seconds)) {
    board_ = engines::make_shared_memory<Board>();
    if (options.cuda) meter_.emplace(gpu_);
  }

  int run();

 private:
  struct Engine {
    pid_t pid = -1;
    std::uint64_t hbm_bytes = 0;  // that came with it, and go with it and its cache
  };

  std::string tenant_of(std::uint32_t engine) const {
    return engines::tenant_name(engine % options_.tenants());
  }
  EngineRow& row(std::uint32_t engine) { return board_->engines[engine]; }
  std::uint32_t below(std::uint32_t end) {
    return std::uniform_int_distribution<std::uint32_t>(0, end - 1)(random_);
  }
  milliseconds pause(milliseconds most) {
    return milliseconds(below(static_cast<std::uint32_t>(most.count()) + 1));
  }
  void wrong(const std::string& text) {
    std::fprintf(stderr, "WRONG: %s\n", text.c_str());
    wrongs_.push_back(text);
  }
  void say(const std::string& text) const {
    if (!options_.json) std::printf("%s\n", text.c_str());
  }
  bool time_left() const { return Clock::now() < end_; }

  bool start_daemon();
  void fork_engine(std::uint32_t engine);
  bool await_running(std::uint32_t engine);
  bool start_engine(std::uint32_t engine);
  bool start_engines();
  // An engine that is over when it should not be is told, and started again.
  bool check_engines();
  void collect(std::uint32_t engine);
  // Reaps it; the status, or nullopt at the deadline.
  std::optional<int> await_end(std::uint32_t engine, std::chrono::nanoseconds within);
  void end_engines();

  std::uint64_t hbm_used();
  HbmLevel hbm_level();
  // `level`, had the device worker come or gone meanwhile.
  std::uint64_t moved_level(const HbmLevel& level, bool has_worker) const;
  void note_hbm_of(std::uint32_t engine, const HbmLevel& before);
  // The context, of an engine whose cache others have, too.
  std::uint64_t returns_of(std::uint32_t engine) const {
    return options_.own_tenants ? engines_[engine].hbm_bytes : context_;
  }
  bool is_quarantined(pid_t pid);
  void await_accounts(pid_t pid, std::uint64_t session, Clock::time_point death);
  // Of the device that arenas lie on; nullopt: the daemon does not say.
  std::optional<std::uint64_t> free_in_daemon() const;
  // Has caches that are idle given up, of a tenant or (empty) of all, until so much is free.
  bool give_up_idle(const std::string& tenant, std::uint64_t expected_free);
  void await_arena(std::uint32_t engine, Clock::time_point death);
  void await_hbm(const HbmLevel& before, std::uint64_t returns, Clock::time_point death);
  void check_all_free();
  // Of what is in use, how much there was not before all.
  std::uint64_t check_level(const char* when, std::uint64_t more = 0);
  // All but `engine` make so many steps more.
  void check_others(std::uint32_t engine, std::uint64_t steps);
  pid_t worker() const { return child_named(daemon_->pid(), kWorkerName); }

  void kill_engine(bool wild);
  void kill_starting(std::uint32_t engine);
  void kill_parent(Child child);
  void kill_worker();
  void kill_daemon();
  void measure_context();
  json arenas_report() const;
  void report();

  // As the kernel cuts it off.
  static constexpr const char* kWorkerName = "sluice-device-w";

  const Options& options_;
  const std::string gpu_;
  std::mt19937_64 random_;
  const Clock::time_point end_;
  Board* board_ = nullptr;
  std::optional<HbmMeter> meter_;
  std::optional<tools::SpawnedDaemon> daemon_;
  Engine engines_[kMostEngines];
  std::uint64_t level_ = 0;    // of HBM, with nothing of ours
  std::uint64_t context_ = 0;  // what a bare context takes
  pid_t settled_worker_ = -1;  // a device worker whose context is surely made
  bool broken_ = false;        // an engine did not come up: nothing to go on with
  std::vector<std::string> wrongs_;

  std::uint32_t kills_ = 0, wild_ = 0, children_ = 0, worker_kills_ = 0, daemon_kills_ = 0,
                starts_ = 0;
  double worst_accounted_ms_ = 0, worst_hbm_ms_ = 0, worst_arena_ms_ = 0;
  std::uint32_t arenas_back_ = 0;
  std::uint64_t kept_idle_ = 0;             // most that the daemon had for a dead engine
  std::uint64_t kept_without_engines_ = 0;  // by the daemon, without caches
  std::uint64_t left_ = 0;                  // most HBM above the level of before an engine
  std::uint64_t least_hbm_of_engine_ = 0;   // 0: none was measured
  std::uint64_t longest_step_us_ = 0, longest_step_without_us_ = 0, steps_without_ = 0;
  std::uint64_t fewest_without_ = ~std::uint64_t{0};  // steps of one engine, in one time without
  std::uint64_t steps_ = 0, pages_ = 0, misses_ = 0, no_slot_ = 0, absent_ = 0, sealed_ = 0,
                mismatches_ = 0;
};

// ---- processes

bool KillTest::start_daemon() {
  auto started = engines::start_daemon(shape_of(options_.arena_bytes()), options_.tenants(), gpu_);
  if (!started) {
    wrong("a daemon does not start: " + started.error().text);
    return false;
  }
  daemon_.emplace(std::move(*started));
  settled_worker_ = worker();  // it found the GPU before anybody could connect
  return true;
}

void KillTest::fork_engine(std::uint32_t engine) {
  row(engine).reset();
  EngineJob job;
  job.number = engine;
  job.seed = random_();
  job.cuda = options_.cuda;
  job.arena_bytes = options_.arena_bytes();
  job.tenant = tenant_of(engine);
  job.socket = daemon_->tenant_socket(job.tenant);
  engines_[engine].pid = start_process([&] { return run_engine(job, row(engine)); });
  ++starts_;
}

// Adds up what it says of itself.
void KillTest::collect(std::uint32_t engine) {
  EngineRow& from = row(engine);
  steps_ += from.steps;
  pages_ += from.pages;
  misses_ += from.misses;
  no_slot_ += from.no_slot;
  absent_ += from.absent;
  sealed_ += from.sealed;
  mismatches_ += from.mismatches;
  longest_step_us_ = std::max<std::uint64_t>(longest_step_us_, from.longest_step_us);
  const std::string name = "engine " + std::to_string(engine);
  if (from.mismatches != 0) {
    wrong(name + " found " + std::to_string(from.mismatches) + " pages with wrong bytes");
  }
  if (from.absent != 0) {
    wrong(name + " found " + std::to_string(from.absent) + " pages absent that are in DRAM");
  }
}

std::optional<int> KillTest::await_end(std::uint32_t engine, std::chrono::nanoseconds within) {
  const auto status = engines::await_process(engines_[engine].pid, within);
  if (!status) return std::nullopt;
  engines_[engine].pid = -1;
  collect(engine);
  return status;
}

bool KillTest::await_running(std::uint32_t engine) {
  std::optional<int> ended;
  const std::uint64_t least_steps = options_.own_tenants ? kSettledSteps : 1;
  const bool up = eventually(kStartTimeout, [&] {
    if (row(engine).phase == Phase::running && row(engine).steps >= least_steps) return true;
    return (ended = await_end(engine, {})).has_value();
  });
  if (up && !ended) {
    settled_worker_ = worker();  // it has served the opening of the cache, or of an actor
    return true;
  }
  broken_ = true;
  wrong("engine " + std::to_string(engine) + " does not come up: " +
        (ended ? how_it_ended(*ended) + ": " + row(engine).text : "no step in time"));
  return false;
}

bool KillTest::start_engine(std::uint32_t engine) {
  const HbmLevel before = hbm_level();
  fork_engine(engine);
  if (!await_running(engine)) return false;
  if (options_.own_tenants) note_hbm_of(engine, before);
  return true;
}

bool KillTest::start_engines() {
  if (options_.own_tenants) {  // one at a time, or nobody could say which took what
    for (std::uint32_t e = 0; e < options_.engines; ++e) {
      if (!start_engine(e)) return false;
    }
    return true;
  }
  for (std::uint32_t e = 0; e < options_.engines; ++e) fork_engine(e);
  for (std::uint32_t e = 0; e < options_.engines; ++e) {
    if (!await_running(e)) return false;
  }
  return true;
}

bool KillTest::check_engines() {
  if (broken_) return false;
  for (std::uint32_t e = 0; e < options_.engines; ++e) {
    if (const auto ended = await_end(e, {})) {
      wrong("engine " + std::to_string(e) + ", which nobody touched, " + how_it_ended(*ended) +
            ": " + row(e).text);
      if (!start_engine(e)) return false;
    }
  }
  if (const auto death = daemon_->death()) {
    wrong(*death);
    return false;
  }
  return true;
}

void KillTest::end_engines() {
  for (std::uint32_t e = 0; e < options_.engines; ++e) row(e).stop = true;
  for (std::uint32_t e = 0; e < options_.engines; ++e) {
    if (engines_[e].pid < 0) continue;
    auto ended = await_end(e, kEndTimeout);
    if (!ended) {
      wrong("engine " + std::to_string(e) + " does not end when it is told to");
      send_signal(engines_[e].pid, SIGKILL);
      ended = await_end(e, kEndTimeout);
    } else if (*ended != 0) {
      wrong("engine " + std::to_string(e) + " " + how_it_ended(*ended) + ": " + row(e).text);
    }
  }
}

// ---- memory

std::uint64_t KillTest::hbm_used() {
  if (!meter_) return 0;
  const auto used = meter_->used();
  if (used) return *used;
  wrong(used.error().text);
  return 0;
}

// A worker that has just begun may or may not have its context yet, and is none here.
HbmLevel KillTest::hbm_level() {
  const std::uint64_t used = hbm_used();
  const pid_t now = worker();
  return {used, now > 0 && now == settled_worker_};
}

std::uint64_t KillTest::moved_level(const HbmLevel& level, bool has_worker) const {
  if (has_worker == level.has_worker) return level.used;
  return has_worker ? level.used + context_ : level.used - std::min(level.used, context_);
}

// Context, arena, and the device's part of the table, at least.
void KillTest::note_hbm_of(std::uint32_t engine, const HbmLevel& before) {
  if (!meter_) return;
  const HbmLevel now = hbm_level();
  const std::uint64_t level = moved_level(before, now.has_worker);
  const std::uint64_t taken = now.used - std::min(now.used, level);
  engines_[engine].hbm_bytes = taken;
  if (least_hbm_of_engine_ == 0 || taken < least_hbm_of_engine_) least_hbm_of_engine_ = taken;
  const std::uint64_t expected = context_ + options_.arena_bytes();
  if (taken + kNoiseBytes >= expected) return;
  wrong("an engine and its arena take " + std::to_string(taken / kMiB) +
        " MiB of HBM; expected at least " + std::to_string(expected / kMiB));
}

// The context of a process that does nothing else.
void KillTest::measure_context() {
  if (!meter_) return;
  level_ = hbm_used();
  int ready[2];
  if (pipe(ready) != 0) return wrong("there is no pipe");
  const pid_t pid = start_process([&] {
    const char answer = make_context() ? '+' : '-';
    if (write(ready[1], &answer, 1) != 1) return 1;
    ::pause();
    return 0;
  });
  close(ready[1]);
  char answer = 0;
  const bool made = read(ready[0], &answer, 1) == 1 && answer == '+';
  close(ready[0]);
  const std::uint64_t used = hbm_used();
  send_signal(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  if (!made || used <= level_) return wrong("a bare CUDA context takes no HBM, or cannot be made");
  context_ = used - level_;
}

// The daemon no longer knows the process, nor anything that its session had.
void KillTest::await_accounts(pid_t pid, std::uint64_t session, Clock::time_point death) {
  const std::string admin = daemon_->admin_socket();
  std::string trouble = "it is still among the sessions";
  const bool gone = eventually(tools::kAccountingTimeout, [&] {
    const auto reply = tools::ask_daemon(admin, "sessions");
    if (!reply) {
      trouble = reply.error().text;
      return false;
    }
    return std::ranges::none_of((*reply)["sessions"], [&](const json& row) {
      return row.value("pid", std::int64_t{-1}) == pid;
    });
  });
  if (gone && session != 0) {
    const tools::KillReport report = tools::account_for_kill(admin, session, death);
    trouble = report.accounted ? "" : report.trouble;
  } else if (gone) {
    trouble.clear();
  }
  const double took = ms_since(death);
  worst_accounted_ms_ = std::max(worst_accounted_ms_, took);
  if (!trouble.empty()) return wrong("the daemon does not let go of a killed engine: " + trouble);
  if (took > bound_ms()) {
    wrong("the daemon let go of a killed engine after " + std::to_string(took) + " ms; expected " +
          std::to_string(bound_ms()));
  }
}

bool KillTest::is_quarantined(pid_t pid) {
  const auto reply = tools::ask_daemon(daemon_->admin_socket(), "sessions");
  if (!reply) return false;
  return std::ranges::any_of((*reply)["sessions"], [&](const json& row) {
    return row.value("pid", std::int64_t{-1}) == pid && row.value("state", "") == "quarantined";
  });
}

std::optional<std::uint64_t> KillTest::free_in_daemon() const {
  const auto status = tools::ask_daemon(daemon_->admin_socket(), "status");
  if (!status || (*status)["devices"].empty()) return std::nullopt;
  return (*status)["devices"][0].value("free_bytes", std::uint64_t{0});
}

// A cache may be given up once all that its last session held has gone.
bool KillTest::give_up_idle(const std::string& tenant, std::uint64_t expected_free) {
  json request = {{"drop_idle_caches", true}, {"bytes", 0}};
  if (!tenant.empty()) request["tenant"] = tenant;
  const std::string arguments = request.dump();
  return eventually(tools::kAccountingTimeout, [&] {
    return tools::ask_daemon(daemon_->admin_socket(), "evict", arguments).has_value() &&
           free_in_daemon() == expected_free;
  });
}

// All other engines run, each with an arena, and the tier has room for one of each.
void KillTest::await_arena(std::uint32_t engine, Clock::time_point death) {
  if (!options_.own_tenants) return;
  const std::uint64_t arena = options_.arena_bytes();
  kept_idle_ = std::max(kept_idle_, arena - std::min(arena, free_in_daemon().value_or(arena)));
  const bool back = give_up_idle(tenant_of(engine), arena);
  const double took = ms_since(death);
  worst_arena_ms_ = std::max(worst_arena_ms_, took);
  if (!back) {
    return wrong("the daemon has " + std::to_string(free_in_daemon().value_or(0) / kMiB) +
                 " MiB of HBM free after the death of an engine with an arena of its own; "
                 "expected " +
                 std::to_string(arena / kMiB));
  }
  ++arenas_back_;
  settled_worker_ = worker();  // it wiped the arena, unless there was none
  if (took > bound_ms()) {
    wrong("the arena of a killed engine was free after " + std::to_string(took) + " ms; expected " +
          std::to_string(bound_ms()));
  }
}

// At least `returns` are back; what the device worker took or gave meanwhile, by starting or
// leaving, does not count.
void KillTest::await_hbm(const HbmLevel& before, std::uint64_t returns, Clock::time_point death) {
  if (!meter_) return;
  std::uint64_t used = 0;
  std::uint64_t level = 0;
  const bool back = eventually(std::chrono::seconds(10), [&] {
    const bool has_worker = worker() > 0;
    used = hbm_used();
    level = moved_level(before, has_worker);
    level -= std::min(level, returns);
    return used <= level + kNoiseBytes;
  });
  const double took = ms_since(death);
  worst_hbm_ms_ = std::max(worst_hbm_ms_, took);
  left_ = std::max(left_, used - std::min(used, level));
  if (!back) {
    wrong("HBM in use is " + std::to_string(used / kMiB) + " MiB after a kill; expected at most " +
          std::to_string((level + kNoiseBytes) / kMiB));
  } else if (took > bound_ms()) {
    wrong("HBM came back after " + std::to_string(took) + " ms; expected " +
          std::to_string(bound_ms()));
  }
}

// Without engines: the daemon keeps nothing but idle caches and, for a while, a device worker.
void KillTest::check_all_free() {
  if (!options_.own_tenants) return;
  if (!give_up_idle("", options_.tenants() * options_.arena_bytes())) {
    wrong("the daemon does not give up all arenas when no engine is left");
  }
  kept_without_engines_ = check_level("when all arenas were given up", context_);
}

// With nothing of ours left but `more`.
std::uint64_t KillTest::check_level(const char* when, std::uint64_t more) {
  if (!meter_) return 0;
  std::uint64_t used = 0;
  const bool back = eventually(std::chrono::seconds(10), [&] {
    used = hbm_used();
    return used <= level_ + more + kNoiseBytes;
  });
  if (!back) {
    wrong(std::string("HBM in use is ") + std::to_string(used / kMiB) + " MiB " + when +
          "; it was " + std::to_string(level_ / kMiB) + " before all");
  }
  return used - std::min(used, level_);
}

void KillTest::check_others(std::uint32_t engine, std::uint64_t steps) {
  for (std::uint32_t e = 0; e < options_.engines; ++e) {
    if (e == engine) continue;
    const std::uint64_t end = row(e).steps + steps;
    if (!eventually(kEndTimeout, [&] { return row(e).steps >= end; })) {
      wrong("engine " + std::to_string(e) + " stands still after the death of another");
    }
  }
}

// ---- kills

void KillTest::kill_engine(bool wild) {
  const std::uint32_t engine = below(options_.engines);
  std::this_thread::sleep_for(pause(kLongestPause));
  const HbmLevel before = hbm_level();
  const pid_t pid = engines_[engine].pid;
  // Of a kill; what the kernel and the driver take apart counts. An access goes wrong some time.
  auto death = Clock::now();
  if (wild) {
    row(engine).go_wild = true;
  } else {
    send_signal(pid, SIGKILL);
  }
  const auto ended = await_end(engine, kEndTimeout);
  if (wild) death = Clock::now();
  ++(wild ? wild_ : kills_);
  if (!ended) {
    wrong("an engine does not die");
    send_signal(pid, SIGKILL);
    (void)await_end(engine, kEndTimeout);
  } else if (wild && (!WIFEXITED(*ended) || WEXITSTATUS(*ended) != kWild)) {
    wrong("an engine with an illegal access " + how_it_ended(*ended) + ": " + row(engine).text);
  }
  await_accounts(pid, row(engine).session, death);
  await_arena(engine, death);
  await_hbm(before, returns_of(engine), death);
  check_others(engine, 1);
  if (!wild && kills_ % kKillsPerStarting == 0 && kills_ < options_.kills) kill_starting(engine);
  (void)start_engine(engine);
}

// Its arena may be there, on its way, or not asked for yet.
void KillTest::kill_starting(std::uint32_t engine) {
  const HbmLevel before = hbm_level();
  fork_engine(engine);
  std::this_thread::sleep_for(pause(kLongestStart));
  const pid_t pid = engines_[engine].pid;
  const auto death = Clock::now();
  send_signal(pid, SIGKILL);
  (void)await_end(engine, kEndTimeout);
  ++kills_;
  await_accounts(pid, row(engine).session, death);
  if (!options_.own_tenants) return;  // others may take HBM for what they had not done yet
  await_arena(engine, death);
  await_hbm(before, 0, death);
}

// An engine whose forked child lives on. While the child has the engine's socket, it may have what
// the engine was at; without it, the session is over.
void KillTest::kill_parent(Child child) {
  const std::uint32_t engine = below(options_.engines);
  const HbmLevel before = hbm_level();
  row(engine).leave_child = child;
  if (!eventually(kEndTimeout, [&] { return row(engine).child != 0; })) {
    return wrong("an engine leaves no child");
  }
  ++children_;
  const pid_t pid = engines_[engine].pid;
  auto death = Clock::now();
  send_signal(pid, SIGKILL);
  if (!await_end(engine, kEndTimeout)) wrong("an engine with a child does not die");
  if (child == Child::holds_all) {
    if (!eventually(kEndTimeout, [&] { return is_quarantined(pid); })) {
      wrong("the session of an engine whose child lives is not quarantined");
    }
    check_others(engine, kStepsBesideChild);
    if (!is_quarantined(pid)) wrong("a session is over while a child has its socket");
  } else {
    await_accounts(pid, row(engine).session, death);
    await_arena(engine, death);
    check_others(engine, kStepsBesideChild);
  }
  row(engine).end_child = true;
  if (!engines::await_process(row(engine).child, kEndTimeout)) {
    wrong("the child of an engine does not end");
  }
  death = Clock::now();
  if (child == Child::holds_all) {
    await_accounts(pid, row(engine).session, death);
    await_arena(engine, death);
  }
  await_hbm(before, returns_of(engine), death);
  (void)start_engine(engine);
}

void KillTest::kill_worker() {
  std::this_thread::sleep_for(pause(kLongestPause));
  const pid_t victim = worker();
  if (victim > 0) {
    send_signal(victim, SIGKILL);
    settled_worker_ = -1;  // its context may be gone before it is
    ++worker_kills_;
  }
  // Its next work meets the death, in the middle of it or before.
  kill_engine(false);
  if (victim <= 0) say("the device worker had left; none was killed");
}

void KillTest::kill_daemon() {
  std::this_thread::sleep_for(pause(kLongestPause));
  std::uint64_t steps_before[kMostEngines];
  for (std::uint32_t e = 0; e < options_.engines; ++e) {
    row(e).without_daemon = true;
    longest_step_us_ = std::max<std::uint64_t>(longest_step_us_, row(e).longest_step_us);
    row(e).longest_step_us = 0;
    steps_before[e] = row(e).steps;
  }
  send_signal(daemon_->pid(), SIGKILL);
  if (!eventually(kEndTimeout, [&] { return daemon_->death().has_value(); })) {
    return wrong("a daemon does not die");
  }
  ++daemon_kills_;
  std::this_thread::sleep_for(milliseconds(500) + pause(kLongestDown - milliseconds(500)));
  for (std::uint32_t e = 0; e < options_.engines; ++e) {
    const std::uint64_t steps = row(e).steps - steps_before[e];
    const std::uint64_t longest = row(e).longest_step_us;
    steps_without_ += steps;
    fewest_without_ = std::min(fewest_without_, steps);
    longest_step_without_us_ = std::max(longest_step_without_us_, longest);
    if (steps == 0) {
      wrong("engine " + std::to_string(e) + " makes no step without a daemon: " + row(e).text);
    } else if (longest > kMostStepUs) {
      wrong("a step without a daemon took " + std::to_string(longest / 1000) +
            " ms; expected at most " + std::to_string(kMostStepUs / 1000));
    }
  }
  end_engines();
  daemon_.reset();
  (void)check_level("after the death of a daemon and the end of its engines");
  if (start_daemon()) (void)start_engines();
}

// ---- all of it

int KillTest::run() {
  measure_context();
  if (wrongs_.empty() && start_daemon() && start_engines()) {
    enum class Act { engine, wild, child, worker, daemon };
    while (time_left() && daemon_ && check_engines()) {
      std::vector<Act> left;
      const auto add = [&](Act act, std::uint32_t done, std::uint32_t wanted) {
        if (done < wanted) left.insert(left.end(), wanted - done, act);
      };
      add(Act::engine, kills_, options_.kills);
      add(Act::wild, wild_, options_.wild);
      add(Act::child, children_, options_.children);
      add(Act::worker, worker_kills_, options_.worker_kills);
      add(Act::daemon, daemon_kills_, options_.daemon_kills);
      if (left.empty()) break;
      switch (left[below(static_cast<std::uint32_t>(left.size()))]) {
        case Act::engine:
          kill_engine(false);
          break;
        case Act::wild:
          kill_engine(true);
          break;
        case Act::child:
          kill_parent(children_ % 2 == 0 ? Child::holds_all : Child::closes_sockets);
          break;
        case Act::worker:
          kill_worker();
          break;
        case Act::daemon:
          kill_daemon();
          break;
      }
    }
  }
  end_engines();
  if (daemon_) {
    if (const auto leftovers = tools::find_leftovers(daemon_->admin_socket())) wrong(*leftovers);
    check_all_free();
    daemon_.reset();
  }
  (void)check_level("at the end");
  const std::pair<const char*, std::pair<std::uint32_t, std::uint32_t>> counts[] = {
      {"kills of engines", {kills_, options_.kills}},
      {"illegal accesses", {wild_, options_.wild}},
      {"kills of engines that left a child", {children_, options_.children}},
      {"kills of device workers", {worker_kills_, options_.worker_kills}},
      {"kills of daemons", {daemon_kills_, options_.daemon_kills}}};
  for (const auto& [what, count] : counts) {
    if (count.first < count.second) {
      wrong("only " + std::to_string(count.first) + " of " + std::to_string(count.second) + " " +
            what + " were made; give it more --seconds");
    }
  }
  if (pages_ == 0) wrong("no page was compared");
  report();
  return wrongs_.empty() ? 0 : kExitFailed;
}

json KillTest::arenas_report() const {
  if (!options_.own_tenants) return nullptr;
  return {{"back", arenas_back_},          {"worst_back_ms", worst_arena_ms_},
          {"kept_idle_bytes", kept_idle_}, {"kept_without_engines_bytes", kept_without_engines_},
          {"hbm_left_bytes", left_},       {"least_hbm_of_engine_bytes", least_hbm_of_engine_}};
}

void KillTest::report() {
  const json document = {
      {"schema", "sluice-gpu-kill-test"},
      {"version", 1},
      {"backend", options_.cuda ? "cuda" : "host"},
      {"gpu", gpu_},
      {"seed", options_.seed},
      {"engines", options_.engines},
      {"tenants", options_.tenants()},
      {"arena_bytes", options_.arena_bytes()},
      {"engines_started", starts_},
      {"kills", kills_},
      {"illegal_accesses", wild_},
      {"children_left", children_},
      {"worker_kills", worker_kills_},
      {"daemon_kills", daemon_kills_},
      {"bound_ms", bound_ms()},
      {"worst_accounted_ms", worst_accounted_ms_},
      {"worst_hbm_back_ms", worst_hbm_ms_},
      {"arenas", arenas_report()},
      {"hbm_measured_by", meter_ ? meter_->source() : ""},
      {"hbm_context_bytes", context_},
      {"longest_step_ms", static_cast<double>(longest_step_us_) / 1000},
      {"without_daemon",
       {{"steps", steps_without_},
        {"fewest_steps", daemon_kills_ == 0 ? 0 : fewest_without_},
        {"longest_step_ms", static_cast<double>(longest_step_without_us_) / 1000}}},
      {"steps", steps_},
      {"pages_compared", pages_},
      {"misses", misses_},
      {"no_slot", no_slot_},
      {"absent", absent_},
      {"own_blocks_sealed", sealed_},
      {"mismatches", mismatches_},
      {"wrong", wrongs_}};
  std::printf("%s\n", document.dump(2).c_str());
}

int main_of(int argc, char** argv) {
  Options options;
  std::string backend = "cuda";
  CLI::App app("Kills engines, device workers and daemons at random, and checks the others.",
               "gpu-kill-test");
  app.footer("Exit codes: 0 nothing was wrong; 1 something was; 77 there is no GPU here.");
  app.add_option("--engines", options.engines, "engine processes, of two tenants or their own")
      ->check(CLI::Range(2u, kMostEngines))
      ->capture_default_str();
  app.add_flag("--own-tenants", options.own_tenants,
               "a tenant for each engine: its arena has to come back after it");
  app.add_option("--arena-mib", options.arena_mib, "of HBM, for each tenant")
      ->check(CLI::IsMember({32, 64, 128, 256, 512, 1024, 2048, 4096}))  // whole extents
      ->capture_default_str();
  app.add_option("--kills", options.kills, "of engines, by SIGKILL")->capture_default_str();
  app.add_option("--wild", options.wild, "engines that make an illegal access")
      ->capture_default_str();
  app.add_option("--children", options.children, "engines that are killed and leave a forked child")
      ->capture_default_str();
  app.add_option("--worker-kills", options.worker_kills, "of device workers")
      ->capture_default_str();
  app.add_option("--daemon-kills", options.daemon_kills, "of daemons")->capture_default_str();
  app.add_option("--seconds", options.seconds, "when to stop, done or not")->capture_default_str();
  app.add_option("--seed", options.seed, "of what is random")->capture_default_str();
  app.add_flag("--json", options.json, "nothing but the result on standard output");
  app.add_option("--backend", backend, "host: without a GPU, and without what needs one")
      ->check(CLI::IsMember({"cuda", "host"}))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  options.cuda = backend == "cuda";
  // Children of engines that were killed become ours.
  (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
  std::string gpu;
  if (options.cuda) {
    const auto uuid = tools::gpu_uuid(0);
    if (!uuid) {
      std::printf("SKIPPED: %s. This test needs a GPU and its driver.\n",
                  uuid.error().text.c_str());
      return kExitNoGpu;
    }
    gpu = *uuid;
  } else {
    options.wild = options.worker_kills = 0;
  }
  return KillTest(options, gpu).run();
}

}  // namespace

}  // namespace sluice::test::kills

int main(int argc, char** argv) { return sluice::test::kills::main_of(argc, argv); }
