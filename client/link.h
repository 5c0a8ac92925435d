// One connection with the daemon, and what its Welcome said. A session that survives its daemon has
// one after another.
//
// Thread-safety: made by one thread; control and channel then from any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/channel.h"
#include "client/control.h"
#include "ipc/deadline.h"
#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::client::internal {

// What makes a session one that can be gone on with; empty: it cannot.
using ResumeToken = std::vector<std::uint8_t>;
inline constexpr std::size_t kResumeTokenBytes = 16;

struct Greeting {
  std::string client_name;
  bool admin = false;                // no rings
  std::uint64_t resume_session = 0;  // 0: a new one
  ResumeToken resume_token;
};

class Link {
 public:
  explicit Link(ipc::Fd socket) : control_(std::move(socket)) {}

  // Says hello, and takes the rings that come with the answer. Errors: what the daemon answered,
  // daemon_away, timed_out, version_mismatch, peer_violation.
  ipc::Status greet(const Greeting& greeting, ipc::Deadline deadline);

  Control& control() { return control_; }
  int control_fd() const { return control_.fd(); }
  Channel& channel() { return *channel_; }  // not on an admin connection

  // Whether the socket has hung up. Does not wait.
  bool hung_up() const;
  // Whether nothing can be asked any more.
  bool broken();
  // Ends what waits on this connection. From any thread.
  void cut() const;

  struct Welcome {
    std::uint64_t session = 0;
    std::uint32_t executors = 0;
    std::string tenant;
    std::string daemon_version;
    bool resumed = false;
    ResumeToken token;
    std::uint32_t outage_ms = 0;
  };
  const Welcome& welcome() const { return welcome_; }

 private:
  Control control_;
  std::optional<Channel> channel_;
  Welcome welcome_;
};

// Whether this error may mean that the daemon is gone, and not that it ended the session.
inline bool says_away(ipc::Errc code) {
  return code == ipc::Errc::daemon_away || code == ipc::Errc::shutting_down;
}

}  // namespace sluice::client::internal
