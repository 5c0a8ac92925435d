// Requests of a device on their way through its engine: as many in flight as the engine allows,
// submitted together, carried on when they were short.
//
// Thread-safety: the device's thread, but wake().
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "storage/io_engine.h"

namespace sluice::storage {

// The error number, or 0: all of it is done. ENODATA: the file ended, or the answer made no sense.
using Finished = std::move_only_function<void(int error)>;

class IoQueue {
 public:
  explicit IoQueue(IoEngine& engine) : engine_(engine) {}

  void push(const IoRequest& request, Finished finished);
  // Submits what waits, and runs `finished` of what is done; waits for that up to `timeout`.
  void turn(std::chrono::microseconds timeout);
  void wake() { engine_.wake(); }

  bool idle() const { return waiting_.empty() && in_flight_ == 0; }
  // One more would not have to wait for a place in the engine.
  bool has_room() const { return waiting_.size() + in_flight_ < engine_.depth(); }
  std::size_t in_flight() const { return in_flight_; }
  // How long the oldest request in flight has been there.
  std::chrono::milliseconds oldest() const;

  IoEngine& engine() { return engine_; }

 private:
  struct Flight {
    IoRequest request;  // what is left of it
    Finished finished;
    std::chrono::steady_clock::time_point since;
    std::uint32_t retries = 0;
    bool in_flight = false;
  };

  void submit();
  void take(const IoAnswer& answer);
  void finish(std::uint32_t place, int error);

  IoEngine& engine_;
  std::deque<Flight> flights_;
  std::vector<std::uint32_t> free_;
  std::deque<std::uint32_t> waiting_;
  std::size_t in_flight_ = 0;
};

}  // namespace sluice::storage
