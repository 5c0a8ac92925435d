#include "ipc/unix_socket.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace sluice::ipc {
namespace {

Result<sockaddr_un> address_of(const std::string& path) {
  if (path.empty() || path.size() > kMaxSocketPath || path.find('\0') != std::string::npos) {
    return fail(Errc::invalid_argument, "socket path '" + path + "' has " +
                                            std::to_string(path.size()) + " bytes; expected 1 to " +
                                            std::to_string(kMaxSocketPath));
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

std::unexpected<Error> fail_at(const char* call, const std::string& path) {
  if (errno == ENOENT || errno == ENOTDIR) {
    return fail(Errc::not_found,
                std::string(call) + " of " + path +
                    ": no such directory; create it, or choose another socket path");
  }
  return fail_errno(std::string(call) + " of " + path);
}

std::string holder_of(int lock) {
  std::array<char, 16> text{};
  const ssize_t bytes = pread(lock, text.data(), text.size() - 1, 0);
  const long pid = bytes > 0 ? std::strtol(text.data(), nullptr, 10) : 0;
  return pid > 0 ? "process " + std::to_string(pid) : "another process";
}

Result<Fd> take_lock(const std::string& socket_path) {
  const std::string path = socket_path + ".lock";
  Fd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return fail_at("opening the lock file", path);
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_at("flock", path);
    return fail(Errc::address_in_use, socket_path + " is served by " + holder_of(lock.get()) +
                                          "; stop it, or choose another socket path");
  }
  const std::string pid = std::to_string(getpid()) + "\n";
  if (ftruncate(lock.get(), 0) != 0 ||
      pwrite(lock.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return fail_at("writing the pid into", path);
  }
  return lock;
}

// Under the lock nobody serves this path: a socket file here was left by a daemon that died.
Status remove_stale_socket(const std::string& path) {
  struct stat status{};
  if (lstat(path.c_str(), &status) != 0) return {};
  if (!S_ISSOCK(status.st_mode)) {
    return fail(Errc::invalid_argument, path +
                                            " exists and is not a socket; it was left alone: "
                                            "remove it, or choose another socket path");
  }
  if (unlink(path.c_str()) != 0) return fail_at("removing the stale socket", path);
  return {};
}

int type_of(SocketKind kind) {
  return (kind == SocketKind::messages ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_CLOEXEC;
}

Status limit_wait(int socket, Deadline deadline) {
  timeval left{};
  if (deadline != kNoDeadline) {
    const auto rest =
        std::max<Clock::duration>(deadline - Clock::now(), std::chrono::microseconds(1));
    const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(rest).count();
    left.tv_sec = micros / 1'000'000;
    left.tv_usec = micros % 1'000'000;
  }
  if (setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &left, sizeof(left)) != 0) {
    return fail_errno("SO_SNDTIMEO");
  }
  return {};
}

std::unexpected<Error> fail_connect(const std::string& path) {
  switch (errno) {
    case ENOENT:
    case ENOTDIR:
      return fail(Errc::daemon_away,
                  "no socket at " + path + ": start sluiced, or give the path that it listens on");
    case EPROTOTYPE:
      return fail(Errc::daemon_away, path +
                                         " is a socket of another program, not of sluiced: give "
                                         "the path that sluiced listens on");
    case ECONNREFUSED:
      if (struct stat status{}; stat(path.c_str(), &status) == 0 && !S_ISSOCK(status.st_mode)) {
        return fail(Errc::daemon_away,
                    path + " is not a socket: give the path that sluiced listens on");
      }
      return fail(Errc::daemon_away, "nobody listens at " + path +
                                         ": the daemon ended without removing its socket; start it "
                                         "again");
    case EACCES:
    case EPERM:
      return fail(Errc::permission_denied,
                  "no permission to connect to " + path +
                      ": this user needs write permission on the socket and search permission on "
                      "its directories");
    case EAGAIN:
      return fail(Errc::timed_out, "the daemon at " + path + " does not accept connections now");
    default:
      return fail_errno("connecting to " + path);
  }
}

}  // namespace

UnixListener::UnixListener(UnixListener&& other) noexcept
    : path_(std::move(other.path_)),
      lock_(std::move(other.lock_)),
      socket_(std::move(other.socket_)),
      owner_(std::exchange(other.owner_, 0)) {}

UnixListener& UnixListener::operator=(UnixListener&& other) noexcept {
  if (this == &other) return *this;
  close();
  path_ = std::move(other.path_);
  lock_ = std::move(other.lock_);
  socket_ = std::move(other.socket_);
  owner_ = std::exchange(other.owner_, 0);
  return *this;
}

UnixListener::~UnixListener() { close(); }

void UnixListener::close() {
  if (socket_ && owner_ == getpid()) unlink(path_.c_str());
  socket_.reset();
  lock_.reset();  // after the socket file is gone
}

Result<UnixListener> UnixListener::bind(Options options) {
  const auto address = address_of(options.path);
  if (!address) return std::unexpected(address.error());
  auto lock = take_lock(options.path);
  if (!lock) return std::unexpected(std::move(lock.error()));
  if (auto ok = remove_stale_socket(options.path); !ok)
    return std::unexpected(std::move(ok.error()));
  Fd socket(::socket(AF_UNIX, type_of(options.kind) | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno("making a socket");
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0) {
    return fail_at("bind", options.path);
  }
  UnixListener listener;
  listener.path_ = std::move(options.path);
  listener.lock_ = std::move(*lock);
  listener.socket_ = std::move(socket);
  listener.owner_ = getpid();
  // Nobody can connect before listen(), so the mode is right from the first connection on.
  if (chmod(listener.path_.c_str(), options.mode) != 0) return fail_at("chmod", listener.path_);
  if (::listen(listener.socket_.get(), options.backlog) != 0)
    return fail_at("listen", listener.path_);
  return listener;
}

Result<std::optional<Fd>> UnixListener::accept() {
  while (true) {
    Fd connection(accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (connection) return connection;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::nullopt;
    if (errno != EINTR && errno != ECONNABORTED) return fail_errno("accept on " + path_);
  }
}

Result<Fd> connect_unix(const std::string& path, Deadline deadline, SocketKind kind) {
  const auto address = address_of(path);
  if (!address) return std::unexpected(address.error());
  Fd socket(::socket(AF_UNIX, type_of(kind), 0));
  if (!socket) return fail_errno("making a socket");
  int failed = 0;
  do {
    // A blocking connect waits for room in the queue of the listener, at most so long.
    if (auto ok = limit_wait(socket.get(), deadline); !ok)
      return std::unexpected(std::move(ok.error()));
    failed = connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address));
  } while (failed != 0 && errno == EINTR);
  if (failed != 0) return fail_connect(path);
  if (auto ok = limit_wait(socket.get(), kNoDeadline); !ok)
    return std::unexpected(std::move(ok.error()));
  return socket;
}

}  // namespace sluice::ipc
