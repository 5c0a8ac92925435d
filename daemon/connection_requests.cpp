// The requests of a session or an operator on its control connection.
#include "daemon/connection.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "daemon/lanes.h"
#include "daemon/session.h"

namespace sluice::daemon {

namespace asio = boost::asio;
namespace wire = ipc::wire;
using ipc::Errc;
using ipc::fail;

namespace {

// How long an operator's request waits for what takes a moment, and how often it looks.
constexpr std::chrono::seconds kAdminPatience{10};
constexpr std::chrono::milliseconds kAdminPause{10};

}  // namespace

asio::awaitable<std::expected<void, SessionEnd>> Connection::serve(const ipc::Frame& frame) {
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

asio::awaitable<std::vector<std::byte>> Connection::ask_admin(const wire::Envelope& envelope) {
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

std::vector<std::byte> Connection::handle(const wire::Envelope& envelope, std::vector<int>& fds) {
  auto reply = answer(envelope, fds);
  if (reply) return std::move(*reply);
  fds.clear();
  return ipc::make_failed(envelope.request(), reply.error());
}

ipc::Result<std::vector<std::byte>> Connection::answer(const wire::Envelope& envelope,
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
    case wire::Body::ResumeDone: {
      auto resumed = owner.session_resumed(session->id);
      if (!resumed) return std::unexpected(std::move(resumed.error()));
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

ipc::Result<std::vector<std::byte>> Connection::fetch_extents(std::uint64_t request,
                                                              const wire::FetchExtents& body,
                                                              std::vector<int>& fds) {
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

}  // namespace sluice::daemon
