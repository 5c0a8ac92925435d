// The thread of a session that outlives its daemon: it sleeps on the control socket, notices at
// once when the daemon is gone, connects again, and has everything opened and adopted anew; see
// resume.h. It ends when the session does.
//
// Tries to connect are kLeastBackoff apart, then twice as long each time, up to kMostBackoff, for
// as long as the client lives: calls have deadlines of their own.
//
// Thread-safety: made and destroyed by the client. In a forked child there is no such thread, and
// the object is left alone.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "client/link.h"
#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::client::internal {

class Client;

inline constexpr std::chrono::milliseconds kLeastBackoff{5};
inline constexpr std::chrono::milliseconds kMostBackoff{200};

class Watcher {
 public:
  // Errors: limit_reached (descriptors, threads).
  static ipc::Result<std::unique_ptr<Watcher>> start(Client& client, std::string socket_path,
                                                     std::string client_name);
  // Stops, whatever it is waiting for.
  ~Watcher();

 private:
  Watcher(Client& client, std::string socket_path, std::string client_name)
      : client_(client),
        socket_path_(std::move(socket_path)),
        client_name_(std::move(client_name)) {}

  void run();
  // Until the link hangs up. False: stop.
  bool watch(const Link& link) const;
  // Until the session goes on, or is over. False: stop.
  bool reconnect(std::chrono::milliseconds& backoff);
  enum class Attempt : std::uint8_t { resumed, over, again };
  Attempt attempt(ipc::Error& why);
  // Makes next_, which said hello and was answered. Null: not now.
  Link* greet(ipc::Error& why);
  // False: stop.
  bool pause(std::chrono::milliseconds time) const;

  Client& client_;
  const std::string socket_path_;
  const std::string client_name_;
  ipc::Fd stop_;  // an eventfd
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;            // of next_
  std::shared_ptr<Link> next_;  // on which it resumes; cut by the destructor
  ResumeToken token_;           // the session's for life
  std::thread thread_;
};

}  // namespace sluice::client::internal
