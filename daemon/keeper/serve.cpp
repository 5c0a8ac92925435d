#include "daemon/keeper/serve.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>
#include <optional>
#include <utility>

#include "daemon/keeper/protocol.h"
#include "ipc/deadline.h"

namespace sluice::keeper {

using ipc::Errc;

namespace {

// After an error that passes by itself (no memory, no descriptor in the system).
constexpr std::chrono::milliseconds kErrorPause{100};

std::size_t most_descriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur <= kSpareDescriptors) return 0;
  return limit.rlim_cur - kSpareDescriptors;
}

bool is_own_process(int connection) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         peer.uid == geteuid();
}

enum class Wake { ready, nothing, stop };

class Keeper {
 public:
  Keeper(ipc::UnixListener& listener, int signals, std::chrono::seconds idle)
      : listener_(listener), signals_(signals), idle_(idle), most_(most_descriptors()) {}

  void run() {
    while (const auto connection = next_daemon()) {
      if (!serve_daemon(connection->get())) return;
    }
  }

 private:
  struct Answer {
    AnswerHead head;
    std::vector<Name> names;
    std::vector<int> fds;
  };

  // `revents` is what poll told of `fd`.
  Wake wait(int fd, short events, ipc::Deadline deadline, short* revents = nullptr) {
    std::array<pollfd, 2> fds = {pollfd{fd, events, 0}, pollfd{signals_, POLLIN, 0}};
    const auto count = ipc::poll_until(fds.data(), fds.size(), deadline);
    if (!count) return Wake::nothing;
    if (fds[1].revents != 0) return Wake::stop;
    if (revents != nullptr) *revents = fds[0].revents;
    return fds[0].revents != 0 ? Wake::ready : Wake::nothing;
  }

  // nullopt: it is time to end.
  std::optional<ipc::Fd> next_daemon() {
    const auto deadline =
        idle_ == std::chrono::seconds::zero() ? ipc::kNoDeadline : ipc::deadline_in(idle_);
    while (true) {
      const Wake wake = wait(listener_.fd(), POLLIN, deadline);
      if (wake == Wake::stop) return std::nullopt;
      if (wake == Wake::nothing && ipc::Clock::now() >= deadline) return std::nullopt;
      auto connection = listener_.accept();
      if (connection && *connection && is_own_process((*connection)->get())) {
        return std::move(*connection);
      }
      if (!connection && wait(-1, 0, ipc::deadline_in(kErrorPause)) == Wake::stop) {
        return std::nullopt;
      }
    }
  }

  // Until it has hung up. False: it is time to end.
  bool serve_daemon(int connection) {
    greeted_ = false;
    refused_ = false;
    while (true) {
      short events = 0;
      if (wait(connection, POLLIN, ipc::kNoDeadline, &events) == Wake::stop) return false;
      auto message = receive_message(connection);
      if (!message) {  // no memory now, and the message stays
        if (wait(-1, 0, ipc::deadline_in(kErrorPause)) == Wake::stop) return false;
        continue;
      }
      if (!*message) continue;
      if ((*message)->bytes.empty() && (events & POLLHUP) != 0) return true;
      const auto answer = answer_to(**message);
      const bool is_served = answer && send(connection, *answer);
      if (ended_) return false;
      if (!is_served || refused_) return outwait(connection);
    }
  }

  // Waits for the hang-up of a daemon that broke the protocol. False: it is time to end.
  bool outwait(int connection) {
    (void)shutdown(connection, SHUT_WR);
    while (true) {
      const Wake wake = wait(connection, 0, ipc::kNoDeadline);
      if (wake != Wake::nothing) return wake == Wake::ready;
    }
  }

