// The daemon's end of sluice-keeper.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "daemon/descriptor_store.h"
#include "daemon/keeper/protocol.h"
#include "daemon/keeper/serve.h"
#include "ipc/deadline.h"
#include "ipc/kill_point.h"
#include "ipc/unix_socket.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;

namespace {

// Between two looks for a keeper that another process is starting, or that is ending.
constexpr std::chrono::milliseconds kLookAgain{1};
// Of what a keeper that cannot start says.
constexpr std::size_t kMaxComplaintBytes = 4096;

struct KeeperAnswer {
  keeper::AnswerHead head;
  keeper::Message message;

  Errc status() const { return static_cast<Errc>(head.status); }
};

std::unexpected<ipc::Error> keeper_violation(const std::string& what) {
  return fail(Errc::peer_violation, "sluice-keeper does not keep to its protocol: " + what);
}

std::unexpected<ipc::Error> keeper_gone() {
  return fail(Errc::daemon_away,
              "sluice-keeper is gone, and what it held goes with this daemon; a restart of the "
              "daemon starts another one");
}

ipc::Result<keeper::Message> receive_by(int socket, ipc::Deadline deadline) {
  while (true) {
    pollfd readable{socket, POLLIN, 0};
    const auto events = ipc::poll_until(&readable, 1, deadline);
    if (!events) return std::unexpected(events.error());
    if (*events == 0) return fail(Errc::timed_out, "sluice-keeper does not answer");
    auto message = keeper::receive_message(socket);
    if (!message) return std::unexpected(std::move(message.error()));
    if (!*message) continue;
    if ((*message)->bytes.empty()) return keeper_gone();
    return std::move(**message);
  }
}

ipc::Status send_request(int socket, const keeper::Request& request,
                         std::span<const int> fds = {}) {
  auto sent = keeper::send_message(socket, std::as_bytes(std::span(&request, 1)), fds);
  if (!sent && sent.error().code == Errc::daemon_away) return keeper_gone();
  return sent;
}

ipc::Result<KeeperAnswer> receive_answer(int socket, std::uint32_t kind, ipc::Deadline deadline) {
  auto message = receive_by(socket, deadline);
  if (!message) return std::unexpected(std::move(message.error()));
  const auto header = message->read<keeper::Header>(0);
  if (!header || header->magic != keeper::kMagic) return keeper_violation("an answer without head");
  if (header->version != keeper::kProtocolVersion) {
    return fail(Errc::version_mismatch,
                "the sluice-keeper that runs has protocol version " +
                    std::to_string(header->version) + ", this daemon has " +
                    std::to_string(keeper::kProtocolVersion) +
                    ": end that keeper (SIGTERM) to start without what it holds, or run the daemon "
                    "that it belongs to");
  }
  const auto head = message->read<keeper::AnswerHead>(0);
  if (!head || header->kind != kind || message->is_cut ||
      head->count > keeper::kMaxDescriptorsPerAnswer ||
      message->bytes.size() != sizeof(keeper::AnswerHead) + head->count * sizeof(keeper::Name)) {
    return keeper_violation("an answer that does not fit its request");
  }
  if (message->lost_fds) {
    return fail(Errc::limit_reached,
                "no room for the descriptors that sluice-keeper holds; raise the daemon's limit of "
                "open files (RLIMIT_NOFILE)");
  }
  return KeeperAnswer{*head, std::move(*message)};
}

class KeeperStore final : public DescriptorStore {
 public:
  KeeperStore(ipc::Fd socket, pid_t pid, std::chrono::milliseconds answer_patience)
      : socket_(std::move(socket)), pid_(pid), answer_patience_(answer_patience) {}

  ipc::Result<std::vector<KeptDescriptor>> take() override {
    const std::lock_guard lock(mutex_);
    if (std::exchange(is_in_use_, true)) {
      return fail(Errc::wrong_state, "what is kept is taken once, before anything is put");
    }
    std::vector<KeptDescriptor> all;
    while (true) {
      auto answer = ask(keeper::Kind::take, all.empty() ? std::string() : all.back().name);
      if (!answer) return std::unexpected(std::move(answer.error()));
      if (auto ok = append(*answer, all); !ok) {
        return std::unexpected(give_up(std::move(ok.error())));
      }
      if (answer->head.left == 0) return all;
    }
  }

  ipc::Status put(std::string_view name, int fd) override {
    if (auto ok = check_put(name, fd); !ok) return ok;
    const std::lock_guard lock(mutex_);
    is_in_use_ = true;
    return done(ask(keeper::Kind::put, name, {&fd, 1}), name);
  }

  ipc::Status remove(std::string_view name) override {
    if (!keeper::is_valid_name(name)) return {};
    const std::lock_guard lock(mutex_);
    is_in_use_ = true;
    // A keeper that was only slow reads it before it sees that this daemon is gone.
    if (lost_) (void)send_request(socket_.get(), keeper::make_request(keeper::Kind::remove, name));
    return done(ask(keeper::Kind::remove, name), name);
  }

