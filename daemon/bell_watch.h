// Waiting for the other ends of a doorbell to be closed, all copies of them.
//
// Thread-safety: the io thread of the descriptor.
#pragma once

#include <sys/socket.h>

#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include <cerrno>

#include "daemon/readiness.h"

namespace sluice::daemon {

// True when it hung up; false when the wait was cancelled. What was rung is swallowed. The caller
// keeps the descriptor alive until this ends.
inline boost::asio::awaitable<bool> hung_up(boost::asio::posix::stream_descriptor& bell) {
  char scratch[256];
  while (true) {
    if (!co_await wait_for(bell, boost::asio::posix::stream_descriptor::wait_read)) {
      co_return false;
    }
    const ssize_t got = recv(bell.native_handle(), scratch, sizeof(scratch), MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) co_return true;
  }
}

}  // namespace sluice::daemon
