#include "client/channel.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace sluice::client::internal {

using ipc::Errc;
using ipc::Error;
using ipc::fail;

namespace {

// How long a wait for request memory or a ticket goes without looking again. Another thread may
// give either back, and nothing tells of that to the thread that sleeps on the ring for all.
constexpr std::chrono::milliseconds kTicketLookInterval{1};

ipc::Deadline next_look(ipc::Deadline deadline) {
  return std::min(deadline, ipc::deadline_in(kTicketLookInterval));
}

bool makes_a_sequence(ipc::wire::Op op) {
  return op == ipc::wire::Op::sequence_open || op == ipc::wire::Op::sequence_fork;
}

}  // namespace

Channel::Channel(ipc::SessionMemory memory, ipc::Doorbell bell, Control& control)
    : memory_(std::move(memory)),
      bell_(std::move(bell)),
      control_(control),
      requests_(memory_.request_memory()),
      submissions_(memory_.submission_ring()),
      completions_(memory_.completion_ring()),
      pending_(memory_.layout().ring_capacity),
      free_(memory_.layout().ring_capacity) {
  std::iota(free_.begin(), free_.end(), 0U);
}

ipc::Status Channel::end(Error error) {
  if (ended_.code == Errc::ok) ended_ = std::move(error);
  changed_.notify_all();
  return std::unexpected(ended_);
}

Errc Channel::end_code() {
  const std::lock_guard lock(mutex_);
  return ended_.code;
}

void Channel::free_slot(std::uint32_t slot) {
  pending_[slot].state = Pending::State::free;
  pending_[slot].answer.memory = ipc::RequestPiece();
  free_.push_back(slot);
  changed_.notify_all();
}

ipc::Status Channel::check_completion(const ipc::wire::Completion& completion) const {
  const auto slot = static_cast<std::uint32_t>(completion.user_data());
  if (slot >= pending_.size() || pending_[slot].user_data != completion.user_data() ||
      (pending_[slot].state != Pending::State::waiting &&
       pending_[slot].state != Pending::State::abandoned)) {
    return fail(Errc::peer_violation,
                "the daemon completed a request that was never made; reconnect");
  }
  // The client's own word, after which a ticket stays valid.
  if (completion.code() == static_cast<std::uint16_t>(Errc::timed_out)) {
    return fail(Errc::peer_violation, "the daemon completed a request with a time-out; reconnect");
  }
  return {};
}

// Nobody wants the answer. What an open or a fork made, nobody else knows.
ipc::Status Channel::drop_answer(std::uint32_t slot) {
  const ipc::wire::Completion completion = pending_[slot].answer.completion;
  const ipc::wire::Op op = pending_[slot].op;
  free_slot(slot);
  if (completion.code() != 0 || !makes_a_sequence(op)) return {};
  return release(completion.value0());
}

ipc::Status Channel::release(std::uint64_t sequence) {
  Request request;
  request.op = ipc::wire::Op::sequence_release;
  request.handle = sequence;
  auto ticket = send(request, ipc::RequestPiece());
  if (!ticket) return std::unexpected(ticket.error());
  pending_[ticket->slot].state = Pending::State::abandoned;
  return {};
}

ipc::Status Channel::take_completions() {
  bool some = false;
  while (true) {
    auto next = completions_.next();
    if (!next) return end(std::move(next.error()));
    if (!*next) break;
    const ipc::wire::Completion& completion = **next;
    if (auto ok = check_completion(completion); !ok) return end(std::move(ok.error()));
    const auto slot = static_cast<std::uint32_t>(completion.user_data());
    Pending& pending = pending_[slot];
    some = true;
    pending.answer.completion = completion;
    if (pending.state == Pending::State::waiting) {
      pending.state = Pending::State::done;
    } else if (auto ok = drop_answer(slot); !ok) {
      return ok;
    }
  }
  if (some) changed_.notify_all();
  return {};
}

ipc::Status Channel::pump(std::unique_lock<std::mutex>& lock, ipc::Deadline deadline) {
  if (ended_.code != Errc::ok) return std::unexpected(ended_);
  if (pumping_) {
    if (deadline == ipc::kNoDeadline) {
      changed_.wait(lock);
    } else {
      changed_.wait_until(lock, deadline);
    }
    return {};
  }
  pumping_ = true;
  lock.unlock();
  auto outcome = waiter_.wait(completions_, bell_, control_.fd(), deadline);
  Error gone{Errc::ok, {}};
  if (outcome && *outcome == ipc::WaitOutcome::peer_gone) gone = control_.end_reason();
  lock.lock();
  pumping_ = false;
  changed_.notify_all();
  if (!outcome) return end(std::move(outcome.error()));
  if (gone.code != Errc::ok) return end(std::move(gone));
  return take_completions();
}