  ipc::Status clear() override {
    const std::lock_guard lock(mutex_);
    is_in_use_ = true;
    auto status = done(ask(keeper::Kind::end, {}), {});
    if (status) (void)give_up(keeper_gone().error());
    return status;
  }

  ipc::Status look() override {
    const std::lock_guard lock(mutex_);
    if (lost_) return std::unexpected(*lost_);
    pollfd hung_up{socket_.get(), POLLRDHUP, 0};
    if (poll(&hung_up, 1, 0) > 0) return std::unexpected(give_up(keeper_gone().error()));
    return {};
  }

  std::string describe() const override { return "sluice-keeper, pid " + std::to_string(pid_); }

 private:
  // From here on nothing is asked. The connection stays, for what a slow keeper should still hear.
  ipc::Error give_up(ipc::Error reason) {
    lost_ = {Errc::daemon_away, reason.text};
    return reason;
  }

  // After an error nobody knows which answer comes next, if any.
  ipc::Result<KeeperAnswer> ask(keeper::Kind kind, std::string_view name,
                                std::span<const int> fds = {}) {
    if (lost_) return std::unexpected(*lost_);
    const auto request = keeper::make_request(kind, name);
    if (auto sent = send_request(socket_.get(), request, fds); !sent) {
      // Nothing was sent: a descriptor that is none, or too many under way.
      if (sent.error().code != Errc::daemon_away) return std::unexpected(std::move(sent.error()));
      return std::unexpected(give_up(std::move(sent.error())));
    }
    auto answer =
        receive_answer(socket_.get(), request.header.kind, ipc::deadline_in(answer_patience_));
    if (!answer) return std::unexpected(give_up(std::move(answer.error())));
    return answer;
  }

  static ipc::Status done(const ipc::Result<KeeperAnswer>& answer, std::string_view name) {
    if (!answer) return std::unexpected(answer.error());
    switch (answer->status()) {
      case Errc::ok:
        return {};
      case Errc::wrong_state:
        return fail(Errc::wrong_state, "a descriptor is kept as " + std::string(name) + " already");
      case Errc::limit_reached:
        return fail(Errc::limit_reached,
                    "sluice-keeper is full; raise its hard limit of open files (RLIMIT_NOFILE of "
                    "the daemon that starts it)");
      default:
        return fail(Errc::internal,
                    "sluice-keeper answers with error " + std::to_string(answer->head.status));
    }
  }

  // Names ascend, so that each batch gets further and the list has an end.
  static ipc::Status append(KeeperAnswer& answer, std::vector<KeptDescriptor>& all) {
    if (answer.status() != Errc::ok) return done(std::move(answer), {});
    if (answer.message.fds.size() != answer.head.count ||
        (answer.head.count == 0 && answer.head.left != 0)) {
      return keeper_violation("a list whose names and descriptors differ in number");
    }
    for (std::size_t i = 0; i < answer.head.count; ++i) {
      const auto raw =
          answer.message.read<keeper::Name>(sizeof(keeper::AnswerHead) + i * sizeof(keeper::Name));
      auto name = keeper::text_of(*raw);
      if (!name || name->empty() || (!all.empty() && *name <= all.back().name)) {
        return keeper_violation("a list with a name that cannot be there");
      }
      all.push_back({std::move(*name), std::move(answer.message.fds[i])});
    }
    return {};
  }

