#include "daemon/server.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <list>
#include <map>
#include <set>
#include <vector>

#include "daemon/coordinator.h"
#include "daemon/lanes.h"
#include "daemon/logging.h"
#include "daemon/session.h"
#include "daemon/version.h"
#include "ipc/doorbell.h"
#include "ipc/frame.h"
#include "ipc/message.h"
#include "ipc/peer.h"
#include "ipc/protocol.h"
#include "ipc/unix_socket.h"

namespace sluice::daemon {

namespace asio = boost::asio;
namespace wire = ipc::wire;
using ipc::Errc;
using ipc::Error;
using ipc::fail;

namespace {

constexpr std::uint32_t kBothExecutors = 0b11;
constexpr std::uint32_t kDirectOnly = 0b10;
// Requests of one connection before others get their turn.
constexpr int kFramesPerTurn = 16;
// Connections without a session (peers that have not said hello yet, and admin connections), of all
// users that are no operators together. A user alone has limits.connections_per_user; this bounds
// one who commands many uids. Beyond it the connection that came first gives way: an honest peer is
// greeted long before its turn comes, so nobody is locked out.
constexpr std::size_t kMaxSessionless = 1024;
constexpr std::chrono::milliseconds kAcceptPause{100};  // after the process ran out of descriptors
// How long an operator's request waits for what takes a moment, and how often it looks.
constexpr std::chrono::seconds kAdminPatience{10};
constexpr std::chrono::milliseconds kAdminPause{10};
// Refused connections in between are counted and told together: whoever is refused must not be able
// to fill the log.
constexpr std::chrono::seconds kRefusalLogInterval{1};

// Waits until a descriptor is readable (or writable); false on an error of the loop.
asio::awaitable<bool> wait_for(asio::posix::stream_descriptor& fd,
                               asio::posix::stream_descriptor::wait_type type) {
  boost::system::error_code error;
  co_await fd.async_wait(type, asio::redirect_error(asio::use_awaitable, error));
  co_return !error;
}

// The last word on a connection: as much of it as the socket takes at once.
void say_closing(ipc::FrameWriter& writer, int socket, const Error& reason) {
  const auto bytes = ipc::make_message(0, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateClosingDirect(builder, static_cast<std::uint16_t>(reason.code),
                                     reason.text.c_str());
  });
  if (writer.enqueue(bytes)) (void)writer.flush(socket);
}

// Whether the peer closed its end, and every copy of it.
bool hung_up(int socket) {
  pollfd look{socket, 0, 0};
  return poll(&look, 1, 0) > 0 && (look.revents & (POLLHUP | POLLERR)) != 0;
}

ipc::Layout layout_from(const wire::LayoutSpec& spec) {
  ipc::Layout layout;
  layout.layers = spec.layers();
  layout.kv_heads = spec.kv_heads();
  layout.head_dim = spec.head_dim();
  layout.block_tokens = spec.block_tokens();
  layout.dtype_bytes = spec.dtype_bytes();
  layout.planes = spec.planes();
  layout.page_kind = static_cast<ipc::PageKind>(spec.page_kind());
  return layout;
}

ipc::Result<OpenCacheRequest> request_from(const wire::OpenCache& body) {
  if (body.layout() == nullptr) {
    return fail(Errc::invalid_argument, "OpenCache without a layout");
  }
  if (body.role_metadata()) {
    return fail(Errc::not_supported, "metadata caches are not built yet");
  }
  OpenCacheRequest wanted;
  wanted.model = ipc::text_of(body.model());
  wanted.salt = ipc::text_of(body.salt());
  wanted.shard_index = body.shard_index();
  wanted.shard_count = body.shard_count();
  wanted.kind = static_cast<std::uint8_t>(body.kind());
  wanted.layout = layout_from(*body.layout());
  wanted.executor = body.executor();
  wanted.hbm_bytes = body.hbm_bytes();
  wanted.device_type = body.device_type();
  const auto uuid = ipc::bytes_of(body.device_uuid());
  wanted.device_uuid.assign(reinterpret_cast<const char*>(uuid.data()), uuid.size());
  wanted.device_index = body.device_index();
  return wanted;
}

std::vector<std::byte> opened_message(std::uint64_t request, const OpenedCache& opened,
                                      wire::Executor executor) {
  const CacheShape& shape = opened.memory->shape();
  return ipc::make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
    wire::CacheOpenedBuilder reply(builder);
    reply.add_cache(opened.handle.bits());
    reply.add_created(opened.created);
    reply.add_slots(shape.table.slots);
    reply.add_slot_extent_bytes(shape.sizes.slot_extent_bytes);
    reply.add_slot_extents(shape.sizes.slot_extents);
    reply.add_max_blocks(shape.table.blocks);
    reply.add_frame_extent_bytes(shape.sizes.frame_extent_bytes);
    reply.add_frames_per_extent(shape.sizes.frames_per_extent);
    reply.add_max_frame_extents(shape.sizes.max_frame_extents);
    reply.add_frame_extents(opened.memory->frame_extents());
    reply.add_table_bytes(shape.table_bytes);
    reply.add_table_actors(shape.table.actors);
    reply.add_table_log_capacity(shape.table.log_capacity);
    reply.add_table_hint_capacity(shape.table.hint_capacity);
    reply.add_executor(executor);
    reply.add_device_table_bytes(shape.device_table_bytes);
    reply.add_device_table_extent_bytes(shape.device_table_extent_bytes);
    return reply.Finish();
  });
}

}  // namespace

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  struct Connection;
  struct Listener {
    ipc::UnixListener socket;
    std::optional<std::size_t> tenant;  // whoever connects here is this tenant
    std::unique_ptr<asio::posix::stream_descriptor> watch;
  };

  Impl(asio::io_context& its_io, const Config& its_config, Coordinator& its_coordinator,
       Lanes& its_lanes, AdminHandler its_admin)
      : io(its_io),
        config(its_config),
        coordinator(its_coordinator),
        lanes(its_lanes),
        admin(std::move(its_admin)) {}

  ipc::Status add_listener(const std::string& path, mode_t mode, std::optional<std::size_t> tenant);
  asio::awaitable<void> accept_loop(Listener& listener);
  void take_up(ipc::Fd socket, std::optional<std::size_t> tenant);
  // Room for one more connection without a session. Errors: limit_reached.
  ipc::Status make_room(const ipc::PeerIdentity& peer, bool trusted);
  bool is_admin(const ipc::PeerIdentity& peer) const;
  void wake_openings() const;
  void note_refusal(const ipc::PeerIdentity* peer, const Error& reason);

  asio::io_context& io;
  const Config& config;
  Coordinator& coordinator;
  Lanes& lanes;
  AdminHandler admin;
  std::vector<std::unique_ptr<Listener>> listeners;
  std::map<std::uint64_t, std::shared_ptr<Connection>> sessions;
  std::set<Connection*> connections;   // all of them, with or without a session
  std::list<Connection*> sessionless;  // of these, the ones without, as they came
  std::uint64_t refusals = 0;          // since the last that was logged
  std::chrono::steady_clock::time_point refusal_logged{};
  bool draining = false;
  bool stopping = false;
};

