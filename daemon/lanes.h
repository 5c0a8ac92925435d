// Lanes: the threads that poll the rings of sessions and run their requests.
//
// A session belongs to one lane for all its life. An idle lane spins for a short while, then sleeps
// until a doorbell rings.
//
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/config.h"
#include "daemon/session_end.h"
#include "ipc/ids.h"

namespace sluice::daemon {

class Coordinator;
class Lane;
struct Session;

class Lanes {
 public:
  // Called on the lane's thread when the session cannot go on; nothing more of it is served.
  using OnEnd = std::function<void(const SessionEnd& end)>;

  // Requests of one session that a lane runs before it looks at the next.
  static constexpr int kBurst = 32;

  Lanes(Coordinator& coordinator, const RingsConfig& rings, std::uint32_t count);
  ~Lanes();

  void add(std::shared_ptr<Session> session, OnEnd on_end);

  // Serves nothing more of the session; what it holds stays.
  void stop(ipc::SessionId session);

  // The session closed this cache; the lane lets go of it.
  void forget_cache(ipc::SessionId session, ipc::CacheId cache);

  // Lets go of the session and calls `done` on the lane's thread: from then on no lane touches it.
  void remove(ipc::SessionId session, std::function<void()> done);

 private:
  Lane& lane_of(ipc::SessionId session);

  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace sluice::daemon
