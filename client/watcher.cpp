#include "client/watcher.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "client/client.h"
#include "client/resume.h"
#include "ipc/unix_socket.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::Error;
using ipc::fail;

namespace {

// A listener that does not accept is as good as none.
constexpr std::chrono::milliseconds kConnectTimeout{200};

// A daemon that answers so will answer so the next time.
bool is_final(Errc code) {
  return code == Errc::version_mismatch || code == Errc::unknown_tenant ||
         code == Errc::permission_denied || code == Errc::peer_violation ||
         code == Errc::not_supported || code == Errc::invalid_argument;
}

// Signals of the engine are for threads of the engine.
class WithoutSignals {
 public:
  WithoutSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  WithoutSignals(const WithoutSignals&) = delete;
  WithoutSignals& operator=(const WithoutSignals&) = delete;
  ~WithoutSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

Error cold(std::string what) {
  return {Errc::stale_handle,
          std::move(what) +
              "; what this client held is lost: close the client, connect anew, "
              "and compute again what is not found by its keys"};
}

}  // namespace

ipc::Result<std::unique_ptr<Watcher>> Watcher::start(Client& client, std::string socket_path,
                                                     std::string client_name) {
  std::unique_ptr<Watcher> watcher(
      new Watcher(client, std::move(socket_path), std::move(client_name)));
  watcher->stop_ = ipc::Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!watcher->stop_) return ipc::fail_errno("making an eventfd");
  watcher->token_ = client.gate().link()->welcome().token;
  const WithoutSignals none;
  try {
    watcher->thread_ = std::thread([self = watcher.get()] { self->run(); });
  } catch (const std::system_error& error) {
    return fail(Errc::limit_reached,
                std::string("no thread to watch the daemon could be started: ") + error.what());
  }
  return watcher;
}

Watcher::~Watcher() {
  stopping_.store(true);
  const std::uint64_t one = 1;
  (void)!write(stop_.get(), &one, sizeof one);
  {
    const std::lock_guard lock(mutex_);
    if (next_ != nullptr) next_->cut();
  }
  if (thread_.joinable()) thread_.join();
}

void Watcher::run() {
  Gate& gate = client_.gate();
  while (true) {
    Link* const link = &gate.current();
    if (!watch(*link)) return;
    Error why = link->control().end_reason();
    link->cut();
    if (!says_away(why.code)) {
      gate.end(std::move(why));
      return;
    }
    gate.away(std::move(why));
    std::chrono::milliseconds backoff = kLeastBackoff;
    if (!reconnect(backoff)) return;
  }
}

bool Watcher::watch(const Link& link) const {
  pollfd fds[] = {{link.control_fd(), POLLRDHUP, 0}, {stop_.get(), POLLIN, 0}};
  while (!stopping_) {
    fds[0].revents = 0;
    if (poll(fds, 2, -1) > 0 && fds[0].revents != 0) return !stopping_;
  }
  return false;
}

bool Watcher::pause(std::chrono::milliseconds time) const {
  pollfd stop{stop_.get(), POLLIN, 0};
  (void)poll(&stop, 1, static_cast<int>(time.count()));
  return !stopping_;
}

bool Watcher::reconnect(std::chrono::milliseconds& backoff) {
  while (!stopping_) {
    Error why{Errc::ok, {}};
    const Attempt made = attempt(why);
    if (made == Attempt::resumed) return true;
    if (made == Attempt::over) return false;
    client_.gate().give_up(std::move(why));
    if (!pause(backoff)) return false;
    backoff = std::min(backoff * 2, kMostBackoff);
  }
  return false;
}

Link* Watcher::greet(Error& why) {
  auto socket = ipc::connect_unix(socket_path_, ipc::deadline_in(kConnectTimeout));
  if (!socket) {
    why = {Errc::daemon_away, socket.error().text};
    return nullptr;
  }
  {
    const std::lock_guard lock(mutex_);
    next_ = std::make_shared<Link>(std::move(*socket));
  }
  if (stopping_) return nullptr;
  const Greeting greeting{client_name_, false, client_.session(), token_};
  if (auto ok = next_->greet(greeting, ipc::deadline_in(kResumeTimeout)); !ok) {
    why = ok.error();
    return nullptr;
  }
  return next_.get();
}

Watcher::Attempt Watcher::attempt(Error& why) {
  Gate& gate = client_.gate();
  Link* const link = greet(why);
  if (link == nullptr) {
    if (why.code == Errc::not_found) {
      gate.end(
          cold("the daemon that came back was started cold, or by another version or "
               "configuration: " +
               why.text));
      return Attempt::over;
    }
    if (!is_final(why.code)) return Attempt::again;
    gate.end(cold("the daemon that came back refused this client (" + why.text + ")"));
    return Attempt::over;
  }
  const Link::Welcome& welcome = link->welcome();
  if (!welcome.resumed || welcome.session != client_.session()) {
    gate.end(cold("the daemon that came back gave session " + std::to_string(welcome.session) +
                  " in place of " + std::to_string(client_.session())));
    return Attempt::over;
  }
  gate.begin_resume();
  if (auto ok = resume_all(client_, *link); !ok) {
    why = {Errc::daemon_away, ok.error().text};
    link->cut();
    return Attempt::again;
  }
  std::shared_ptr<Link> resumed;
  {
    const std::lock_guard lock(mutex_);
    resumed = std::move(next_);
  }
  gate.connect(std::move(resumed));
  client_.tell_pinned();
  return Attempt::resumed;
}

}  // namespace sluice::client::internal
