// What a configuration asks of the machine: the few values that the doctor compares with it.
//
// Read from the listing that sluiced makes ("key = value", as a file would have it), so that only
// sluiced knows the format of its file, its defaults and its rules. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ipc/error.h"

namespace sluice::tools::doctor {

enum class HugePages : std::uint8_t { never, attempt, require };

struct WantedTier {
  std::uint64_t bytes = 0;
  std::uint64_t extent_bytes = 0;
  HugePages huge_pages = HugePages::attempt;

  std::uint64_t extents() const { return extent_bytes == 0 ? 0 : bytes / extent_bytes; }
};

struct WantedDirectory {
  std::string path;
  std::optional<std::uint64_t> bytes;  // nullopt: it was not said
  bool operator==(const WantedDirectory&) const = default;
};

// Without a configuration that can be read: nothing is asked for.
struct Wanted {
  bool cuda = false;
  std::optional<std::uint64_t> devices = 1;  // nullopt: all that are there
  WantedTier hbm;                            // of each device
  WantedTier dram;
  std::string numa;
  std::uint64_t max_sessions = 0;
  std::uint64_t caches = 0;
  std::string socket;                // daemon.socket
  std::vector<std::string> sockets;  // that one, and those of tenants
  std::vector<WantedDirectory> nvme;

  // Memory of the node; the HBM of a GPU is its own.
  std::uint64_t node_bytes() const { return dram.bytes + (cuda ? 0 : hbm.bytes); }
};

using Listing = std::map<std::string, std::string>;

// Lines of "key = value". Others are passed over.
Listing parse_listing(std::string_view text);

// Keys that are missing, or whose value is of another kind, leave what `Wanted` has.
Wanted wanted_by(const Listing& listing);

// "DIR" or "DIR:SIZE". A colon before anything but a digit is part of the path. Errors:
// invalid_argument.
ipc::Result<WantedDirectory> parse_directory(std::string_view text);

}  // namespace sluice::tools::doctor
