// What sluice-keeper does: it holds descriptors by name for daemons, one after the other.
//
// A connection is accepted only when the one before it has hung up and all of its requests are
// served. That makes it safe to take over what is kept: of a daemon that was killed, the kernel
// closes the files only after each of its threads has left the system call that it was in, so that
// the last read or write into kept memory has ended before its successor gets a descriptor. A
// daemon that breaks the protocol is therefore not disconnected: its side sees an end of file,
// nothing more is served, and its turn ends when it hangs up (a shutdown(2) of its side counts).
//
// Requests survive who sent them: they lie in the queue of the keeper's socket. So what a daemon
// put is kept although it was killed right after its send.
//
// Full: as many descriptors as RLIMIT_NOFILE allows, less kSpareDescriptors. A put beyond that is
// answered with limit_reached. Thread-safety: one thread.
#pragma once

#include <chrono>
#include <string>

#include "ipc/error.h"
#include "ipc/unix_socket.h"

namespace sluice::keeper {

// For the sockets, and to receive what is then refused.
inline constexpr std::size_t kSpareDescriptors = 16;

// How the started program ends, see its usage.
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInUse = 3;

struct Options {
  std::string socket_path;
  std::chrono::seconds idle{600};  // without a daemon, until all is freed; 0: for good
};

// Listens, for processes of this user only. Errors: as UnixListener::bind.
ipc::Result<ipc::UnixListener> listen_at(const std::string& socket_path);

// Serves until a daemon ended it, none came for options.idle, or `signals` (a signalfd) is
// readable. All descriptors are closed before it returns, and before another keeper can begin.
void serve(ipc::UnixListener& listener, int signals, const Options& options);

}  // namespace sluice::keeper
