#include "ipc/peer.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <string>

#include "ipc/deadline.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

namespace sluice::ipc {
namespace {

std::unexpected<Error> ended_early(pid_t pid) {
  return fail(Errc::peer_violation,
              "process " + std::to_string(pid) + " ended before its connection was taken up");
}

Result<ucred> credentials(int socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return fail_errno("SO_PEERCRED");
  if (peer.pid <= 0) {
    return fail(Errc::peer_violation,
                "the peer is in a pid namespace that this process does not see");
  }
  return peer;
}

Result<std::vector<gid_t>> supplementary_groups(int socket) {
  std::vector<gid_t> groups(64);
  while (true) {
    auto size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) == 0) {
      groups.resize(size / sizeof(gid_t));
      return groups;
    }
    if (errno != ERANGE || groups.size() >= kMaxPeerGroups) return fail_errno("SO_PEERGROUPS");
    groups.resize(kMaxPeerGroups);
  }
}

// Whether any of the process's user ids is `uid`, as /proc says now.
bool process_has_uid(pid_t pid, uid_t uid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("Uid:")) continue;
    std::istringstream ids(line.substr(4));
    for (uid_t id = 0; ids >> id;) {
      if (id == uid) return true;
    }
  }
  return false;
}

bool hung_up(int socket) {
  pollfd wait{socket, POLLRDHUP, 0};
  return poll(&wait, 1, 0) != 0;
}

Result<Fd> peer_pidfd(int socket, const ucred& peer) {
  int number = -1;
  socklen_t size = sizeof(number);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &number, &size) == 0) return Fd(number);
  if (errno == ENOPROTOOPT) return open_peer_pidfd(socket, peer.pid, peer.uid);
  if (errno == ESRCH || errno == EINVAL) return ended_early(peer.pid);
  return fail_errno("SO_PEERPIDFD");
}

}  // namespace

Result<Fd> open_peer_pidfd(int socket, pid_t pid, uid_t uid) {
  Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) {
    if (errno == ESRCH || errno == EINVAL) return ended_early(pid);
    return fail_errno("pidfd_open");
  }
  // The order matters: what is true of the pid, while the pidfd's process lives, is true of that
  // process; and a peer that still holds its socket now was alive when the pidfd was opened.
  const bool same_user = process_has_uid(pid, uid);
  const auto dead = process_is_dead(pidfd.get());
  if (!dead) return std::unexpected(dead.error());
  if (*dead || hung_up(socket)) return ended_early(pid);
  if (!same_user) {
    return fail(Errc::peer_violation, "process " + std::to_string(pid) +
                                          " is not the one that connected: its user differs");
  }
  return pidfd;
}

Result<bool> process_is_dead(int pidfd) {
  pollfd wait{pidfd, POLLIN, 0};
  const auto events = poll_until(&wait, 1, Deadline::min());
  if (!events) return std::unexpected(events.error());
  if ((wait.revents & POLLNVAL) != 0) return fail(Errc::io_error, "not a pidfd");
  return *events != 0;
}

Result<PeerIdentity> peer_identity(int socket) {
  const auto peer = credentials(socket);
  if (!peer) return std::unexpected(peer.error());
  auto groups = supplementary_groups(socket);
  if (!groups) return std::unexpected(std::move(groups.error()));
  auto pidfd = peer_pidfd(socket, *peer);
  if (!pidfd) return std::unexpected(std::move(pidfd.error()));
  return PeerIdentity{peer->pid, peer->uid, peer->gid, std::move(*groups), std::move(*pidfd)};
}

}  // namespace sluice::ipc