// One control connection, from accept to the end of its session.
struct Server::Impl::Connection : std::enable_shared_from_this<Connection> {
  // `is_trusted`: an operator, whose connections others cannot push out.
  Connection(std::shared_ptr<Impl> its_server, ipc::Fd its_socket, ipc::PeerIdentity its_peer,
             bool is_trusted, std::optional<std::size_t> its_tenant)
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
  static asio::awaitable<void> live(std::shared_ptr<Connection> connection) {
    co_await connection->run();
  }
  asio::awaitable<void> run();

  // What the socket has for us now, if anything. Errors: daemon_away when the peer closed.
  std::optional<ipc::Result<ipc::Frame>> look();
  // Reads one frame.
  asio::awaitable<ipc::Result<ipc::Frame>> receive();
  asio::awaitable<ipc::Status> send(std::vector<std::byte> bytes, std::vector<int> fds = {});

  asio::awaitable<ipc::Status> greet();
  // Answers the greeting with an error, and returns it. Pass a named error: g++ 12 destroys an
  // aggregate temporary of a co_await expression twice.
  asio::awaitable<ipc::Status> refuse(std::uint64_t request, Error error);
  asio::awaitable<ipc::Status> welcome_session(std::uint64_t request, const wire::Hello& hello);
  asio::awaitable<ipc::Status> welcome_admin(std::uint64_t request);
  asio::awaitable<std::expected<void, SessionEnd>> serve(const ipc::Frame& frame);
  // An operator's connection ends unless its next request comes in time, and the answer is taken.
  void await_admin_request();
  asio::awaitable<void> watch_process();
  asio::awaitable<void> discard_until_closed();

