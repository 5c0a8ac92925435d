// The control connection of a client: requests and their replies, one at a time.
//
// Thread-safety: any thread; calls wait for each other.
#pragma once

#include <mutex>
#include <string>

#include "ipc/deadline.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/frame.h"
#include "ipc/message.h"

namespace sluice::client::internal {

// A reply, owning the bytes that its envelope points into.
struct Reply {
  ipc::Frame frame;
  const ipc::wire::Envelope* envelope = nullptr;

  // The body, when it is a Table; else peer_violation, since the daemon answered with something
  // else.
  template <class Table>
  ipc::Result<const Table*> as() const {
    const auto* body = envelope->body_as<Table>();
    if (body == nullptr) {
      return ipc::fail(ipc::Errc::peer_violation,
                       std::string("the daemon answered with ") +
                           ipc::wire::EnumNameBody(envelope->body_type()) +
                           ", which is no answer to this request");
    }
    return body;
  }
};

class Control {
 public:
  explicit Control(ipc::Fd socket) : socket_(std::move(socket)) {}

  // Sends the table that `make(builder)` returns, and waits for the reply. Errors: those that the
  // daemon answered, daemon_away, timed_out (a late reply is dropped), peer_violation.
  template <class Make>
  ipc::Result<Reply> call(Make&& make, ipc::Deadline deadline) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t request = ++last_request_;
    return exchange(request, ipc::make_message(request, std::forward<Make>(make)), deadline);
  }

  // For poll(2): its hang-up means that the daemon is gone.
  int fd() const { return socket_.get(); }

  // Why the session ended: the daemon's Closing if one lies in the socket, else daemon_away.
  ipc::Error end_reason();
  // What was found out of it so far; Errc::ok: nothing.
  ipc::Errc end_code();

 private:
  ipc::Result<Reply> exchange(std::uint64_t request, const std::vector<std::byte>& bytes,
                              ipc::Deadline deadline);
  ipc::Result<Reply> receive(ipc::Deadline deadline);
  ipc::Error note_end(ipc::Error error);

  std::mutex mutex_;
  ipc::Fd socket_;
  ipc::FrameReader reader_{ipc::FdPolicy::accept};
  std::uint64_t last_request_ = 0;
  ipc::Errc ended_ = ipc::Errc::ok;
  std::string end_text_;
};

}  // namespace sluice::client::internal
