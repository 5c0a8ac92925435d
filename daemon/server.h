// The control plane: listening sockets, who connects, requests of the control connection, deaths.
//
// One thread (the io_context's) does all of it and never waits: a request that does (OpenCache, for
// memory) is a coroutine of its connection. A connection reads one frame at a time and answers it
// before the next; a peer that does not read its answers fills its own bounded queue and is closed.
// A cache that nobody waits for any more, because its session ends or limits.open_deadline passed,
// is freed again.
//
// No user takes the room of others: connections without a session are bounded per uid, an
// operator's that asks nothing is closed in time, and sessions are reserved for each tenant
// (Manager:: admits_session). Operators (AdminConfig, and the daemon's own user) are bounded by
// their own connections only.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "daemon/config.h"
#include "daemon/kept_state.h"
#include "daemon/session_end.h"
#include "ipc/error.h"
#include "ipc/ids.h"

namespace boost::asio {
class io_context;  // NOLINT(readability-identifier-naming): theirs
}

namespace sluice::daemon {

class Coordinator;
class Lanes;

// What a peer may ask of the admin interface.
struct AdminScope {
  bool everything = false;  // else only `tenant`
  ipc::TenantId tenant;
};

// Runs one admin request: verb, arguments (a JSON object or empty) → a JSON document.
using AdminHandler = std::function<ipc::Result<std::string>(
    const AdminScope& scope, std::string_view verb, std::string_view arguments)>;

class Server {
 public:
  static constexpr std::chrono::seconds kHelloDeadline{5};

  // The configuration is read when a peer connects and is kept alive by the caller, who may change
  // the admin lists and quotas on the io thread.
  Server(boost::asio::io_context& io, const Config& config, Coordinator& coordinator, Lanes& lanes,
         AdminHandler admin);
  ~Server();

  // Sessions of a daemon of before, which may come back; before listen().
  void expect(std::vector<KeptSession> sessions);

  // Binds every socket of the configuration. Errors: those of ipc::UnixListener::bind.
  ipc::Status listen();

  // No new sessions from now on; those that are there are served.
  void drain(bool on);

  // Tells every session that the daemon stops, and closes the listeners.
  void stop(const std::string& why);

  // Whether the session had to wait for a device, within that time; from the io thread.
  bool waited_for_device(ipc::SessionId session, std::chrono::steady_clock::time_point now,
                         std::chrono::milliseconds within) const;

  // Ends one session with a typed reason; from the io thread. Errors: not_found.
  ipc::Status end_session(ipc::SessionId session, const SessionEnd& why);

  struct SessionRow {
    std::uint64_t session = 0;
    std::uint32_t tenant = 0;
    std::string tenant_name;
    std::string client_name;
    std::int64_t pid = 0;
    // "open", "opening" (it waits for a cache), "quarantined", "away" (of a daemon of before)
    std::string state;
    std::string reason;
    std::uint64_t requests = 0;
    std::uint64_t failures = 0;
    std::uint32_t caches = 0;
    std::uint64_t pinned_bytes = 0;  // for GPUs, as the client says
    std::uint64_t to_pin_bytes = 0;  // of DRAM, by its caches
  };
  std::vector<SessionRow> sessions() const;

  struct Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace sluice::daemon