  std::vector<std::byte> handle(const wire::Envelope& envelope, std::vector<int>& fds);
  // Also what is busy now, such as words that a device must be asked for.
  asio::awaitable<std::vector<std::byte>> ask_admin(const wire::Envelope& envelope);
  asio::awaitable<ipc::Status> open_cache(std::uint64_t request, const wire::OpenCache& body);
  asio::awaitable<ipc::Result<OpenedCache>> wait_for_cache(
      const std::shared_ptr<CacheOpening>& waiting);
  bool leaves();
  void watch_peer();
  ipc::Result<std::vector<std::byte>> fetch_extents(std::uint64_t request,
                                                    const wire::FetchExtents& body,
                                                    std::vector<int>& fds);
  ipc::Result<std::vector<std::byte>> answer(const wire::Envelope& envelope, std::vector<int>& fds);

  // Nothing more of the session is served; it is over when its process and sockets are gone.
  void end(const SessionEnd& why);
  // Ends the connection unless it is put off, or called off with time_point::max(), before then.
  void end_at(std::chrono::steady_clock::time_point time, const Error& why);
  // Says why and ends the connection, whose coroutine ends with it.
  void dismiss(const Error& why);
  void stop(const std::string& why);
  void finish_if_dead();

  std::shared_ptr<Impl> server;
  asio::posix::stream_descriptor socket;
  // What an opening waits on: cancelled whenever something changed that may concern it.
  asio::steady_timer opening_wake;
  bool opening = false;
  bool awaits_frame = false;  // see watch_peer
  bool awaits_end = false;
  asio::steady_timer deadline;
  std::optional<std::size_t> tenant;
  ipc::FrameReader reader{ipc::FdPolicy::refuse};
  std::optional<ipc::Result<ipc::Frame>> ahead;  // read while an opening was under way
  ipc::FrameWriter writer;
  ipc::PeerIdentity peer;
  bool trusted = false;
  std::optional<std::list<Connection*>::iterator> place;  // in the server's list
  std::optional<Error> dismissed;
  std::unique_ptr<asio::posix::stream_descriptor> pidfd;
  std::shared_ptr<Session> session;
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

// ---- frames

std::optional<ipc::Result<ipc::Frame>> Server::Impl::Connection::look() {
  if (ahead) return std::exchange(ahead, std::nullopt);
  auto progress = reader.advance(socket.native_handle());
  if (!progress) return std::unexpected(std::move(progress.error()));
  if (*progress == ipc::FrameReader::Progress::frame) return reader.take();
  if (*progress == ipc::FrameReader::Progress::closed) {
    return fail(Errc::daemon_away, "the peer closed its connection");
  }
  return std::nullopt;
}

asio::awaitable<ipc::Result<ipc::Frame>> Server::Impl::Connection::receive() {
  while (true) {
    if (auto found = look()) co_return std::move(*found);
    if (!co_await wait_for(socket, asio::posix::stream_descriptor::wait_read)) {
      co_return fail(Errc::shutting_down, "the connection was closed");
    }
  }
}

asio::awaitable<ipc::Status> Server::Impl::Connection::send(std::vector<std::byte> bytes,
                                                            std::vector<int> fds) {
  if (auto queued = writer.enqueue(bytes, fds); !queued) {
    co_return std::unexpected(std::move(queued.error()));
  }
  while (true) {
    auto progress = writer.flush(socket.native_handle());
    if (!progress) co_return std::unexpected(std::move(progress.error()));
    if (*progress == ipc::FrameWriter::Progress::drained) co_return ipc::Status();
    if (*progress == ipc::FrameWriter::Progress::closed) {
      co_return fail(Errc::daemon_away, "the peer closed its connection");
    }
    if (!co_await wait_for(socket, asio::posix::stream_descriptor::wait_write)) {
      co_return fail(Errc::shutting_down, "the connection was closed");
    }
  }
}

// ---- the life of a connection

asio::awaitable<void> Server::Impl::Connection::run() {
  const auto self = shared_from_this();
  const Error silent{Errc::timed_out, "nothing that can be greeted came within " +
                                          std::to_string(kHelloDeadline.count()) +
                                          " s; a client says Hello as soon as it is connected"};
  end_at(std::chrono::steady_clock::now() + kHelloDeadline, silent);
  const ipc::Status greeted = co_await greet();
  deadline.expires_at(std::chrono::steady_clock::time_point::max());
  if (!greeted) {
    if (dismissed || greeted.error().code != Errc::daemon_away) {
      server->note_refusal(&peer, dismissed ? *dismissed : greeted.error());
    }
    if (session == nullptr) co_return;
    // The welcome did not reach the peer: the session is there, and ends like any other.
    socket_closed = greeted.error().code == Errc::daemon_away;
    if (!socket_closed) end(end_by(greeted.error(), Violation::flood));
  }
  int frames = 0;
  while (!said_bye && !ended && !socket_closed) {
    if (++frames % kFramesPerTurn == 0) co_await asio::post(server->io, asio::use_awaitable);
    if (admin) await_admin_request();
    auto frame = co_await receive();
    if (!frame) {
      if (frame.error().code == Errc::daemon_away) {
        socket_closed = true;
      } else if (session != nullptr && !dismissed) {
        end(end_by(frame.error(), Violation::message));
      }
      break;
    }
    if (auto served = co_await serve(*frame); !served) {
      if (served.error().error.code == Errc::daemon_away) {
        socket_closed = true;
      } else if (session != nullptr) {
        end(served.error());
      }
      break;
    }
  }
  if (session == nullptr) co_return;
  if (!socket_closed && !said_bye) co_await discard_until_closed();
  finish_if_dead();
}

void Server::Impl::Connection::await_admin_request() {
  const std::chrono::milliseconds idle = server->config.limits.admin_idle;
  const Error why{Errc::timed_out, "an operator's connection that asks nothing for " +
                                       std::to_string(idle.count()) +
                                       " ms (limits.admin_idle) is closed; connect again"};
  end_at(std::chrono::steady_clock::now() + idle, why);
}

void Server::Impl::Connection::end_at(std::chrono::steady_clock::time_point time,
                                      const Error& why) {
  deadline.expires_at(time);
  deadline.async_wait([weak = weak_from_this(), why](boost::system::error_code error) {
    const auto connection = weak.lock();
    if (error || !connection) return;
    // It was put off when this was on its way already.
    if (connection->deadline.expiry() > std::chrono::steady_clock::now()) return;
    connection->dismiss(why);
  });
}

// A session that was ended for misconduct is over when its process and every copy of its socket are
// gone.
asio::awaitable<void> Server::Impl::Connection::discard_until_closed() {
  char scratch[4096];
  while (true) {
    const ssize_t got = recv(socket.native_handle(), scratch, sizeof(scratch), MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) break;
    if (got > 0) {
      co_await asio::post(server->io, asio::use_awaitable);
      continue;
    }
    if (!co_await wait_for(socket, asio::posix::stream_descriptor::wait_read)) break;
  }
  socket_closed = true;
}

asio::awaitable<ipc::Status> Server::Impl::Connection::refuse(std::uint64_t request, Error error) {
  co_await send(ipc::make_failed(request, error));
  co_return std::unexpected(std::move(error));
}

asio::awaitable<ipc::Status> Server::Impl::Connection::greet() {
  auto frame = co_await receive();
  if (!frame) co_return std::unexpected(std::move(frame.error()));
  auto envelope = ipc::verify_envelope(frame->bytes);
  if (!envelope) co_return std::unexpected(std::move(envelope.error()));
  const std::uint64_t request = (*envelope)->request();
  const auto* hello = (*envelope)->body_as_Hello();
  if (hello == nullptr) {
    const Error why{Errc::peer_violation, "the first message of a connection is Hello"};
    co_return co_await refuse(request, why);
  }
  auto agreed =
      ipc::negotiate({}, {hello->protocol_major(), hello->protocol_minor(), hello->features()});
  if (!agreed) co_return co_await refuse(request, agreed.error());

  if (!tenant) {
    auto found = tenant_of_peer(server->config, peer.uid, peer.gid);
    if (found) {
      tenant = *found;
    } else if (!(hello->admin() && server->is_admin(peer))) {
      co_return co_await refuse(request, found.error());
    }
  }
  admin = hello->admin();
  if (admin) {
    scope.everything = server->is_admin(peer);
    if (tenant) scope.tenant = ipc::TenantId{static_cast<std::uint32_t>(*tenant)};
    co_return co_await welcome_admin(request);
  }
  if (server->stopping) {
    const Error why{Errc::shutting_down, "the daemon is stopping"};
    co_return co_await refuse(request, why);
  }
  if (server->draining) {
    const Error why{
        Errc::busy,
        "the daemon takes no new sessions while it is drained; `sluicectl drain --off`"};
    co_return co_await refuse(request, why);
  }
  // Before any memory is made for it.
  const ipc::TenantId its_tenant{static_cast<std::uint32_t>(*tenant)};
  const ipc::Status admitted = server->coordinator.with_manager(
      [&](const auto& manager) { return manager.admits_session(its_tenant); });
  if (!admitted) co_return co_await refuse(request, admitted.error());
  ipc::Status welcomed = co_await welcome_session(request, *hello);
  if (!welcomed && session == nullptr && welcomed.error().code != Errc::daemon_away) {
    co_return co_await refuse(request, welcomed.error());
  }
  co_return welcomed;
}

asio::awaitable<ipc::Status> Server::Impl::Connection::welcome_admin(std::uint64_t request) {
  const std::string tenant_name = tenant ? server->config.tenants[*tenant].name : std::string();
  auto bytes = ipc::make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateWelcomeDirect(builder, ipc::kProtocolMinor, ipc::kProtocolFeatures, 0,
                                     tenant_name.c_str(), 0, 0, 0, kVersion, kBothExecutors);
  });
  co_return co_await send(std::move(bytes));
}

