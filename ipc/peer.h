// Who is at the other end of a unix socket.
//
// Credentials are those that the kernel noted at connect(2); nothing that the peer says counts. The
// pidfd names one process for good: its number may be given to another, the pidfd cannot.
//
// Thread-safety: free functions; calls on distinct sockets are independent.
#pragma once

#include <sys/types.h>

#include <vector>

#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::ipc {

struct PeerIdentity {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
  Fd pidfd;                   // readable once the process is dead
};

inline constexpr std::size_t kMaxPeerGroups = 65536;  // NGROUPS_MAX

// Errors: peer_violation (the peer is gone already, or its pid was given to another process),
// limit_reached (no free descriptor), io_error.
Result<PeerIdentity> peer_identity(int socket);

// Whether the process behind a pidfd is dead. Errors: io_error.
Result<bool> process_is_dead(int pidfd);

// For kernels without SO_PEERPIDFD (before 6.5), and for tests: opens a pidfd by number and makes
// sure that it is the peer's process. A process that took over the number shows by another uid, or
// by the hang-up of `socket`, which the death of the real peer has caused. Errors: as
// peer_identity.
Result<Fd> open_peer_pidfd(int socket, pid_t pid, uid_t uid);

}  // namespace sluice::ipc
