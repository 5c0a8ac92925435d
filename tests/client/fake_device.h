// A GPU that tests of the library pose: DeviceCache in plain memory, linked in place of the real
// one. It records what it is asked for, and pins what a test lets it pin.
//
// Thread-safety: the thread that uses the library.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "client/device_cache.h"

namespace sluice::client::internal {

inline constexpr std::int64_t kFakePinned = 1 << 20;  // bytes that the client is told of an extent

struct FakeDevice {
  std::uint32_t pinnable = 100;               // extents; more stay unpinned
  ipc::Error pin_failure{ipc::Errc::ok, {}};  // what stops pinning
  std::uint32_t retries = 0;                  // of pinning
  std::map<std::uint32_t, std::vector<std::uint32_t>> rows;
  std::vector<std::size_t> first_changed;  // of each update of a row
  std::vector<std::string> calls;          // in order
  std::uint64_t enqueued = 0;              // copies and unpins, so far
  std::uint64_t run = 0;                   // of these, in order: a wait runs what it waits for
  bool open = false;                       // a cache is
};

// As the last reset left it, and what happened since.
FakeDevice& fake_device();
void reset_fake_device();

}  // namespace sluice::client::internal