asio::awaitable<ipc::Status> Server::Impl::Connection::welcome_session(std::uint64_t request,
                                                                       const wire::Hello& hello) {
  const RingsConfig& rings = server->config.rings;
  auto memory = ipc::SessionMemory::create(rings.capacity, rings.request_memory_bytes);
  if (!memory) co_return std::unexpected(std::move(memory.error()));
  auto bells = ipc::make_doorbell();
  if (!bells) co_return std::unexpected(std::move(bells.error()));
  const ipc::TenantId tenant_id{static_cast<std::uint32_t>(*tenant)};
  auto id = server->coordinator.open_session(tenant_id);
  if (!id) co_return std::unexpected(std::move(id.error()));

  auto made = std::make_shared<Session>();
  made->id = *id;
  made->tenant = tenant_id;
  made->tenant_name = server->config.tenants[*tenant].name;
  made->client_name = std::string(ipc::text_of(hello.client_name()).substr(0, 64));
  made->pid = peer.pid;
  made->uid = peer.uid;
  made->memory = std::move(*memory);
  made->bell = std::move(bells->daemon_end);
  session = made;
  leave_sessionless();
  server->sessions.emplace(id->value, shared_from_this());

  server->lanes.add(session, [weak = weak_from_this(), io = &server->io](const SessionEnd& why) {
    asio::post(*io, [weak, why] {
      if (const auto connection = weak.lock()) connection->end(why);
    });
  });
  pidfd = std::make_unique<asio::posix::stream_descriptor>(server->io, peer.pidfd.release());
  asio::co_spawn(server->io, watch_process(), asio::detached);

  const auto& layout = session->memory.layout();
  auto bytes = ipc::make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateWelcomeDirect(builder, ipc::kProtocolMinor, ipc::kProtocolFeatures,
                                     session->id.value, session->tenant_name.c_str(),
                                     layout.ring_capacity, layout.request_bytes,
                                     layout.memory_bytes, kVersion,
                                     server->coordinator.on_gpus() ? kDirectOnly : kBothExecutors);
  });
  log_info("session opened", {{"session", session->id.value},
                              {"tenant", session->tenant_name},
                              {"client", session->client_name},
                              {"pid", std::int64_t{session->pid}}});
  std::vector<int> fds{session->memory.fd().get(), bells->client_end.fd()};
  co_return co_await send(std::move(bytes), std::move(fds));
}

