#include "client/gate.h"

#include <string>

namespace sluice::client::internal {

using ipc::Errc;
using ipc::Error;

void Gate::set(State state) {
  state_.store(state, std::memory_order_release);
  changed_.notify_all();
}

Error Gate::away_error() const {
  return {Errc::daemon_away,
          "the daemon is gone (" + reason_.text + ") and was not back in time" +
              (last_try_.empty() ? "" : " (" + last_try_ + ")") +
              "; start it again, and repeat the call: this library goes on trying to reach it"};
}

ipc::Result<Gate::Stay> Gate::enter(ipc::Deadline deadline, Needs needs) {
  std::unique_lock lock(mutex_);
  while (true) {
    const State now = state_.load(std::memory_order_relaxed);
    if (now == State::ended) return std::unexpected(reason_);
    if (now == State::connected || (now == State::away && needs == Needs::nothing)) {
      ++inside_;
      return Stay(this, now == State::connected ? link_ : nullptr);
    }
    if (ipc::Clock::now() >= deadline) return std::unexpected(away_error());
    if (deadline == ipc::kNoDeadline) {
      changed_.wait(lock);
    } else {
      changed_.wait_until(lock, deadline);
    }
  }
}

Gate::Stay Gate::hold() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return state_.load(std::memory_order_relaxed) != State::resuming; });
  ++inside_;
  return {this, nullptr};
}

void Gate::leave() {
  const std::lock_guard lock(mutex_);
  --inside_;
  if (inside_ == 0 && state_.load(std::memory_order_relaxed) == State::resuming) {
    changed_.notify_all();
  }
}

bool Gate::gone(const Link& link, const Error& why) {
  const std::lock_guard lock(mutex_);
  if (state_.load(std::memory_order_relaxed) == State::connected && &link == link_.get()) {
    reason_ = why;
    set(resumable_ ? State::away : State::ended);
    link.cut();  // wakes the others that wait on it, and the thread that watches it
  }
  return resumable_;
}

Error Gate::reason() const {
  const std::lock_guard lock(mutex_);
  if (state_.load(std::memory_order_relaxed) == State::connected) return {Errc::ok, {}};
  return reason_;
}

std::shared_ptr<Link> Gate::link() const {
  const std::lock_guard lock(mutex_);
  return link_;
}

void Gate::away(Error why) {
  const std::lock_guard lock(mutex_);
  if (state_.load(std::memory_order_relaxed) != State::connected) return;
  reason_ = std::move(why);
  set(State::away);
}

void Gate::begin_resume() {
  std::unique_lock lock(mutex_);
  set(State::resuming);
  changed_.wait(lock, [&] { return inside_ == 0; });
}

void Gate::give_up(Error why) {
  const std::lock_guard lock(mutex_);
  last_try_ = std::move(why.text);
  set(State::away);
}

void Gate::connect(std::shared_ptr<Link> link) {
  const std::lock_guard lock(mutex_);
  link_ = std::move(link);
  reason_ = {Errc::ok, {}};
  last_try_.clear();
  resumes_.fetch_add(1, std::memory_order_relaxed);
  set(State::connected);
}

void Gate::end(Error why) {
  const std::lock_guard lock(mutex_);
  reason_ = std::move(why);
  set(State::ended);
}

}  // namespace sluice::client::internal
