#include "daemon/connection.h"

#include <sys/socket.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "daemon/bell_watch.h"
#include "daemon/lanes.h"
#include "daemon/logging.h"
#include "daemon/readiness.h"
#include "daemon/session.h"

namespace sluice::daemon {

namespace asio = boost::asio;
namespace wire = ipc::wire;
using ipc::Errc;
using ipc::Error;
using ipc::fail;

namespace {

// Requests of one connection before others get their turn.
constexpr int kFramesPerTurn = 16;

}  // namespace

void say_closing(ipc::FrameWriter& writer, int socket, const Error& reason) {
  const auto bytes = ipc::make_message(0, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateClosingDirect(builder, static_cast<std::uint16_t>(reason.code),
                                     reason.text.c_str());
  });
  if (writer.enqueue(bytes)) (void)writer.flush(socket);
}

// ---- frames

std::optional<ipc::Result<ipc::Frame>> Connection::look() {
  if (ahead) return std::exchange(ahead, std::nullopt);
  auto progress = reader.advance(socket.native_handle());
  if (!progress) return std::unexpected(std::move(progress.error()));
  if (*progress == ipc::FrameReader::Progress::frame) return reader.take();
  if (*progress == ipc::FrameReader::Progress::closed) {
    return fail(Errc::daemon_away, "the peer closed its connection");
  }
  return std::nullopt;
}

asio::awaitable<ipc::Result<ipc::Frame>> Connection::receive() {
  while (true) {
    if (auto found = look()) co_return std::move(*found);
    if (!co_await wait_for(socket, asio::posix::stream_descriptor::wait_read)) {
      co_return fail(Errc::shutting_down, "the connection was closed");
    }
  }
}

asio::awaitable<ipc::Status> Connection::send(std::vector<std::byte> bytes, std::vector<int> fds) {
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

asio::awaitable<void> Connection::run() {
  const auto self = shared_from_this();
  const Error silent{Errc::timed_out, "nothing that can be greeted came within " +
                                          std::to_string(Server::kHelloDeadline.count()) +
                                          " s; a client says Hello as soon as it is connected"};
  end_at(std::chrono::steady_clock::now() + Server::kHelloDeadline, silent);
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

void Connection::await_admin_request() {
  const std::chrono::milliseconds idle = server->config.limits.admin_idle;
  const Error why{Errc::timed_out, "an operator's connection that asks nothing for " +
                                       std::to_string(idle.count()) +
                                       " ms (limits.admin_idle) is closed; connect again"};
  end_at(std::chrono::steady_clock::now() + idle, why);
}

void Connection::end_at(std::chrono::steady_clock::time_point time, const Error& why) {
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
asio::awaitable<void> Connection::discard_until_closed() {
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

asio::awaitable<void> Connection::watch_process() {
  const auto self = shared_from_this();
  if (!co_await wait_for(*pidfd, asio::posix::stream_descriptor::wait_read)) co_return;
  if (left_lane) co_return;
  process_gone = true;
  death = std::chrono::steady_clock::now();
  opening_wake.cancel();
  if (end_reason.empty()) end_reason = "its process died";
  finish_if_dead();
}

void Connection::end(const SessionEnd& why) {
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

void Connection::dismiss(const Error& why) {
  leave_sessionless();
  dismissed = why;
  say_closing(writer, socket.native_handle(), why);
  shutdown(socket.native_handle(), SHUT_RDWR);
  boost::system::error_code ignored;
  (void)socket.cancel(ignored);
}

// The daemon goes: its coroutines end, and with them what they hold.
void Connection::stop(const std::string& why) {
  dismiss(Error{Errc::shutting_down, why});
  deadline.cancel();
  boost::system::error_code ignored;
  if (pidfd) (void)pidfd->cancel(ignored);
  close_bells(older_bells);
  opening_wake.cancel();
}

// The lane lets go of the session once the process cannot touch it any more.
void Connection::finish_if_dead() {
  const bool lets_go = process_gone || said_goodbye;
  const bool dead = said_bye || (lets_go && socket_closed && older_bells.empty());
  if (!dead || left_lane) return;
  left_lane = true;
  const bool died = !said_bye;
  if (said_goodbye && !process_gone) end_reason = "it was closed while the daemon was away";
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
      for (auto& [number, bell] : self->older_bells) (void)bell->cancel(ignored);
      (void)self->socket.close(ignored);
    });
  });
}

}  // namespace sluice::daemon
