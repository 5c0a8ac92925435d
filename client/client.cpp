#include "client/client.h"

#include <errno.h>
#include <poll.h>

#include "client/default_socket.h"
#include "ipc/protocol.h"
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

Client::Client(ForkGuard guard, ipc::Fd socket, std::chrono::microseconds timeout)
    : fork_guard_(std::move(guard)),
      timeout_(timeout),
      control_(std::make_unique<Control>(std::move(socket))) {}

ipc::Result<std::unique_ptr<Client>> Client::connect(const ConnectOptions& options) {
  auto guard = ForkGuard::make();
  if (!guard) return std::unexpected(guard.error());
  const auto timeout = options.timeout.count() > 0
                           ? options.timeout
                           : std::chrono::duration_cast<std::chrono::microseconds>(kDefaultTimeout);
  auto socket = ipc::connect_unix(socket_of(options), ipc::deadline_in(timeout));
  if (!socket) return std::unexpected(socket.error());
  std::unique_ptr<Client> client(new Client(std::move(*guard), std::move(*socket), timeout));
  if (auto ok = client->handshake(options); !ok) return std::unexpected(ok.error());
  return client;
}

ipc::Status Client::handshake(const ConnectOptions& options) {
  auto reply = control_->call(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        const auto name = builder.CreateString(name_of(options));
        wire::HelloBuilder hello(builder);
        hello.add_protocol_major(ipc::kProtocolMajor);
        hello.add_protocol_minor(ipc::kProtocolMinor);
        hello.add_features(ipc::kProtocolFeatures);
        hello.add_client_name(name);
        hello.add_admin(options.admin);
        return hello.Finish();
      },
      deadline());
  if (!reply) return std::unexpected(reply.error());
  auto welcome = reply->as<wire::Welcome>();
  if (!welcome) return std::unexpected(welcome.error());
  session_ = (*welcome)->session();
  executors_ = (*welcome)->executors();
  tenant_ = ipc::text_of((*welcome)->tenant());
  daemon_version_ = ipc::text_of((*welcome)->daemon_version());
  if (options.admin) return {};
  auto& fds = reply->frame.fds;
  if (fds.size() != ipc::kWelcomeFds) {
    return fail(Errc::peer_violation, "the daemon's welcome came with " +
                                          std::to_string(fds.size()) + " descriptors; expected " +
                                          std::to_string(ipc::kWelcomeFds));
  }
  auto memory = ipc::SessionMemory::attach(std::move(fds[0]), (*welcome)->ring_capacity(),
                                           (*welcome)->request_bytes());
  if (!memory) return std::unexpected(memory.error());
  channel_ =
      std::make_unique<Channel>(std::move(*memory), ipc::Doorbell(std::move(fds[1])), *control_);
  return {};
}

Client::~Client() {
  if (!in_owner() || session_ == 0) return;
  if (channel_ != nullptr && channel_->end_code() != Errc::ok) return;
  // Best effort: the daemon also notices the end of the connection.
  (void)control_->call([](auto& builder) { return wire::CreateBye(builder); }, deadline());
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
  pollfd socket{control_->fd(), POLLRDHUP, 0};
  if (poll(&socket, 1, 0) > 0 && (socket.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) {
    return std::unexpected(control_->end_reason());
  }
  return {};
}

ipc::Status Client::check_alive() {
  if (auto ok = check(); !ok) return ok;
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
  if (abandoned_.load(std::memory_order_relaxed)) return check();
  auto alive = check_alive();
  if (alive) return alive;
  const Errc why = alive.error().code;
  if (why != Errc::daemon_away && why != Errc::shutting_down) return alive;
  abandoned_.store(true, std::memory_order_relaxed);
  return {};
}

}  // namespace sluice::client::internal
