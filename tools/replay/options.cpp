#include "tools/replay/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <iostream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tools/common/choice.h"
#include "tools/replay/gpu.h"

namespace sluice::tools {
namespace {

constexpr int kUsageError = 2;
constexpr std::uint32_t kMaxDevices = 64;

constexpr const char* kDescription =
    "Replays a recorded trace through engine processes that speak to a sluiced daemon only "
    "through\n"
    "libsluice, and compares every byte of every resolved page with what it must be.";

constexpr const char* kFooter =
    "Sizes: 512MiB, 1.5GiB. --hbm 1.5x is 1.5 times the pages that one engine iteration reads at "
    "most;\n"
    "--dram 60% is of the bytes of all distinct blocks. Both are per tenant.\n"
    "Exit codes: 0 every byte verified; 1 a wrong byte or an engine that failed; 2 usage or a bad "
    "trace;\n"
    "3 the daemon is not reachable; 130 interrupted.";

void add_size(CLI::App& app, const std::string& option, std::optional<RelativeSize>& out,
              const std::string& kinds, const std::string& meaning) {
  const auto parse = [&out, option](const CLI::results_t& given) {
    const auto size = parse_relative_size(given.at(0));
    if (!size) throw CLI::ValidationError(option, size.error().text);
    out = *size;
    return true;
  };
  app.add_option(option, parse, meaning)->type_name(kinds);
}

std::string contradiction(const Options& options) {
  using Kind = RelativeSize::Kind;
  if (options.spawn == !options.socket.empty()) {
    return "exactly one of --spawn and --socket is needed";
  }
  if (options.tenants > options.engines) return "--tenants must not exceed --engines";
  if (!options.socket.empty() && options.dram) {
    return "--dram needs --spawn: an existing daemon has its size";
  }
  if (!options.socket.empty() && !options.nvme.empty()) {
    return "--nvme needs --spawn: an existing daemon has its own";
  }
  const bool per_tenant = options.socket.find("{tenant}") != std::string::npos;
  if (!options.socket.empty() && options.tenants > 1 && !per_tenant) {
    return "--tenants with --socket needs {tenant} in the path, replaced by t0, t1, ...";
  }
  if (options.hbm && options.hbm->kind == Kind::percent)
    return "--hbm takes a size or Nx, no percentage";
  if (options.dram && options.dram->kind == Kind::times) return "--dram takes a size or P%, not Nx";
  if (options.backend == Backend::cuda) {
    if (!has_cuda()) return "--backend cuda: this build has no CUDA; build with nvcc";
    if (options.graphs && options.executor != Executor::direct) {
      return "--graphs with --backend cuda needs --executor direct: the daemon resolves in a "
             "stream of its own";
    }
  } else if (options.graphs) {
    return "--graphs needs --backend cuda";
  } else if (options.device != 0) {
    return "--device needs --backend cuda";
  } else if (options.devices != 1) {
    return "--devices needs --backend cuda";
  }
  if (options.devices != 1 && !options.spawn) {
    return "--devices needs --spawn: an existing daemon has its devices";
  }
  if (!options.kill_daemon_at.empty() && !options.spawn) {
    return "--kill-daemon-at needs --spawn: another daemon is not ours to kill";
  }
  if (!std::ranges::is_sorted(options.kill_daemon_at, std::less_equal<>())) {
    return "--kill-daemon-at takes rising numbers of steps";
  }
  if (options.kill_daemon_at.empty() &&
      (options.restart != Restart::warm || options.daemon_down_ms != 0)) {
    return "--restart and --daemon-down need --kill-daemon-at";
  }
  if (options.kill_engine_at && !options.kill_daemon_at.empty()) {
    return "one of --kill-engine-at and --kill-daemon-at";
  }
  if (options.kill_engine_at && options.engines < 2) {
    return "--kill-engine-at needs at least two engines: the others must go on";
  }
  return {};
}

}  // namespace

const char* to_string(Backend backend) { return backend == Backend::host ? "host" : "cuda"; }
const char* to_string(Executor executor) {
  return executor == Executor::daemon ? "daemon" : "direct";
}
const char* to_string(Restart restart) { return restart == Restart::warm ? "warm" : "cold"; }
const char* to_string(ListKind kind) { return kind == ListKind::layer ? "layer" : "head"; }
const char* to_string(Forecast forecast) {
  switch (forecast) {
    case Forecast::none:
      return "none";
    case Forecast::recorded:
      return "recorded";
    case Forecast::previous_step:
      return "previous-step";
  }
  return "none";
}

std::optional<int> parse_options(int argc, char** argv, Options& options) {
  CLI::App app(kDescription, "sluice-replay");
  app.footer(kFooter);
  app.add_option("TRACE", options.trace, "a sparse-kv-access or Mooncake trace, plain or .zst")
      ->required();
  app.add_flag("--spawn", options.spawn, "start a private daemon for this run");
  app.add_option("--socket", options.socket,
                 "an existing daemon; {tenant} is replaced by t0, t1, ...");
  app.add_option("--sluiced", options.sluiced,
                 "the daemon that --spawn starts (default: beside this)");
  app.add_option("--daemon-log", options.daemon_log, "where the log of --spawn's daemon goes");
  app.add_flag("--keep", options.keep, "keep the temporary folder of --spawn");
  app.add_option("--engines", options.engines, "engine processes")
      ->check(CLI::Range(1u, kMaxEngines))
      ->capture_default_str();
  app.add_option("--tenants", options.tenants, "tenants; engine e belongs to tenant e % N")
      ->check(CLI::Range(1u, kMaxEngines))
      ->capture_default_str();
  add_choice<Backend>(app, "--backend", options.backend,
                      {{"host", Backend::host}, {"cuda", Backend::cuda}}, "where arenas lie");
  app.add_option("--device", options.device, "with --backend cuda: ordinal of the GPU")
      ->check(CLI::Range(0u, kMaxDevices - 1))
      ->capture_default_str();
  app.add_option(
         "--devices", options.devices,
         "with --spawn --backend cuda: GPUs of the daemon, from --device on; engine e is on "
         "device e % N. Where there are fewer, they serve as more than one device")
      ->check(CLI::Range(1u, kMaxDevices))
      ->capture_default_str();
  app.add_flag("--graphs", options.graphs,
               "with --backend cuda: resolve by CUDA graphs, one per layer");
  add_choice<Executor>(app, "--executor", options.executor,
                       {{"daemon", Executor::daemon}, {"direct", Executor::direct}},
                       "who runs resolve");
  add_size(app, "--hbm", options.hbm, "SIZE|Nx", "arena per tenant");
  add_size(app, "--dram", options.dram, "SIZE|P%", "frames per tenant");
  const auto parse_nvme = [&options](const CLI::results_t& given) {
    const std::string& text = given.at(0);
    const std::size_t colon = text.rfind(':');
    options.nvme = text.substr(0, colon);
    if (colon != std::string::npos) {
      const auto size = parse_bytes(text.substr(colon + 1));
      if (!size) throw CLI::ValidationError("--nvme", size.error().text);
      options.nvme_bytes = *size;
    }
    if (options.nvme.empty()) throw CLI::ValidationError("--nvme", "the directory is missing");
    return true;
  };
  app.add_option("--nvme", parse_nvme,
                 "block store of --spawn's daemon: its directory, which keeps it, and its size "
                 "(default: four times the footprint)")
      ->type_name("DIR[:SIZE]");
  add_choice<ListKind>(app, "--page", options.list_kind,
                       {{"layer", ListKind::layer}, {"head", ListKind::head}},
                       "what a page covers");
  add_choice<Forecast>(app, "--forecast", options.forecast,
                       {{"none", Forecast::none},
                        {"recorded", Forecast::recorded},
                        {"previous-step", Forecast::previous_step}},
                       "what engines say ahead");
  app.add_flag("--lockstep", options.lockstep, "all engines meet at each iteration of the trace");
  app.add_option("--kill-engine-at", options.kill_engine_at,
                 "SIGKILL one engine (chosen by --seed) when it has done this many steps");
  app.add_option("--kill-daemon-at", options.kill_daemon_at,
                 "SIGKILL --spawn's daemon when all engines together have done this many steps "
                 "(several: after each), and start it again")
      ->delimiter(',')
      ->type_name("STEP");
  add_choice<Restart>(app, "--restart", options.restart,
                      {{"warm", Restart::warm}, {"cold", Restart::cold}},
                      "with --kill-daemon-at. warm: memory and sessions are found again, and "
                      "engines notice nothing but the time it takes; cold: nothing is, and engines "
                      "connect anew and compute again");
  app.add_option("--daemon-down", options.daemon_down_ms,
                 "with --kill-daemon-at: how long it stays away, in ms")
      ->check(CLI::Range(0u, 60'000u))
      ->capture_default_str();
  app.add_option("--bytes-per-token", options.bytes_per_token,
                 "Mooncake traces: payload of a token")
      ->check(CLI::Range(1u, 65536u))
      ->capture_default_str();
  app.add_option("--requests", options.requests, "only the first N requests")
      ->check(
          CLI::Range(std::uint64_t{1}, std::numeric_limits<std::uint64_t>::max()).description(""))
      ->type_name("N");
  app.add_flag("--json", options.json, "one JSON object on stdout");
  add_choice<Progress>(
      app, "--progress", options.progress,
      {{"auto", Progress::automatic}, {"always", Progress::always}, {"never", Progress::never}},
      "auto: on a terminal");
  app.add_option("--seed", options.seed, "chooses the engine and the moment of --kill-engine-at")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageError;
  }
  if (const std::string text = contradiction(options); !text.empty()) {
    std::cerr << "sluice-replay: " << text << "\nRun with --help for more information.\n";
    return kUsageError;
  }
  return std::nullopt;
}

}  // namespace sluice::tools