ipc::Result<ipc::RequestPiece> Channel::allocate(std::size_t bytes, ipc::Deadline deadline) {
  while (true) {
    auto piece = requests_.allocate(std::max<std::size_t>(bytes, 1));
    if (piece || piece.error().code != Errc::busy) return piece;
    std::unique_lock lock(mutex_);
    if (auto ok = pump(lock, next_look(deadline)); !ok) return std::unexpected(ok.error());
    if (ipc::Clock::now() >= deadline) {
      return fail(Errc::timed_out,
                  "request memory stayed full of requests in flight; wait for "
                  "their operations, or raise rings.request_memory");
    }
  }
}

ipc::Result<Channel::Ticket> Channel::submit(const Request& request, ipc::RequestPiece memory,
                                             ipc::Deadline deadline) {
  std::unique_lock lock(mutex_);
  while (free_.empty()) {
    if (auto ok = pump(lock, next_look(deadline)); !ok) return std::unexpected(ok.error());
    if (free_.empty() && ipc::Clock::now() >= deadline) {
      return fail(Errc::timed_out, "all " + std::to_string(pending_.size()) +
                                       " requests of the ring stayed in flight");
    }
  }
  if (ended_.code != Errc::ok) return std::unexpected(ended_);
  return send(request, std::move(memory));
}

ipc::Result<Channel::Ticket> Channel::send(const Request& request, ipc::RequestPiece memory) {
  const std::uint32_t slot = free_.back();
  // The upper half tells uses of a slot apart.
  const std::uint64_t user_data = (std::uint64_t{++round_} << 32) | slot;
  const std::uint32_t base = memory ? memory.offset() : 0;
  auto pushed = submissions_.push(ipc::wire::Submission(
      user_data, request.handle, request.value, static_cast<std::uint16_t>(request.op),
      request.flags, request.actor, request.count, base, request.length,
      base + request.reply_offset, request.reply_length, 0));
  if (!pushed) return std::unexpected(end(std::move(pushed.error())).error());
  if (!*pushed) {
    // There are as many tickets as ring slots, and a ticket comes back after its slot was consumed.
    return std::unexpected(
        end(Error{Errc::peer_violation,
                  "the daemon completed requests that it has not taken; reconnect"})
            .error());
  }
  free_.pop_back();
  Pending& pending = pending_[slot];
  pending.state = Pending::State::waiting;
  pending.user_data = user_data;
  pending.op = request.op;
  pending.reply_offset = request.reply_offset;
  pending.reply_length = request.reply_length;
  pending.answer.memory = std::move(memory);
  if (submissions_.publish()) bell_.ring();
  return Ticket{slot, user_data};
}

Error Channel::completion_error(const Pending& pending) const {
  const auto& completion = pending.answer.completion;
  std::string text;
  if (pending.answer.memory) {
    const auto area = pending.answer.memory.bytes().subspan(
        std::min<std::size_t>(pending.reply_offset, pending.answer.memory.size()));
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(
        {completion.value0(), pending.reply_length, area.size(), ipc::kMaxErrorText}));
    text.assign(reinterpret_cast<const char*>(area.data()), length);
  }
  return ipc::error_from_wire(completion.code(), text);
}

ipc::Result<Channel::Answer> Channel::wait(const Ticket& ticket, ipc::Deadline deadline) {
  std::unique_lock lock(mutex_);
  Pending& pending = pending_[ticket.slot];
  while (pending.state != Pending::State::done) {
    if (auto ok = pump(lock, deadline); !ok) return std::unexpected(ok.error());
    if (pending.state != Pending::State::done && ipc::Clock::now() >= deadline) {
      return fail(Errc::timed_out, "the daemon did not answer in time");
    }
  }
  if (pending.answer.completion.code() != 0) {
    Error error = completion_error(pending);
    free_slot(ticket.slot);
    return std::unexpected(std::move(error));
  }
  Answer answer = std::move(pending.answer);
  free_slot(ticket.slot);
  return answer;
}

void Channel::abandon(const Ticket& ticket) {
  const std::lock_guard lock(mutex_);
  Pending& pending = pending_[ticket.slot];
  if (pending.state == Pending::State::done) {
    (void)drop_answer(ticket.slot);  // if it fails, the session has ended, which all calls will say
  } else if (pending.state == Pending::State::waiting) {
    pending.state = Pending::State::abandoned;
  }
}

ipc::Result<Channel::Answer> Channel::call(const Request& request, ipc::RequestPiece memory,
                                           ipc::Deadline deadline) {
  auto ticket = submit(request, std::move(memory), deadline);
  if (!ticket) return std::unexpected(ticket.error());
  auto answer = wait(*ticket, deadline);
  if (!answer && answer.error().code == Errc::timed_out) abandon(*ticket);
  return answer;
}

}  // namespace sluice::client::internal