  // False: the peer does not read its answers. One that has hung up may have put more before.
  static bool send(int connection, const Answer& answer) {
    std::vector<std::byte> bytes(sizeof(AnswerHead) + answer.names.size() * sizeof(Name));
    std::memcpy(bytes.data(), &answer.head, sizeof(AnswerHead));
    if (!answer.names.empty()) {
      std::memcpy(bytes.data() + sizeof(AnswerHead), answer.names.data(),
                  answer.names.size() * sizeof(Name));
    }
    const auto sent = send_message(connection, bytes, answer.fds);
    if (!sent && sent.error().code == Errc::limit_reached && !answer.fds.empty()) {
      return send(connection, make_answer(Errc::limit_reached, answer.head.header.kind));
    }
    return sent || sent.error().code == Errc::daemon_away;
  }

  static Answer make_answer(Errc status, std::uint32_t kind) {
    return {{{kMagic, kProtocolVersion, kind}, static_cast<std::uint32_t>(status), 0, 0}, {}, {}};
  }

  // nullopt: this is no request of the protocol, or none that may come now.
  std::optional<Answer> answer_to(Message& message) {
    const auto header = message.read<Header>(0);
    if (!header || header->magic != kMagic) return std::nullopt;
    if (header->version != kProtocolVersion) return refuse(*header);
    const auto request = message.read<Request>(0);
    if (!request || message.bytes.size() != sizeof(Request) || message.is_cut) return std::nullopt;
    const auto name = text_of(request->name);
    const auto kind = static_cast<Kind>(header->kind);
    if (!name || (!greeted_ && kind != Kind::hello)) return std::nullopt;
    const bool has_one = message.fds.size() == 1 && !message.lost_fds;
    const bool has_none = message.fds.empty() && !message.lost_fds;
    if (kind == Kind::put ? message.fds.size() > 1 : !has_none) return std::nullopt;
    switch (kind) {
      case Kind::hello:
        greeted_ = true;
        return make_answer(Errc::ok, header->kind);
      case Kind::put:
        if (has_none || name->empty()) return std::nullopt;
        return make_answer(has_one ? put(*name, std::move(message.fds[0])) : Errc::limit_reached,
                           header->kind);
      case Kind::remove:
        if (const auto found = kept_.find(*name); found != kept_.end()) kept_.erase(found);
        return make_answer(Errc::ok, header->kind);
      case Kind::take:
        return list_after(*name, header->kind);
      case Kind::end:
        kept_.clear();
        ended_ = true;
        return make_answer(Errc::ok, header->kind);
    }
    return std::nullopt;
  }

  // The header of an answer is all that another version can read.
  Answer refuse(const Header& header) {
    refused_ = true;
    return make_answer(Errc::version_mismatch, header.kind);
  }

  Errc put(const std::string& name, ipc::Fd fd) {
    if (kept_.contains(name)) return Errc::wrong_state;
    if (kept_.size() >= most_) return Errc::limit_reached;
    kept_.emplace(name, std::move(fd));
    return Errc::ok;
  }

  Answer list_after(const std::string& last, std::uint32_t kind) {
    Answer answer = make_answer(Errc::ok, kind);
    auto next = kept_.upper_bound(last);
    for (; next != kept_.end() && answer.names.size() < kMaxDescriptorsPerAnswer; ++next) {
      answer.names.push_back(make_name(next->first));
      answer.fds.push_back(next->second.get());
    }
    answer.head.count = static_cast<std::uint32_t>(answer.names.size());
    answer.head.left = static_cast<std::uint32_t>(std::distance(next, kept_.end()));
    return answer;
  }

  ipc::UnixListener& listener_;
  int signals_;
  std::chrono::seconds idle_;
  std::size_t most_;
  std::map<std::string, ipc::Fd> kept_;
  bool greeted_ = false;  // its first request was a hello
  bool refused_ = false;  // it is of another version
  bool ended_ = false;
};

}  // namespace

ipc::Result<ipc::UnixListener> listen_at(const std::string& socket_path) {
  return ipc::UnixListener::bind(
      {.path = socket_path, .mode = 0600, .backlog = 16, .kind = ipc::SocketKind::messages});
}

void serve(ipc::UnixListener& listener, int signals, const Options& options) {
  Keeper(listener, signals, options.idle).run();
}

}  // namespace sluice::keeper
