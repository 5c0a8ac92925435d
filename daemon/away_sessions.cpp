#include "daemon/away_sessions.h"

#include <sys/socket.h>

#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "daemon/bell_watch.h"
#include "daemon/logging.h"
#include "daemon/readiness.h"

namespace sluice::daemon {

namespace asio = boost::asio;

struct AwaySessions::Impl : std::enable_shared_from_this<Impl> {
  struct Away {
    KeptSession session;
    ipc::TenantId tenant;
    std::unique_ptr<asio::posix::stream_descriptor> pidfd;
    std::map<std::uint32_t, std::unique_ptr<asio::posix::stream_descriptor>> bells;
    bool process_gone = false;
    bool said_goodbye = false;
    std::size_t bells_open = 0;
    bool claimed = false;
  };

  Impl(asio::io_context& its_io, Over its_over) : io(its_io), over(std::move(its_over)) {}

  // A coroutine holds what it watches; the map forgets it when it is claimed or over.
  static asio::awaitable<void> watch_process(std::shared_ptr<Impl> self,
                                             std::shared_ptr<Away> away) {
    const bool dead = co_await wait_for(*away->pidfd, asio::posix::stream_descriptor::wait_read);
    if (!dead || away->claimed) co_return;
    away->process_gone = true;
    self->look(away);
  }

  static asio::awaitable<void> watch_bell(std::shared_ptr<Impl> self, std::shared_ptr<Away> away,
                                          asio::posix::stream_descriptor* bell) {
    const HangUp how = co_await hang_up_of(*bell);
    if (how == HangUp::cancelled || away->claimed) co_return;
    --away->bells_open;
    away->said_goodbye = away->said_goodbye || how == HangUp::goodbye;
    self->look(away);
  }

  void look(const std::shared_ptr<Away>& away) {
    const bool over_for_it = away->process_gone || away->said_goodbye;
    if (!over_for_it || away->bells_open > 0 || away->claimed) return;
    cancel(*away);  // a process that said good-bye may live on, and would be watched for as long
    const ipc::SessionId id = away->session.id;
    log_info(
        "session closed",
        {{"session", id.value},
         {"tenant", away->session.tenant},
         {"reason", std::string_view(away->said_goodbye ? "it was closed while the daemon was away"
                                                        : "its process died while it was away")}});
    sessions.erase(id.value);
    over(id, away->tenant);
  }

  static void cancel(Away& away) {
    away.claimed = true;
    boost::system::error_code ignored;
    (void)away.pidfd->cancel(ignored);
    for (auto& [number, bell] : away.bells) (void)bell->cancel(ignored);
  }

  asio::io_context& io;
  Over over;
  std::map<std::uint64_t, std::shared_ptr<Away>> sessions;
};

AwaySessions::AwaySessions(asio::io_context& io, Over over)
    : impl_(std::make_shared<Impl>(io, std::move(over))) {}

AwaySessions::~AwaySessions() { stop(); }

void AwaySessions::add(KeptSession session, ipc::TenantId tenant) {
  const auto away = std::make_shared<Impl::Away>();
  away->tenant = tenant;
  away->bells_open = session.bells.size();
  away->pidfd =
      std::make_unique<asio::posix::stream_descriptor>(impl_->io, session.pidfd.release());
  for (auto& [number, bell] : session.bells) {
    away->bells.emplace(
        number, std::make_unique<asio::posix::stream_descriptor>(impl_->io, bell.release()));
  }
  session.bells.clear();
  away->session = std::move(session);
  impl_->sessions.emplace(away->session.id.value, away);
  asio::co_spawn(impl_->io, Impl::watch_process(impl_, away), asio::detached);
  for (const auto& [number, bell] : away->bells) {
    asio::co_spawn(impl_->io, Impl::watch_bell(impl_, away, bell.get()), asio::detached);
  }
}

std::optional<KeptSession> AwaySessions::claim(ipc::SessionId id, const ResumeToken& token,
                                               const Peer& peer) {
  const auto found = impl_->sessions.find(id.value);
  if (found == impl_->sessions.end()) return std::nullopt;
  const std::shared_ptr<Impl::Away> away = found->second;
  if (away->session.token != token || away->session.pid != peer.pid ||
      away->session.uid != peer.uid || away->tenant != peer.tenant || away->process_gone) {
    log_warn("somebody else asked for a session of before",
             {{"session", id.value}, {"pid", std::int64_t{peer.pid}}});
    return std::nullopt;
  }
  impl_->sessions.erase(found);
  Impl::cancel(*away);
  KeptSession session = std::move(away->session);
  for (auto& [number, bell] : away->bells) session.bells.emplace(number, ipc::Fd(bell->release()));
  return session;
}

std::vector<AwaySessions::Row> AwaySessions::rows() const {
  std::vector<Row> rows;
  for (const auto& [id, away] : impl_->sessions) {
    rows.push_back({ipc::SessionId{id}, away->tenant, away->session.tenant,
                    away->session.client_name, away->session.pid, away->process_gone});
  }
  return rows;
}

void AwaySessions::stop() {
  for (auto& [id, away] : impl_->sessions) {
    Impl::cancel(*away);
    close_bells(away->bells);
  }
  impl_->sessions.clear();
}

}  // namespace sluice::daemon
