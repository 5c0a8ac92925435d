// How one end of a session wakes the other when it sleeps.
//
// A doorbell is a pair of connected sockets, one for each process; to ring one's end makes the
// other end readable. It is not an eventfd, since O_NONBLOCK of an eventfd belongs to the open file
// that both processes share: a hostile client could clear it, fill the counter, and the daemon's
// next write would block for ever. Here each process has an open file of its own and every call
// says MSG_DONTWAIT. A peer that is gone makes the end readable too, and drain() says so.
//
// Thread-safety: ring() from any thread; drain() from one.
#pragma once

#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::ipc {

class Doorbell {
 public:
  Doorbell() = default;
  // Takes an end that came from the daemon. drain() and ring() of a descriptor that is no socket do
  // nothing.
  explicit Doorbell(Fd end) : end_(std::move(end)) {}

  // Wakes the peer. Never blocks, never raises a signal; a bell that already rings, or whose peer
  // is gone, is left as it is.
  void ring() const;

  // A last word, for a daemon that cannot be asked: whoever has the other end once all copies of
  // this one are closed may read it, later and in another process. By it the client says what Bye
  // says, that it touches nothing of the session any more.
  void say_goodbye() const;
  static constexpr char kGoodbye = 2;

  enum class Drained : bool { peer_gone, ok };
  // Silences the bell, by one call that takes at most kDrainBytes. Look at the ring after it, not
  // before.
  Drained drain() const;

  // Readable while the bell rings: for poll(2), epoll or Asio (wait only; never read through them).
  int fd() const { return end_.get(); }
  explicit operator bool() const { return bool(end_); }

 private:
  static constexpr int kDrainBytes = 256;

  Fd end_;
};

struct DoorbellPair {
  Doorbell daemon_end;  // the daemon rings it to wake the client
  Doorbell client_end;  // travels to the client in Welcome
};

// Errors: limit_reached (no free descriptor), no_memory, io_error.
Result<DoorbellPair> make_doorbell();

}  // namespace sluice::ipc
