// The command line: what it asks for, or what is wrong with it.
//
// Pure: nothing is printed here, so that usage errors can be told in the form that was asked for.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/sluicectl/doctor_wanted.h"
#include "tools/sluicectl/surroundings.h"

namespace sluice::tools {

enum class Command : std::uint8_t {
  ping,
  version,
  status,
  watch,
  devices,
  tenants,
  sessions,
  kill_session,
  caches,
  sequences,
  residency,
  evict,
  drain,
  doctor,
  store_check,
  store_stats,
  store_compact,
  store_dump,
  config_check,
  config_show,
  config_reload,
};

inline constexpr Timeout kDefaultTimeout{5'000};
inline constexpr Timeout kDefaultWait{30'000};  // of evict and drain
inline constexpr Timeout kShortestInterval{100};
inline constexpr std::uint64_t kDefaultListedRows = 100;
inline constexpr std::uint64_t kMostListedRows = 1024;  // the daemon's bound of a listing
inline constexpr std::uint64_t kDefaultLivePercent = 50;

struct Options {
  Command command = Command::status;
  // Of every command.
  std::string socket;
  bool json = false;
  bool no_colour = false;
  std::optional<Timeout> timeout;
  // Selectors.
  std::optional<std::string> tenant;
  std::optional<std::uint64_t> cache;
  std::optional<std::uint64_t> session;
  std::optional<std::uint64_t> sequence;
  std::optional<std::string> state;
  // Listings.
  std::optional<std::uint64_t> limit;
  std::uint64_t after = 0;
  // Of single commands.
  bool check = false;                         // status
  std::optional<Timeout> every;               // watch
  std::optional<std::uint64_t> count;         // watch
  bool map = false;                           // residency
  bool blocks = false;                        // residency
  bool everything = false;                    // evict
  std::optional<std::uint64_t> bytes;         // evict
  bool drop_idle_caches = false;              // evict
  bool dry_run = false;                       // evict, store check
  bool yes = false;                           // evict, sessions kill, store check
  bool off = false;                           // drain
  std::string file;                           // config check, doctor, store
  bool no_speed = false;                      // doctor
  std::vector<doctor::WantedDirectory> nvme;  // doctor
  // Of store.
  std::vector<doctor::WantedDirectory> directories;
  std::string index_directory;
  bool repair = false;                               // check
  std::uint64_t live_percent = kDefaultLivePercent;  // compact
  std::optional<std::string> scope;                  // dump
  std::optional<std::string> key;                    // dump
  std::string out_file;                              // dump
};

struct Parsed {
  std::optional<Options> options;  // nullopt: print `out` and `err`, and end with `exit_code`
  int exit_code = 0;
  std::string out;
  std::string err;
};

// `arguments` without the program's name.
Parsed parse_options(std::vector<std::string> arguments, const std::string& version);

}  // namespace sluice::tools
