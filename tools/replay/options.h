// What the command line asks for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/common/size.h"
#include "tools/replay/trace.h"

namespace sluice::tools {

// A GPU by its ordinal, and which of the daemon's devices on it.
struct DevicePlace {
  std::uint32_t ordinal = 0;
  std::uint32_t index = 0;
  friend bool operator==(const DevicePlace&, const DevicePlace&) = default;
};

enum class Backend : std::uint8_t { host, cuda };
enum class Executor : std::uint8_t { daemon, direct };
enum class Forecast : std::uint8_t { none, recorded, previous_step };
enum class Restart : std::uint8_t { warm, cold };
enum class Progress : std::uint8_t { automatic, always, never };

inline constexpr std::uint32_t kMaxEngines = 256;

struct Options {
  std::string trace;
  bool spawn = false;
  std::string socket;   // may contain "{tenant}"
  std::string sluiced;  // empty: the one beside this program
  std::string daemon_log;
  bool keep = false;  // the temporary folder of --spawn
  std::uint32_t engines = 1;
  std::uint32_t tenants = 1;
  Backend backend = Backend::host;
  std::uint32_t device = 0;  // with Backend::cuda: the ordinal of the engines' GPU
  // With Backend::cuda and --spawn: of the daemon; engine e is on device e % devices.
  std::uint32_t devices = 1;
  bool graphs = false;  // resolve by CUDA graphs
  Executor executor = Executor::daemon;
  std::optional<RelativeSize> hbm;
  std::optional<RelativeSize> dram;
  std::string nvme;              // directory of the block store of --spawn's daemon; empty: none
  std::uint64_t nvme_bytes = 0;  // 0: four times the footprint
  ListKind list_kind = ListKind::layer;
  Forecast forecast = Forecast::none;
  bool lockstep = false;
  std::optional<std::uint64_t> kill_engine_at;
  std::vector<std::uint64_t> kill_daemon_at;  // steps of all engines together, rising
  Restart restart = Restart::warm;
  std::uint32_t daemon_down_ms = 0;  // before it is started again
  std::uint32_t bytes_per_token = 32;
  std::uint64_t requests = 0;  // 0: all
  bool json = false;
  Progress progress = Progress::automatic;
  std::uint64_t seed = 1;
};

const char* to_string(Backend backend);
const char* to_string(Executor executor);
const char* to_string(Restart restart);
const char* to_string(Forecast forecast);
const char* to_string(ListKind kind);

// Parses; prints help or a usage error itself. The exit code, or nullopt to go on.
std::optional<int> parse_options(int argc, char** argv, Options& options);

}  // namespace sluice::tools
