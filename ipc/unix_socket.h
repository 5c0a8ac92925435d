// The control socket in the file system: how a daemon takes its name, and how a client finds it.
//
// Beside `path` lies `path`.lock, locked (flock) by the daemon for as long as it serves; it holds
// the pid for people. The socket file is removed and made only under that lock, so a stale one
// never stands in the way and a living one is never stolen. The lock file is never removed: that
// would be a race.
//
// Thread-safety: one thread per listener; connect_unix from any.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "ipc/deadline.h"
#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::ipc {

inline constexpr std::size_t kMaxSocketPath = 107;  // bytes: sockaddr_un without its terminator

enum class SocketKind : bool {
  stream,    // the control socket: frames of any length
  messages,  // SOCK_SEQPACKET: each send is received whole, with its descriptors, or not at all
};

class UnixListener {
 public:
  struct Options {
    std::string path;
    mode_t mode = 0660;  // who may connect: needs write permission
    int backlog = 64;
    SocketKind kind = SocketKind::stream;
  };

  UnixListener() = default;
  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&& other) noexcept;
  // Removes the socket file and gives up the lock, in the process that made it; a forked child only
  // closes.
  ~UnixListener();

  // Errors: invalid_argument (path empty or too long, or something that is no socket is there),
  // address_in_use (a daemon serves it; with its pid), permission_denied, not_found (no such
  // directory), limit_reached, io_error.
  static Result<UnixListener> bind(Options options);

  // A connection, non-blocking and closed on exec; nullopt: none is waiting. Errors: limit_reached
  // (no free descriptor: the connection stays in the queue, so wait before the next try), io_error.
  Result<std::optional<Fd>> accept();

  // The listening socket, non-blocking: readable while connections wait.
  int fd() const { return socket_.get(); }
  const std::string& path() const { return path_; }

 private:
  void close();

  std::string path_;
  Fd lock_;
  Fd socket_;
  pid_t owner_ = 0;
};

// A connected blocking socket, closed on exec. Errors: invalid_argument (path), daemon_away (no
// socket there, or nobody listens), permission_denied, timed_out (the daemon does not accept),
// limit_reached, io_error. The text says what to do.
Result<Fd> connect_unix(const std::string& path, Deadline deadline,
                        SocketKind kind = SocketKind::stream);

}  // namespace sluice::ipc