asio::awaitable<void> Server::Impl::Connection::watch_process() {
  const auto self = shared_from_this();
  if (!co_await wait_for(*pidfd, asio::posix::stream_descriptor::wait_read)) co_return;
  if (left_lane) co_return;
  process_gone = true;
  death = std::chrono::steady_clock::now();
  opening_wake.cancel();
  if (end_reason.empty()) end_reason = "its process died";
  finish_if_dead();
}

void Server::Impl::Connection::end(const SessionEnd& why) {
  if (ended || left_lane) return;
  ended = true;
  end_reason = why.error.text;
  log_warn("session ended",
           {{"session", session->id.value},
            {"tenant", session->tenant_name},
            {"code", ipc::to_string(why.error.code)},
            {"violation", why.violation ? to_string(*why.violation) : std::string_view("none")},
            {"reason", why.error.text}});
  if (why.violation) server->coordinator.count_violation(session->tenant, *why.violation);
  server->lanes.stop(session->id);
  say_closing(writer, socket.native_handle(), why.error);
  shutdown(socket.native_handle(), SHUT_WR);
  socket.cancel();  // run() goes on to wait for the end
  opening_wake.cancel();
}

void Server::Impl::Connection::dismiss(const Error& why) {
  leave_sessionless();
  dismissed = why;
  say_closing(writer, socket.native_handle(), why);
  shutdown(socket.native_handle(), SHUT_RDWR);
  boost::system::error_code ignored;
  (void)socket.cancel(ignored);
}

