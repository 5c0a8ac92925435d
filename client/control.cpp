#include "client/control.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::Error;
using ipc::fail;

namespace {

// Frames that may lie in the socket before the one that says why the session ended: late replies.
constexpr int kMostLateFrames = 64;

}  // namespace

Error Control::note_end(Error error) {
  if (ended_ == Errc::ok) {
    // Callers try again after a time-out, and an end is for good.
    ended_ = error.code == Errc::timed_out ? Errc::daemon_away : error.code;
    end_text_ = error.text;
  }
  return Error{ended_, end_text_};
}

ipc::Result<Reply> Control::receive(ipc::Deadline deadline) {
  auto frame = ipc::receive_frame(reader_, socket_.get(), deadline);
  if (!frame) {
    if (frame.error().code == Errc::timed_out) return std::unexpected(std::move(frame.error()));
    return std::unexpected(note_end(std::move(frame.error())));
  }
  Reply reply{std::move(*frame), nullptr};
  auto envelope = ipc::verify_envelope(reply.frame.bytes);
  if (!envelope) return std::unexpected(note_end(std::move(envelope.error())));
  reply.envelope = *envelope;
  if (const auto* closing = reply.envelope->body_as_Closing()) {
    return std::unexpected(
        note_end(ipc::error_from_wire(closing->code(), ipc::text_of(closing->text()))));
  }
  return reply;
}

ipc::Result<Reply> Control::exchange(std::uint64_t request, const std::vector<std::byte>& bytes,
                                     ipc::Deadline deadline) {
  if (ended_ != Errc::ok) return fail(ended_, end_text_);
  if (auto sent = ipc::send_frame(socket_.get(), bytes, {}, deadline); !sent) {
    // The daemon may have said why before it closed.
    auto last = receive(ipc::Clock::now());
    if (!last && last.error().code != Errc::timed_out) return last;
    return std::unexpected(note_end(std::move(sent.error())));
  }
  while (true) {
    auto reply = receive(deadline);
    if (!reply) return reply;
    if (reply->envelope->request() != request) {  // of a request that timed out
      if (ipc::Clock::now() < deadline) continue;
      return fail(Errc::timed_out, "no answer on the control socket, but late ones to others");
    }
    if (const auto* failed = reply->envelope->body_as_Failed()) {
      return std::unexpected(ipc::error_from_wire(failed->code(), ipc::text_of(failed->text())));
    }
    return reply;
  }
}

Errc Control::end_code() {
  const std::lock_guard lock(mutex_);
  return ended_;
}

Error Control::end_reason() {
  const std::lock_guard lock(mutex_);
  for (int frames = 0; frames < kMostLateFrames && ended_ == Errc::ok; ++frames) {
    auto reply = receive(ipc::Clock::now());
    if (!reply && reply.error().code == Errc::timed_out) break;
  }
  return note_end(Error{Errc::daemon_away,
                        "the daemon stopped serving this session; start it again and reconnect"});
}

}  // namespace sluice::client::internal
