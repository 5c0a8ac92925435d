// Kills daemons and engines, and compares with an oracle that it keeps.
#include <charconv>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "ipc/kill_point.h"
#include "tests/crash/run.h"

namespace {

using sluice::crash::Emptied;
using sluice::crash::RunOptions;
using sluice::crash::Soak;

constexpr const char* kUsage =
    "usage: crash_driver [--daemon-kills N] [--client-kills N] [--seed S] [--store DIR|none]\n"
    "                    [--store-mib N] [--engines N] [--daemon FILE] [--may-lose]\n"
    "                    [--minutes M [--cycle-s S] [--emptying-s S]] [--json] | --points\n"
    "\n"
    "Starts a sluiced with a warm restart, engines that use it, and kills both: the daemon first\n"
    "at each kill point, then at random ones and at random moments.\n"
    "\n"
    "  --daemon FILE   is started in sluiced's place\n"
    "  --may-lose      blocks of the store may be lost: they are counted, and no failure; wrong\n"
    "                  bytes are one\n"
    "  --minutes M     goes on for so long instead of for a number of kills. One daemon lives in\n"
    "                  the last 8/15 of each S seconds of --cycle-s. Every S seconds of\n"
    "                  --emptying-s everything is given up; then a line of JSON tells who is\n"
    "                  there, and a line on stdin is waited for\n"
    "  --points        prints the names of all kill points\n"
    "\n"
    "Exit status: 0 nothing is wrong, lost or left over, 1 something is, 2 usage.\n";

// Who listens looks at what is there, and answers.
void report_emptied(const Emptied& now) {
  const nlohmann::json line = {{"emptied",
                                {{"life", now.life},
                                 {"daemon", now.daemon},
                                 {"keeper", now.keeper},
                                 {"daemon_kills", now.daemon_kills},
                                 {"client_kills", now.client_kills},
                                 {"blocks_compared", now.blocks_compared}}}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
  for (int c = std::getchar(); c != '\n' && c != EOF;) c = std::getchar();
}

template <class Number>
bool number(std::string_view text, Number& out) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), out);
  return parsed.ec == std::errc{} && parsed.ptr == text.data() + text.size();
}

constexpr double kMostMinutes = 100'000;

bool duration(std::string_view text, double unit_ms, std::chrono::milliseconds& out) {
  double value = 0;
  if (!number(text, value) || !(value > 0) || value > kMostMinutes) return false;
  out = std::chrono::milliseconds(static_cast<std::int64_t>(value * unit_ms));
  return out.count() > 0;
}

bool parse(int count, char** words, RunOptions& options, bool& json) {
  Soak soak{{}, std::chrono::minutes(15), std::chrono::seconds(20), report_emptied};
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--json") {
      json = true;
      continue;
    }
    if (word == "--may-lose") {
      options.may_lose = true;
      continue;
    }
    if (i + 1 == count) return false;
    const std::string_view value = words[++i];
    std::uint64_t engines = options.engines;
    bool known = true;
    if (word == "--daemon-kills") {
      known = number(value, options.daemon_kills) && options.daemon_kills > 0;
    } else if (word == "--client-kills") {
      known = number(value, options.client_kills);
    } else if (word == "--seed") {
      known = number(value, options.seed);
    } else if (word == "--engines") {
      known = number(value, engines) && engines > 0 && engines <= 64;
      options.engines = static_cast<std::uint32_t>(engines);
    } else if (word == "--daemon") {
      options.daemon = value;
    } else if (word == "--minutes") {
      known = duration(value, 60'000, soak.lasts);
    } else if (word == "--cycle-s") {
      known = duration(value, 1000, soak.cycle);
    } else if (word == "--emptying-s") {
      known = duration(value, 1000, soak.emptying);
    } else if (word == "--store-mib") {
      known = number(value, options.store_mib) && options.store_mib > 0;
    } else if (word == "--store") {
      options.store = value == "none" ? "" : value;
    } else {
      known = false;
    }
    if (!known) return false;
  }
  if (soak.lasts.count() > 0) options.soak = std::move(soak);
  return true;
}

nlohmann::json document_of(const sluice::crash::CrashRun& run) {
  const auto& report = run.report();
  const auto& counts = run.board().counts;
  return {{"schema", "sluice.crash_driver"},
          {"version", 1},
          {"daemon_kills", report.daemon_kills},
          {"client_kills", report.client_kills},
          {"cold_starts", report.cold_starts},
          {"daemon_starts", report.daemon_starts},
          {"daemon_stops", report.daemon_stops},
          {"operator_requests", report.operator_requests},
          {"audits", report.audits},
          {"kills_at", report.kills_at},
          {"points_not_met", report.points_not_met},
          {"blocks_sealed", counts.blocks_sealed.load()},
          {"blocks_compared", counts.blocks_compared.load()},
          {"wrong_blocks", counts.wrong_blocks.load()},
          {"keys_checked", counts.keys_checked.load()},
          {"keys_missing", counts.keys_missing.load()},
          {"pages_lost", counts.pages_lost.load()},
          {"checks", counts.checks.load()},
          {"steps_held", counts.steps_held.load()},
          {"sessions_resumed", counts.resumed.load()},
          {"seals_put_off", counts.seals_put_off.load()},
          {"failure", run.failure()}};
}

void print(const nlohmann::json& report) {
  const auto count = [&](const char* name) {
    return static_cast<unsigned long long>(report[name].get<std::uint64_t>());
  };
  std::printf(
      "%llu daemons killed, %zu kill points met, and %llu clients; %llu blocks sealed, %llu "
      "compared; %llu checks of %llu acknowledged keys; %llu sessions resumed; %llu audits\n",
      count("daemon_kills"), report["kills_at"].size(), count("client_kills"),
      count("blocks_sealed"), count("blocks_compared"), count("checks"), count("keys_checked"),
      count("sessions_resumed"), count("audits"));
  for (const auto& point : report["points_not_met"]) {
    std::printf("kill point %s was not met\n", point.get_ref<const std::string&>().c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--points") == 0) {
    for (const std::string_view name : sluice::ipc::kill_points::kNames) {
      std::printf("%.*s\n", static_cast<int>(name.size()), name.data());
    }
    return 0;
  }
  RunOptions options;
  bool json = false;
  if (!parse(argc, argv, options, json)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  sluice::crash::CrashRun run(options);
  const bool good = run.run();
  const nlohmann::json report = document_of(run);
  if (json) {
    std::printf("%s\n", report.dump(options.soak ? -1 : 2).c_str());
  } else {
    print(report);
  }
  if (!good) std::fprintf(stderr, "crash_driver: %s\n", run.failure().c_str());
  return good ? 0 : 1;
}
