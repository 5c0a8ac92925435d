// How a connection begins: who the peer is, and whether it gets a session.
#include "daemon/connection.h"

#include <sys/random.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <cstring>

#include "daemon/bell_watch.h"
#include "daemon/lanes.h"
#include "daemon/logging.h"
#include "daemon/session.h"
#include "daemon/version.h"
#include "ipc/doorbell.h"
#include "ipc/protocol.h"

namespace sluice::daemon {

namespace asio = boost::asio;
namespace wire = ipc::wire;
using ipc::Errc;
using ipc::Error;

namespace {

constexpr std::uint32_t kBothExecutors = 0b11;
constexpr std::uint32_t kDirectOnly = 0b10;

}  // namespace

asio::awaitable<ipc::Status> Connection::refuse(std::uint64_t request, Error error) {
  co_await send(ipc::make_failed(request, error));
  co_return std::unexpected(std::move(error));
}

asio::awaitable<ipc::Status> Connection::greet() {
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
  if (server->draining && hello->resume_session() == 0) {
    const Error why{
        Errc::busy,
        "the daemon takes no new sessions while it is drained; `sluicectl drain --off`"};
    co_return co_await refuse(request, why);
  }
  // Before any memory is made for it.
  const ipc::TenantId its_tenant{static_cast<std::uint32_t>(*tenant)};
  const ipc::Status admitted = server->coordinator.with_manager(
      [&](const auto& manager) { return manager.admits_session(its_tenant); });
  if (!admitted && hello->resume_session() == 0)
    co_return co_await refuse(request, admitted.error());
  ipc::Status welcomed = co_await welcome_session(request, *hello);
  if (!welcomed && session == nullptr && welcomed.error().code != Errc::daemon_away) {
    co_return co_await refuse(request, welcomed.error());
  }
  co_return welcomed;
}

// A session of before that this peer comes back to.
std::optional<KeptSession> Connection::claim_session(const wire::Hello& hello,
                                                     ipc::TenantId its_tenant) {
  if (hello.resume_session() == 0) return std::nullopt;
  const ipc::SessionId id{hello.resume_session()};
  const auto bytes = ipc::bytes_of(hello.resume_token());
  ResumeToken token{};
  std::optional<KeptSession> back;
  if (bytes.size() == token.size()) {
    std::memcpy(token.data(), bytes.data(), token.size());
    back = server->away.claim(id, token, {peer.pid, peer.uid, its_tenant});
  }
  if (back) {
    const auto resumed = server->coordinator.resume_session(id, its_tenant);
    SLUICE_ASSERT(resumed.has_value());
    return back;
  }
  log_info("a session that was asked for is none that may come back",
           {{"session", id.value}, {"pid", std::int64_t{peer.pid}}});
  return std::nullopt;
}

// What is to find the session again if the daemon dies; before the peer hears of it. The token is
// the session's for life, so that it does not matter how far a resume had come. Empty: it cannot be
// resumed.
std::vector<std::uint8_t> Connection::keep_session(std::optional<KeptSession> back) {
  KeptState& kept = server->coordinator.kept();
  if (!kept.active()) return {};
  KeptSession what;
  if (back) {
    what = std::move(*back);
    for (auto& [number, bell] : what.bells) {
      last_bell = std::max(last_bell, number);
      older_bells.emplace(
          number, std::make_unique<asio::posix::stream_descriptor>(server->io, bell.release()));
    }
    kept.keep_bell(session->id, ++last_bell, session->bell.fd());
    for (const auto& [number, bell] : older_bells) {
      asio::co_spawn(server->io, watch_older_bell(number), asio::detached);
    }
  } else {
    what.id = session->id;
    what.tenant = session->tenant_name;
    what.client_name = session->client_name;
    what.pid = session->pid;
    what.uid = session->uid;
    if (getrandom(what.token.data(), what.token.size(), 0) !=
        static_cast<ssize_t>(what.token.size())) {
      return {};
    }
    kept.keep_session(what, peer.pidfd.get(), session->bell.fd());
  }
  return {what.token.begin(), what.token.end()};
}

asio::awaitable<void> Connection::watch_older_bell(std::uint32_t number) {
  const auto self = shared_from_this();
  const HangUp how = co_await hang_up_of(*older_bells.at(number));
  if (how == HangUp::cancelled || left_lane) co_return;
  said_goodbye = said_goodbye || how == HangUp::goodbye;
  older_bells.erase(number);
  server->coordinator.kept().forget_bell(session->id, number);
  finish_if_dead();
}

asio::awaitable<ipc::Status> Connection::welcome_admin(std::uint64_t request) {
  const std::string tenant_name = tenant ? server->config.tenants[*tenant].name : std::string();
  auto bytes = ipc::make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateWelcomeDirect(builder, ipc::kProtocolMinor, ipc::kProtocolFeatures, 0,
                                     tenant_name.c_str(), 0, 0, 0, kVersion, kBothExecutors);
  });
  co_return co_await send(std::move(bytes));
}

asio::awaitable<ipc::Status> Connection::welcome_session(std::uint64_t request,
                                                         const wire::Hello& hello) {
  const RingsConfig& rings = server->config.rings;
  auto memory = ipc::SessionMemory::create(rings.capacity, rings.request_memory_bytes);
  if (!memory) co_return std::unexpected(std::move(memory.error()));
  auto bells = ipc::make_doorbell();
  if (!bells) co_return std::unexpected(std::move(bells.error()));
  const ipc::TenantId tenant_id{static_cast<std::uint32_t>(*tenant)};
  auto back = claim_session(hello, tenant_id);
  const bool resumed = back.has_value();
  if (!resumed && hello.resume_session() != 0) {
    co_return ipc::fail(ipc::Errc::not_found,
                        "session " + std::to_string(hello.resume_session()) +
                            " is none of this client's that may come back; connect without it");
  }
  auto id =
      resumed ? ipc::Result<ipc::SessionId>(back->id) : server->coordinator.open_session(tenant_id);
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
  const auto token = keep_session(std::move(back));
  pidfd = std::make_unique<asio::posix::stream_descriptor>(server->io, peer.pidfd.release());
  asio::co_spawn(server->io, watch_process(), asio::detached);

  const auto& layout = session->memory.layout();
  auto bytes = ipc::make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
    const auto outage =
        static_cast<std::uint32_t>(token.empty() ? 0 : server->config.restart.outage.count());
    return wire::CreateWelcomeDirect(
        builder, ipc::kProtocolMinor, ipc::kProtocolFeatures, session->id.value,
        session->tenant_name.c_str(), layout.ring_capacity, layout.request_bytes,
        layout.memory_bytes, kVersion,
        server->coordinator.serves_daemon_executor(session->tenant) ? kBothExecutors : kDirectOnly,
        resumed, &token, outage);
  });
  log_info(resumed ? "session resumed" : "session opened", {{"session", session->id.value},
                                                            {"tenant", session->tenant_name},
                                                            {"client", session->client_name},
                                                            {"pid", std::int64_t{session->pid}}});
  std::vector<int> fds{session->memory.fd().get(), bells->client_end.fd()};
  co_return co_await send(std::move(bytes), std::move(fds));
}

}  // namespace sluice::daemon
