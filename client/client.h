// A session of this process with the daemon: the control connection, the rings, and what was
// agreed.
//
// Thread-safety: any thread. In a forked child nothing but the destructor may be called; see
// check().
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "client/channel.h"
#include "client/control.h"
#include "client/fork_guard.h"

namespace sluice::client::internal {

struct ConnectOptions {
  std::string socket_path;               // empty: default_socket()
  std::string client_name;               // empty: the process's name
  std::chrono::microseconds timeout{0};  // 0: kDefaultTimeout
  bool admin = false;                    // no rings
};

inline constexpr std::chrono::seconds kDefaultTimeout{10};
inline constexpr std::size_t kMaxClientName = 64;

class Client {
 public:
  // Errors: those of ipc::connect_unix, version_mismatch, unknown_tenant, limit_reached, timed_out.
  static ipc::Result<std::unique_ptr<Client>> connect(const ConnectOptions& options);
  ~Client();

  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Errors: forked, and why the session ended once it did.
  ipc::Status check();
  // As check(), but also looks at the socket, now and then: for callers that never use the rings.
  ipc::Status check_alive();
  // As check_alive(), for work that asks the daemon for nothing: a daemon that is gone, or stops in
  // good order, is no error. Only a living daemon gives frames, slots and ids to somebody else, so
  // that without one what a session had mapped stays its own. One that ended this session for a
  // reason of its own lives on, and is obeyed.
  ipc::Status check_not_ended();
  // As check_alive(), at once.
  ipc::Status look();

  bool in_owner() const { return fork_guard_.in_owner(); }
  ipc::Deadline deadline() const { return ipc::deadline_in(timeout_); }
  Control& control() { return *control_; }
  Channel& channel() { return *channel_; }  // not on an admin connection

  std::uint64_t session() const { return session_; }
  const std::string& tenant() const { return tenant_; }
  const std::string& daemon_version() const { return daemon_version_; }
  std::uint32_t executors() const { return executors_; }

 private:
  Client(ForkGuard guard, ipc::Fd socket, std::chrono::microseconds timeout);
  ipc::Status handshake(const ConnectOptions& options);

  ForkGuard fork_guard_;
  std::chrono::microseconds timeout_;
  std::unique_ptr<Control> control_;
  std::unique_ptr<Channel> channel_;
  std::uint64_t session_ = 0;
  std::uint32_t executors_ = 0;
  std::string tenant_;
  std::string daemon_version_;
  std::atomic<std::int64_t> next_look_ns_{0};
  std::atomic<bool> abandoned_{false};  // the daemon is gone: see check_not_ended()
};

}  // namespace sluice::client::internal
