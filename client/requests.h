// Small things that the requests of a sequence share.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>

#include "ipc/deadline.h"
#include "ipc/error.h"

namespace sluice::client::internal {

// Between two tries of a request that the daemon answered with busy: memory comes back when running
// steps end, within microseconds to milliseconds, and a new extent takes the daemon milliseconds.
inline constexpr std::chrono::microseconds kLeastPause{50};
inline constexpr std::chrono::microseconds kMostPause{5'000};

// The tries of one request for memory.
class Tries {
 public:
  explicit Tries(ipc::Deadline deadline) : deadline_(deadline) {}

  // Whether the request is to be made again, after a pause.
  bool again(const ipc::Error& error) {
    if (error.code != ipc::Errc::busy || ipc::Clock::now() + pause_ >= deadline_) return false;
    std::this_thread::sleep_for(pause_);
    pause_ = std::min(pause_ * 2, kMostPause);
    return true;
  }

 private:
  ipc::Deadline deadline_;
  std::chrono::microseconds pause_ = kLeastPause;
};

inline std::uint32_t bytes_u32(std::size_t bytes) { return static_cast<std::uint32_t>(bytes); }

// Where keys, or ids, end in request memory, and what follows begins.
inline std::size_t round8(std::size_t bytes) { return (bytes + 7) / 8 * 8; }

inline std::unexpected<ipc::Error> impossible_frame() {
  return ipc::fail(ipc::Errc::peer_violation, "the daemon gave a frame that does not exist");
}

}  // namespace sluice::client::internal
