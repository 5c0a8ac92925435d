#include "ipc/doorbell.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace sluice::ipc {

void Doorbell::ring() const {
  const char one = 1;
  // A full buffer means that it rings already; a dead peer shows when the bell is drained.
  (void)send(end_.get(), &one, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Doorbell::say_goodbye() const {
  // Beside what was rung and not heard.
  const int enough = 1 << 16;
  (void)setsockopt(end_.get(), SOL_SOCKET, SO_SNDBUF, &enough, sizeof(enough));
  (void)send(end_.get(), &kGoodbye, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

Doorbell::Drained Doorbell::drain() const {
  std::array<char, kDrainBytes> rings;
  const ssize_t bytes = recv(end_.get(), rings.data(), rings.size(), MSG_DONTWAIT);
  const bool gone = bytes == 0 || (bytes < 0 && (errno == ECONNRESET || errno == EPIPE));
  return gone ? Drained::peer_gone : Drained::ok;
}

Result<DoorbellPair> make_doorbell() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail_errno("making a doorbell");
  }
  DoorbellPair pair{Doorbell(Fd(ends[0])), Doorbell(Fd(ends[1]))};
  // As little as the kernel allows: one ring is all that is ever needed.
  const int least = 1;
  for (const int end : ends) setsockopt(end, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
  return pair;
}

}  // namespace sluice::ipc
