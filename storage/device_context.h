// What the parts of a device's thread (reader, writer, cleaner) share.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "storage/catalog.h"
#include "storage/commit.h"
#include "storage/daily_bound.h"
#include "storage/io_queue.h"
#include "storage/segments.h"

namespace sluice::storage {

// What all devices of a store share. Any thread.
struct StoreShared {
  Catalog& catalog;
  Commit& commit;
  DailyBound& written;
  std::atomic<std::uint64_t>& next_sequence;  // of records
  const std::atomic<Cleaning>& cleaning;
};

// Read by any thread, written by the device's.
struct DeviceCounters {
  std::atomic<std::uint64_t> read_bytes{0}, written_bytes{0}, cleaned_bytes{0};
  std::atomic<std::uint64_t> io_errors{0}, checksum_errors{0}, syncs{0};
  std::atomic<std::uint64_t> freed_segments{0};
  std::atomic<std::uint64_t> queued{0}, in_flight{0};
  std::atomic<std::uint32_t> segments{0};
  std::atomic<bool> taken_out{false}, direct{true};
};

struct DeviceContext {
  std::uint32_t device = 0;  // its number in the store
  std::string name;          // its directory, for people
  std::uint64_t part_bytes = 0;
  StoreShared shared;
  IoQueue& io;
  Segments& segments;
  DeviceCounters& counters;

  // An error that counts against the device's budget.
  Error io_failed(const char* what, int error) const;
};

std::uint32_t wall_clock_s();

}  // namespace sluice::storage
