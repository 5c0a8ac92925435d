// The requests of one session, run on its lane: copy once, validate, act, complete.
//
// Keeps the block ids of the session's sequences, so that a resolve takes no lock and names a block
// by its place in a sequence: what a client does not hold it cannot name.
//
// Thread-safety: the lane's thread only.
#pragma once

#include <expected>
#include <functional>
#include <memory>

#include "daemon/session_end.h"
#include "ipc/doorbell.h"
#include "ipc/error.h"
#include "ipc/ids.h"

namespace sluice::daemon {

class Coordinator;
struct Session;

class LaneSession {
 public:
  // `wake`, from any thread: a device is through with what the session waits for.
  LaneSession(
      std::shared_ptr<Session> session, Coordinator& coordinator,
      std::function<void()> wake = [] {});
  ~LaneSession();

  // Runs at most `most` requests, fewer if they are long; whether there were any. An error ends the
  // session.
  std::expected<bool, SessionEnd> serve(int most);

  // Whether a device is working for the session. It does so with the session's actors, which nobody
  // may have before that is over.
  bool waits_for_device() const;

  // The session closed this cache: what still waits for it is dropped, and the cache's memory with
  // it.
  void forget_cache(ipc::CacheId cache);

  // See ipc::RingConsumer.
  std::expected<bool, SessionEnd> prepare_to_sleep();
  void awake();
  ipc::Doorbell::Drained drain_bell();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::daemon