// The daemon goes: its coroutines end, and with them what they hold.
void Server::Impl::Connection::stop(const std::string& why) {
  dismiss(Error{Errc::shutting_down, why});
  deadline.cancel();
  boost::system::error_code ignored;
  if (pidfd) (void)pidfd->cancel(ignored);
  opening_wake.cancel();
}

// The lane lets go of the session once the process cannot touch it any more.
void Server::Impl::Connection::finish_if_dead() {
  const bool dead = said_bye || (process_gone && socket_closed);
  if (!dead || left_lane) return;
  left_lane = true;
  const bool died = !said_bye;
  if (death == std::chrono::steady_clock::time_point{}) death = std::chrono::steady_clock::now();
  // The lane keeps no reference: a connection is destroyed on the io thread, as its descriptors
  // demand.
  server->lanes.remove(session->id, [self = shared_from_this(), died]() mutable {
    asio::io_context& io = self->server->io;
    asio::post(io, [self = std::move(self), died] {
      self->server->coordinator.end_session(self->session, died, self->death);
      self->server->sessions.erase(self->session->id.value);
      log_info("session closed",
               {{"session", self->session->id.value},
                {"tenant", self->session->tenant_name},
                {"reason", died ? std::string_view(self->end_reason) : std::string_view("bye")}});
      if (self->pidfd) self->pidfd->cancel();
      boost::system::error_code ignored;
      (void)self->socket.close(ignored);
    });
  });
}

// ---- requests

asio::awaitable<std::expected<void, SessionEnd>> Server::Impl::Connection::serve(
    const ipc::Frame& frame) {
  auto envelope = ipc::verify_envelope(frame.bytes);
  if (!envelope) {
    co_return std::unexpected(end_by(std::move(envelope.error()), Violation::message));
  }
  if (const auto* body = (*envelope)->body_as_OpenCache(); body != nullptr && !admin) {
    ipc::Status opened = co_await open_cache((*envelope)->request(), *body);
    if (!opened) co_return std::unexpected(end_by(std::move(opened.error()), Violation::flood));
    co_return std::expected<void, SessionEnd>();
  }
  std::vector<int> fds;
  std::vector<std::byte> bytes;
  if ((*envelope)->body_type() == wire::Body::Bye) {
    said_bye = true;
    bytes = ipc::make_done((*envelope)->request());
  } else if (admin) {
    bytes = co_await ask_admin(**envelope);
  } else {
    bytes = handle(**envelope, fds);
  }
  ipc::Status sent = co_await send(std::move(bytes), std::move(fds));
  if (!sent) co_return std::unexpected(end_by(std::move(sent.error()), Violation::flood));
  co_return std::expected<void, SessionEnd>();
}

