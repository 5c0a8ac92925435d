// Whether this client has a daemon, and who may ask it now.
//
//   connected --the daemon is gone--> away --it is back--> resuming --all is adopted--> connected
//                                      ^                      |
//                                      +----gone once more----+
//
// and from each of them `ended`, for good. A call that asks the daemon, or that changes what this
// client would ask a daemon that comes back for, is inside for as long as it does so (Stay).
// Whoever resumes first waits until all are out, so that it sees caches and sequences at rest, and
// a link is replaced only when nobody is using it. While it resumes, nobody gets in.
//
// A session that cannot be resumed goes from connected to ended.
//
// Thread-safety: any thread; away(), begin_resume(), give_up(), connect() and end() from the one
// that reconnects.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "client/link.h"
#include "ipc/deadline.h"
#include "ipc/error.h"

namespace sluice::client::internal {

class Gate {
 public:
  enum class State : std::uint8_t { connected, away, resuming, ended };

  explicit Gate(std::shared_ptr<Link> link, bool resumable)
      : link_(std::move(link)), resumable_(resumable) {}

  // Being inside. link() is null if the daemon is away.
  class Stay {
   public:
    Stay() = default;
    Stay(Stay&& other) noexcept
        : gate_(std::exchange(other.gate_, nullptr)), link_(std::move(other.link_)) {}
    Stay& operator=(Stay&& other) noexcept {
      leave();
      gate_ = std::exchange(other.gate_, nullptr);
      link_ = std::move(other.link_);
      return *this;
    }
    ~Stay() { leave(); }

    Link* link() const { return link_.get(); }
    const std::shared_ptr<Link>& shared_link() const { return link_; }
    void leave() {
      link_.reset();
      if (gate_ != nullptr) std::exchange(gate_, nullptr)->leave();
    }

   private:
    friend class Gate;
    Stay(Gate* gate, std::shared_ptr<Link> link) : gate_(gate), link_(std::move(link)) {}
    Gate* gate_ = nullptr;
    std::shared_ptr<Link> link_;
  };

  // Who is content with a daemon that is away does not wait for it.
  enum class Needs : std::uint8_t { daemon, nothing };
  // Waits until there is a daemon, or while one resumes. Errors: daemon_away (not by the deadline),
  // and why the session ended.
  ipc::Result<Stay> enter(ipc::Deadline deadline, Needs needs);
  // To forget something: also of a session that ended, and however long a resume takes.
  Stay hold();

  // The daemon behind `link` did not answer and seems gone: nobody else shall ask it. True: the
  // session may go on, so enter again. False: it ended.
  bool gone(const Link& link, const ipc::Error& why);

  State state() const { return state_.load(std::memory_order_acquire); }
  bool resumable() const { return resumable_; }
  // Why nobody is connected; Errc::ok if somebody is.
  ipc::Error reason() const;
  // The newest.
  std::shared_ptr<Link> link() const;
  std::uint32_t resumes() const { return resumes_.load(std::memory_order_relaxed); }

  // In a forked child, where a lock may be held by nobody, for good.
  std::shared_ptr<Link> take_link_in_child() { return std::move(link_); }

  // ---- of the thread that reconnects

  // The newest link, which only connect() replaces. (No owner: in a forked child there is no such
  // thread that would let go of it.)
  Link& current() { return *link_; }
  void away(ipc::Error why);
  // Closes, and waits until nobody is inside.
  void begin_resume();
  // It came to nothing: what can go on without a daemon does so again.
  void give_up(ipc::Error why);
  void connect(std::shared_ptr<Link> link);
  // The session is over, for good: steps fail with this, too.
  void end(ipc::Error why);

 private:
  void leave();
  void set(State state);
  ipc::Error away_error() const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<Link> link_;
  const bool resumable_;
  std::atomic<State> state_{State::connected};  // changed under mutex_
  std::uint32_t inside_ = 0;
  ipc::Error reason_{ipc::Errc::ok, {}};
  std::string last_try_;  // why it came to nothing
  std::atomic<std::uint32_t> resumes_{0};
};

}  // namespace sluice::client::internal
