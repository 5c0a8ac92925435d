// What systemd is told about us: the sd_notify(3) protocol, without libsystemd.
//
// Each call is one datagram to the socket that $NOTIFY_SOCKET names (a path, or "@name" for an
// abstract one). Without a manager that listens, every call succeeds and does nothing, so that
// callers do not ask. The order for a reload is reloading(), then ready() when it is done, whether
// or not it succeeded.
//
// Errors: io_error when the manager does not take the message within the timeout. Nothing depends
// on it but the manager's view of us: log it and go on (the fd store apart). Thread-safety: any
// thread.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "ipc/error.h"

namespace sluice::daemon {

class SystemdNotifier {
 public:
  static constexpr std::chrono::milliseconds kSendTimeout{200};

  // Reads $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID. A socket that is named but cannot be
  // used (too long, neither absolute nor abstract) is an error; a watchdog meant for another
  // process is none.
  static ipc::Result<SystemdNotifier> from_environment(
      std::chrono::milliseconds send_timeout = kSendTimeout);

  SystemdNotifier() = default;  // nobody listens
  SystemdNotifier(SystemdNotifier&& other) noexcept;
  SystemdNotifier& operator=(SystemdNotifier&& other) noexcept;
  ~SystemdNotifier();

  bool active() const { return fd_ >= 0; }
  // How often watchdog() is to be called: half of what systemd waits. nullopt: no watchdog was
  // asked for.
  std::optional<std::chrono::microseconds> watchdog_interval() const { return watchdog_interval_; }

  // `status` is one line for `systemctl status`; line breaks in it become spaces.
  ipc::Status ready(std::string_view status) const;
  ipc::Status reloading() const;
  ipc::Status stopping(std::string_view status) const;
  ipc::Status status(std::string_view status) const;
  ipc::Status watchdog() const;

  // The fd store of the unit (FileDescriptorStoreMax): keeps a copy of `fd` under a name that
  // $LISTEN_FDNAMES of the next start has, or closes it. systemd also forgets descriptors that hang
  // up, which it is told to leave be. `name`: ASCII without ':' and control characters. Errors
  // also: limit_reached (this user has too many descriptors under way).
  ipc::Status store_descriptor(std::string_view name, int fd) const;
  ipc::Status remove_descriptor(std::string_view name) const;

 private:
  ipc::Status send(const std::string& message, int fd = -1) const;

  int fd_ = -1;
  std::string socket_;  // as in $NOTIFY_SOCKET
  std::optional<std::chrono::microseconds> watchdog_interval_;
};

}  // namespace sluice::daemon