asio::awaitable<std::vector<std::byte>> Server::Impl::Connection::ask_admin(
    const wire::Envelope& envelope) {
  std::vector<int> none;
  const auto until = std::chrono::steady_clock::now() + kAdminPatience;
  auto reply = answer(envelope, none);
  while (!reply && reply.error().code == Errc::busy && !server->stopping &&
         std::chrono::steady_clock::now() < until) {
    asio::steady_timer pause(server->io, kAdminPause);
    co_await pause.async_wait(asio::use_awaitable);
    reply = answer(envelope, none);
  }
  if (!reply) co_return ipc::make_failed(envelope.request(), reply.error());
  co_return std::move(*reply);
}

std::vector<std::byte> Server::Impl::Connection::handle(const wire::Envelope& envelope,
                                                        std::vector<int>& fds) {
  auto reply = answer(envelope, fds);
  if (reply) return std::move(*reply);
  fds.clear();
  return ipc::make_failed(envelope.request(), reply.error());
}

ipc::Result<std::vector<std::byte>> Server::Impl::Connection::answer(const wire::Envelope& envelope,
                                                                     std::vector<int>& fds) {
  const std::uint64_t request = envelope.request();
  if (admin) {
    const auto* body = envelope.body_as_AdminRequest();
    if (body == nullptr) {
      return fail(Errc::wrong_state, "an operator's connection takes admin requests only");
    }
    auto json = server->admin(scope, ipc::text_of(body->verb()), ipc::text_of(body->arguments()));
    if (!json) return std::unexpected(std::move(json.error()));
    if (json->size() > ipc::kMaxFrameBytes / 2) {
      return fail(Errc::list_too_long, "the answer has " + std::to_string(json->size()) +
                                           " bytes; narrow the request with a selector or --limit");
    }
    return ipc::make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
      return wire::CreateAdminReplyDirect(builder, json->c_str());
    });
  }
  Coordinator& owner = server->coordinator;
  switch (envelope.body_type()) {
    case wire::Body::FetchExtents:
      return fetch_extents(request, *envelope.body_as_FetchExtents(), fds);
    case wire::Body::CloseCache: {
      const auto handle = ipc::Handle::from_bits(envelope.body_as_CloseCache()->cache());
      const auto closed = owner.close_cache(*session, handle);
      if (!closed) return std::unexpected(closed.error());
      server->lanes.forget_cache(session->id, *closed);
      return ipc::make_done(request);
    }
    case wire::Body::OpenActor: {
      const auto handle = ipc::Handle::from_bits(envelope.body_as_OpenActor()->cache());
      auto actor = owner.open_actor(*session, handle);
      if (!actor) return std::unexpected(std::move(actor.error()));
      return ipc::make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
        return wire::CreateActorOpened(builder, *actor);
      });
    }
    case wire::Body::CloseActor: {
      const auto* body = envelope.body_as_CloseActor();
      auto ok = owner.close_actor(*session, ipc::Handle::from_bits(body->cache()), body->actor());
      if (!ok) return std::unexpected(std::move(ok.error()));
      return ipc::make_done(request);
    }
    default:
      return fail(Errc::not_supported, std::string("this daemon does not serve ") +
                                           wire::EnumNameBody(envelope.body_type()) +
                                           " on a session");
  }
}

// ---- opening a cache, which waits for its memory

