#include "daemon/server.h"

#include <unistd.h>

#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>

#include "daemon/connection.h"
#include "daemon/logging.h"
#include "daemon/readiness.h"
#include "daemon/server_impl.h"
#include "daemon/session.h"

namespace sluice::daemon {

namespace asio = boost::asio;
using ipc::Errc;
using ipc::Error;
using ipc::fail;

namespace {

// Connections without a session (peers that have not said hello yet, and admin connections), of all
// users that are no operators together. A user alone has limits.connections_per_user; this bounds
// one who commands many uids. Beyond it the connection that came first gives way: an honest peer is
// greeted long before its turn comes, so nobody is locked out.
constexpr std::size_t kMaxSessionless = 1024;
constexpr std::chrono::milliseconds kAcceptPause{100};  // after the process ran out of descriptors
// Refused connections in between are counted and told together: whoever is refused must not be able
// to fill the log.
constexpr std::chrono::seconds kRefusalLogInterval{1};

}  // namespace

// ---- accepting

ipc::Status Server::Impl::add_listener(const std::string& path, mode_t mode,
                                       std::optional<std::size_t> tenant) {
  auto socket = ipc::UnixListener::bind({.path = path, .mode = mode});
  if (!socket) return std::unexpected(std::move(socket.error()));
  auto listener = std::make_unique<Listener>();
  listener->socket = std::move(*socket);
  listener->tenant = tenant;
  // The watch owns a descriptor of its own, so that closing one does not close the other.
  auto watched = ipc::duplicate(listener->socket.fd());
  if (!watched) return std::unexpected(std::move(watched.error()));
  listener->watch = std::make_unique<asio::posix::stream_descriptor>(io, watched->release());
  log_info("listening", {{"socket", path},
                         {"tenant", tenant ? std::string_view(config.tenants[*tenant].name)
                                           : std::string_view("by user")}});
  asio::co_spawn(io, accept_loop(*listener), asio::detached);
  listeners.push_back(std::move(listener));
  return {};
}

asio::awaitable<void> Server::Impl::accept_loop(Listener& listener) {
  const auto self = shared_from_this();
  while (!stopping) {
    if (!co_await wait_for(*listener.watch, asio::posix::stream_descriptor::wait_read)) break;
    auto socket = listener.socket.accept();
    if (!socket) {
      log_warn("a connection was not accepted", {{"reason", socket.error().text}});
      asio::steady_timer pause(io, kAcceptPause);
      co_await pause.async_wait(asio::use_awaitable);
      continue;
    }
    if (*socket) take_up(std::move(**socket), listener.tenant);
  }
}

void Server::Impl::take_up(ipc::Fd socket, std::optional<std::size_t> tenant) {
  auto peer = ipc::peer_identity(socket.get());
  const bool trusted = peer && is_admin(*peer);
  const ipc::Status room = peer ? make_room(*peer, trusted) : std::unexpected(peer.error());
  if (!room) {
    note_refusal(peer ? &*peer : nullptr, room.error());
    ipc::FrameWriter writer;
    say_closing(writer, socket.get(), room.error());
    return;
  }
  auto connection = std::make_shared<Connection>(shared_from_this(), std::move(socket),
                                                 std::move(*peer), trusted, tenant);
  asio::co_spawn(io, Connection::live(std::move(connection)), asio::detached);
}

ipc::Status Server::Impl::make_room(const ipc::PeerIdentity& peer, bool trusted) {
  std::size_t own = 0;
  std::size_t strangers = 0;
  Connection* oldest = nullptr;
  for (Connection* connection : sessionless) {
    if (connection->peer.uid == peer.uid) ++own;
    if (connection->trusted) continue;
    if (oldest == nullptr) oldest = connection;
    ++strangers;
  }
  if (own >= config.limits.connections_per_user) {
    return fail(Errc::limit_reached,
                "uid " + std::to_string(peer.uid) + " has " + std::to_string(own) +
                    " connections without a session, as many as one user may have "
                    "(limits.connections_per_user); close some, or wait until they time out");
  }
  if (!trusted && strangers >= kMaxSessionless) {
    oldest->dismiss(Error{Errc::busy, "there are " + std::to_string(strangers) +
                                          " connections without a session, and this was the "
                                          "oldest; connect again"});
  }
  return {};
}

// `peer`: null if nobody knows who it was.
void Server::Impl::note_refusal(const ipc::PeerIdentity* peer, const Error& reason) {
  ++refusals;
  const auto now = std::chrono::steady_clock::now();
  if (now - refusal_logged < kRefusalLogInterval) return;
  refusal_logged = now;
  const std::int64_t pid = peer != nullptr ? std::int64_t{peer->pid} : -1;
  const std::int64_t uid = peer != nullptr ? std::int64_t{peer->uid} : -1;
  log_info("a connection was refused", {{"pid", pid},
                                        {"uid", uid},
                                        {"code", ipc::to_string(reason.code)},
                                        {"reason", reason.text},
                                        {"refused_since_last", std::exchange(refusals, 0)}});
}

bool Server::Impl::is_admin(const ipc::PeerIdentity& peer) const {
  const auto has = [](const auto& list, auto value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  };
  if (peer.uid == geteuid() || has(config.admin.uids, peer.uid) || has(config.admin.gids, peer.gid))
    return true;
  return std::any_of(peer.groups.begin(), peer.groups.end(),
                     [&](gid_t group) { return has(config.admin.gids, group); });
}

void Server::Impl::wake_openings() const {
  for (Connection* connection : connections) connection->opening_wake.cancel();
}

// ---- the server

Server::Server(asio::io_context& io, const Config& config, Coordinator& coordinator, Lanes& lanes,
               AdminHandler admin)
    : impl_(std::make_shared<Impl>(io, config, coordinator, lanes, std::move(admin))) {
  coordinator.on_cache_change([weak = std::weak_ptr(impl_), &io] {
    asio::post(io, [weak] {
      if (const auto server = weak.lock()) server->wake_openings();
    });
  });
}

Server::~Server() = default;

ipc::Status Server::listen() {
  const DaemonConfig& daemon = impl_->config.daemon;
  if (auto ok = impl_->add_listener(daemon.socket, daemon.socket_mode, std::nullopt); !ok)
    return ok;
  for (std::size_t i = 0; i < impl_->config.tenants.size(); ++i) {
    const TenantConfig& tenant = impl_->config.tenants[i];
    if (tenant.socket.empty()) continue;
    if (auto ok = impl_->add_listener(tenant.socket, tenant.socket_mode, i); !ok) return ok;
  }
  return {};
}

void Server::expect(std::vector<KeptSession> sessions) {
  for (KeptSession& session : sessions) {
    for (std::uint32_t i = 0; i < impl_->config.tenants.size(); ++i) {
      if (impl_->config.tenants[i].name != session.tenant) continue;
      impl_->away.add(std::move(session), ipc::TenantId{i});
      break;
    }
  }
}

void Server::drain(bool on) { impl_->draining = on; }

void Server::stop(const std::string& why) {
  impl_->stopping = true;
  impl_->away.stop();
  for (auto& listener : impl_->listeners) listener->watch->cancel();
  const auto connections = impl_->connections;
  for (Connection* connection : connections) connection->stop(why);
  impl_->sessions.clear();
}

bool Server::waited_for_device(ipc::SessionId session, std::chrono::steady_clock::time_point now,
                               std::chrono::milliseconds within) const {
  const auto found = impl_->sessions.find(session.value);
  if (found == impl_->sessions.end()) return false;
  const std::int64_t at = found->second->session->waited_for_device;
  return at == Session::kWaits || now.time_since_epoch() - std::chrono::nanoseconds(at) < within;
}

ipc::Status Server::end_session(ipc::SessionId session, const SessionEnd& why) {
  const auto found = impl_->sessions.find(session.value);
  if (found == impl_->sessions.end()) {
    return fail(Errc::not_found, "no session " + std::to_string(session.value));
  }
  found->second->end(why);
  return {};
}

std::vector<Server::SessionRow> Server::sessions() const {
  std::vector<SessionRow> rows;
  for (const auto& [id, connection] : impl_->sessions) {
    const Session& session = *connection->session;
    SessionRow row;
    row.session = id;
    row.tenant = session.tenant.value;
    row.tenant_name = session.tenant_name;
    row.client_name = session.client_name;
    row.pid = session.pid;
    row.state = connection->ended || connection->process_gone || connection->socket_closed
                    ? "quarantined"
                : connection->opening ? "opening"
                                      : "open";
    row.reason = connection->end_reason;
    row.requests = session.counters.requests.load(std::memory_order_relaxed);
    row.failures = session.counters.failures.load(std::memory_order_relaxed);
    const auto caches = session.caches();
    row.caches = static_cast<std::uint32_t>(caches.size());
    for (const SessionCache& cache : caches) {
      const bool pins = cache.executor == ipc::wire::Executor::direct && cache.memory->on_gpu();
      if (pins) row.to_pin_bytes += cache.memory->frame_bytes();
    }
    row.pinned_bytes = session.memory.told_pinned();
    rows.push_back(std::move(row));
  }
  for (const AwaySessions::Row& away : impl_->away.rows()) {
    SessionRow row;
    row.session = away.id.value;
    row.tenant = away.tenant.value;
    row.tenant_name = away.tenant_name;
    row.client_name = away.client_name;
    row.pid = away.pid;
    row.state = "away";
    row.reason = away.process_gone ? "its process died, and a child of it lives"
                                   : "it has not come back since the daemon was started anew";
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace sluice::daemon
