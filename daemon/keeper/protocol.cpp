#include "daemon/keeper/protocol.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace sluice::keeper {

using ipc::Errc;
using ipc::fail;

namespace {

constexpr std::string_view kNameCharacters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

std::vector<ipc::Fd> take_descriptors(msghdr& header) {
  std::vector<ipc::Fd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds.emplace_back(number);
    }
  }
  return fds;
}

}  // namespace

bool is_valid_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         name.find_first_not_of(kNameCharacters) == std::string_view::npos;
}

Name make_name(std::string_view name) {
  SLUICE_ASSERT(name.size() <= kMaxNameBytes);
  Name made;
  made.bytes = static_cast<std::uint32_t>(name.size());
  std::ranges::copy(name, made.text.begin());
  return made;
}

Request make_request(Kind kind, std::string_view name) {
  return {{kMagic, kProtocolVersion, static_cast<std::uint32_t>(kind)}, make_name(name)};
}

std::optional<std::string> text_of(const Name& name) {
  if (name.bytes > name.text.size()) return std::nullopt;
  std::string text(name.text.data(), name.bytes);
  if (!text.empty() && !is_valid_name(text)) return std::nullopt;
  return text;
}

ipc::Status send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  SLUICE_ASSERT(fds.size() <= kMaxDescriptorsPerMessage);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxDescriptorsPerMessage)> control{};
  // The kernel only reads it.
  iovec place{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr header{};
  header.msg_iov = &place;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
  }
  ssize_t sent = 0;
  do {
    sent = sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return {};
  switch (errno) {
    case EPIPE:
    case ECONNRESET:
      return fail(Errc::daemon_away, "the peer has hung up");
    case EAGAIN:
      return fail(Errc::busy, "the peer does not read what it was sent");
    case ETOOMANYREFS:
      return fail(Errc::limit_reached,
                  "this user has more file descriptors under way in sockets than its limit of open "
                  "files (RLIMIT_NOFILE)");
    default:
      return ipc::fail_errno("sending a descriptor");
  }
}

ipc::Result<std::optional<Message>> receive_message(int socket) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxDescriptorsPerMessage)> control;
  std::array<std::byte, kMaxMessageBytes> bytes;
  iovec place{bytes.data(), bytes.size()};
  msghdr header{};
  ssize_t count = 0;
  do {
    header = {};
    header.msg_iov = &place;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    count = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (count < 0 && (errno == EINTR || errno == ECONNRESET));
  if (count < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::nullopt;
    return ipc::fail_errno("receiving a message");
  }
  Message message;
  message.fds = take_descriptors(header);
  message.bytes.assign(bytes.begin(), bytes.begin() + count);
  message.is_cut = (header.msg_flags & MSG_TRUNC) != 0;
  message.lost_fds = (header.msg_flags & MSG_CTRUNC) != 0;
  return message;
}

}  // namespace sluice::keeper
