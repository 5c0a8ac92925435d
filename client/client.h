// A session of this process with the daemon: what was agreed, and the connection, which is another
// one after the daemon died and came back; see gate.h, watcher.h and resume.h.
//
// What asks the daemon goes through ask(), or is inside the gate by itself.
//
// Thread-safety: any thread. In a forked child nothing but the destructor may be called; see
// check().
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>

#include "client/fork_guard.h"
#include "client/gate.h"
#include "client/link.h"
#include "client/watcher.h"

namespace sluice::client::internal {

class Cache;

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

  // Errors: forked.
  ipc::Status check();
  // As check(), but also looks at the socket, now and then: for callers that never use the rings.
  // With a watcher it need not look.
  ipc::Status check_alive();
  // As check_alive(), for work that asks the daemon for nothing: a daemon that is gone, or stops in
  // good order, is no error. Only a living daemon gives frames, slots and ids to somebody else, so
  // that without one what a session had mapped stays its own. One that ended this session for a
  // reason of its own, or came back without it, is obeyed.
  ipc::Status check_not_ended();
  // As check_alive(), at once.
  ipc::Status look();

  bool in_owner() const { return fork_guard_.in_owner(); }
  ipc::Deadline deadline() const { return ipc::deadline_in(timeout_); }

  Gate& gate() { return *gate_; }
  // Runs `body(link)`, which returns a Result or a Status, inside the gate: once there is a daemon,
  // and again on the next link if that daemon dies under it. So `body` begins anew each time.
  // Errors: its own, daemon_away (nobody was back by the deadline), why the session ended.
  template <class Body>
  auto ask(ipc::Deadline deadline, Body&& body) -> decltype(body(std::declval<Link&>()));

  // Whether a request failed since the daemon behind `link` is gone, in a session that may go on:
  // so leave the gate, and enter again.
  bool lost(Link& link, const ipc::Error& why);

  // What the first Welcome said.
  const Link::Welcome& welcome() const { return welcome_; }
  std::uint64_t session() const { return welcome_.session; }
  const std::string& tenant() const { return welcome_.tenant; }
  std::uint32_t executors() const { return welcome_.executors; }

  // So many bytes more, or less, of the node's memory are registered with GPUs for this client;
  // told to the daemon, for operators. Also of the link that a resume made.
  void note_pinned(std::int64_t bytes) const;
  void tell_pinned() const { note_pinned(0); }

  // The open caches, which a resume opens again. Inside the gate.
  void add(Cache& cache);
  void remove(Cache& cache);
  const std::unordered_set<Cache*>& caches() const { return caches_; }

 private:
  Client(ForkGuard guard, std::shared_ptr<Link> link, std::chrono::microseconds timeout);

  ForkGuard fork_guard_;
  std::chrono::microseconds timeout_;
  Link::Welcome welcome_;
  std::unique_ptr<Gate> gate_;
  mutable std::mutex pinned_mutex_;
  mutable std::int64_t pinned_bytes_ = 0;
  std::mutex caches_mutex_;
  std::unordered_set<Cache*> caches_;
  std::atomic<std::int64_t> next_look_ns_{0};
  std::atomic<bool> abandoned_{false};  // the daemon is gone: see check_not_ended()
  std::unique_ptr<Watcher> watcher_;    // null: the session does not outlive its daemon
};

template <class Body>
auto Client::ask(ipc::Deadline deadline, Body&& body) -> decltype(body(std::declval<Link&>())) {
  while (true) {
    auto stay = gate_->enter(deadline, Gate::Needs::daemon);
    if (!stay) return std::unexpected(stay.error());
    auto result = body(*stay->link());
    if (result || !lost(*stay->link(), result.error())) return result;
  }
}

}  // namespace sluice::client::internal
