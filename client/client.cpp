#include "client/client.h"

#include <errno.h>

#include "client/default_socket.h"
#include "ipc/unix_socket.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

namespace {

constexpr std::chrono::milliseconds kDaemonLookInterval{100};

std::string socket_of(const ConnectOptions& options) {
  return options.socket_path.empty() ? default_socket() : options.socket_path;
}

std::string name_of(const ConnectOptions& options) {
  std::string name =
      options.client_name.empty() ? program_invocation_short_name : options.client_name;
  return name.substr(0, kMaxClientName);
}

}  // namespace

Client::Client(ForkGuard guard, std::shared_ptr<Link> link, std::chrono::microseconds timeout)
    : fork_guard_(std::move(guard)), timeout_(timeout), welcome_(link->welcome()) {
  const bool resumable = !welcome_.token.empty();
  gate_ = std::make_unique<Gate>(std::move(link), resumable);
}

ipc::Result<std::unique_ptr<Client>> Client::connect(const ConnectOptions& options) {
  auto guard = ForkGuard::make();
  if (!guard) return std::unexpected(guard.error());
  const auto timeout = options.timeout.count() > 0
                           ? options.timeout
                           : std::chrono::duration_cast<std::chrono::microseconds>(kDefaultTimeout);
  const std::string path = socket_of(options);
  auto socket = ipc::connect_unix(path, ipc::deadline_in(timeout));
  if (!socket) return std::unexpected(socket.error());
  auto link = std::make_shared<Link>(std::move(*socket));
  const Greeting greeting{name_of(options), options.admin, 0, {}};
  if (auto ok = link->greet(greeting, ipc::deadline_in(timeout)); !ok) {
    return std::unexpected(ok.error());
  }
  std::unique_ptr<Client> client(new Client(std::move(*guard), std::move(link), timeout));
  if (!options.admin && client->gate().resumable()) {
    auto watcher = Watcher::start(*client, path, greeting.client_name);
    if (!watcher) return std::unexpected(watcher.error());
    client->watcher_ = std::move(*watcher);
  }
  return client;
}

// In a forked child nobody is there who waits, watches or holds a lock; only memory and descriptors
// are given back, and of those that such a thread may have been busy with, none.
Client::~Client() {
  if (!in_owner()) {
    const std::shared_ptr<Link> link = gate_->take_link_in_child();
    (void)watcher_.release();
    (void)gate_.release();
    return;
  }
  watcher_.reset();
  if (session() == 0) return;
  const std::shared_ptr<Link> link = gate_->link();
  if (gate_->state() != Gate::State::connected || link->broken()) {
    link->channel().say_goodbye();  // to the next daemon, which takes the bell over
    return;
  }
  // Best effort: the daemon also notices the end of the connection.
  (void)link->control().call([](auto& builder) { return wire::CreateBye(builder); }, deadline());
}

void Client::note_pinned(std::int64_t bytes) const {
  const std::lock_guard lock(pinned_mutex_);
  pinned_bytes_ += bytes;
  const std::shared_ptr<Link> link = gate_->link();
  if (session() != 0) {
    link->channel().memory().tell_pinned(static_cast<std::uint64_t>(pinned_bytes_));
  }
}

ipc::Status Client::check() {
  if (!in_owner()) {
    return fail(Errc::forked,
                "this client belongs to the process that opened it, and this is a child of that "
                "process; connect again in the child");
  }
  return {};
}

ipc::Status Client::look() {
  if (auto ok = check(); !ok) return ok;
  const std::shared_ptr<Link> link = gate_->link();
  if (gate_->state() == Gate::State::connected && link->hung_up()) {
    const ipc::Error why = link->control().end_reason();
    if (!lost(*link, why)) return std::unexpected(why);
  }
  if (ipc::Error why = gate_->reason(); why.code != Errc::ok) {
    return std::unexpected(std::move(why));
  }
  return {};
}

ipc::Status Client::check_alive() {
  if (auto ok = check(); !ok) return ok;
  if (watcher_ != nullptr) return check_not_ended();
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const std::int64_t now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  if (now_ns < next_look_ns_.load(std::memory_order_relaxed)) return {};
  next_look_ns_.store(now_ns + std::chrono::nanoseconds(kDaemonLookInterval).count(),
                      std::memory_order_relaxed);
  auto alive = look();
  if (!alive) next_look_ns_.store(0, std::memory_order_relaxed);
  return alive;
}

ipc::Status Client::check_not_ended() {
  if (watcher_ != nullptr) {
    if (auto ok = check(); !ok || gate_->state() != Gate::State::ended) return ok;
    return std::unexpected(gate_->reason());
  }
  if (abandoned_.load(std::memory_order_relaxed)) return check();
  auto alive = check_alive();
  if (alive || !says_away(alive.error().code)) return alive;
  abandoned_.store(true, std::memory_order_relaxed);
  return {};
}

bool Client::lost(Link& link, const ipc::Error& why) {
  return says_away(why.code) && link.broken() && gate_->gone(link, why);
}

void Client::add(Cache& cache) {
  const std::lock_guard lock(caches_mutex_);
  caches_.insert(&cache);
}

void Client::remove(Cache& cache) {
  const std::lock_guard lock(caches_mutex_);
  caches_.erase(&cache);
}

}  // namespace sluice::client::internal
