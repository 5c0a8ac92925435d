// One device of the store: its thread, which owns the io engine, the queues and the segments.
//
// Thread-safety: any thread, but stop() and the destructor.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "storage/device_context.h"
#include "storage/job.h"

namespace sluice::storage {

struct DeviceSetup {
  Segments::Config segments;
  std::unique_ptr<IoEngine> engine;
  Checkpoint checkpoint;  // that recovery left
  std::string engine_why;
  std::uint64_t capacity_bytes = 0;
  std::uint64_t part_bytes = 0;
  std::uint32_t depth = 0;
  std::uint32_t error_budget = 0;
  std::chrono::milliseconds stall_timeout{};
};

class Device {
 public:
  // Starts the thread.
  Device(DeviceSetup setup, StoreShared shared);
  // stop() was called.
  ~Device();

  // The job is answered on the device's thread; after stop() it comes back.
  [[nodiscard]] std::unique_ptr<Job> post(std::unique_ptr<Job> job);
  // Ends what is in flight, answers the rest with shutting_down, tells the index that the segments
  // are complete, and ends the thread.
  void stop();

  bool usable() const { return !counters_.taken_out.load(std::memory_order_acquire); }
  std::uint64_t capacity_bytes() const;
  std::uint32_t number() const;
  DeviceStats stats() const;

 private:
  struct Thread;

  DeviceCounters counters_;
  std::unique_ptr<Thread> thread_;
};

}  // namespace sluice::storage
