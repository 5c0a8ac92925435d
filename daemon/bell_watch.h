// Waiting for the other ends of a doorbell to be closed, all copies of them, and whether the client
// said good-bye before (ipc/doorbell.h).
//
// Thread-safety: the io thread of the descriptor.
#pragma once

#include <sys/socket.h>

#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>

#include "daemon/readiness.h"
#include "ipc/doorbell.h"

namespace sluice::daemon {

enum class HangUp : std::uint8_t {
  cancelled,  // it did not: the wait was cancelled
  silent,
  goodbye,
};

// What was rung is swallowed. The caller keeps the descriptor alive until this ends.
inline boost::asio::awaitable<HangUp> hang_up_of(boost::asio::posix::stream_descriptor& bell) {
  char heard[256];
  HangUp how = HangUp::silent;
  while (true) {
    if (!co_await wait_for(bell, boost::asio::posix::stream_descriptor::wait_read)) {
      co_return HangUp::cancelled;
    }
    if (!bell.is_open()) co_return HangUp::cancelled;  // since it was rung: too late to cancel
    const ssize_t got = recv(bell.native_handle(), heard, sizeof(heard), MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) co_return how;
    if (got > 0 && std::memchr(heard, ipc::Doorbell::kGoodbye, static_cast<std::size_t>(got))) {
      how = HangUp::goodbye;
    }
  }
}

// Ends hang_up_of() of all of them. One that was rung already cannot be cancelled, and would be
// waited for again.
inline void close_bells(
    std::map<std::uint32_t, std::unique_ptr<boost::asio::posix::stream_descriptor>>& bells) {
  boost::system::error_code ignored;
  for (auto& [number, bell] : bells) (void)bell->close(ignored);
}

}  // namespace sluice::daemon
