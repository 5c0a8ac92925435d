#include "daemon/systemd.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>

namespace sluice::daemon {
namespace {

using ipc::Errc;

std::string one_line(std::string_view text) {
  std::string line(text);
  std::ranges::replace_if(line, [](char c) { return c == '\n' || c == '\r' || c == '\0'; }, ' ');
  return line;
}

template <class Number>
std::optional<Number> number_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return std::nullopt;
  const char* end = text + std::strlen(text);
  Number number{};
  const auto [stop, error] = std::from_chars(text, end, number);
  if (error != std::errc() || stop != end) return std::nullopt;
  return number;
}

std::optional<std::chrono::microseconds> watchdog_from_environment() {
  const auto timeout_us = number_from_environment<std::int64_t>("WATCHDOG_USEC");
  if (!timeout_us || *timeout_us < 2) return std::nullopt;
  if (std::getenv("WATCHDOG_PID") != nullptr &&
      number_from_environment<pid_t>("WATCHDOG_PID") != ::getpid()) {
    return std::nullopt;
  }
  return std::chrono::microseconds(*timeout_us / 2);
}

// An abstract name is not terminated: its length is part of the address.
socklen_t fill_address(sockaddr_un& address, const std::string& socket) {
  address = {};
  address.sun_family = AF_UNIX;
  socket.copy(address.sun_path, sizeof address.sun_path);
  if (socket.starts_with('@')) address.sun_path[0] = '\0';
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket.size());
}

}  // namespace

ipc::Result<SystemdNotifier> SystemdNotifier::from_environment(
    std::chrono::milliseconds send_timeout) {
  SystemdNotifier notifier;
  const char* socket = std::getenv("NOTIFY_SOCKET");
  if (socket == nullptr || *socket == '\0') return notifier;
  notifier.socket_ = socket;
  const bool named = notifier.socket_.starts_with('/') || notifier.socket_.starts_with('@');
  if (!named || notifier.socket_.size() < 2 ||
      notifier.socket_.size() >= sizeof(sockaddr_un::sun_path)) {
    return ipc::fail(Errc::invalid_argument,
                     "NOTIFY_SOCKET is \"" + notifier.socket_ +
                         "\": expected an absolute path or @name of at most 107 bytes");
  }
  notifier.fd_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (notifier.fd_ < 0) return ipc::fail_errno("socket for NOTIFY_SOCKET");
  const timeval timeout = {.tv_sec = send_timeout.count() / 1000,
                           .tv_usec = send_timeout.count() % 1000 * 1000};
  if (::setsockopt(notifier.fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0) {
    return ipc::fail_errno("SO_SNDTIMEO for NOTIFY_SOCKET");
  }
  notifier.watchdog_interval_ = watchdog_from_environment();
  return notifier;
}

SystemdNotifier::SystemdNotifier(SystemdNotifier&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      socket_(std::move(other.socket_)),
      watchdog_interval_(std::exchange(other.watchdog_interval_, std::nullopt)) {}

SystemdNotifier& SystemdNotifier::operator=(SystemdNotifier&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(socket_, other.socket_);
  std::swap(watchdog_interval_, other.watchdog_interval_);
  return *this;
}

SystemdNotifier::~SystemdNotifier() {
  if (fd_ >= 0) ::close(fd_);
}

ipc::Status SystemdNotifier::ready(std::string_view status) const {
  return send("READY=1\nSTATUS=" + one_line(status));
}

ipc::Status SystemdNotifier::reloading() const {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const std::int64_t now_us = std::int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1'000;
  return send("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(now_us));
}

ipc::Status SystemdNotifier::stopping(std::string_view status) const {
  return send("STOPPING=1\nSTATUS=" + one_line(status));
}

ipc::Status SystemdNotifier::status(std::string_view status) const {
  return send("STATUS=" + one_line(status));
}

ipc::Status SystemdNotifier::watchdog() const { return send("WATCHDOG=1"); }

ipc::Status SystemdNotifier::store_descriptor(std::string_view name, int fd) const {
  return send("FDSTORE=1\nFDPOLL=0\nFDNAME=" + std::string(name), fd);
}

ipc::Status SystemdNotifier::remove_descriptor(std::string_view name) const {
  return send("FDSTOREREMOVE=1\nFDNAME=" + std::string(name));
}

ipc::Status SystemdNotifier::send(const std::string& message, int fd) const {
  if (!active()) return {};
  sockaddr_un address;
  const socklen_t length = fill_address(address, socket_);
  // The kernel only reads it.
  iovec place{const_cast<char*>(message.data()), message.size()};
  msghdr header{};
  // By name each time: the manager may have been started anew.
  header.msg_name = &address;
  header.msg_namelen = length;
  header.msg_iov = &place;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (fd >= 0) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &fd, sizeof(int));
  }
  if (::sendmsg(fd_, &header, MSG_NOSIGNAL) >= 0) return {};
  const Errc code = errno == ETOOMANYREFS ? Errc::limit_reached : Errc::io_error;
  return ipc::fail(code, "notifying systemd at " + socket_ + " failed: " + std::strerror(errno));
}

}  // namespace sluice::daemon
