#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "ipc/frame.h"
#include "ipc/untrusted.h"

namespace sluice::ipc {
namespace {

// A body grows as its bytes arrive, so that a length alone costs the reader no memory.
constexpr std::size_t kGrowthBytes = std::size_t{64} << 10;

std::uint32_t little_endian(const std::array<std::byte, kFrameHeaderBytes>& bytes) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    value |= std::to_integer<std::uint32_t>(bytes[i]) << (8 * i);
  }
  return value;
}

void take_descriptors(msghdr& message, std::vector<Fd>& fds) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds.emplace_back(number);
    }
  }
}

}  // namespace

Status FrameReader::collect_fds(msghdr& message) {
  const std::size_t before = frame_.fds.size();
  take_descriptors(message, frame_.fds);
  const std::size_t got = frame_.fds.size() - before;
  const bool cut = (message.msg_flags & MSG_CTRUNC) != 0;
  if (policy_ == FdPolicy::refuse && (cut || got != 0)) {
    return fail(Errc::peer_violation, "the peer sent file descriptors; none are accepted");
  }
  if (frame_.fds.size() > kMaxFdsPerFrame || (cut && got == kMaxFdsPerFrame)) {
    return fail(Errc::peer_violation,
                "a frame with more than " + std::to_string(kMaxFdsPerFrame) + " file descriptors");
  }
  if (cut) {
    return fail(Errc::limit_reached,
                "no room for a file descriptor that the daemon sent; raise this process's limit of "
                "open files (RLIMIT_NOFILE)");
  }
  return {};
}

Result<FrameReader::Progress> FrameReader::receive(int socket, std::byte* into, std::size_t bytes,
                                                   std::size_t& received) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxFdsPerFrame)> control;
  iovec place{into, bytes};
  msghdr message{};
  message.msg_iov = &place;
  message.msg_iovlen = 1;
  if (policy_ == FdPolicy::accept) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
  }
  ssize_t count = 0;
  do {
    count = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Progress::again;
    if (errno == ECONNRESET) return Progress::closed;
    return fail_errno("receiving from the control socket");
  }
  if (auto ok = collect_fds(message); !ok) return std::unexpected(std::move(ok.error()));
  if (count == 0) return Progress::closed;
  received += static_cast<std::size_t>(count);
  return Progress::frame;
}

Result<FrameReader::Progress> FrameReader::advance(int socket) {
  while (header_bytes_ < header_.size()) {
    const auto progress = receive(socket, header_.data() + header_bytes_,
                                  header_.size() - header_bytes_, header_bytes_);
    if (!progress || *progress != Progress::frame) return progress;
    if (header_bytes_ < header_.size()) continue;
    const auto length = Untrusted(little_endian(header_))
                            .in_range(1, std::uint32_t{kMaxFrameBytes}, "length of a frame");
    if (!length) return std::unexpected(length.error());
    body_length_ = *length;
  }
  while (body_bytes_ < body_length_) {
    if (frame_.bytes.size() == body_bytes_) {
      frame_.bytes.resize(std::min(body_length_, body_bytes_ + kGrowthBytes));
    }
    const auto progress = receive(socket, frame_.bytes.data() + body_bytes_,
                                  frame_.bytes.size() - body_bytes_, body_bytes_);
    if (!progress || *progress != Progress::frame) return progress;
  }
  return Progress::frame;
}

Frame FrameReader::take() {
  SLUICE_ASSERT(header_bytes_ == header_.size() && body_bytes_ == body_length_);
  header_bytes_ = 0;
  body_bytes_ = 0;
  body_length_ = 0;
  return std::exchange(frame_, {});
}

}  // namespace sluice::ipc
