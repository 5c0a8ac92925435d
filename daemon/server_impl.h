// What the connections of the server share, and how it takes them up.
//
// Thread-safety: the io thread.
#pragma once

#include <sys/types.h>

#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/away_sessions.h"
#include "daemon/config.h"
#include "daemon/coordinator.h"
#include "daemon/server.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/peer.h"
#include "ipc/unix_socket.h"

namespace sluice::daemon {

struct Connection;

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  struct Listener {
    ipc::UnixListener socket;
    std::optional<std::size_t> tenant;  // whoever connects here is this tenant
    std::unique_ptr<boost::asio::posix::stream_descriptor> watch;
  };

  Impl(boost::asio::io_context& its_io, const Config& its_config, Coordinator& its_coordinator,
       Lanes& its_lanes, AdminHandler its_admin)
      : io(its_io),
        config(its_config),
        coordinator(its_coordinator),
        lanes(its_lanes),
        admin(std::move(its_admin)),
        away(its_io, [&owner = its_coordinator](ipc::SessionId id, ipc::TenantId tenant) {
          owner.end_away_session(id, tenant, std::chrono::steady_clock::now());
        }) {}

  ipc::Status add_listener(const std::string& path, mode_t mode, std::optional<std::size_t> tenant);
  boost::asio::awaitable<void> accept_loop(Listener& listener);
  void take_up(ipc::Fd socket, std::optional<std::size_t> tenant);
  // Room for one more connection without a session. Errors: limit_reached.
  ipc::Status make_room(const ipc::PeerIdentity& peer, bool trusted);
  bool is_admin(const ipc::PeerIdentity& peer) const;
  void wake_openings() const;
  void note_refusal(const ipc::PeerIdentity* peer, const ipc::Error& reason);

  boost::asio::io_context& io;
  const Config& config;
  Coordinator& coordinator;
  Lanes& lanes;
  AdminHandler admin;
  AwaySessions away;
  std::vector<std::unique_ptr<Listener>> listeners;
  std::map<std::uint64_t, std::shared_ptr<Connection>> sessions;
  std::set<Connection*> connections;   // all of them, with or without a session
  std::list<Connection*> sessionless;  // of these, the ones without, as they came
  std::uint64_t refusals = 0;          // since the last that was logged
  std::chrono::steady_clock::time_point refusal_logged{};
  bool draining = false;
  bool stopping = false;
};

}  // namespace sluice::daemon