  std::mutex mutex_;
  ipc::Fd socket_;
  std::optional<ipc::Error> lost_;
  bool is_in_use_ = false;
  const pid_t pid_;
  const std::chrono::milliseconds answer_patience_;
};

// ---- starting one

struct StartedKeeper {
  int exit_status = 0;  // of what was started; the keeper is a process apart
  std::string complaint;
};

// What a process says until it closes its end, for which the deadline holds.
ipc::Result<std::string> read_to_end(int from, ipc::Deadline deadline) {
  std::string text;
  std::array<char, 512> buffer;
  while (true) {
    pollfd readable{from, POLLIN, 0};
    const auto events = ipc::poll_until(&readable, 1, deadline);
    if (!events) return std::unexpected(events.error());
    if (*events == 0) return fail(Errc::timed_out, "sluice-keeper does not get to listen");
    const ssize_t bytes = read(from, buffer.data(), buffer.size());
    if (bytes < 0 && errno != EINTR) return ipc::fail_errno("reading from sluice-keeper");
    if (bytes == 0) return text;
    if (bytes > 0 && text.size() < kMaxComplaintBytes) {
      text.append(buffer.data(), static_cast<std::size_t>(bytes));
    }
  }
}

// The status of a child that closed all that it had, or is killed now.
int reap_keeper(pid_t pid) {
  int status = 0;
  pid_t gone = 0;
  do {
    gone = waitpid(pid, &status, 0);
  } while (gone < 0 && errno == EINTR);
  // Where children are not waited for (SIGCHLD ignored), the connection tells how it went.
  if (gone != pid) return 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : keeper::kExitFailed;
}

ipc::Result<StartedKeeper> start_keeper(const std::string& socket_path, const std::string& program,
                                        const KeeperOptions& options, ipc::Deadline deadline) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return ipc::fail_errno("pipe for sluice-keeper");
  const ipc::Fd ours(ends[0]);
  ipc::Fd theirs(ends[1]);
  std::array<std::string, 5> words = {program, "--socket", socket_path, "--idle",
                                      std::to_string(options.idle.count())};
  std::array<char*, words.size() + 1> arguments{};
  for (std::size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
  posix_spawn_file_actions_t actions;
  if (posix_spawn_file_actions_init(&actions) != 0) return ipc::fail_errno("posix_spawn");
  (void)posix_spawn_file_actions_adddup2(&actions, theirs.get(), STDERR_FILENO);
  pid_t pid = -1;
  const int error =
      posix_spawn(&pid, program.c_str(), &actions, nullptr, arguments.data(), environ);
  (void)posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return fail(Errc::not_supported, "the keeper " + program + " cannot be started: " +
                                         std::strerror(error) + "; it is installed beside sluiced");
  }
  theirs.reset();
  auto complaint = read_to_end(ours.get(), deadline);
  if (!complaint) (void)kill(pid, SIGKILL);
  const int status = reap_keeper(pid);
  if (!complaint) return std::unexpected(std::move(complaint.error()));
  return StartedKeeper{status, std::move(*complaint)};
}

ipc::Status check_started(const ipc::Result<StartedKeeper>& started) {
  if (!started) return std::unexpected(started.error());
  if (started->exit_status == 0) return {};
  // It gets to listen, or it ends and frees what it had.
  if (started->exit_status == keeper::kExitInUse) {
    std::this_thread::sleep_for(kLookAgain);
    return {};
  }
  std::string text = started->complaint;
  while (text.ends_with('\n')) text.pop_back();
  return fail(
      Errc::io_error,
      "the keeper does not start: " +
          (text.empty() ? "it ended with status " + std::to_string(started->exit_status) : text));
}

ipc::Result<DescriptorStorePtr> greet_keeper(ipc::Fd socket, const KeeperOptions& options,
                                             ipc::Deadline deadline) {
  const auto hello = keeper::make_request(keeper::Kind::hello);
  if (auto sent = send_request(socket.get(), hello); !sent) return std::unexpected(sent.error());
  auto answer = receive_answer(socket.get(), hello.header.kind, deadline);
  SLUICE_KILL_POINT("keeper.greeted");
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return ipc::fail_errno("SO_PEERCRED of sluice-keeper");
  }
  if (peer.uid != geteuid()) {
    return fail(Errc::permission_denied, "the socket of sluice-keeper is another user's: uid " +
                                             std::to_string(peer.uid) + ", pid " +
                                             std::to_string(peer.pid));
  }
  if (answer) {
    return std::make_unique<KeeperStore>(std::move(socket), peer.pid, options.answer_patience);
  }
  if (answer.error().code == Errc::timed_out) {
    return fail(Errc::timed_out, "sluice-keeper, pid " + std::to_string(peer.pid) +
                                     ", serves another daemon, or does not answer");
  }
  return std::unexpected(std::move(answer.error()));
}

}  // namespace

ipc::Result<DescriptorStorePtr> open_keeper(const std::string& socket_path,
                                            const std::string& program,
                                            const KeeperOptions& options) {
  if (!socket_path.starts_with('/')) {
    return fail(Errc::invalid_argument,
                "the socket of the keeper needs an absolute path, not \"" + socket_path + "\"");
  }
  const auto deadline = ipc::deadline_in(options.patience);
  ipc::Error last{Errc::timed_out, {}};
  do {
    auto socket = ipc::connect_unix(socket_path, deadline, ipc::SocketKind::messages);
    if (socket) {
      auto store = greet_keeper(std::move(*socket), options, deadline);
      // One that ended while we waited for our turn makes room for another.
      if (store || store.error().code != Errc::daemon_away) return store;
      last = std::move(store.error());
      continue;
    }
    if (socket.error().code != Errc::daemon_away || program.empty()) {
      return std::unexpected(std::move(socket.error()));
    }
    last = std::move(socket.error());
    SLUICE_KILL_POINT("keeper.starting");
    auto started = check_started(start_keeper(socket_path, program, options, deadline));
    SLUICE_KILL_POINT("keeper.started");
    if (!started) return std::unexpected(std::move(started.error()));
  } while (ipc::Clock::now() < deadline);
  return fail(Errc::timed_out, "no sluice-keeper came up at " + socket_path + ": " + last.text);
}

}  // namespace sluice::daemon
