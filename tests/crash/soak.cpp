// A run that goes on for a time: cycles, each with a part in which daemons are killed and one in
// which one daemon lives on, so that it can be seen whether it grows.
#include <unistd.h>

#include <algorithm>
#include <array>

#include "ipc/kill_point.h"
#include "tests/crash/run.h"

namespace sluice::crash {

namespace {

// Of a cycle, until its last daemon begins.
constexpr int kKillingParts = 7, kParts = 15;
// One in so many naps.
constexpr std::uint64_t kEngineKillIn = 200, kOperatorIn = 32, kCheckIn = 500;
constexpr useconds_t kSoakNapUs = 1000;
constexpr std::array<const char*, 7> kLooks = {"status", "devices",   "tenants",   "sessions",
                                               "caches", "residency", "evict_plan"};

}  // namespace

// One keeper is to live all the time; no cache has a second device.
std::vector<std::string> points_of_soak() {
  std::vector<std::string> points;
  for (const std::string_view point : ipc::kill_points::kNames) {
    if (!point.starts_with("keeper.") && point != "arena.disowned") points.emplace_back(point);
  }
  return points;
}

bool CrashRun::soak() {
  const auto begin = Clock::now();
  const auto end = begin + options_.soak->lasts;
  for (int cycle = 0; !board_.failed() && Clock::now() < end; ++cycle) {
    const auto cycle_begin = begin + cycle * options_.soak->cycle;
    kill_daemons_until(std::min(end, cycle_begin + options_.soak->cycle * kKillingParts / kParts));
    if (!board_.failed()) keep_daemon_until(std::min(end, cycle_begin + options_.soak->cycle));
  }
  return !board_.failed();
}

void CrashRun::kill_daemons_until(Clock::time_point end) {
  while (!board_.failed() && Clock::now() < end) {
    const auto emptying = std::min(end, Clock::now() + options_.soak->emptying);
    while (!board_.failed() && Clock::now() < emptying) live(next_plan());
    if (board_.failed() || !audit(true)) return;
    victim_.kill();
  }
}

void CrashRun::keep_daemon_until(Clock::time_point end) {
  if (Clock::now() >= end) return;
  if (!start_daemon({})) {
    board_.fail("the daemon does not start: it ended " + victim_.how_text());
    return;
  }
  while (!board_.failed() && Clock::now() < end) {
    serve_until(std::min(end, Clock::now() + options_.soak->emptying));
    if (board_.failed() || !audit(true)) return;
  }
  if (board_.failed()) return;
  ++report_.daemon_stops;
  if (!victim_.stop()) {
    board_.fail("the daemon was told to stop, and ended " + victim_.how_text());
  }
}

void CrashRun::serve_until(Clock::time_point end) {
  while (!board_.failed() && Clock::now() < end) {
    if (!victim_.runs()) {
      board_.fail("the daemon ended " + victim_.how_text() + ", and nobody killed it");
      return;
    }
    look_after_children();
    if (below(kEngineKillIn) == 0) kill_some_engine();
    if (below(kOperatorIn) == 0) operate();
    if (below(kCheckIn) == 0) start_check();
    usleep(kSoakNapUs);
  }
}

// What an operator does: looks, drops caches, evicts blocks.
void CrashRun::operate() {
  ++report_.operator_requests;
  switch (below(4)) {
    case 0:
      return provoke();
    case 1:
      (void)victim_.ask("evict", {{"bytes", below(std::uint64_t{16} << 20)}});
      return;
    default:
      (void)victim_.ask(kLooks.at(below(kLooks.size())), nlohmann::json::object());
  }
}

}  // namespace sluice::crash
