#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "ipc/frame.h"

namespace sluice::ipc {
namespace {

std::vector<std::byte> with_header(std::span<const std::byte> bytes) {
  std::vector<std::byte> frame;
  frame.reserve(kFrameHeaderBytes + bytes.size());
  for (std::size_t i = 0; i < kFrameHeaderBytes; ++i) {
    frame.push_back(static_cast<std::byte>(bytes.size() >> (8 * i)));
  }
  frame.insert(frame.end(), bytes.begin(), bytes.end());
  return frame;
}

// sendmsg once; `fds` ride on the first byte. Returns bytes sent, or -1 with errno.
ssize_t send_some(int socket, std::span<const std::byte> bytes, std::span<const Fd> fds) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxFdsPerFrame)> control{};
  iovec place{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &place;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    for (std::size_t i = 0; i < fds.size(); ++i) {
      const int number = fds[i].get();
      std::memcpy(CMSG_DATA(part) + i * sizeof(int), &number, sizeof(int));
    }
  }
  ssize_t sent = 0;
  do {
    sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

bool peer_is_gone(int error) { return error == EPIPE || error == ECONNRESET || error == ENOTCONN; }

}  // namespace

FrameWriter::FrameWriter(std::size_t max_queued_bytes) : max_queued_bytes_(max_queued_bytes) {}

Status FrameWriter::enqueue(std::span<const std::byte> bytes, std::span<const int> fds) {
  if (bytes.empty() || bytes.size() > kMaxFrameBytes || fds.size() > kMaxFdsPerFrame) {
    return fail(Errc::list_too_long, "a frame of " + std::to_string(bytes.size()) + " bytes and " +
                                         std::to_string(fds.size()) +
                                         " descriptors; expected 1 to " +
                                         std::to_string(kMaxFrameBytes) + " and at most " +
                                         std::to_string(kMaxFdsPerFrame));
  }
  const std::size_t cost = cost_of(bytes.size());
  if (!queue_.empty() &&
      (queued_bytes_ + cost > max_queued_bytes_ || queued_fds_ + fds.size() > kMaxUnreadFds)) {
    return fail(Errc::busy, std::to_string(queued_bytes_) +
                                " bytes wait on the control socket: the peer does not read");
  }
  Queued frame;
  for (const int fd : fds) {
    auto copy = duplicate(fd);
    if (!copy) return std::unexpected(std::move(copy.error()));
    frame.fds.push_back(std::move(*copy));
  }
  frame.bytes = with_header(bytes);
  queued_bytes_ += cost;
  queued_fds_ += frame.fds.size();
  queue_.push_back(std::move(frame));
  return {};
}

Status FrameWriter::account_unread_fds(int socket, std::size_t fds) {
  if (unread_fds_ + fds > kMaxUnreadFds) {
    int unread_bytes = 0;
    if (ioctl(socket, SIOCOUTQ, &unread_bytes) != 0) return fail_errno("SIOCOUTQ");
    if (unread_bytes != 0) {
      return fail(Errc::peer_violation,
                  std::to_string(unread_fds_) + " file descriptors were sent and not read");
    }
    unread_fds_ = 0;
  }
  unread_fds_ += fds;
  return {};
}

Result<FrameWriter::Progress> FrameWriter::flush(int socket) {
  while (!queue_.empty()) {
    Queued& frame = queue_.front();
    if (!frame.fds.empty() && !frame.fds_accounted) {
      if (auto ok = account_unread_fds(socket, frame.fds.size()); !ok) {
        return std::unexpected(std::move(ok.error()));
      }
      frame.fds_accounted = true;
    }
    const auto rest = std::span(frame.bytes).subspan(frame.sent);
    const ssize_t sent = send_some(socket, rest, frame.fds);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return Progress::again;
      if (peer_is_gone(errno)) return Progress::closed;
      if (errno == ETOOMANYREFS) {
        return fail(Errc::limit_reached,
                    "too many file descriptors of this user are in flight; raise RLIMIT_NOFILE");
      }
      return fail_errno("sending to the control socket");
    }
    frame.sent += static_cast<std::size_t>(sent);
    queued_fds_ -= frame.fds.size();
    frame.fds.clear();
    if (frame.sent < frame.bytes.size()) continue;
    queued_bytes_ -= cost_of(frame.bytes.size() - kFrameHeaderBytes);
    queue_.pop_front();
  }
  return Progress::drained;
}

Status send_frame(int socket, std::span<const std::byte> bytes, std::span<const int> fds,
                  Deadline deadline) {
  FrameWriter writer;
  if (auto ok = writer.enqueue(bytes, fds); !ok) return ok;
  while (true) {
    auto progress = writer.flush(socket);
    if (!progress) return std::unexpected(std::move(progress.error()));
    if (*progress == FrameWriter::Progress::drained) return {};
    if (*progress == FrameWriter::Progress::closed) {
      return fail(Errc::daemon_away, "the control connection was closed while sending");
    }
    pollfd wait{socket, POLLOUT, 0};
    const auto events = poll_until(&wait, 1, deadline);
    if (!events) return std::unexpected(events.error());
    // Also of a peer that reads a little all the time.
    if (*events == 0 || Clock::now() >= deadline) {
      return fail(Errc::timed_out, "the peer does not read its control socket");
    }
  }
}

Result<Frame> receive_frame(FrameReader& reader, int socket, Deadline deadline) {
  while (true) {
    auto progress = reader.advance(socket);
    if (!progress) return std::unexpected(std::move(progress.error()));
    if (*progress == FrameReader::Progress::frame) return reader.take();
    if (*progress == FrameReader::Progress::closed) {
      return fail(Errc::daemon_away, "the control connection was closed");
    }
    // Also of a peer that sends a little all the time. After a look, so that a deadline that is
    // over takes what is there.
    if (Clock::now() >= deadline) return fail(Errc::timed_out, "no answer on the control socket");
    pollfd wait{socket, POLLIN, 0};
    const auto events = poll_until(&wait, 1, deadline);
    if (!events) return std::unexpected(events.error());
  }
}

}  // namespace sluice::ipc
