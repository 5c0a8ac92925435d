// One control connection, from accept to the end of its session.
//
// Its coroutine greets the peer (connection_greeting.cpp) and then answers one frame after the
// other (connection_requests.cpp, connection_opening.cpp).
//
// Thread-safety: the io thread.
#pragma once

#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/coordinator.h"
#include "daemon/server.h"
#include "daemon/server_impl.h"
#include "daemon/session_end.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/frame.h"
#include "ipc/message.h"
#include "ipc/peer.h"

namespace sluice::daemon {

struct Session;

struct Connection : std::enable_shared_from_this<Connection> {
  // `is_trusted`: an operator, whose connections others cannot push out.
  Connection(std::shared_ptr<Server::Impl> its_server, ipc::Fd its_socket,
             ipc::PeerIdentity its_peer, bool is_trusted, std::optional<std::size_t> its_tenant)
      : server(std::move(its_server)),
        socket(server->io, its_socket.release()),
        opening_wake(server->io),
        deadline(server->io),
        tenant(its_tenant),
        peer(std::move(its_peer)),
        trusted(is_trusted) {
    server->connections.insert(this);
    place = server->sessionless.insert(server->sessionless.end(), this);
  }
  ~Connection() {
    leave_sessionless();
    server->connections.erase(this);
  }
  void leave_sessionless() {
    if (const auto at = std::exchange(place, std::nullopt)) server->sessionless.erase(*at);
  }

  // Keeps the connection alive from before the first step of run().
  static boost::asio::awaitable<void> live(std::shared_ptr<Connection> connection) {
    co_await connection->run();
  }
  boost::asio::awaitable<void> run();

  // What the socket has for us now, if anything. Errors: daemon_away when the peer closed.
  std::optional<ipc::Result<ipc::Frame>> look();
  // Reads one frame.
  boost::asio::awaitable<ipc::Result<ipc::Frame>> receive();
  boost::asio::awaitable<ipc::Status> send(std::vector<std::byte> bytes, std::vector<int> fds = {});

  // The greeting.
  boost::asio::awaitable<ipc::Status> greet();
  // Answers the greeting with an error, and returns it. Pass a named error: g++ 12 destroys an
  // aggregate temporary of a co_await expression twice.
  boost::asio::awaitable<ipc::Status> refuse(std::uint64_t request, ipc::Error error);
  boost::asio::awaitable<ipc::Status> welcome_session(std::uint64_t request,
                                                      const ipc::wire::Hello& hello);
  std::optional<KeptSession> claim_session(const ipc::wire::Hello& hello, ipc::TenantId its_tenant);
  std::vector<std::uint8_t> keep_session(std::optional<KeptSession> back);
  boost::asio::awaitable<void> watch_older_bell(std::uint32_t number);
  boost::asio::awaitable<ipc::Status> welcome_admin(std::uint64_t request);

  // Requests.
  boost::asio::awaitable<std::expected<void, SessionEnd>> serve(const ipc::Frame& frame);
  // Also what is busy now, such as words that a device must be asked for.
  boost::asio::awaitable<std::vector<std::byte>> ask_admin(const ipc::wire::Envelope& envelope);
  std::vector<std::byte> handle(const ipc::wire::Envelope& envelope, std::vector<int>& fds);
  ipc::Result<std::vector<std::byte>> answer(const ipc::wire::Envelope& envelope,
                                             std::vector<int>& fds);
  ipc::Result<std::vector<std::byte>> fetch_extents(std::uint64_t request,
                                                    const ipc::wire::FetchExtents& body,
                                                    std::vector<int>& fds);

  // Opening a cache.
  boost::asio::awaitable<ipc::Status> open_cache(std::uint64_t request,
                                                 const ipc::wire::OpenCache& body);
  boost::asio::awaitable<ipc::Result<OpenedCache>> wait_for_cache(
      const std::shared_ptr<CacheOpening>& waiting);
  bool leaves();
  void watch_peer();

  // Nothing more of the session is served; it is over when its process and sockets are gone.
  void end(const SessionEnd& why);
  // Ends the connection unless it is put off, or called off with time_point::max(), before then.
  void end_at(std::chrono::steady_clock::time_point time, const ipc::Error& why);
  // An operator's connection ends unless its next request comes in time, and the answer is taken.
  void await_admin_request();
  // Says why and ends the connection, whose coroutine ends with it.
  void dismiss(const ipc::Error& why);
  void stop(const std::string& why);
  boost::asio::awaitable<void> watch_process();
  boost::asio::awaitable<void> discard_until_closed();
  void finish_if_dead();

  std::shared_ptr<Server::Impl> server;
  boost::asio::posix::stream_descriptor socket;
  // What an opening waits on: cancelled whenever something changed that may concern it.
  boost::asio::steady_timer opening_wake;
  bool opening = false;
  bool awaits_frame = false;  // see watch_peer
  bool awaits_end = false;
  boost::asio::steady_timer deadline;
  std::optional<std::size_t> tenant;
  ipc::FrameReader reader{ipc::FdPolicy::refuse};
  std::optional<ipc::Result<ipc::Frame>> ahead;  // read while an opening was under way
  ipc::FrameWriter writer;
  ipc::PeerIdentity peer;
  bool trusted = false;
  std::optional<std::list<Connection*>::iterator> place;  // in the server's list
  std::optional<ipc::Error> dismissed;
  std::unique_ptr<boost::asio::posix::stream_descriptor> pidfd;
  std::shared_ptr<Session> session;
  // Of a session that came back: doorbells of before that some process, perhaps a forked child,
  // still has. While one does, that process can use what the session held.
  std::map<std::uint32_t, std::unique_ptr<boost::asio::posix::stream_descriptor>> older_bells;
  std::uint32_t last_bell = 0;
  bool said_goodbye = false;  // on one of these: its client was closed
  AdminScope scope;
  bool admin = false;
  bool said_bye = false;
  bool process_gone = false;
  bool socket_closed = false;
  bool left_lane = false;
  bool ended = false;
  std::string end_reason;
  std::chrono::steady_clock::time_point death{};
};

// The last word on a connection: as much of it as the socket takes at once.
void say_closing(ipc::FrameWriter& writer, int socket, const ipc::Error& reason);

}  // namespace sluice::daemon