asio::awaitable<ipc::Status> Server::Impl::Connection::open_cache(std::uint64_t request,
                                                                  const wire::OpenCache& body) {
  auto wanted = request_from(body);
  if (!wanted) co_return co_await send(ipc::make_failed(request, wanted.error()));
  const wire::Executor executor = wanted->executor;
  const auto waiting = std::make_shared<CacheOpening>();
  waiting->request = std::move(*wanted);
  opening = true;
  auto opened = co_await wait_for_cache(waiting);
  opening = false;
  if (!opened) {
    auto sent = co_await send(ipc::make_failed(request, opened.error()));
    if (leaves()) co_return ipc::Status();  // who has gone misses the answer, but a Bye is heard
    co_return sent;
  }
  std::vector<int> fds;
  if (executor == wire::Executor::direct) fds = opened->memory->table_fds();
  auto bytes = opened_message(request, *opened, executor);
  co_return co_await send(std::move(bytes), std::move(fds));
}

asio::awaitable<ipc::Result<OpenedCache>> Server::Impl::Connection::wait_for_cache(
    const std::shared_ptr<CacheOpening>& waiting) {
  const std::chrono::milliseconds most = server->config.limits.open_deadline;
  const auto until = std::chrono::steady_clock::now() + most;
  while (true) {
    auto opened = server->coordinator.open_cache(*session, waiting);
    if (!opened) co_return std::unexpected(std::move(opened.error()));
    if (*opened) co_return std::move(**opened);
    if (leaves() || std::chrono::steady_clock::now() >= until) break;
    watch_peer();
    opening_wake.expires_at(until);
    boost::system::error_code ignored;
    co_await opening_wake.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  server->coordinator.abandon_open(*session, *waiting);
  co_return fail(Errc::busy, "the cache was not ready within limits.open_deadline (" +
                                 std::to_string(most.count()) + " ms): " + waiting->waits_for);
}

// Whether the session ends, so that a cache for it is in vain. Reads one frame ahead to know: what
// follows a request waits for its answer, except for a Bye and the end of the connection, also
// behind that frame.
bool Server::Impl::Connection::leaves() {
  if (ended || process_gone || server->stopping) return true;
  if (!ahead) ahead = look();
  if (!ahead) return false;
  if (!*ahead) return true;
  const auto next = ipc::verify_envelope((*ahead)->bytes);
  return !next || (*next)->body_type() == wire::Body::Bye || hung_up(socket.native_handle());
}

// A hang-up ends both waits; what lies behind the frame that was read ahead ends only the first.
void Server::Impl::Connection::watch_peer() {
  using Wait = asio::posix::stream_descriptor;
  bool Connection::* const watched = ahead ? &Connection::awaits_end : &Connection::awaits_frame;
  if (std::exchange(this->*watched, true)) return;
  socket.async_wait(ahead ? Wait::wait_error : Wait::wait_read,
                    [self = shared_from_this(), watched](boost::system::error_code) {
                      (*self).*watched = false;
                      self->opening_wake.cancel();
                    });
}

void Server::Impl::wake_openings() const {
  for (Connection* connection : connections) connection->opening_wake.cancel();
}

ipc::Result<std::vector<std::byte>> Server::Impl::Connection::fetch_extents(
    std::uint64_t request, const wire::FetchExtents& body, std::vector<int>& fds) {
  auto cache = session->cache(ipc::Handle::from_bits(body.cache()));
  if (!cache) return std::unexpected(std::move(cache.error()));
  if (body.tier() > static_cast<std::uint8_t>(ipc::Tier::dram)) {
    return fail(Errc::invalid_argument, "extents are fetched of tier 0 (HBM) or 1 (DRAM), not " +
                                            std::to_string(body.tier()));
  }
  const auto tier = static_cast<ipc::Tier>(body.tier());
  std::uint32_t total = 0;
  fds = cache->memory->extent_fds(tier, body.first(), ipc::kMaxFdsPerFrame, total);
  return ipc::make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateExtentFds(builder, body.tier(), body.first(),
                                 static_cast<std::uint32_t>(fds.size()), total);
  });
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

void Server::drain(bool on) { impl_->draining = on; }

void Server::stop(const std::string& why) {
  impl_->stopping = true;
  for (auto& listener : impl_->listeners) listener->watch->cancel();
  const auto connections = impl_->connections;
  for (Impl::Connection* connection : connections) connection->stop(why);
  impl_->sessions.clear();
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
    row.caches = static_cast<std::uint32_t>(session.caches().size());
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace sluice::daemon
