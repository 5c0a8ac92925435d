// One end of a control socket without libsluice, for what libsluice would never send.
//
// Every call that waits has the deadline of the tests. Thread-safety: one thread.
#pragma once

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ipc/doorbell.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/frame.h"
#include "ipc/session_memory.h"

namespace sluice::test {

class RawPeer {
 public:
  // Throws if nobody listens.
  explicit RawPeer(const std::string& path);

  int fd() const { return socket_.get(); }

  // One frame; false when the daemon closed its end.
  bool send(std::span<const std::byte> bytes);
  bool hello(bool admin);
  bool resume(std::uint64_t session);  // with a token of zeros
  bool ask(const char* verb);          // an admin request
  // Bytes that need not be a frame; false when the daemon closed its end.
  bool send_raw(std::span<const std::byte> bytes);

  // The next message. Errors: what a Failed or Closing says, or that the daemon closed its end.
  ipc::Result<ipc::Frame> receive();
  // Reads on until the daemon says why it ends this, or ends it.
  ipc::Error end();

  // Hello, and what the welcome brings.
  struct Session {
    ipc::SessionMemory memory;
    ipc::Doorbell bell;
  };
  Session open_session();

 private:
  ipc::Fd socket_;
  ipc::FrameReader reader_{ipc::FdPolicy::accept};
};

// Connects as another user: needs root. The credentials of a unix socket are those at connect().
std::optional<RawPeer> connect_as(uid_t uid, const std::string& path);

}  // namespace sluice::test
