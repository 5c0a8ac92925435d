// Sessions of a daemon of before whose processes have not come back yet.
//
// Each is watched as a connected one would be: it is over when its process is dead, or said
// good-bye on a doorbell, and every copy of its doorbells is closed (DESIGN rule 8). Until it comes
// back or is over, nothing that it could touch is reused (residency/adopt.h).
//
// Thread-safety: the io thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "daemon/kept_state.h"
#include "ipc/ids.h"

namespace boost::asio {
class io_context;  // NOLINT(readability-identifier-naming): theirs
}

namespace sluice::daemon {

class AwaySessions {
 public:
  using Over = std::function<void(ipc::SessionId, ipc::TenantId)>;

  // `over` is told of each that will never come back.
  AwaySessions(boost::asio::io_context& io, Over over);
  ~AwaySessions();

  void add(KeptSession session, ipc::TenantId tenant);

  struct Peer {
    pid_t pid = 0;
    uid_t uid = 0;
    ipc::TenantId tenant;
  };
  // The session comes back, over a connection of this peer's: it is not watched here any more.
  // Nothing: there is no such session, the token is not its own, or the peer is somebody else.
  std::optional<KeptSession> claim(ipc::SessionId id, const ResumeToken& token, const Peer& peer);

  struct Row {
    ipc::SessionId id;
    ipc::TenantId tenant;
    std::string tenant_name;
    std::string client_name;
    pid_t pid = 0;
    bool process_gone = false;
  };
  std::vector<Row> rows() const;

  // The daemon goes: nothing is watched any more.
  void stop();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace sluice::daemon
