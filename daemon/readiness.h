// Waiting for a descriptor, in a coroutine of the io thread.
#pragma once

#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace sluice::daemon {

// Waits until a descriptor is readable (or writable); false on an error of the loop.
inline boost::asio::awaitable<bool> wait_for(
    boost::asio::posix::stream_descriptor& fd,
    boost::asio::posix::stream_descriptor::wait_type type) {
  boost::system::error_code error;
  co_await fd.async_wait(type, boost::asio::redirect_error(boost::asio::use_awaitable, error));
  co_return !error;
}

}  // namespace sluice::daemon
